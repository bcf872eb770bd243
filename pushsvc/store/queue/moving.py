"""What moves to the lanes when it is due: retries, and the chunks of scheduled pushes; and the counters, corrected."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from ... import telemetry
from ...model.push import Route
from ...model.routing import CARRIERS
from .. import keys
from ..link.together import all_of
from ..part import StoreContext, StorePart
from ..work.liveness import Liveness

_PROMOTE = 500
"""The maximum number of chunks that one step moves back."""
_STEP_TARGETS = 20_000
"""The approximate number of targets of retries that one step looks at: some 20 ms in which the server is blocked."""
_LAUNCH = 200
"""The approximate number of chunks of scheduled pushes that one call moves: 2 ms in which the server is blocked."""
_RECOUNT = 60.0
_RECOUNTED = 1000
"""The maximum number of retries of a platform that are counted in one step; with more of them they are left for
later."""


class Moving(StorePart):
    """The part of `DeliveryQueue` for which this process has no entry at hand."""

    _liveness: Liveness

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._counted_at = 0.0

    @property
    def missed(self) -> int:
        return self._liveness.missed

    async def promote(self, route: Route, now: int) -> int:
        """Move up to 500 chunks or about 20,000 deliveries a call and shard, lane after lane; call it again while it
        returns any."""
        shards = range(self._config.shards_of(route.app))
        return sum(await all_of(self._promote_in(route, shard, now) for shard in shards))

    async def _promote_in(self, route: Route, shard: int, now: int) -> int:
        app, channel = route.app, route.platform
        places = [
            *(keys.retries(app, shard, channel), keys.pending(app, shard)),
            *(keys.quarantine(app, shard), keys.recalled(app, shard), *keys.first_retries(app, shard, channel)),
        ]
        moved, more = 0, 1
        while not moved and more:  # of what was acknowledged nothing is moved
            moved, more, late = await self._link.script(
                "promote",
                places,
                [keys.prefix(app, shard), channel, now, _PROMOTE, _STEP_TARGETS, int(channel not in CARRIERS)],
            )
            if late:
                telemetry.LIVE_MESSAGES.labels(app, "fallback").inc(late)
        return moved

    async def next_retry(self, route: Route) -> int | None:
        app, channel = route.app, route.platform
        shards = range(self._config.shards_of(app))
        return await self._first([[keys.retries(app, shard, channel), keys.recalled(app, shard)] for shard in shards])

    async def next_launch(self, app: str) -> int | None:
        return await self._first([[keys.scheduled(app, shard)] for shard in range(self._config.shards_of(app))])

    async def _first(self, places: Iterable[Sequence[str]]) -> int | None:
        due = await all_of(self._link.script("next_due", names, []) for names in places)
        return min((int(each) for each in due if each is not None), default=None)

    async def launch(self, app: str, now: int) -> int:
        """Move about 200 chunks a call and shard, lane after lane; call it again while it returns any."""
        launched = await all_of(
            self._link.script(
                "launch",
                [keys.scheduled(app, shard), keys.pending(app, shard), *keys.first_due(app, shard)],
                [keys.prefix(app, shard), now, _LAUNCH],
            )
            for shard in range(self._config.shards_of(app))
        )
        return sum(launched)

    async def _recount(self, places: Iterable[tuple[str, int, str]]) -> None:
        """Correct the pending counters of these apps, shards and channels from time to time, and soon after a failover,
        where nothing is pending any more."""
        now = asyncio.get_running_loop().time()
        if now < self._counted_at + _RECOUNT:
            return
        self._counted_at = now
        for app, shard, channel in sorted(set(places)):
            limits = (_RECOUNTED, _STEP_TARGETS)
            await self._link.script("recount", [keys.pending(app, shard)], [keys.prefix(app, shard), channel, *limits])
