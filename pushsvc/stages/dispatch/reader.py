"""Reads a route's lanes: as much as there is room for in memory, and from one server at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ...model.push import LANES, Lane, Route
from ...ports.entries import Taken
from ..outage import Patience
from .context import DispatchContext
from .holdings import Holdings
from .preemption import TRICKLE
from .settling import Settler

LANDING: Final = 5.0
"""Seconds that requests in flight at a failover have to end before their entries are read from the new primary."""
LANDING_LOOK: Final = 0.02
FLOW: Final = 1000
"""Entries a second from which on reads are gathered. A caller that waits for the end of each push stays below it."""
GATHER: Final = 0.004
"""Seconds until the next read while entries come as fast: those that come meanwhile share its cost, which is that of
many entries. Nothing urgent waits for this, nor what may be in the lane already."""
MANY: Final = 64
"""Entries of a read that is followed by the next at once: its cost is shared already, and more may be there."""


class Reader:
    """Brings what the queue has for one route into its holdings."""

    def __init__(
        self,
        context: DispatchContext,
        route: Route,
        settler: Settler,
        holdings: Holdings,
        *,
        in_flight: Callable[[], int],
    ) -> None:
        self.stopping = False
        self._queue, self._config, self._wall_clock = context.queue, context.config, context.wall_clock
        self._lease, self._preemption = context.lease, context.preemption
        self._route = route
        self._settler = settler
        self._holdings = holdings
        self._in_flight = in_flight
        self._history = self._queue.history
        self._loop = asyncio.get_running_loop()

    async def read(self, lane: Lane) -> None:
        space = self._holdings.space[lane]
        wait_ms = int(self._config.read_wait * 1000)
        read_at = self._loop.time()
        patience = Patience(("read", self._route, lane))
        while not self.stopping:
            wanted = self._config.prefetch - self._holdings.held(lane)
            if wanted < self._config.prefetch // 4:
                space.clear()
                await space.wait()
                continue
            if not self._lease.holds:
                await self._lease.regained()
                continue
            if self._history != self._queue.history:
                await self._land()
                continue
            mark = self._holdings.mark()
            async with patience:
                taken = await self._queue.take(self._route, lane, targets=wanted, wait_ms=wait_ms)
                if 0 < len(taken) <= TRICKLE and self._holdings.held(lane) + size_of(taken) <= TRICKLE:
                    self._preemption.note(self._route, lane, self._loop.time())
                self._holdings.admit(taken, mark)
                before, read_at = read_at, self._loop.time()
                if lane != "urgent" and flows(len(taken), read_at - before) and self._queue.drained(self._route, lane):
                    await asyncio.sleep(GATHER)

    async def _land(self) -> None:
        """Handle a new primary: drop what was read from the old one, and wait until what was sent of it is recorded on
        the new one, because reading it earlier would send it again."""
        history = self._queue.history
        self._holdings.withdraw()
        last = self._loop.time() + LANDING
        sent: Mapping[Lane, int] | None = None
        late = False
        while self._history != history:  # of several lanes the first to be done speaks for all
            if sent is None and (late or not self._in_flight()):
                sent = self._settler.handed_over
            if sent is not None and self._settler.has_recorded(sent):
                await self.enrol()  # the new primary may not have it of us
                self._history = history
                return
            late = self._loop.time() >= last  # what came in a pause of the process is read before the next look
            await asyncio.sleep(LANDING_LOOK)

    async def enrol(self) -> None:
        """Register for revocations before anything is read."""
        patience = Patience(("enrol", self._route))
        while True:
            async with patience:
                return await self._queue.enrol(self._route.app)

    async def lapse(self) -> None:
        """Take expired entries from lanes that are not read now, from behind what was read."""
        for lane in LANES:
            mark = self._holdings.mark()
            wanted = self._config.prefetch - self._holdings.held(lane)
            if wanted < self._config.prefetch // 4 and self._lease.holds and self._history == self._queue.history:
                now = int(self._wall_clock() * 1000)
                self._holdings.admit(await self._queue.lapsed(self._route, lane, now), mark)

    async def reclaim(self) -> None:
        """Take over entries of dead consumers, about as many targets at once as a lane holds: they have waited longer
        than what is read besides."""
        admitted = 0
        while admitted < self._config.prefetch and self._lease.holds and self._history == self._queue.history:
            mark = self._holdings.mark()
            taken = await self._queue.reclaim(self._route)
            if not taken:
                break
            self._holdings.admit(taken, mark)
            admitted += size_of(taken)


def flows(entries: int, seconds: float) -> bool:
    """Return whether a read should wait for more, after one of `entries` that came `seconds` after the one before."""
    return 0 < entries < MANY and entries >= FLOW * seconds


def size_of(taken: Sequence[Taken]) -> int:
    return sum(len(each.chunk.targets) for each in taken)
