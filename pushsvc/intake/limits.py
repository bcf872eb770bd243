"""`limits.intake`: how many pushes an app may post, exact over all processes and all of its keys.

Permits are leased from the bucket that the processes share, a little ahead of need, so that a busy app costs a round
trip for many pushes and a slow one is counted push by push. Who is refused is refused from memory until the bucket
has something again: a flood over the limit costs Redis next to nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Final

from ..errors import TooManyRequests
from ..ports import Bucket, Limiter
from ..rates import Rate

SLOT: Final = 0.05
"""Seconds of its rate that are leased at once."""

PERMIT_LIFE: Final = 1.0
"""Seconds after which permits that were not used are forgotten."""

MOST: Final = 1000
"""Permits of one lease."""


class IntakeLimits:
    """The limits of all apps in this process. `monotonic` gives seconds."""

    def __init__(self, limiter: Limiter, rates: Mapping[str, Rate], *, monotonic: Callable[[], float]) -> None:
        self._purses = {
            app: _Purse(Bucket(f"{app}.0", "intake", rate, burst=float(rate.seconds)), limiter, monotonic)
            for app, rate in rates.items()
        }

    async def count(self, app: str, pushes: int = 1) -> None:
        """Count `pushes` of the app, all or none. Raises `TooManyRequests`, or `StoreUnavailable` without Redis."""
        purse = self._purses.get(app)
        if purse is not None:
            await purse.take(pushes)


class _Purse:
    """Permits of one app that are in hand."""

    def __init__(self, bucket: Bucket, limiter: Limiter, monotonic: Callable[[], float]) -> None:
        self._bucket = bucket
        self._limiter = limiter
        self._monotonic = monotonic
        self._slot = min(MOST, max(1, int(bucket.rate.per_second * SLOT)))
        self._permits = 0
        self._until = 0.0
        self._closed_until = 0.0
        self._lock = asyncio.Lock()

    async def take(self, count: int) -> None:
        if self._spend(count):
            return
        async with self._lock:
            # Whoever had the lock before may have leased enough for both.
            while not self._spend(count):
                self._refuse_while_closed()
                await self._lease(count - self._permits)

    def _spend(self, count: int) -> bool:
        if self._monotonic() >= self._until:
            self._permits = 0
        if self._permits < count:
            return False
        self._permits -= count
        return True

    async def _lease(self, missing: int) -> None:
        asked = self._monotonic()
        lease = await self._limiter.lease(self._bucket, max(missing, self._slot))
        if lease.granted:
            self._permits += lease.granted
            self._until = asked + PERMIT_LIFE
        else:
            self._closed_until = asked + lease.wait_ms / 1000
            self._refuse_while_closed()

    def _refuse_while_closed(self) -> None:
        left = self._closed_until - self._monotonic()
        if left > 0:
            rate = self._bucket.rate
            raise TooManyRequests(
                f"The app may post {rate.count:,} pushes in {rate.seconds} s, and has done so.",
                retry_after=max(1, math.ceil(left)),
            )
