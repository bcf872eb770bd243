"""Real `pushsvc` processes for tests, and the certainty that none of them outlives its test.

    @pytest.fixture
    def processes(tmp_path): with own_processes(tmp_path) as own: yield own

Everything that a test starts inherits a mark in its environment, wherever in the process tree it ends up. A server
that writes its title over its environment (Redis, Valkey) is known by its working folder instead.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pushsvc.lab.simulator import SimulatorHandle, simulator_process

from .harness import KEY, configuration
from .ports import free_ports
from .servers import skip_or_fail

T = TypeVar("T")

PATIENCE = 90.0
"""Seconds until a wait is a fault: generous, because the machine may be busy."""

PROC = Path("/proc")

PROGRAM: tuple[str, ...] = ("-m", "pushsvc")
_KEEP = "import os, sys; from pushsvc.cli import main; os.setpriority = lambda *_: None; sys.exit(main())"
SAME_PRIORITY = ("-c", _KEEP)
"""`-m pushsvc` that keeps its priority: a command that steps back gets little of a busy machine. At a load of 7, three
cleanups one after the other took 41 s, and take 9 s like this."""


def until(what: Callable[[], str], look: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """Poll until `look` gives something true, and return it; raises with what `what` then says when it never does."""
    deadline = time.monotonic() + patience
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {patience:.0f} s: {what()}")
        time.sleep(0.1)  # a look at every process of the machine is not for nothing


@dataclass
class Command:
    """A running `pushsvc` command. Its output goes to files, so that no full pipe can hold it up."""

    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        """What it has written so far, standard output first."""
        return self.out.read_text() + self.err.read_text()

    def until(self, pattern: str, patience: float = PATIENCE) -> re.Match[str]:
        """Wait until it has written something that matches. Raises when it ends before."""

        def look() -> re.Match[str] | None:
            over = self.process.poll()
            found = re.search(pattern, self.output())
            if found is None and over is not None:
                raise AssertionError(f"{self.arguments} ended with {over} before {pattern!r}:\n{self.output()}")
            return found

        return until(lambda: f"{self.arguments} says {pattern!r}; so far:\n{self.output()}", look, patience)

    def wait(self, patience: float = PATIENCE) -> int:
        """Its exit code. Raises when it does not end."""
        return self.process.wait(patience)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit code."""
        self.process.send_signal(number)
        return self.wait()


class Processes:
    """What one test has started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.program = PROGRAM
        self._mark = f"PUSHSVC_TEST_{secrets.token_hex(8)}"
        self._commands: list[Command] = []

    def environ(self, **environ: str) -> dict[str, str]:
        """This process's environment less every setting of pushsvc, with the mark and `environ`."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PUSHSVC")}
        return {**kept, self._mark: "1", "COLUMNS": "160", "TERM": "dumb", **environ}

    def start(self, *arguments: str, **environ: str) -> Command:
        """Start `pushsvc ARGUMENTS` in the test's folder."""
        number = len(self._commands)
        out, err = (self.folder / f"{number}-{arguments[0]}.{kind}" for kind in ("out", "err"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, *self.program, *arguments],
                cwd=self.folder,
                env=self.environ(**environ),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        command = Command(arguments, process, out, err)
        self._commands.append(command)
        return command

    def run(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        """Run `pushsvc ARGUMENTS` to its end: exit code, standard output, standard error."""
        command = self.start(*arguments, **environ)
        code = command.wait()
        return code, command.out.read_text(), command.err.read_text()

    def living(self) -> dict[int, str]:
        """The processes of this test that live, by pid, with their command lines."""
        found = {}
        for entry in PROC.iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    if self._is_ours(entry):
                        found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found

    def _is_ours(self, entry: Path) -> bool:
        # A process that has ended and was not waited for has neither; nobody needs to end it.
        if self._mark.encode() in (entry / "environ").read_bytes():
            return True
        return Path(os.readlink(entry / "cwd")).is_relative_to(self.folder)

    def find(self, text: str) -> list[int]:
        """The living ones whose command line holds `text`."""
        return [pid for pid, line in self.living().items() if text in line]

    def find_one(self, text: str, *, but: int = 0) -> int:
        """The one whose command line holds `text`, other than `but`; waits until it is there."""
        found = until(lambda: f"a process with {text!r} lives", lambda: [pid for pid in self.find(text) if pid != but])
        assert len(found) == 1, found
        return found[0]

    def until_gone(self, what: str, patience: float = PATIENCE) -> None:
        """Wait until none lives."""
        until(lambda: f"{what}: every process is gone; there are {self.living()}", lambda: not self.living(), patience)

    def kill(self) -> None:
        """End whatever is left, by pid."""
        for command in self._commands:
            if command.process.poll() is None:
                command.process.kill()
                command.process.wait()
        while left := self.living():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


@contextmanager
def own_processes(folder: Path) -> Iterator[Processes]:
    """The processes of one test. At its end none may be left: those are ended, and the test fails naming them."""
    if not (PROC / "self" / "environ").exists():
        skip_or_fail("needs /proc, to find every process of a test")
    processes = Processes(folder)
    try:
        yield processes
    except BaseException:
        processes.kill()
        raise
    try:
        processes.until_gone("the test is over", 20.0)
    finally:
        processes.kill()


# --- HTTP -----------------------------------------------------------------------------------------


@dataclass
class Api:
    """The HTTP API as any program would call it."""

    url: str
    key: str = ""

    def call(self, method: str, path: str, document: Any = None) -> tuple[int, Any]:
        """Status and body, decoded where it is JSON. Raises OSError when nobody answers."""
        body = None if document is None else json.dumps(document).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, _decode(answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _decode(error.headers, error.read())

    def push(self, tokens: list[dict[str, str]], **fields: Any) -> str:
        """Post a push that must be accepted; its id."""
        content = fields or {"notification": {"title": "hello"}}
        status, body = self.call("POST", "/v1/push", {"to": {"tokens": tokens}, **content})
        assert status == 202, body
        return str(body["id"])

    def counts(self, push: str) -> dict[str, int]:
        """The counts of a push, without the zeros; they must balance."""
        status, body = self.call("GET", f"/v1/push/{push}")
        assert status == 200, body
        counts: dict[str, int] = body["counts"]
        assert counts["total"] == sum(count for name, count in counts.items() if name != "total"), counts
        return {name: count for name, count in counts.items() if count}

    def until_done(self, push: str) -> dict[str, int]:
        """Wait until nothing of a push is under way; its counts, without the zeros."""

        def done() -> dict[str, int] | None:
            counts = self.counts(push)
            return None if counts.keys() & {"queued", "retrying"} else counts

        return until(lambda: f"push {push} is done: {self.counts(push)}", done)

    def until_ready(self) -> None:
        """Wait until `/readyz` says so."""

        def ready() -> bool:
            try:
                return self.call("GET", "/readyz")[0] == 200
            except OSError:
                return False

        until(lambda: f"{self.url} is ready", ready)


def _decode(headers: Any, body: bytes) -> Any:
    return json.loads(body) if "json" in str(headers.get("Content-Type")) else body.decode()


# --- a service of its own simulator ----------------------------------------------------------------


@dataclass
class Site:
    """A configuration on disk, its simulator in a process of this test, and the port for the API."""

    simulator: SimulatorHandle
    config: Path
    api: Api
    environ: dict[str, str]
    """The settings of the commands: configuration, port, and the key for those that call the API."""


@contextmanager
def open_site(folder: Path, *, request_timeout: float = 60.0) -> Iterator[Site]:
    """The harness's configuration for real processes. The simulator, and its record, outlive every restart."""
    with simulator_process(folder / "simulator") as simulator:
        config = folder / "pushsvc.toml"
        config.write_text(configuration(folder, simulator, simulator.credentials, request_timeout=request_timeout))
        port = free_ports()
        api = Api(f"http://127.0.0.1:{port}", KEY)
        yield Site(
            simulator,
            config,
            api,
            {
                "PUSHSVC_CONFIG": str(config),
                "PUSHSVC__SERVER__PORT": str(port),
                "PUSHSVC_URL": api.url,
                "PUSHSVC_KEY": KEY,
            },
        )
