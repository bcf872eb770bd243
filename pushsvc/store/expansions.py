"""Pushes whose audience is being looked up: `Expansions` over Redis.

The record of an expansion lives in the push's own slot, so that a page's chunks, the push's count and the place where
the next page begins are written in one atomic step (see expand.lua), and so that a push is accepted or cancelled
together with its expansion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..codec import chunks_of, decode_push, encode_chunk
from ..model import Platform, Target
from ..ports.expansion import Expansion
from . import keys
from .clock import Clock
from .config import StoreConfig
from .leases import Leases
from .link import Link


class RedisExpansions:
    """`Expansions` over Redis."""

    def __init__(self, link: Link, config: StoreConfig, clock: Clock) -> None:
        self._link = link
        self._config = config
        self._clock = clock
        self._leases = Leases(link, clock)

    async def due(self, apps: Iterable[str]) -> list[tuple[str, str]]:
        places = [(app, shard) for app in apps for shard in range(self._config.shards_of(app))]
        found = await self._leases.due([keys.expansions(app, shard) for app, shard in places])
        return [(app, push_id) for (app, _), ids in zip(places, found, strict=True) for push_id in ids]

    async def keep(self, app: str, push_id: str, *, lease: int) -> None:
        await self._leases.keep(keys.expansions(app, self._shard(app, push_id)), push_id, lease)

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
            await self._link.call("ZREM", keys.expansions(app, shard), push_id)
            return None
        return Expansion(decode_push(blob), int(step), cursor.decode(), int(total or 0))

    async def advance(
        self, at: Expansion, found: Mapping[Platform, Sequence[Target]], *, cursor: str | None, lease: int
    ) -> Expansion | None:
        push = at.push
        shard = self._shard(push.app, push.id)
        args: list[Any] = []
        for chunk in chunks_of(push, found, 0, self._config.chunk_size):
            args += (chunk.platform, chunk.lane, len(chunk.targets), encode_chunk(chunk))
        total = await self._link.script(
            "expand",
            [
                *(keys.pending(push.app, shard), keys.push(push.app, shard, push.id)),
                *(keys.expansion(push.app, shard, push.id), keys.expansions(push.app, shard)),
            ],
            [
                *(keys.prefix(push.app, shard), push.id, self._clock(), self._config.status_ttl * 1000),
                *(at.step, cursor or "", int(cursor is None), lease, *args),
            ],
        )
        return None if total < 0 else Expansion(push, at.step + 1, cursor or "", total)

    def _shard(self, app: str, push_id: str) -> int:
        return keys.shard_of(push_id, self._config.shards_of(app))
