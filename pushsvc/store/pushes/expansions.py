"""Pushes whose audience is being expanded: `Expansions` over Redis. The record of an expansion is in the push's own
slot, so that a page's chunks, the push's total and the place of the next page are written in one atomic step (see
expand.lua), and so that a push is accepted or cancelled together with its expansion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ...model.codec import CodecError, chunks_of, decode_push, encode_chunk
from ...model.push import LANES, Lane, Platform, Target
from ...ports.expansion import Expansion, FailingExpansion, Waiting
from ...telemetry import get_logger
from .. import keys
from ..part import StoreContext, StorePart

HEAD = 4
"""Pushes of one app, shard and lane that are returned at once, so that several processes find different ones."""
LOOK = 200
"""The approximate number of pushes that are examined at once for an expired `ttl`."""
LOOK_FAILING = 50
"""Pushes of one app, shard and lane that are examined for a failure: those that are taken up last within the longest
pause."""
FIRST_PAUSE, LONGEST_PAUSE = 5_000, 600_000
"""Milliseconds until a failed expansion is tried again."""


def pause(faults: int) -> int:
    """Return the wait in milliseconds after this number of failures."""
    return min(LONGEST_PAUSE, FIRST_PAUSE << min(faults - 1, 10))


class RedisExpansions(StorePart):
    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._expiries: dict[str, int] = {}
        """When the pushes expire that `lapsed` has read, by their records, so that it reads each once."""

    async def lapsed(self, apps: Iterable[str]) -> list[Waiting]:
        """Return some expired pushes of each app, shard and lane that has any, whatever else waits there."""
        now, known = self._clock(), self._expiries
        self._expiries = {}
        found: list[Waiting] = []
        for app, shard, lane in self._places(apps):
            following, expired = -1, list[Waiting]()
            while following and not expired:
                following, page = await self._link.call(
                    "ZSCAN", keys.expansions(app, shard, lane), max(0, following), "COUNT", LOOK
                )
                due = {
                    keys.expansion(app, shard, name.decode()): Waiting(app, name.decode(), lane, int(since))
                    for name, since in page
                    if since <= now
                }
                self._expiries |= {record: known[record] for record in due if record in known}
                unread = [record for record in due if record not in known]
                blobs = await self._link.many([("HGET", record, "push") for record in unread])
                for record, blob in zip(unread, blobs, strict=True):
                    with suppress(CodecError):
                        if blob is not None:
                            self._expiries[record] = decode_push(blob).expires_at
                # One that cannot be read is moved to the quarantine by the process that takes it up.
                expired = [which for record, which in due.items() if self._expiries.get(record, 0) <= now]
            found += expired
        return found

    def _places(self, apps: Iterable[str]) -> list[tuple[str, int, Lane]]:
        return [(app, shard, lane) for app in apps for shard in range(self._config.shards_of(app)) for lane in LANES]

    async def due(self, apps: Iterable[str]) -> list[Waiting]:
        places, now = self._places(apps), self._clock()
        found = await self._link.many(
            [
                ("ZRANGEBYSCORE", keys.expansions(*place), "-inf", now, "WITHSCORES", "LIMIT", 0, HEAD)
                for place in places
            ]
        )
        return [
            Waiting(app, push_id.decode(), lane, int(since))
            for (app, _, lane), flat in zip(places, found, strict=True)
            for push_id, since in zip(flat[::2], flat[1::2], strict=True)
        ]

    async def take_up(self, which: Waiting, *, lease: int) -> bool:
        now = self._clock()
        return bool(await self._link.script("take_up", [self._set_of(which)], [which.push_id, now, now + lease]))

    async def release(self, at: Expansion) -> None:
        push = at.push
        place = keys.expansions(push.app, self._shard(push.app, push.id), push.lane)
        await self._link.call("ZADD", place, "XX", push.starts_at, push.id)

    async def put_off(self, which: Waiting, why: str) -> int:
        record = keys.expansion(which.app, self._shard(which.app, which.push_id), which.push_id)
        wait = pause(int(await self._link.call("HINCRBY", record, "faults", 1)))
        now = self._clock()
        await self._link.many(
            [
                ("HSET", record, "why", why),
                ("HSETNX", record, "failed", now),
                ("ZADD", self._set_of(which), "XX", now + wait, which.push_id),
            ]
        )
        return wait

    async def failing(self, apps: Iterable[str]) -> list[FailingExpansion]:
        places, until = self._places(apps), self._clock() + LONGEST_PAUSE
        found = await self._link.many(
            [("ZREVRANGEBYSCORE", keys.expansions(*place), until, "-inf", "LIMIT", 0, LOOK_FAILING) for place in places]
        )
        pushes = [
            (app, shard, push_id.decode())
            for (app, shard, _), names in zip(places, found, strict=True)
            for push_id in names
        ]
        records = await self._link.many([("HMGET", keys.expansion(*push), "why", "failed") for push in pushes])
        return [
            FailingExpansion(app, push_id, (why or b"").decode(), int(since))
            for (app, _, push_id), (why, since) in zip(pushes, records, strict=True)
            if since is not None
        ]

    async def set_aside(self, which: Waiting, why: str) -> None:
        app, push_id = which.app, which.push_id
        shard = self._shard(app, push_id)
        record = keys.expansion(app, shard, push_id)
        await self._link.script(
            "abandon",
            [keys.push(app, shard, push_id), record, self._set_of(which), keys.quarantine(app, shard)],
            [keys.prefix(app, shard), push_id, self._clock(), *self._config.lifetimes, why],
        )
        get_logger("store").error("expansion_quarantined", app=app, push=push_id, error=why)

    def _set_of(self, which: Waiting) -> str:
        return keys.expansions(which.app, self._shard(which.app, which.push_id), which.lane)

    async def load(self, app: str, push_id: str) -> Expansion | None:
        shard = self._shard(app, push_id)
        record, total = await self._link.many(
            [
                ("HMGET", keys.expansion(app, shard, push_id), "push", "step", "cursor"),
                ("HGET", keys.push(app, shard, push_id), "n"),
            ]
        )
        blob, step, cursor = record
        if blob is None:
            places = [("ZREM", keys.expansions(app, shard, lane), push_id) for lane in LANES]
            if any(await self._link.many(places)):
                get_logger("store").error("expansion_lost", app=app, push=push_id)
            return None
        return Expansion(decode_push(blob), int(step), cursor.decode(), int(total or 0))

    async def advance(
        self, at: Expansion, found: Mapping[Platform, Sequence[Target]], *, cursor: str | None, lease: int
    ) -> Expansion | None:
        push = at.push
        shard = self._shard(push.app, push.id)
        args: list[Any] = []
        for chunk in chunks_of(push, found, 0, self._config.chunk_size):
            args += (chunk.channel, chunk.lane, len(chunk.targets), encode_chunk(chunk))
        total = await self._link.script(
            "expand",
            [
                *(keys.pending(push.app, shard), keys.push(push.app, shard, push.id)),
                *(keys.expansion(push.app, shard, push.id), keys.expansions(push.app, shard, push.lane)),
            ],
            [
                *(keys.prefix(push.app, shard), push.id, self._clock(), *self._config.lifetimes),
                *(at.step, cursor or "", int(cursor is None), lease, *args),
            ],
        )
        return None if total < 0 else Expansion(push, at.step + 1, cursor or "", total)
