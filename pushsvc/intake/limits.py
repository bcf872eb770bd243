"""How many pushes an app and each of its keys may post: `limits.intake` and a key's `intake`, exact over all processes.

Permits are leased from the bucket that the processes share, a little ahead of need, so that a busy app costs a round
trip for many pushes and a slow one is counted push by push. Who is refused is refused from memory until the bucket
has something again: a flood over the limit costs Redis next to nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Final, Literal

from .. import telemetry
from ..errors import TooManyRequests
from ..model import ApiKey
from ..ports import Bucket, Limiter
from ..rates import Rate

SLOT: Final = 0.05
"""Seconds of its rate that are leased at once."""

PERMIT_LIFE: Final = 1.0
"""Seconds after which permits that were not used are forgotten."""

MOST: Final = 1000
"""Permits of one lease."""

MOST_KEYS: Final = 4096
"""Keys whose permits are in hand; who comes back after so many others leases anew."""


class IntakeLimits:
    """The limits of all apps and keys in this process. `monotonic` gives seconds."""

    def __init__(self, limiter: Limiter, rates: Mapping[str, Rate], *, monotonic: Callable[[], float]) -> None:
        """`rates` are those of the apps; a key brings its own."""
        self._limiter = limiter
        self._monotonic = monotonic
        self._apps = {app: self._purse(app, "app", "intake", rate, "The app") for app, rate in rates.items()}
        self._keys: dict[str, _Purse] = {}

    async def count(self, key: ApiKey, pushes: int = 1) -> None:
        """Count `pushes` that are posted with the key, all or none.

        Raises `TooManyRequests`, which names the limit, or `StoreUnavailable` without Redis.
        """
        own = self._of_key(key, key.intake) if key.intake is not None else None
        app = self._apps.get(key.app)
        if own is not None:
            await own.take(pushes)
        if app is not None:
            try:
                await app.take(pushes)
            except BaseException:
                if own is not None:
                    own.give_back(pushes)
                raise

    def _of_key(self, key: ApiKey, rate: Rate) -> _Purse:
        # By its hash: a key of the same name that is made after it was revoked begins with a full bucket.
        purse = self._keys.get(key.sha256)
        if purse is None or purse.rate != rate:
            while len(self._keys) >= MOST_KEYS:
                del self._keys[next(iter(self._keys))]
            purse = self._purse(key.app, "key", f"key-{key.sha256[:16]}", rate, f"The key {key.name!r}")
            self._keys[key.sha256] = purse
        return purse

    def _purse(self, app: str, kind: Literal["app", "key"], name: str, rate: Rate, whose: str) -> _Purse:
        bucket = Bucket(f"{app}.0", name, rate, burst=float(rate.seconds))
        return _Purse(bucket, self._limiter, self._monotonic, whose, telemetry.REFUSED.labels(app, kind).inc)


class _Purse:
    """Permits of one app or key that are in hand."""

    def __init__(
        self,
        bucket: Bucket,
        limiter: Limiter,
        monotonic: Callable[[], float],
        whose: str,
        refused: Callable[[float], None],
    ) -> None:
        self.rate = bucket.rate
        self._bucket = bucket
        self._limiter = limiter
        self._monotonic = monotonic
        self._whose = whose
        self._refused = refused
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
                self._refuse_while_closed(count)
                await self._lease(count)

    def give_back(self, count: int) -> None:
        """What was taken is not used. Good for as long as the other permits are."""
        self._permits += count

    def _spend(self, count: int) -> bool:
        if self._monotonic() >= self._until:
            self._permits = 0
        if self._permits < count:
            return False
        self._permits -= count
        return True

    async def _lease(self, count: int) -> None:
        asked = self._monotonic()
        lease = await self._limiter.lease(self._bucket, max(count - self._permits, self._slot))
        if lease.granted:
            self._permits += lease.granted
            self._until = asked + PERMIT_LIFE
        else:
            self._closed_until = asked + lease.wait_ms / 1000
            self._refuse_while_closed(count)

    def _refuse_while_closed(self, count: int) -> None:
        left = self._closed_until - self._monotonic()
        if left > 0:
            self._refused(count)
            raise TooManyRequests(
                f"{self._whose} may post {self.rate.count:,} pushes in {self.rate.seconds} s, and has done so.",
                retry_after=max(1, math.ceil(left)),
            )
