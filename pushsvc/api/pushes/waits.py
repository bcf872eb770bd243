"""Requests that wait for the end of their push: one loop a process reads the statuses for all of them.

A status is read soon after its push was accepted and then less and less often (`FIRST` to `LAST` seconds), so that a
short push is answered at once and a thousand waiting requests cost Redis at most a few thousand small reads a second. A
place is free again when its request has been answered, its client has disconnected or the server stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from ... import telemetry
from ...errors import StoreError
from ...model.status import PushStatus
from ...ports.pushes import PushStore

TICK: Final = 0.05
"""Seconds between two rounds; each reads the statuses that are due."""

FIRST, LAST, GROWTH = 0.05, 0.25, 1.5
"""Seconds between two reads of the same status, and the factor by which they grow."""


class _Waiter:
    """A waiting request. `due` is when its status is read next, by the loop's clock."""

    __slots__ = ("due", "future", "gone", "pause", "push")

    def __init__(self, push: tuple[str, str], gone: Callable[[], bool], now: float) -> None:
        self.push = push
        self.gone = gone
        self.due = now
        self.pause = FIRST
        self.future: asyncio.Future[PushStatus | None] = asyncio.get_running_loop().create_future()

    def release(self, status: PushStatus | None) -> None:
        if not self.future.done():
            self.future.set_result(status)


class Waits:
    """The waiting requests of one process, `most` at once."""

    def __init__(self, pushes: PushStore, *, most: int) -> None:
        self._pushes = pushes
        self._most = most
        self._waiting: dict[_Waiter, None] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def full(self) -> bool:
        """Return whether no other request may wait."""
        return self._closed or len(self._waiting) >= self._most

    async def until_ended(
        self, app: str, push_id: str, seconds: float, *, gone: Callable[[], bool]
    ) -> PushStatus | None:
        """Return the status of the push once every delivery has ended. Returns None after the given seconds, when the
        push is not known (any more), when `gone` returns True, or when the server stops. Do not call it while it is
        `full`."""
        loop = asyncio.get_running_loop()
        waiter = _Waiter((app, push_id), gone, loop.time())
        self._waiting[waiter] = None
        if self._task is None:
            self._task = loop.create_task(self._look_while_any_waits(), name="waits")
        try:
            async with asyncio.timeout(seconds):
                return await waiter.future
        except TimeoutError:
            return None
        finally:
            del self._waiting[waiter]

    async def aclose(self) -> None:
        """Let no request wait any longer: waiting ones are answered as if their time were over."""
        self._closed = True
        for waiter in self._waiting:
            waiter.release(None)
        if (task := self._task) is not None:
            self._task = None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _look_while_any_waits(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while self._waiting:
                await asyncio.sleep(TICK)
                now = clock()
                due = []
                for waiter in self._waiting:
                    if waiter.gone():
                        waiter.release(None)
                    elif waiter.due <= now:
                        due.append(waiter)
                try:
                    if due:
                        await self._look(due)
                except StoreError:
                    pass  # While Redis is away they keep waiting: the push may well be sent in time.
                except Exception as error:
                    telemetry.get_logger("waits").error("wait_failed", **telemetry.unforeseen(error))
                    for waiter in due:
                        waiter.release(None)
        finally:
            self._task = None

    async def _look(self, due: list[_Waiter]) -> None:
        now = asyncio.get_running_loop().time()
        for waiter in due:
            waiter.due = now + waiter.pause
            waiter.pause = min(LAST, waiter.pause * GROWTH)
        for waiter, status in zip(due, await self._pushes.statuses([each.push for each in due]), strict=True):
            if status is None or status.state in ("done", "cancelled"):
                waiter.release(status)
