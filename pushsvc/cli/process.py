"""Set-up of signals and standard streams, which happens before a command is even imported.

This module imports only the smallest modules of the standard library, so that a signal in the first milliseconds, or a
stream that the parent closed, is handled.

- **Signals.** SIGTERM and SIGHUP end a command by an exception, as Ctrl-C does, so that open resources are closed and
  unfinished files removed. To a part of the service SIGHUP means "reload the configuration": it is never fatal, and one
  that arrives too early is made up for by the first check of the files (`runtime/reload.py`). Before Python has started
  no process can handle a signal, so a supervisor forwards SIGHUP only to children that have reported through `LISTENS`.
- **Standard streams.** A closed descriptor 0, 1 or 2 is opened on /dev/null, because otherwise the next file or socket
  would get its number. Standard input that was closed cannot be read: a command that needs it reports that.
- **Standard error** never fails: what cannot be written is dropped. No terminal, pipe or full disk may end a service.
- **Standard output** carries data: if it cannot be written, the command fails and reports why. A reader that has closed
  the pipe is not reported.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final, TextIO

from ..garbage import collect_seldom

LISTENS: Final = "PUSHSVC_LISTENS"
"""The environment variable with the descriptor of a pipe to which a process writes its id once it handles signals, and
the negative of its id once it works."""
PID_BYTES: Final = 8
PARTS: Final = frozenset(("up", "serve", "dispatch", "feedback", "jobs", "live"))
"""Commands to which SIGHUP means a reload."""


class OutputFailed(Exception):
    """Standard output cannot be written. The text is the reason."""


def run() -> int:
    """Run the command line of this process and return the exit code."""
    collect_seldom()
    arguments = sys.argv[1:]
    catch_signals(arguments)
    open_closed()
    output = replace_streams()

    def act() -> int:
        from .root import run as run_command

        return run_command(arguments, alone=True)

    try:
        return _run(act)
    finally:
        output.give_up()


def run_part(name: str, act: Callable[[], int]) -> int:
    """Run a part of the service in a forked process, whose parent has set up the standard streams. Return the exit
    code."""
    catch_signals([name])
    try:
        return _run(act)
    except Exception:
        sys.excepthook(*sys.exc_info())
        return 1


def _run(act: Callable[[], int]) -> int:
    try:
        try:
            code = act()
        except SystemExit as end:  # a signal between two commands
            code = end.code if isinstance(end.code, int) else 1
        except KeyboardInterrupt:
            code = 130
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return 1
    except OutputFailed as failed:
        print_message(f"pushsvc: standard output cannot be written: {failed}")
        return 1


def print_message(text: str) -> None:
    """Print a text for people on standard error. At a terminal, lines that are wider are folded between words."""
    lines = text.splitlines()
    if sys.stderr.isatty():
        from textwrap import TextWrapper

        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        fold = TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False).wrap
        lines = [part for line in lines for part in (fold(line) if len(line) > width else [line])]
    print(*lines, sep="\n", file=sys.stderr)


# --- signals --------------------------------------------------------------------------------------


def catch_signals(arguments: list[str]) -> None:
    """Install the signal handlers that apply until the command has an event loop. Ignored signals stay ignored."""
    part = subcommand(arguments) in PARTS
    handlers = (
        {signal.SIGTERM: _stop, signal.SIGINT: _stop, signal.SIGHUP: _later}
        if part
        else {signal.SIGTERM: _end, signal.SIGHUP: _end}
    )
    for number, handler in handlers.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    if (pipe := os.environ.pop(LISTENS, "")).isdecimal():
        _pipes.append(int(pipe))
        _report(os.getpid())


_VALUED: Final = frozenset(("-c", "--config"))
"""The options of the root command that a value follows."""


def subcommand(arguments: list[str]) -> str:
    """Return the name of the command in a command line, or an empty text where there is none."""
    words = iter(arguments)
    for word in words:
        if word in _VALUED:
            next(words, None)
        elif word == "--":
            return next(words, "")
        elif not word.startswith("-"):
            return word
    return ""


_pipes: Final[list[int]] = []
"""The descriptor of the supervisor's pipe, until this process has reported that it works."""


def report_started() -> None:
    """Report to the supervisor, if there is one, that this process works."""
    if _pipes:
        _report(-os.getpid())
        os.close(_pipes.pop())


def _report(number: int) -> None:
    try:
        os.set_inheritable(_pipes[0], False)
        os.write(_pipes[0], number.to_bytes(PID_BYTES, "little", signed=True))
    except OSError:
        pass  # The supervisor is gone, which the lifeline will show.


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def was_stopped() -> bool:
    """Return whether a part was stopped before it had an event loop."""
    return bool(_stops)


_stops: Final[list[int]] = []


def _stop(number: int, frame: FrameType | None) -> None:
    """Note that the part is to end as soon as it has started; exit with 0 where it is asked again. An exception here
    could be lost or become another one, because the import system runs code that ignores or wraps exceptions."""
    _stops.append(number)
    if len(_stops) > 1:
        sys.exit(0)


def _later(number: int, frame: FrameType | None) -> None:
    """Ignore the signal, because the configuration is read after this anyway."""


# --- streams --------------------------------------------------------------------------------------


def open_closed() -> None:
    """Open /dev/null for each closed standard descriptor; for standard input so that reading fails."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)


def replace_streams() -> Output:
    """Replace the standard streams as the module describes, and return the one for standard output."""
    output = Output(1)
    # The buffers of the previous streams are empty: nothing was written yet. They stay open, unused.
    sys.stdout = _text(io.BufferedWriter(output), sys.stdout)
    sys.stderr = _text(io.BufferedWriter(Diagnostics(2)), sys.stderr, always_lines=True)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # open for as long as the process
    return output


def _text(buffer: io.BufferedWriter, before: TextIO | None, *, always_lines: bool = False) -> TextIO:
    """Return a text stream over this, with the encoding and buffering of the previous one."""
    encoding = before.encoding if before is not None else "utf-8"
    unbuffered = isinstance(before, io.TextIOWrapper) and before.write_through
    lines = always_lines or unbuffered or os.isatty(buffer.fileno())
    return io.TextIOWrapper(buffer, encoding=encoding, errors="backslashreplace", line_buffering=lines)


class Output(io.RawIOBase):
    """A descriptor for data. Raises `OutputFailed`, or `BrokenPipeError` if the reader has gone."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._given_up = False

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def writable(self) -> bool:
        return True

    def give_up(self) -> None:
        """Drop everything from now on, so that the interpreter's last flush does not fail again."""
        self._given_up = True

    def write(self, data: object) -> int:
        content = memoryview(data).cast("B")  # type: ignore[arg-type]  # a buffer, by the protocol of RawIOBase
        if self._given_up:
            return len(content)
        try:
            return os.write(self._number, content)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputFailed(error.strerror or str(error)) from None


class Diagnostics(Output):
    """A descriptor for messages. What cannot be written is dropped."""

    def write(self, data: object) -> int:
        content = memoryview(data).cast("B")  # type: ignore[arg-type]  # as above
        left = content
        while left:
            try:
                left = left[os.write(self._number, left) :]
            except OSError:
                break
        return len(content)
