"""`Arrivals` over Redis Streams: ends deliveries that devices have acknowledged, or cannot any more, and lets others go
on before their time. What each step records is made in arrivals.py."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ... import telemetry
from ...model.codec import CodecError
from ...model.delivery import Arrival
from ...model.push import Platform
from ...model.routing import platform_of
from .. import keys
from ..figures.answers import ANSWERS_TTL
from ..link.together import all_of
from ..part import StorePart
from ..revoke.supersession import Supersession
from .arrivals import ARRIVED, EndOfAny, beside, pack_arrivals, pack_fallback
from .record import Finished, Group, Record, Single, encode_record
from .settling import places_of

SETTLE = 1000
"""Settlements in one atomic step, which blocks the server for some milliseconds."""
_FALL_BACK_MOST = 100
"""Deliveries that go on before their time in one step."""


class Ending(StorePart):
    """The part of the queue that ends deliveries without having their entries."""

    _supersession: Supersession

    async def arrived(self, app: str, arrivals: Sequence[Arrival]) -> int:
        """See `Arrivals.arrived`; up to 1,000 in one atomic step."""
        await self._supersession.arrived(app, arrivals)
        return await self._end_any(app, arrivals, ARRIVED)

    async def suppress(self, app: str, arrivals: Sequence[Arrival], why: str) -> int:
        """See `Arrivals.suppress`."""
        return await self._end_any(app, arrivals, EndOfAny("suppressed", why))

    async def _end_any(self, app: str, arrivals: Sequence[Arrival], how: EndOfAny) -> int:
        """End deliveries in whichever turn is recorded; by platform, so that they are counted for it."""
        places: dict[tuple[int, Platform], list[Arrival]] = {}
        shards = self._config.shards_of(app)
        push_id = route = ""
        for arrival in arrivals:
            if arrival.push_id != push_id or arrival.platform != route:  # Those of one push mostly come together.
                push_id, route = arrival.push_id, arrival.platform
                same = places.setdefault((keys.shard_of(push_id, shards), platform_of(route)), [])
            same.append(arrival)

        async def end(shard: int, platform: Platform, own: Sequence[Arrival]) -> int:
            ended = 0
            while own:
                applied, _, _, _, *closed = await self._record(app, shard, *pack_arrivals(own, how), [], 0)
                if applied:
                    telemetry.count_ended(app, platform, how.end, how.reason, applied)
                ended += applied
                own = beside(own, set(places_of(closed)))
            return ended

        return sum(
            await all_of(
                end(*place, own[start : start + SETTLE])
                for place, own in places.items()
                for start in range(0, len(own), SETTLE)
            )
        )

    async def fall_back(self, app: str, arrivals: Sequence[Arrival]) -> int:
        """See `Arrivals.fall_back`; up to 100 in one atomic step. Those of very large pushes wait for their time."""
        shards = self._config.shards_of(app)
        by_shard: dict[int, list[Arrival]] = {}
        for arrival in arrivals:
            by_shard.setdefault(keys.shard_of(arrival.push_id, shards), []).append(arrival)
        moved = 0
        for shard, own in by_shard.items():
            for start in range(0, len(own), _FALL_BACK_MOST):
                moved += await self._fall_back(app, shard, own[start : start + _FALL_BACK_MOST])
        if moved:
            telemetry.LIVE_MESSAGES.labels(app, "fallback").inc(moved)
        return moved

    async def _fall_back(self, app: str, shard: int, arrivals: Sequence[Arrival]) -> int:
        asked = [word for each in arrivals for word in (each.push_id, each.total, each.index)]
        blobs = await self._link.script("awaiting", [keys.pending(app, shard)], [keys.prefix(app, shard), *asked])
        groups = []
        for arrival, blob in zip(arrivals, blobs, strict=True):
            with suppress(CodecError):  # a newer version carries it on
                if blob:
                    groups.append(pack_fallback(blob, arrival.index))
        moved: int = (await self._record(app, shard, groups, [], [], 0))[0] if groups else 0
        return moved

    async def _record(
        self,
        app: str,
        shard: int,
        groups: Sequence[Group],
        singles: Sequence[Single],
        refs: Sequence[Finished],
        slot: int,
    ) -> list[Any]:
        """Record what has ended in one atomic step of `settle.lua`, and return its answer."""
        config = self._config
        now = self._clock()
        kept = (ANSWERS_TTL * 1000, config.dead_most(app))
        record = Record(now, *config.lifetimes, groups, singles, refs, slot, *kept, config.consumer)
        answer: list[Any] = await self._link.record(
            "settle", [keys.pending(app, shard)], [keys.prefix(app, shard), encode_record(record)]
        )
        return answer
