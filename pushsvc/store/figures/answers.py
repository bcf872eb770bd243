"""The recent answers of the providers about tokens, in slots of ten seconds: counted by `settle.lua`, read for
feedback.

They are counted in the step that writes the receipts, so that a receipt is always counted when it is read. All answers
of one step belong to the slot of the last of them: they are milliseconds apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...model.delivery import Settlement
from ...model.push import Platform
from ...rules.freeze import SLOT_MS, Answers, Slots
from .. import keys
from ..part import StorePart

ANSWERS_TTL = 86400
"""Seconds. A receipt that waits longer is judged without them, and nothing is pruned by it."""
_SLOTS = 60_000 // SLOT_MS
"""The number of slots in a minute, which is one key."""


def slot_of(settlements: Sequence[Settlement], now: int) -> int:
    """Return the slot in which the answers of a step are counted."""
    return (settlements[-1].at if settlements else now) // SLOT_MS


class RedisAnswers(StorePart):
    """`RecentAnswers` over a hash a minute."""

    async def read(self, app: str, platform: Platform, first: int, last: int) -> Slots:
        """Return all shards together, in one round trip."""
        places = [
            (minute, keys.answers(app, shard, platform, minute))
            for minute in range(first // _SLOTS, last // _SLOTS + 1)
            for shard in range(self._config.shards_of(app))
        ]
        hashes = await self._link.many([("HGETALL", key) for _, key in places])
        found: dict[int, Answers] = {}
        for (minute, _), fields in zip(places, hashes, strict=True):
            for slot, answers in _read(minute, fields.items()):
                if first <= slot <= last:
                    found[slot] = found.get(slot, Answers()) + answers
        return found

    async def release(self, app: str, platform: Platform, until: int) -> None:
        key = keys.released(app)
        await self._link.call(*(("HSET", key, platform, until) if until else ("HDEL", key, platform)))

    async def released(self, app: str) -> dict[Platform, int]:
        fields = await self._link.call("HGETALL", keys.released(app))
        return {name.decode(): int(until) for name, until in fields.items()}


def _read(minute: int, fields: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[int, Answers]]:
    for field, count in fields:
        kind, _, second = field.decode().partition(":")
        yield minute * _SLOTS + int(second) * 1000 // SLOT_MS, Answers(**{kind: int(count)})
