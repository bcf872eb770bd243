"""`queue.max_pending` bounds the waiting deliveries of all apps, also of those that were removed from the
configuration, and a share of it those of one app.

What would pass a bound is refused with 429, and what can never fit with 413. One app may take the whole queue only
where it is alone: else it holds at most its share (`queue.app_share`, or its own `limits.max_pending`), so that an app
that schedules everything for next November does not close the service to the others.

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
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from ... import telemetry
from ...background import in_background
from ...errors import ContentTooLarge, Fault, StoreError, TooManyRequests
from ...ports.pushes import PushStore

EVERY: Final = 1.0
"""Seconds between two looks at everything."""

FRESH: Final = 0.1
"""Seconds that a look is good for to refuse by."""

MEMORY: Final = 10
"""Looks, a second apart, over which it is reckoned how fast the queue empties."""

SHORTEST, LONGEST = 1, 60
"""Seconds of a `Retry-After`. The longest is also that of a queue that does not empty: it may at any time."""


class _Look(NamedTuple):
    at: float
    waiting: dict[str, int]
    """By app; of all apps under the empty name."""


class _Bound(NamedTuple):
    """A bound that a push would pass. `who` is the app, or empty for all together."""

    who: str
    waits: int
    most: int
    removed: int = 0
    """Those of `waits` whose app is not in the configuration any more."""

    @property
    def text(self) -> str:
        """The bound in words, with its numbers."""
        if self.who:
            return (
                f"{self.waits:,} deliveries of the app wait; of one app the queue holds {self.most:,} "
                "(limits.max_pending, or queue.app_share of queue.max_pending)"
            )
        removed = (
            f", {self.removed:,} of them for apps that were removed (see `held` of /readyz)" if self.removed else ""
        )
        return f"{self.waits:,} deliveries wait{removed}; the queue holds {self.most:,} (queue.max_pending)"


class Backlog:
    """What waits, and how much may. `monotonic` gives seconds."""

    def __init__(
        self, pushes: PushStore, most: int, shares: Mapping[str, int], *, monotonic: Callable[[], float]
    ) -> None:
        self._pushes = pushes
        self._monotonic = monotonic
        self._looked_at = float("-inf")
        self._looks: deque[_Look] = deque(maxlen=MEMORY + 1)
        self._lock = asyncio.Lock()
        self.hold(most, shares)

    def hold(self, most: int, shares: Mapping[str, int]) -> None:
        """Set the bound on the waiting deliveries of all apps, and that of each app."""
        self._most = most
        self._shares = dict(shares)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look at what waits while the block lasts, and once before it."""
        async with in_background(self._watch(), "backlog"):
            await self._look(EVERY)
            yield

    def full(self) -> dict[str, str]:
        """Whose pushes are refused now, `queue` for everybody's, and why."""
        found = {"queue": everything.text} if (everything := self._all()).waits >= everything.most else {}
        for app in self._shares:
            if (bound := self._own(app)).waits >= bound.most < self._most:
                found[app] = bound.text
        return found

    async def admit(self, app: str, deliveries: int, *, beside: int = 0, path: str = "to") -> None:
        """Return when so many more may wait, `beside` others that are not handed over yet. Hand them to the store
        before anything else is awaited. `path` is where the request asks for them.

        Raises `TooManyRequests`, `ContentTooLarge` where they would not fit into an empty queue, or `StoreUnavailable`.
        """
        if self._passed(app, deliveries + beside) is None:
            return
        most = min(self._most, self._shares.get(app, self._most))
        if deliveries > most:
            limit = "queue.max_pending" if most == self._most else "limits.max_pending, or queue.app_share"
            message = f"makes {deliveries:,} deliveries; the queue holds {most:,} of the app ({limit}): split it"
            raise ContentTooLarge("The push can never fit into the queue.", faults=[Fault(path, message)])
        async with self._lock:
            await self._look(FRESH)
        passed = self._passed(app, deliveries + beside)
        if passed is not None:
            telemetry.REFUSED.labels(app, "share" if passed.who else "queue").inc()
            missing = passed.waits + deliveries + beside - passed.most
            raise TooManyRequests(f"{passed.text}.", retry_after=self._seconds_until(missing, passed.who))

    def _passed(self, app: str, deliveries: int) -> _Bound | None:
        if self._pushes.pending + deliveries > self._most:
            return self._all()
        share = self._shares.get(app)
        if share is not None and self._pushes.pending_of(app) + deliveries > share:
            return self._own(app)
        return None

    def _all(self) -> _Bound:
        pending = self._pushes.pending
        return _Bound("", pending, self._most, pending - sum(map(self._pushes.pending_of, self._shares)))

    def _own(self, app: str) -> _Bound:
        return _Bound(app, self._pushes.pending_of(app), self._shares[app])

    def _seconds_until(self, fewer: int, who: str) -> int:
        """Estimate when that number of places is free, from how fast the queue has emptied lately."""
        first, last = self._looks[0], self._looks[-1]
        span = last.at - first.at
        gone = first.waiting.get(who, 0) - last.waiting.get(who, 0)
        if span < EVERY / 2 or gone <= 0:
            return LONGEST if span > EVERY * 3 else 5
        return max(SHORTEST, min(LONGEST, math.ceil(fewer * span / gone)))

    async def _look(self, age: float) -> None:
        """Make sure that the last look is no older."""
        asked = self._monotonic()
        if asked - self._looked_at >= age:
            await self._pushes.recount(self._shares)
            self._looked_at = asked
            if not self._looks or asked - self._looks[-1].at >= EVERY / 2:
                waiting = {app: self._pushes.pending_of(app) for app in self._shares}
                self._looks.append(_Look(asked, {**waiting, "": self._pushes.pending}))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self._look(EVERY / 2)
                telemetry.REDIS.end("backlog")
            except StoreError as error:
                telemetry.REDIS.begin("backlog", error=str(error))
