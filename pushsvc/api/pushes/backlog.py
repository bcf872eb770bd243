"""Bounds the number of waiting deliveries of all apps (`queue.max_pending`) and of each app (a share of it).

A push that would exceed a bound is refused with 429, and one that can never fit with 413. Only a single app may use the
whole queue: one of several may use its share (`queue.app_share`, or its own `limits.max_pending`), so that an app with
many scheduled pushes does not close the service to the others. Deliveries of removed apps count too. Urgent pushes may
use a tenth more than each bound, so that a queue which is full of others does not stop them.

The waiting deliveries are counted in Redis, one counter a shard. Each accept returns the counter of its shard, and
every `EVERY` seconds a process reads all of them. The accuracy is as follows:

- One process does not exceed the bound, because it counts what it is writing.
- Several may exceed it by what the others accept until it reads their counters: at its next write to the same shard,
  and within a second for all shards.
- No push is refused because of old counts: a refusal follows a count of the last tenth of a second. What this process
  is writing at that time may be counted twice, so a push may be refused when less than that is left, and no earlier.

Deliveries from other sources are not refused: replayed dead letters, an audience that is expanded after its push was
accepted, and repeats of calls that were accepted before.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from ... import telemetry
from ...background import in_background, pulse
from ...errors import ContentTooLarge, Fault, StoreError, TooManyRequests
from ...model.push import Lane
from ...ports.pushes import PushStore
from ...rules.bound import Bound, most_of

EVERY: Final = 1.0
"""Seconds between two counts of all shards."""

FRESH: Final = 0.1
"""The maximum age in seconds of a count that leads to a refusal."""

MEMORY: Final = 10
"""The number of counts, a second apart, from which the speed of the queue is estimated."""

SHORTEST, LONGEST = 1, 60
"""The bounds of a `Retry-After` in seconds. The longest is also that of a queue that does not become shorter."""


class _Look(NamedTuple):
    at: float
    waiting: dict[str, int]
    """The waiting deliveries by app; those of all apps have the empty name."""


class Backlog:
    """The waiting deliveries and their bounds. `monotonic` gives seconds."""

    def __init__(
        self, pushes: PushStore, most: int, shares: Mapping[str, int], *, monotonic: Callable[[], float]
    ) -> None:
        self._pushes = pushes
        self._monotonic = monotonic
        self._looked_at = float("-inf")
        self._looks: deque[_Look] = deque(maxlen=MEMORY + 1)
        self._lock = asyncio.Lock()
        self._refused: dict[str, Bound] = {}
        """The bounds that have refused a push since that was last noted, with the figures of the last one."""
        self.limit(most, shares)

    def limit(self, most: int, shares: Mapping[str, int]) -> None:
        """Set the bound on the waiting deliveries of all apps, and that of each app."""
        self._most = most
        self._shares = dict(shares)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Count once, and then regularly while the block lasts."""
        async with in_background(self._watch(), "backlog"):
            await self._look(EVERY)
            yield

    async def admit(self, app: str, deliveries: int, lane: Lane, *, beside: int = 0, path: str = "to") -> None:
        """Return when the deliveries, and `beside` others that are not in the store yet, may wait. Pass them to the
        store before anything else is awaited. `path` is their place in the request. Raises `TooManyRequests`,
        `ContentTooLarge` where they would not fit into an empty queue, or `StoreUnavailable`."""
        if self._passed(app, deliveries + beside, lane) is None:
            return
        most = min(self._most, self._shares.get(app, self._most))
        if deliveries > most:
            limit = "queue.max_pending" if most == self._most else "limits.max_pending, or queue.app_share"
            message = f"has {deliveries:,} deliveries; the maximum is {most:,} ({limit}): split it"
            raise ContentTooLarge("The push can never fit into the queue.", faults=[Fault(path, message)])
        async with self._lock:
            await self._look(FRESH)
        passed = self._passed(app, deliveries + beside, lane)
        if passed is not None:
            telemetry.REFUSED.labels(app, "share" if passed.who else "queue").inc()
            self._refused[passed.who] = passed._replace(waits=passed.waits + beside, refused=deliveries)
            missing = passed.waits + deliveries + beside - passed.most
            raise TooManyRequests(f"{passed.text}.", retry_after=self._seconds_until(missing, passed.who))

    def _passed(self, app: str, deliveries: int, lane: Lane) -> Bound | None:
        pushes, most, share = self._pushes, most_of(self._most, lane), self._shares.get(app)
        pending = pushes.pending
        if pending + deliveries > most:
            return Bound("", pending, most, pending - sum(map(pushes.pending_of, self._shares)))
        if share is not None and pushes.pending_of(app) + deliveries > (own := most_of(share, lane)):
            return Bound(app, pushes.pending_of(app), own)
        return None

    def _seconds_until(self, fewer: int, who: str) -> int:
        """Estimate in how many seconds that number of places is free, from the recent speed of the queue."""
        first, last = self._looks[0], self._looks[-1]
        span = last.at - first.at
        gone = first.waiting.get(who, 0) - last.waiting.get(who, 0)
        if span < EVERY / 2 or gone <= 0:
            return LONGEST if span > EVERY * 3 else 5
        return max(SHORTEST, min(LONGEST, math.ceil(fewer * span / gone)))

    async def _look(self, age: float) -> None:
        """Count again unless the last count is younger than `age` seconds."""
        asked = self._monotonic()
        if asked - self._looked_at >= age:
            await self._pushes.recount(self._shares)
            self._looked_at = asked
            if not self._looks or asked - self._looks[-1].at >= EVERY / 2:
                waiting = {app: self._pushes.pending_of(app) for app in self._shares}
                self._looks.append(_Look(asked, {**waiting, "": self._pushes.pending}))

    async def _watch(self) -> None:
        while True:
            await pulse(EVERY)
            try:
                await self._look(EVERY / 2)
                if self._refused:
                    noted, self._refused = self._refused, {}
                    await self._pushes.note_refused(noted.values())
                telemetry.REDIS.end("backlog")
            except StoreError as error:
                telemetry.REDIS.away("backlog", error)
