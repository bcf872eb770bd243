"""`Limiter` over Redis: one script call per thousand tokens, one per lease. Only the server's clock is used.

The place of a token is the app shard of its digest, as for suppression: pushes of all shards meet there. Its digest
has 8 bytes under the store's own key: two of a million tokens that are limited at the same moment share one with a
probability of one in forty million, and would then share a limit.

Both scripts count, so neither is repeated blindly: a delivery that was counted twice would be one too many the next
time, and dropped. A question that may be repeated leaves its answer for a minute, in the step that counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ...model.push import Route
from ...model.rates import Rate
from ...ports.limits import Bucket, Grant, Question
from ...rules.gcra import FLOOR, US, interval_of, span_of
from .. import keys
from ..hashing import limiter_digests
from ..part import StoreContext, StorePart

_BATCH = 1000
"""Tokens in one atomic step: under a millisecond of the server's time."""
_SHORT = 2 * US
_LONG = 60 * US


class RedisLimiter(StorePart):
    """The limiter of one process. All counts are in Redis."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._digests = limiter_digests(self._hash_key)

    async def admit(
        self,
        route: Route,
        rate: Rate,
        tokens: Sequence[str],
        *,
        family: str = "all",
        question: Question | None = None,
    ) -> Sequence[tuple[int, int]]:
        """See `ports.limits.Limiter`."""
        digests = self._digests(tokens, self._config.addresses.same_of(route.platform))
        shards = self._config.shards_of(route.app)
        if shards == 1:
            return await self._admit(route, 0, rate, digests, family, question)
        places: dict[int, list[int]] = {}
        for place, own in enumerate(digests):
            places.setdefault(keys.token_shard(own, shards), []).append(place)
        answers = await asyncio.gather(
            *(
                self._admit(route, shard, rate, [digests[place] for place in own], family, question)
                for shard, own in places.items()
            )
        )
        return sorted(
            (own[place], wait) for own, waits in zip(places.values(), answers, strict=True) for place, wait in waits
        )

    async def _admit(
        self,
        route: Route,
        shard: int,
        rate: Rate,
        digests: Sequence[bytes],
        family: str,
        question: Question | None,
    ) -> list[tuple[int, int]]:
        interval = interval_of(rate)
        key = keys.limits(route.app, shard, route.platform, family)
        owner = f"{route.app}.{shard}"
        waits: list[tuple[int, int]] = []
        for start in range(0, len(digests), _BATCH):
            flat = await self._ask(
                "limiter",
                key,
                owner,
                f"{route.platform}.{family}.{start}",
                question,
                [
                    b"".join(digests[start : start + _BATCH]),
                    interval,
                    rate.count,
                    max(_SHORT, interval),
                    max(_LONG, 2 * interval * rate.count),
                ],
            )
            waits += [(start + place, wait) for place, wait in zip(flat[::2], flat[1::2], strict=True)]
        return waits

    async def lease(self, bucket: Bucket, wanted: int, *, least: int = 1, question: Question | None = None) -> Grant:
        """See `ports.limits.Limiter`."""
        interval = interval_of(bucket.rate)
        granted, wait = await self._ask(
            "lease",
            keys.bucket(bucket.owner, bucket.name),
            bucket.owner,
            bucket.name,
            question,
            [wanted, interval, span_of(interval, bucket.rate, bucket.burst), int(bucket.ramp * US), FLOOR, least],
        )
        return Grant(granted, -(-wait // 1000))

    async def _ask(
        self, script: str, key: str, owner: str, what: str, question: Question | None, args: list[Any]
    ) -> list[Any]:
        answer: list[Any]
        if question is None:
            answer = await self._link.script(script, [key], args)
        else:
            asked = keys.asked(owner, f"{self._config.consumer}.{question.asker}.{what}")
            marks = (question.number, int(question.again))
            answer = await self._link.read(script, [key, asked], [*args, *marks])
        return answer
