"""A supervisor of child processes: it starts them, restarts those that end, and stops them in order.

Each child holds the reading end of a pipe, its lifeline: if the parent ends, even by `kill -9`, the pipe closes and
the child drains and ends as well. Children have sessions of their own, so that Ctrl-C reaches only the parent and the
order of the stop is kept.

SIGHUP is forwarded to children that have reported that they handle it (`process.LISTENS`). A younger child reads the
configuration after it has reported, and so needs no signal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Self

from ...runtime.reload import on_hang_up
from ...settings.environment import override
from ...settings.processes import COPIES
from ...settings.schema import Settings
from ...telemetry import MULTIPROCESS_ENV, SharedFolder, get_logger, systemd
from ..files import shared_folder
from ..process import LISTENS, PID_BYTES
from .children import LIFELINE, METRICS, Child, ChildProcess, Ready
from .parts import grace_of

QUICK = 5.0
"""Seconds: a child that ends sooner than this is restarted with a growing delay."""
SHORTEST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
STARTED_LOOK = 0.1
"""Seconds between two looks for children that have started."""
KILLED = 5.0
"""Seconds that a child may take to end after SIGKILL."""


class Supervisor:
    """Keeps children running while its `async with` block lasts.

    `grace` is the time that a stop may take, in seconds. `metrics` is the folder where the children have theirs.
    `ready` are processes that were forked for them.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        environ: Mapping[str, str],
        grace: float,
        metrics: SharedFolder | None = None,
        ready: Ready | None = None,
    ) -> None:
        self._children = children
        self._ready = ready or Ready()
        self._environ = environ
        self._grace = grace
        self._metrics = metrics
        self._keepers: dict[int, list[asyncio.Task[None]]] = {}
        self._processes: dict[int, set[ChildProcess]] = {}
        self._stopping: dict[int, asyncio.Event] = {child.stage: asyncio.Event() for child in children}
        self._lifeline: tuple[int, int] = (-1, -1)
        self._reports: tuple[int, int] = (-1, -1)
        """A pipe to which each child writes its process id once it handles signals, and its negative once it works."""
        self._listening: set[int] = set()
        self._started: set[int] = set()
        self._hang_ups = ExitStack()
        self._log = get_logger("supervisor")

    async def __aenter__(self) -> Self:
        self._lifeline = os.pipe()
        self._reports = os.pipe()
        os.set_blocking(self._reports[0], False)
        # Where there are no signals, as outside the main thread, the children still see changed files by themselves.
        self._hang_ups.enter_context(on_hang_up(lambda: self.forward(signal.SIGHUP)))
        for child in self._children:
            for number in range(child.copies):
                task = asyncio.create_task(self._keep(child, number), name=f"keep:{child.name}")
                self._keepers.setdefault(child.stage, []).append(task)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for stage in sorted(self._keepers):
                await self._stop_stage(stage)
        finally:
            self._hang_ups.close()
            for end in (*self._lifeline, *self._reports):
                os.close(end)

    async def until_started(self, stop: asyncio.Event) -> None:
        """Return when every child works, as it has reported, or `stop` is set."""
        wanted = sum(child.copies for child in self._children)
        while not stop.is_set():
            self._listen()
            if len(self._started) >= wanted:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), STARTED_LOOK)

    def forward(self, number: int) -> None:
        """Send a signal to every child that handles it. SIGHUP makes them reload the configuration."""
        self._listen()
        with systemd.reload_notified():
            for processes in self._processes.values():
                for process in processes:
                    if process.pid in self._listening:
                        with suppress(ProcessLookupError):
                            process.send_signal(number)

    def _listen(self) -> None:
        """Read from the pipe which children handle signals by now, and which work."""
        with suppress(BlockingIOError):
            while pids := os.read(self._reports[0], 512 * PID_BYTES):
                for at in range(0, len(pids), PID_BYTES):
                    pid = int.from_bytes(pids[at : at + PID_BYTES], "little", signed=True)
                    (self._listening if pid > 0 else self._started).add(abs(pid))

    async def _stop_stage(self, stage: int) -> None:
        self._stopping[stage].set()
        for process in self._processes.get(stage, ()):
            _terminate(process)
        keepers = self._keepers[stage]
        _, late = await asyncio.wait(keepers, timeout=self._grace)
        for process in self._processes.get(stage, ()):
            self._log.warning("child_killed", pid=process.pid, reason="it did not stop in time")
            with suppress(ProcessLookupError):
                process.kill()
        if late:
            # Not even SIGKILL ends a process that hangs in the kernel.
            _, late = await asyncio.wait(late, timeout=KILLED)
        for task in late:
            task.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    async def _keep(self, child: Child, number: int) -> None:
        loop = asyncio.get_running_loop()
        stopping = self._stopping[child.stage]
        pause = SHORTEST_PAUSE
        while not stopping.is_set():
            started = loop.time()
            try:
                await self._run(child, number, stopping)
            except OSError as error:
                # The machine is short of something, or the child's traces were gone before us: neither lasts forever.
                self._log.error("child_not_kept", child=child.name, error=str(error))
            except Exception as error:
                self._log.error("child_not_kept", child=child.name, error=type(error).__name__, exc_info=True)
            if stopping.is_set():
                return
            pause = min(LONGEST_PAUSE, pause * 2) if loop.time() - started < QUICK else SHORTEST_PAUSE
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), pause)

    async def _run(self, child: Child, number: int, stopping: asyncio.Event) -> None:
        """Run one child process until it ends."""
        environ = {name: value for name, value in self._environ.items() if name not in systemd.VARIABLES}
        environ[COPIES] = str(child.copies)
        if number:
            # An address can be listened on once: the first copy shows the metrics of all.
            environ = override(environ, {"PUSHSVC__METRICS__PORT": "0"})
        process = await self._start(child, number, environ)
        running = self._processes.setdefault(child.stage, set())
        running.add(process)
        if stopping.is_set():
            _terminate(process)
        try:
            status = await process.wait()
        finally:
            running.discard(process)
            self._listen()  # its number may be another's soon, and the pipe must not fill up
            self._listening.discard(process.pid)
            self._started.discard(process.pid)
        if not stopping.is_set():
            self._log.error("child_ended", child=child.name, pid=process.pid, status=status)
        if self._metrics is not None:
            self._metrics.ended(process.pid)
            if not stopping.is_set():
                for part in child.parts:
                    self._metrics.restarted(part)

    async def _start(self, child: Child, number: int, environ: dict[str, str]) -> ChildProcess:
        """Return the process that was forked for this copy, or a new one."""
        lifeline, reports = self._lifeline[0], self._reports[1]
        held = () if self._metrics is None else self._metrics.held
        if (forked := self._ready.take(child, number)) is not None:
            forked.begin(environ, lifeline=lifeline, reports=reports, held=held)
            return forked
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "pushsvc",
            *child.arguments,
            env={**environ, LIFELINE: str(lifeline), LISTENS: str(reports)},
            pass_fds=(lifeline, reports, *held),
            start_new_session=True,
        )


def _terminate(process: ChildProcess) -> None:
    # It may have ended a moment ago.
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)


def watch_lifeline(stop: asyncio.Event) -> None:
    """Set `stop`, in a child process, when the supervisor has ended. Does nothing without a supervisor."""
    text = os.environ.get(LIFELINE)
    if text is None:
        return
    reader = int(text)
    loop = asyncio.get_running_loop()

    def gone() -> None:
        # Nothing is ever written: that it is readable means that it was closed.
        loop.remove_reader(reader)
        get_logger("supervisor").warning(
            "supervisor_gone", pid=os.getpid(), what="its supervisor has ended: it stops too"
        )
        stop.set()

    loop.add_reader(reader, gone)


@asynccontextmanager
async def supervised(
    children: Sequence[Child],
    settings: Settings,
    config: Path | None,
    url: str,
    environ: Mapping[str, str],
    ready: Ready | None = None,
) -> AsyncIterator[Supervisor]:
    """Keep children running while the block lasts: with the same configuration, the store at `url`, and their metrics
    in one folder."""
    with shared_folder(METRICS, settings.store.data_dir) as (folder, held):
        own = {MULTIPROCESS_ENV: str(folder), "PUSHSVC__REDIS__URL": url}
        if config is not None:
            own["PUSHSVC_CONFIG"] = str(config)
        async with Supervisor(
            children,
            environ=override(environ, own),
            grace=grace_of(settings),
            metrics=SharedFolder(folder, held),
            ready=ready,
        ) as supervisor:
            yield supervisor
