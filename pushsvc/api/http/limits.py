"""The rate limits of an app and each of its keys (`limits.intake` and a key's `intake`), exact over all processes.

Permits are leased from the bucket that the processes share, a little ahead of need, so that a busy app costs a round
trip for many pushes and a slow one is counted push by push. A batch takes all its permits or none, and permits of a
push that is then refused are returned: a refusal consumes nothing, so its `Retry-After` is the time at which the same
call succeeds. A number that the bucket can never have is refused permanently. After a refusal, further ones are made
from memory until the bucket has enough again: a flood over the limit costs Redis next to nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, Literal

from ... import telemetry
from ...errors import ContentTooLarge, Fault, StoreError, TooManyRequests
from ...model.access import ApiKey
from ...model.rates import Rate
from ...ports.limits import Bucket, Limiter
from ...rules.gcra import US, interval_of
from ...rules.permits import Permits
from .exchange import Reply
from .problems import AnswerUnread

MOST: Final = 1000
"""The maximum number of permits of one lease."""

MOST_KEYS: Final = 4096
"""Keys whose permits are in memory; a key that was dropped leases again."""


class ApiLimits:
    """The limits of all apps and keys in this process. `monotonic` gives seconds."""

    def __init__(self, limiter: Limiter, rates: Mapping[str, Rate], *, monotonic: Callable[[], float]) -> None:
        """Create the limits. `rates` are those of the apps; a key has its own."""
        self._limiter = limiter
        self._monotonic = monotonic
        self._apps = {app: self._limit(app, "app", "intake", rate, "The app") for app, rate in rates.items()}
        self._keys: dict[str, _Limit] = {}

    async def counted(self, key: ApiKey, pushes: int, work: Callable[[], Awaitable[Reply]]) -> Reply:
        """Count the pushes, then return what `work` replies, and return the permits of pushes that it did not accept.
        Raises what `count` and the work raise."""
        await self.count(key, pushes)
        try:
            reply = await work()
        except AnswerUnread:
            raise  # Its push was accepted.
        except Exception:
            await self.give_back(key, pushes)
            raise
        await self.give_back(key, pushes if reply.repeated else reply.refused)
        return reply

    async def count(self, key: ApiKey, pushes: int = 1) -> None:
        """Count `pushes` that are posted with the key, all or none. Raises `TooManyRequests`, which names the limit,
        `ContentTooLarge` where this number can never pass, or `StoreUnavailable` without Redis."""
        limits = self._of(key)
        for limit in limits:
            limit.check(pushes)
        taken: list[_Limit] = []
        try:
            for limit in limits:
                await limit.take(pushes)
                taken.append(limit)
        except BaseException:
            for limit in taken:
                await limit.give_back(pushes)
            raise

    async def give_back(self, key: ApiKey, pushes: int = 1) -> None:
        """Return the permits of pushes that were counted and then refused for another reason."""
        if pushes:
            for limit in self._of(key):
                await limit.give_back(pushes)

    def apply_to(self, key: ApiKey) -> bool:
        """Return whether pushes with the key count against a limit."""
        return key.intake is not None or key.app in self._apps

    def _of(self, key: ApiKey) -> list[_Limit]:
        own = [] if key.intake is None else [self._of_key(key, key.intake)]
        app = self._apps.get(key.app)
        return own if app is None else [*own, app]

    def _of_key(self, key: ApiKey, rate: Rate) -> _Limit:
        # By its hash: a key of the same name that is made after a revocation begins with a full bucket.
        limit = self._keys.get(key.sha256)
        if limit is None or limit.rate != rate:
            while len(self._keys) >= MOST_KEYS:
                del self._keys[next(iter(self._keys))]
            limit = self._limit(key.app, "key", f"key-{key.sha256[:16]}", rate, f"The key {key.name!r}")
            self._keys[key.sha256] = limit
        return limit

    def _limit(self, app: str, kind: Literal["app", "key"], name: str, rate: Rate, whose: str) -> _Limit:
        bucket = Bucket(f"{app}.0", name, rate, burst=float(rate.seconds))
        limit = "limits.intake" if kind == "app" else "the key's intake"
        return _Limit(bucket, self._limiter, self._monotonic, whose, limit, telemetry.REFUSED.labels(app, kind).inc)


class _Limit:
    """The limit of one app or key, and its permits in memory."""

    def __init__(
        self,
        bucket: Bucket,
        limiter: Limiter,
        monotonic: Callable[[], float],
        whose: str,
        limit: str,
        refused: Callable[[float], None],
    ) -> None:
        self.rate = bucket.rate
        self._bucket = bucket
        self._limiter = limiter
        self._monotonic = monotonic
        pushes = "push" if bucket.rate.count == 1 else "pushes"
        self._allowed = f"{whose} may post {bucket.rate.count:,} {pushes} in {bucket.rate.seconds} s ({limit})"
        self._refused = refused
        self._permits = Permits(bucket.rate, most=MOST)
        self._interval = interval_of(bucket.rate) / US
        self._empty_at = float("-inf")
        """When the bucket is, or was, empty: it gains a permit with each interval after that."""
        self._lock = asyncio.Lock()

    def check(self, count: int) -> None:
        """Raise `ContentTooLarge` for a number that can never pass, and `TooManyRequests` for one that cannot pass
        yet."""
        if count > self.rate.count:
            faults = [Fault("$", f"has {count:,} pushes; {self._allowed}: split it")]
            raise ContentTooLarge("The batch can never pass.", faults=faults)
        if self._left < count:
            self._refuse_while_empty(count)

    async def take(self, count: int) -> None:
        if self._spend(count):
            return
        async with self._lock:
            # The previous owner of the lock may have leased enough for both.
            while not self._spend(count):
                self._refuse_while_empty(count)
                await self._lease(count - self._left)

    async def give_back(self, count: int) -> None:
        """Return unused permits. Without Redis they are lost, which errs on the side of the limit."""
        with suppress(StoreError):
            await self._limiter.lease(self._bucket, -count)
        self._empty_at -= count * self._interval

    @property
    def _left(self) -> int:
        return self._permits.left(self._monotonic())

    def _spend(self, count: int) -> bool:
        if self._left < count:
            return False
        self._permits.spend(count)
        return True

    async def _lease(self, missing: int) -> None:
        asked = self._monotonic()
        lease = await self._limiter.lease(self._bucket, max(missing, self._permits.slot), least=missing)
        if lease.granted:
            # They live from now on: a caller waits for them, however long the answer took.
            self._permits.grant(lease.granted, self._monotonic())
        else:
            self._empty_at = asked + lease.wait_ms / 1000 - missing * self._interval

    def _refuse_while_empty(self, count: int) -> None:
        left = self._empty_at + (count - self._left) * self._interval - self._monotonic()
        if left > 0:
            self._refused(count)
            seconds = max(1, math.ceil(left))
            these = "this one passes" if count == 1 else f"these {count:,} pass"
            raise TooManyRequests(f"{self._allowed}; {these} in {seconds:,} s.", retry_after=seconds)
