"""The child processes of a supervisor: what each runs, and how those of the start are forked.

A process that imports the service by itself takes 50 MB and most of a second of CPU. So a command that supervises
others imports once what they run, and forks them: they share the memory of what was imported, and begin at once. A fork
is safe only while there are neither threads nor an event loop, so all are forked before there are, and wait until the
supervisor says what to do. A process that takes the place of one that has ended is a new interpreter, and so are all
where the system does not report the end of a forked process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final, NoReturn, Protocol

from msgspec import Struct

from ... import __version__
from ...settings.processes import cores
from .. import COMMANDS, process
from ..files import shared_folder

if TYPE_CHECKING:
    from ...settings.schema import Settings
    from ..state import State

LIFELINE = "PUSHSVC_LIFELINE"
"""The environment variable with the descriptor of a pipe that is closed when the supervisor ends."""
METRICS = "pushsvc-metrics-"
"""How the names of the folders begin in which processes have the metrics that they share."""

_MODULES: Final = {
    "serve": ("pushsvc.cli.service.parts", "pushsvc.runtime.parts", "pushsvc.api.app", "pushsvc.api.server"),
    "dispatch": ("pushsvc.cli.service.parts", "pushsvc.runtime.parts"),
    "feedback": ("pushsvc.cli.service.parts", "pushsvc.runtime.parts"),
    "jobs": ("pushsvc.cli.service.jobs", "pushsvc.jobs", "pushsvc.runtime.parts"),
    "live": ("pushsvc.cli.service.parts", "pushsvc.runtime.live", "pushsvc.live.gateway"),
}
"""What each part runs. What only one of them needs, such as the SDK of a provider, it imports itself."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Child(Struct, frozen=True):
    """A `pushsvc` command to keep running in `copies` processes. Groups with a lower `stage` are stopped first. `also`
    are the parts that run in the same process, besides the one that gives it its name."""

    name: str
    arguments: tuple[str, ...]
    stage: int = 0
    copies: int = 1
    also: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the parts that end with the process."""
        return (self.name, *self.also)


def children_of(settings: Settings, *, live: bool) -> list[Child]:
    """Return the parts of the service as processes: one of each, or as many as the configuration says. Feedback runs
    with the jobs, the gateway where an app is `live`. On a single core, one process serves and dispatches unless the
    configuration asks for more: two would only take turns."""
    serving, dispatching = settings.server.processes, settings.dispatch.processes
    if serving == dispatching == cores() == 1:
        found = [child_of("serve", 1, also=("dispatch",))]
    else:
        found = [child_of("serve", serving), child_of("dispatch", dispatching, stage=1)]
    found += [
        # Both wait most of the time. They judge what the dispatchers record, and have no longer to stop than those.
        child_of("jobs", settings.jobs.processes, stage=1, also=("feedback",)),
    ]
    if live:
        # Devices stay until nothing is accepted for them any more.
        found.append(child_of("live", settings.live.processes, stage=1))
    return found


def child_of(part: str, copies: int, *, stage: int = 0, also: tuple[str, ...] = ()) -> Child:
    """Return a part as processes that also run the parts of `also`, for each of which it has an option."""
    options = (f"--{each}" for each in also)
    return Child(part, (part, *options, "--processes", "1"), stage=stage, copies=copies, also=also)


class ChildProcess(Protocol):
    """What a supervisor needs of a process; `asyncio.subprocess.Process` has it too."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int:
        """Return the exit status, once the process has ended."""

    def send_signal(self, signal: int) -> None:
        """Send a signal. Raises `ProcessLookupError` where the process has ended."""

    def kill(self) -> None: ...


class Forked:
    """A forked process, which first waits for its environment."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self._channel = channel
        self._watch: int | None = None
        """A descriptor that can be read once the process has ended."""
        self._ended = False

    def begin(self, environ: Mapping[str, str], *, lifeline: int, reports: int, held: Sequence[int]) -> None:
        """Let it run its command. `lifeline` and `reports` are the descriptors that `LIFELINE` and `process.LISTENS`
        name there, and `held` what it keeps open. Raises `OSError` where it has ended, or its end cannot be watched
        for; then it runs nothing."""
        try:
            with self._channel:
                self._watch = os.pidfd_open(self.pid)
                socket.send_fds(self._channel, [b"\0"], [lifeline, reports, *held])
                self._channel.sendall(json.dumps(dict(environ)).encode())
        except OSError:
            self._unwatch()
            self._reap()
            raise

    async def wait(self) -> int:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        watch = self._watch
        assert watch is not None, "it has not begun"
        try:
            loop.add_reader(watch, ended.set)
            await ended.wait()
        except OSError:
            # Unwatched it would run on beside the process that takes its place.
            self.kill()
            self._reap()
            raise
        finally:
            loop.remove_reader(watch)
            self._unwatch()
        return self._reap()

    def _unwatch(self) -> None:
        if self._watch is not None:
            os.close(self._watch)
            self._watch = None

    def _reap(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self._ended = True
        return os.waitstatus_to_exitcode(status)

    def send_signal(self, signal: int) -> None:
        if self._ended:
            raise ProcessLookupError
        os.kill(self.pid, signal)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Close the channel. It ends, unless it runs already or another process has the channel open too."""
        self._channel.close()

    def dismiss(self) -> None:
        """Let it end without having run anything."""
        self.close()
        self._reap()


class Ready:
    """The forked processes that wait, by what they are to run and their number."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[Child, int], Forked] = {}

    def add(self, child: Child, number: int, forked: Forked) -> None:
        self._waiting[child, number] = forked

    def take(self, child: Child, number: int) -> Forked | None:
        """Return the process for a copy of a child, once; None where a new one is to be started, as for a child that a
        configuration asks for which was read after the fork."""
        return self._waiting.pop((child, number), None)

    def leave(self) -> None:
        """Close the channels of the parent in a forked process, which would keep them open."""
        for forked in self._waiting.values():
            forked.close()

    def dismiss(self) -> None:
        """End those that were not taken."""
        while self._waiting:
            self._waiting.popitem()[1].dismiss()


@contextmanager
def _shared_metrics(settings: Settings) -> Iterator[None]:
    """Let this process count metrics as its children do, in files, for as long as the block lasts. Its own go to a
    folder that is not read. It must begin before the metrics are imported, because that decides where they are kept
    (https://prometheus.github.io/client_python/multiprocess/)."""
    with shared_folder(METRICS, settings.store.data_dir) as (folder, _):
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        try:
            yield
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]


@contextmanager
def forked_parts(state: State, settings: Settings, children: Sequence[Child]) -> Iterator[Ready]:
    """Configure the logs, and fork a process for each copy of the children. Call it while there are neither threads
    nor an event loop."""
    with _shared_metrics(settings):
        state.log(settings)
        with forked(children) as ready:
            yield ready


@contextmanager
def forked(children: Sequence[Child]) -> Iterator[Ready]:
    """Fork a process for each copy of the children, or none where a fork is not safe or cannot be watched. Call it
    while there are neither threads nor an event loop."""
    ready = Ready()
    if sys.platform == "linux" and _watches():  # elsewhere the libraries of the system are not made for it
        for name in dict.fromkeys(module for child in children for module in _MODULES[child.name]):
            import_module(name)
        gc.collect()
        gc.freeze()  # a collection in a child writes to no memory that is shared
        sys.stdout.flush()
        sys.stderr.flush()
        for child in children:
            for number in range(child.copies):
                ready.add(child, number, _fork(child, ready))
    try:
        yield ready
    finally:
        ready.dismiss()


def _watches() -> bool:
    """Return whether the end of a process can be watched for. Kernels before Linux 5.3 and some sandboxes refuse it
    (https://man7.org/linux/man-pages/man2/pidfd_open.2.html)."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def _fork(child: Child, others: Ready) -> Forked:
    ours, theirs = socket.socketpair()
    # A signal would otherwise run the parent's handlers in the child, and its ends of blocks.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        if not (pid := os.fork()):
            ours.close()
            others.leave()
            _run(child, theirs, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return Forked(pid, ours)


def _run(child: Child, channel: socket.socket, signals: Iterable[int]) -> NoReturn:
    """Run a command in a forked process, which ends here: the blocks that its parent is in are the parent's."""
    code = 1
    try:
        os.setsid()
        show_arguments((os.path.basename(sys.executable), "-m", "pushsvc", *child.arguments))
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        if environ := _receive_environment(channel):
            os.environ.clear()
            os.environ.update(environ)
            from ... import telemetry

            telemetry.BUILD_INFO.labels(__version__).set(1)  # a child counts from zero
            code = process.run_part(child.name, lambda: _call(child))
        else:
            code = 0
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _call(child: Child) -> int:
    """Call the function of a part as its command line would, which takes 2 MB to read."""
    from ..root import reported
    from ..state import State

    module, _, name = COMMANDS[child.name][0].partition(":")
    config = os.environ.get("PUSHSVC_CONFIG")
    state = State(Path(config) if config else None, seeks=False, alone=True)
    function = getattr(import_module(f"..{module}", __package__), name)
    context = SimpleNamespace(obj=state)
    return reported(lambda: function(context, processes=1, **dict.fromkeys(child.also, True)))


def _receive_environment(channel: socket.socket) -> dict[str, str]:
    """Return the environment that the supervisor sends, or nothing where it has ended."""
    with channel:
        begin, descriptors, _, _ = socket.recv_fds(channel, 1, 3)
        if not begin:
            return {}
        text = b"".join(iter(lambda: channel.recv(65536), b""))
    lifeline, reports, *held = descriptors
    for kept in (lifeline, *held):
        os.set_inheritable(kept, False)
    environ: dict[str, str] = json.loads(text)
    return environ | {LIFELINE: str(lifeline), process.LISTENS: str(reports)}


def show_arguments(words: Sequence[str]) -> None:
    """Show these as the command line of this process, as far as they fit into the place of the original one, so that
    `ps` shows which part it is."""
    with suppress(OSError, ValueError, IndexError):
        # arg_start and arg_end, fields 48 and 49 of proc_pid_stat(5); the command's name ends with the last bracket.
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        begin, end = int(fields[45]), int(fields[46])
        text = b"\0".join(os.fsencode(word) for word in words)[: end - begin - 1]
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(begin)
            memory.write(text.ljust(end - begin, b"\0"))
