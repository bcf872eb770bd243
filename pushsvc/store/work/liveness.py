"""Signs of life: a key with a short TTL says that a consumer is alive. Without one, others take over its entries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from redis.exceptions import ResponseError

from .. import keys
from ..link.link import pairs
from ..part import StoreContext, StorePart


class Liveness(StorePart):
    """Our own sign of life, and a look at those of others."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._alive = False
        self._blind_until = 0.0
        self.missed = 0
        """How often our sign of life was found to be over when it was renewed."""

    async def begin(self) -> None:
        """Give the first sign of life, which must precede the first entry that a consumer takes."""
        if not self._alive:
            await self.beat()

    async def beat(self) -> None:
        """Give our sign of life, or renew it.

        Several parts may give the first one at once, whose answers come in any order: whether it had been given is
        asked before, not after.
        """
        renews = self._alive
        before = await self._link.call(
            *("SET", keys.alive(self._config.consumer), self._clock()),
            *("PX", int(self._config.alive_ttl * 1000), "GET"),
        )
        if renews and before is None:
            self._blind_until = asyncio.get_running_loop().time() + self._config.alive_ttl
            self.missed += 1
        self._alive = True

    async def end(self) -> None:
        """Remove our sign of life."""
        if self._alive:
            await self._link.call("DEL", keys.alive(self._config.consumer))
            self._alive = False

    async def gone(self, consumers: set[str]) -> set[str]:
        """Return which of these consumers show no sign of life.

        Returns none of them while our own sign of life expired a moment ago: Redis was away, or we were, and the others
        may have been unable to renew theirs either. Otherwise all would take over from all when Redis returns.
        """
        others = sorted(consumers - {self._config.consumer})
        if not others:
            return set()
        names = [self._config.consumer, *others]
        own, *living = await self._link.many([("EXISTS", keys.alive(name)) for name in names])
        if not own:
            await self.beat()
        if asyncio.get_running_loop().time() < self._blind_until:
            return set()
        return {consumer for consumer, lives in zip(others, living, strict=True) if not lives}

    async def departed(self, streams: Sequence[str], group: str) -> list[list[str]]:
        """Return, for each stream, the members of its group that are gone, or none if there is no group yet."""
        answers = await self._link.many([("XINFO", "CONSUMERS", key, group) for key in streams], errors=True)
        members = [
            set() if isinstance(answer, ResponseError) else {pairs(row)[b"name"].decode() for row in answer}
            for answer in answers
        ]
        gone = await self.gone(set().union(*members))
        return [sorted(gone & own) for own in members]
