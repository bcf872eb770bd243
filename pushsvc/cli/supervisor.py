"""Child processes that belong together: started, started again when they fall over, stopped in order.

Each child holds the reading end of a pipe, its lifeline: when the parent is gone, even by `kill -9`, the pipe ends
and the child drains and goes as well. Children have a session of their own, so that Ctrl-C reaches the parent alone
and the order of the stop is kept.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from msgspec import Struct

from ..telemetry import get_logger

LIFELINE = "PUSHSVC_LIFELINE"
QUICK = 5.0
"""Seconds: a child that ends sooner than this waits before it is started again."""


class Child(Struct, frozen=True):
    """One `pushsvc` command to keep running, in `copies`. Groups with a lower `stage` are stopped first."""

    name: str
    arguments: tuple[str, ...]
    stage: int = 0
    copies: int = 1


class Supervisor:
    """Keeps children alive while its `async with` block lasts. `grace` is how long a stop may take, in seconds."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        environ: Mapping[str, str],
        grace: float,
        on_exit: Callable[[int], None] = lambda pid: None,
    ) -> None:
        self._children = children
        self._environ = environ
        self._grace = grace
        self._on_exit = on_exit
        self._keepers: dict[int, list[asyncio.Task[None]]] = {}
        self._processes: dict[int, set[asyncio.subprocess.Process]] = {}
        self._stopping: set[int] = set()
        self._lifeline: tuple[int, int] = (-1, -1)
        self._log = get_logger("supervisor")

    async def __aenter__(self) -> Self:
        self._lifeline = os.pipe()
        # Where there are no signals, as outside the main thread, the children still see changed files by themselves.
        with suppress(ValueError, RuntimeError, NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.forward, signal.SIGHUP)
        for child in self._children:
            for number in range(child.copies):
                task = asyncio.create_task(self._keep(child, number), name=f"keep:{child.name}")
                self._keepers.setdefault(child.stage, []).append(task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ValueError, RuntimeError, NotImplementedError):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
        for stage in sorted(self._keepers):
            await self._stop_stage(stage)
        for end in self._lifeline:
            os.close(end)

    def forward(self, number: int) -> None:
        """Send a signal to every child: SIGHUP makes them read the configuration anew."""
        for processes in self._processes.values():
            for process in processes:
                with suppress(ProcessLookupError):
                    process.send_signal(number)

    async def _stop_stage(self, stage: int) -> None:
        self._stopping.add(stage)
        for process in self._processes.get(stage, ()):
            process.send_signal(signal.SIGTERM)
        keepers = self._keepers[stage]
        _, late = await asyncio.wait(keepers, timeout=self._grace)
        for process in self._processes.get(stage, ()):
            self._log.warning("child_killed", pid=process.pid, reason="it did not stop in time")
            process.kill()
        for task in late:
            task.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    async def _keep(self, child: Child, number: int) -> None:
        loop = asyncio.get_running_loop()
        pause = 0.2
        running = self._processes.setdefault(child.stage, set())
        while child.stage not in self._stopping:
            started = loop.time()
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pushsvc",
                *child.arguments,
                env={**self._environ, LIFELINE: str(self._lifeline[0]), "PUSHSVC_COPY": str(number)},
                pass_fds=(self._lifeline[0],),
                start_new_session=True,
            )
            running.add(process)
            if child.stage in self._stopping:
                process.send_signal(signal.SIGTERM)
            status = await process.wait()
            running.discard(process)
            self._on_exit(process.pid)
            if child.stage in self._stopping:
                return
            self._log.error("child_ended", child=child.name, pid=process.pid, status=status)
            pause = min(10.0, pause * 2) if loop.time() - started < QUICK else 0.2
            await asyncio.sleep(pause)


def watch_lifeline(stop: asyncio.Event) -> None:
    """In a child: set `stop` when the supervisor is gone. Without a supervisor nothing happens."""
    text = os.environ.get(LIFELINE)
    if text is None:
        return
    reader = int(text)
    loop = asyncio.get_running_loop()

    def gone() -> None:
        # Nobody ever writes: that it can be read means that it has ended.
        loop.remove_reader(reader)
        stop.set()

    loop.add_reader(reader, gone)
