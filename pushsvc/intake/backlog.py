"""`queue.max_pending`: so many deliveries of all apps may wait; a push that would pass it is refused with 429.

What waits is counted in Redis, a counter a shard. Each accept answers with the counter of its own shard, and every
`EVERY` seconds a process looks at all of them. How exact that is:

- One process does not pass the bound, because what it is writing counts as well.
- Several may pass it by what the others accept until it hears of it: at its next write to the same shard, and within a
  second everywhere.
- Nobody is refused on old news: a refusal follows a look of the last tenth of a second. What this process is writing at
  that moment may be counted twice, so a push may be refused when less than that is left, and no earlier.

What comes in another way is not refused: dead letters that are replayed, an audience that is expanded after its push
was accepted, and repeats of calls that were accepted before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

from .. import telemetry
from ..errors import Fault, InvalidRequest, StoreError, TooManyRequests
from ..ports import PushStore

EVERY: Final = 1.0
"""Seconds between two looks at everything."""

FRESH: Final = 0.1
"""Seconds that a look is good for to refuse by."""

RETRY_AFTER: Final = 5
"""Seconds. A queue that is full of deliveries is not empty in the next moment."""


class Backlog:
    """What waits, and how much may. `monotonic` gives seconds."""

    def __init__(self, pushes: PushStore, most: int, apps: Iterable[str], *, monotonic: Callable[[], float]) -> None:
        self._pushes = pushes
        self._monotonic = monotonic
        self._looked_at = float("-inf")
        self._lock = asyncio.Lock()
        self.hold(most, apps)

    def hold(self, most: int, apps: Iterable[str]) -> None:
        """From now on so many deliveries of these apps may wait."""
        self._most = most
        self._apps = tuple(apps)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look at what waits while the block lasts, and once before it."""
        watch = asyncio.create_task(self._watch(), name="backlog")
        try:
            await self._look(EVERY)
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    async def admit(self, app: str, deliveries: int, *, beside: int = 0, path: str = "to") -> None:
        """Return when so many more may wait, `beside` others that are not handed over yet. Hand them to the store
        before anything else is awaited. `path` is where the request asks for them.

        Raises `TooManyRequests`, `InvalidRequest` where they would not fit into an empty queue, or `StoreUnavailable`.
        """
        if self._fits(deliveries + beside):
            return
        if deliveries > self._most:
            told = f"makes {deliveries:,} deliveries; the queue may hold {self._most:,} in all: split it"
            raise InvalidRequest(faults=[Fault(path, told)])
        async with self._lock:
            await self._look(FRESH)
        if not self._fits(deliveries + beside):
            telemetry.REFUSED.labels(app, "queue").inc()
            raise TooManyRequests("As many deliveries wait as the queue may hold.", retry_after=RETRY_AFTER)

    def _fits(self, deliveries: int) -> bool:
        return self._pushes.pending + deliveries <= self._most

    async def _look(self, age: float) -> None:
        """Make sure that the last look is no older."""
        asked = self._monotonic()
        if asked - self._looked_at >= age:
            await self._pushes.recount(self._apps)
            self._looked_at = asked

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self._look(EVERY / 2)
                telemetry.REDIS.end("backlog")
            except StoreError as error:
                telemetry.REDIS.begin("backlog", error=str(error))
