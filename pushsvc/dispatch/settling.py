"""Settlements gathered and recorded in batches, each batch one atomic step in Redis.

An entry is acknowledged in the same step as its last outcome. Batches of one app go one after the other, because an
acknowledgement must not overtake an outcome. When Redis is away the same batch is tried again until it is back:
settling twice changes nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from ..errors import StoreUnavailable
from ..model import Settlement
from ..ports import DeliveryQueue, EntryRef
from ..telemetry import REDIS
from .lanes import OpenEntry

BATCH: Final = 400
"""Settlements a step: enough to share its cost, few enough that Redis serves others in between."""

LINGER: Final = 0.004
"""Seconds that a batch waits for more to come. It delays the record, never a push."""

BOUND: Final = 20_000
"""Unrecorded settlements at which sending stops until Redis has caught up."""


class Settler:
    """The batches of one app."""

    def __init__(self, app: str, queue: DeliveryQueue, on_relief: Callable[[], None]) -> None:
        self._app = app
        self._queue = queue
        self._on_relief = on_relief
        self._waiting: deque[tuple[Settlement | None, OpenEntry]] = deque()
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    @property
    def congested(self) -> bool:
        """True while too much is unrecorded to send more."""
        return len(self._waiting) >= BOUND

    def add(self, settlement: Settlement, entry: OpenEntry) -> None:
        """Record this outcome, soon."""
        self._waiting.append((settlement, entry))
        if not self._more.is_set():
            self._more.set()
            self._idle.clear()

    def finish(self, entry: OpenEntry) -> None:
        """Acknowledge an entry of which nothing was left to settle."""
        self._waiting.append((None, entry))
        self._more.set()
        self._idle.clear()

    async def drain(self) -> None:
        """Return when everything that was added has been recorded."""
        await self._idle.wait()

    def close(self) -> None:
        """Give up what is unrecorded, if anything is."""
        self._closed = True
        self._more.set()

    async def run(self) -> None:
        """Record until closed or cancelled."""
        while not self._closed:
            await self._more.wait()
            if len(self._waiting) < BATCH:
                await asyncio.sleep(LINGER)
            was_congested = self.congested
            settlements, finished = self._next_batch()
            await self._record(settlements, finished)
            if was_congested and not self.congested:
                self._on_relief()
            if not self._waiting:
                self._more.clear()
                self._idle.set()

    def _next_batch(self) -> tuple[list[Settlement], list[EntryRef]]:
        settlements: list[Settlement] = []
        finished: list[EntryRef] = []
        waiting = self._waiting
        for _ in range(min(BATCH, len(waiting))):
            settlement, entry = waiting.popleft()
            if settlement is not None:
                settlements.append(settlement)
                entry.unsettled -= 1
            if not entry.unsettled:
                finished.append(entry.ref)
        return settlements, finished

    async def _record(self, settlements: list[Settlement], finished: list[EntryRef]) -> None:
        pause = 0.05
        who = ("settle", self._app)
        while not self._closed:
            try:
                await self._queue.settle(self._app, settlements, finished)
                REDIS.end(who)
                break
            except StoreUnavailable as error:
                REDIS.begin(who, error=str(error), unrecorded=len(self._waiting) + len(settlements))
                await asyncio.sleep(pause)
                pause = min(2.0, pause * 2)
