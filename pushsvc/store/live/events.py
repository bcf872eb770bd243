"""`LiveEvents` over Redis: what devices have reported about pushes.

Each device is counted once for a push and an event, exactly. The devices are the bits of their ordinals, so that a push
to a million devices takes 125 KB for each event and one to a single device 2 bytes; see live_report.lua. They are kept
for as long as the push's status, and nothing is counted of a push that has none. For webhooks, the step that counts a
report also appends it to a log of its own, apart from that of feedback events: however many there are, they push none
of these out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ...model.codec import encode_reported
from ...model.push import Platform
from ...model.status import DeviceEvent
from ...ports.live import EVENTS, EventCounts, EventReport
from .. import keys
from ..link.unreadable import readable
from ..registry.documents import decode_device
from .part import LivePart


class RedisEvents(LivePart):
    """See `ports.live.LiveEvents`."""

    async def report(self, app: str, reports: Sequence[EventReport], *, log: bool = False) -> list[Platform | None]:
        now = self._clock()
        oldest = max(0, now - self._config.events_ttl * 1000)

        def entry(each: EventReport) -> bytes:
            platform = platforms[each.device_id]
            return encode_reported(DeviceEvent(now, each.push_id, each.device_id, each.event, platform)) if log else b""

        distinct = list(dict.fromkeys(each.device_id for each in reports))
        args = [keys.devices(app), *map(self._digest, distinct)]
        found = await self._link.script("live_ordinals", [keys.device_counts(app)], args)
        ordinals = {device_id: ordinal for device_id, (ordinal, _) in zip(distinct, found, strict=True)}
        platforms = {
            device_id: device.platform if (device := readable(decode_device, blob, "device", app)) else "unreadable"
            for device_id, (ordinal, blob) in zip(distinct, found, strict=True)
            if ordinal >= 0
        }
        shards: dict[int, list[int]] = defaultdict(list)
        for place, each in enumerate(reports):
            if ordinals[each.device_id] >= 0:
                shards[self._shard(app, each.push_id)].append(place)
        calls = [
            (
                "live_report",
                [keys.events(app, shard, "event"), keys.gone(app, shard, "event")],
                [
                    *(keys.prefix(app, shard), self._config.status_ttl * 1000, self._config.events_max, oldest),
                    *(
                        part
                        for each in (reports[place] for place in places)
                        for part in (each.push_id, each.event, ordinals[each.device_id], entry(each))
                    ),
                ],
            )
            for shard, places in shards.items()
        ]
        counted: list[Platform | None] = [None] * len(reports)
        for places, answer in zip(shards.values(), await self._link.scripts(calls) if calls else (), strict=True):
            for place, count in zip(places, answer, strict=True):
                counted[place] = platforms[reports[place].device_id] if count else None
        return counted

    async def events(self, app: str, push_ids: Sequence[str]) -> list[EventCounts]:
        commands = [("HMGET", keys.seen(app, self._shard(app, name), name), *EVENTS) for name in push_ids]
        return [EventCounts(*(int(count or 0) for count in found)) for found in await self._link.many(commands)]
