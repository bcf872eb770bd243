"""A command at a terminal: a pseudo-terminal of its own, as its controlling one, so that Ctrl-C reaches it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .processes import PATIENCE, until

_LAUNCH = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Takes the terminal for its own and becomes the command: without a fork in the test's process, which has threads."""


@dataclass
class Terminal:
    """What a user would see and type."""

    process: subprocess.Popen[bytes]
    before: list[Any]
    """The terminal's settings before the command."""
    _leader: int
    _follower: int
    _shown: bytearray = field(default_factory=bytearray)

    @property
    def shown(self) -> str:
        """Everything that was written to it, with its control sequences."""
        return bytes(self._shown).decode(errors="replace")

    @property
    def settings(self) -> list[Any]:
        """The terminal's settings now."""
        return termios.tcgetattr(self._follower)

    def until(self, text: str) -> None:
        """Wait until it shows this."""

        def look() -> bool:
            assert self.process.poll() is None or text in self.shown, self.shown
            return text in self.shown

        until(lambda: f"the terminal shows {text!r}:\n{self.shown}", look)

    def type(self, keys: str) -> None:
        os.write(self._leader, keys.encode())

    def wait(self) -> int:
        """The command's exit code."""
        return self.process.wait(PATIENCE)


@contextmanager
def at_terminal(
    *arguments: str,
    cwd: Path,
    environ: dict[str, str],
    columns: int = 120,
    lines: int = 40,
    program: tuple[str, ...] = ("-m", "pushsvc"),
) -> Iterator[Terminal]:
    """Run `pushsvc ARGUMENTS`, or another program of Python, at a terminal of this size."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, sys.executable, *program, *arguments],
        cwd=cwd,
        env={**environ, "TERM": "xterm-256color"},
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    terminal = Terminal(process, termios.tcgetattr(follower), leader, follower)

    def read() -> None:
        while True:
            try:
                terminal._shown += os.read(leader, 65536)
            except OSError:
                return  # Nobody has it open any more.

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield terminal
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(follower)
        reader.join(PATIENCE)
        os.close(leader)
