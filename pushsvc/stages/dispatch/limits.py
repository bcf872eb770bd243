"""Rates between taking and sending: who is over a limit waits in Redis or ends, and the rest is not held up.

    reader --> Gate (per token, one question for hundreds) --> Lanes --> pump <-- Pacer (per app, per account: leases)

The two kinds of limits are kept in different places. Over a *token's* limit are single deliveries: they are taken out
of the line, and wait as retries at a time of their own. Over the *app's* or the *account's* limit is everything: it
stays in the line, where urgent goes first, and is let go evenly. Only `on_exceed = "drop"` makes the app's limit a
question for the gate as well.

The gate asks as late as it can, for little more than the provider takes next (`READY`), because a push counts from the
question on. When the provider stalls, what was asked for before goes out after it, beside what is asked for then: at
most `READY` and one entry a lane. Each lane asks for itself, so that an urgent push never waits for the answer to a
question about hundreds of others.

Limits change under a running route (`use`). What waits in the gate is asked for by the limits of that moment; what has
passed it, and what waits in Redis for its time, keeps the answer that it got.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import count
from typing import Final, Literal, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ...errors import StoreUnavailable
from ...model.push import LANES, Lane, Route, Target
from ...model.rates import AccountLimits, Rate
from ...ports.limits import Bucket, Grant, Limiter, Question
from ...rules.permits import Permits
from ...telemetry import REDIS
from ..outage import Patience
from .lanes import Choice, Lanes, OpenEntry, Withdrawn, sift

T = TypeVar("T")

SMALL: Final = 128
"""Targets of one question while others overtake the lane: Redis answers theirs in between."""

READY: Final = 256
"""Targets of a lane that have passed the gate and are not yet sent; below it the gate asks for more."""

BATCH: Final = 512
"""Targets of one question, give or take an entry."""

SMOOTH: Final = 1.0
"""Seconds of an account's quota that may come at once."""

UNLIMITED: Final = 1 << 30

RATE_LIMITED: Final = "rate_limited"
"""The reason of what was delayed or dropped."""


class RouteLimits(Struct, frozen=True):
    """What holds for one route. None is no limit."""

    per_token: Rate | None = None
    per_app: Rate | None = None
    on_exceed: Literal["delay", "drop"] = "delay"
    account: AccountLimits = AccountLimits()

    @property
    def gated(self) -> bool:
        """Whether single deliveries must be asked for."""
        drops = self.per_app is not None and self.on_exceed == "drop"
        return self.per_token is not None or self.account.collapsible is not None or drops

    def paced(self, route: Route) -> list[Bucket]:
        """Return the buckets that the route's sending as a whole draws from."""
        buckets = []
        if self.per_app is not None and self.on_exceed == "delay":
            buckets.append(app_bucket(route.app, self.per_app))
        if self.account.quota is not None:
            quota, ramp = self.account.quota, self.account.ramp
            owner = f"{route.platform}/{self.account.account}"
            buckets.append(Bucket(owner, "quota", quota, burst=min(SMOOTH, float(quota.seconds)), ramp=ramp))
        return buckets


APP: Final = "app"


def app_bucket(app: str, rate: Rate) -> Bucket:
    return Bucket(f"{app}.0", APP, rate, burst=float(rate.seconds))


Refuse = Callable[[OpenEntry, Target, int, RouteLimits], None]
"""Takes a target that is over its limit, the milliseconds to wait, and the limits of that question: others may apply by
now."""
Passed = Callable[[Sequence[OpenEntry]], None]
"""Takes entries that may be sent."""


class Gate:
    """Asks for entries before they may be drawn. Entries keep their order within a lane."""

    def __init__(
        self,
        route: Route,
        limits: RouteLimits,
        limiter: Limiter,
        ready: Lanes,
        *,
        asking: Callable[[], Passed],
        refuse: Refuse,
        wake: Callable[[], None],
        congested: Callable[[], bool],
        overtaken: Callable[[Lane], bool],
    ) -> None:
        """Create a gate. `asking` is called when a question begins, and its result with the entries that have passed.
        `refuse` is called with each target that must wait, `wake` when others have passed. Nothing is asked for while
        it is `congested`, because a refusal must be recorded too. An `overtaken` lane asks small questions."""
        self._asking = asking
        self._congested = congested
        self._overtaken = overtaken
        self._route = route
        self._limits = limits
        self._limiter = limiter
        self._ready = ready
        self._refuse = refuse
        self._wake = wake
        self._waiting: dict[Lane, deque[OpenEntry]] = {lane: deque() for lane in LANES}
        self.size: dict[Lane, int] = dict.fromkeys(LANES, 0)
        """Targets that were not yet asked for."""
        self._more = {lane: asyncio.Event() for lane in LANES}
        self._numbers = count(time.time_ns())
        """Of questions: higher than those of a process before us that had our name."""

    def use(self, limits: RouteLimits) -> None:
        """Ask by these limits from the next question on; by none where they need no question."""
        self._limits = limits

    def add(self, entry: OpenEntry) -> None:
        """Put the entry's targets at the end of its lane. Then `refill`, once for all that was added."""
        if entry.targets:
            lane = entry.chunk.lane
            self._waiting[lane].append(entry)
            self.size[lane] += len(entry.targets)

    def sift(self, choose: Choice) -> Withdrawn:
        """Remove targets that were not asked for from the line. What is being asked for now is not among them: see
        `asking`."""
        found: Withdrawn = []
        for lane, waiting in self._waiting.items():
            own = sift(waiting, choose)
            self.size[lane] -= sum(len(gone) for _, gone in own)
            found += own
        return found

    def refill(self) -> None:
        """Ask for more, if there is more and a lane runs low. Call it whenever something was added or drawn."""
        ready = self._ready.size
        for lane, size in self.size.items():
            if size and ready[lane] < READY:
                self._more[lane].set()

    async def run(self) -> None:
        """Ask until cancelled. Nothing passes while Redis is away, because the limits are unknown."""
        async with asyncio.TaskGroup() as lanes:
            for lane in LANES:
                lanes.create_task(self._run(lane))

    async def _run(self, lane: Lane) -> None:
        more = self._more[lane]
        while True:
            await more.wait()
            while self._congested():  # noqa: ASYNC110  # seldom, and its relief has another listener
                await asyncio.sleep(0.01)
            entries = self._next(lane)
            if not entries:
                more.clear()
                continue
            passed = self._asking()
            try:
                await self._ask_until_answered(lane, entries)
            except asyncio.CancelledError:
                self._waiting[lane].extendleft(reversed(entries))  # so that they are handed back as well
                self.size[lane] += sum(len(entry.targets) for entry in entries)
                raise
            passed(entries)
            self._wake()

    def _next(self, lane: Lane) -> list[OpenEntry]:
        waiting = self._waiting[lane]
        entries = []
        taken = 0
        wanted = BATCH if self._ready.size[lane] < READY else 0
        while waiting and taken < wanted:
            entry = waiting.popleft()
            entries.append(entry)
            taken += len(entry.targets)
        self.size[lane] -= taken
        return entries

    async def _ask_until_answered(self, lane: Lane, entries: list[OpenEntry]) -> None:
        limits = self._limits
        if limits.per_token is not None:
            await self._ask(lane, entries, limits, limits.per_token, "all")
        account = limits.account
        if account.collapsible is not None and account.is_collapsible is not None:
            judged = account.is_collapsible
            collapsible = [entry for entry in entries if judged(entry.chunk.message.body)]
            if collapsible:
                await self._ask(lane, collapsible, limits, account.collapsible, "collapsible")
        if limits.per_app is not None and limits.on_exceed == "drop":
            fresh = [entry for entry in entries if not entry.counted]
            await self._draw_on_the_app(lane, fresh, limits, app_bucket(self._route.app, limits.per_app))

    async def _ask(
        self, lane: Lane, entries: Sequence[OpenEntry], limits: RouteLimits, rate: Rate, family: str
    ) -> None:
        tokens = [target.token for entry in entries for target in entry.targets]
        waits: dict[int, int] = {}
        asked = 0
        while asked < len(tokens):
            some = tokens[asked : asked + SMALL] if self._overtaken(lane) else tokens[asked:]
            admit = partial(self._limiter.admit, self._route, rate, some, family=family)
            answer = await self._until_answered(lane, admit)
            waits.update((asked + place, wait) for place, wait in answer)
            asked += len(some)
        if waits:
            self._take_out(entries, waits, limits)

    async def _draw_on_the_app(
        self, lane: Lane, entries: Sequence[OpenEntry], limits: RouteLimits, bucket: Bucket
    ) -> None:
        total = sum(len(entry.targets) for entry in entries)
        granted = 0
        while granted < total:
            lease = await self._until_answered(lane, partial(self._limiter.lease, bucket, total - granted))
            if not lease.granted:
                self._take_out(entries, dict.fromkeys(range(granted, total), lease.wait_ms), limits)
                break
            granted += lease.granted

    def _take_out(self, entries: Sequence[OpenEntry], waits: dict[int, int], limits: RouteLimits) -> None:
        start = 0
        for entry in entries:
            targets = entry.targets
            own = [place for place in range(start, start + len(targets)) if place in waits]
            if own:
                for place in own:
                    self._refuse(entry, targets[place - start], waits[place], limits)
                out = set(own)
                entry.targets = tuple(t for place, t in enumerate(targets, start) if place not in out)
            start += len(targets)

    async def _until_answered(self, lane: Lane, ask: Callable[..., Awaitable[T]]) -> T:
        """Return the answer to one question, which counts once: where an answer is lost it is asked again as the same
        question."""
        question = Question(f"{self._route.platform}.{lane}", next(self._numbers))
        patience = Patience(("limits", self._route))
        while True:
            async with patience:
                return await ask(question=question)
            question = replace(question, again=True)


class _Drawn(Permits):
    """The permits in hand of one bucket that the pacer draws from."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(bucket.rate)
        self.bucket = bucket
        self.once = bucket.name == APP
        """Whether a delivery is counted once, however often it is sent; a provider counts each request."""


class Pacer:
    """Permits for the pump, leased from shared buckets a little ahead of need. `clock` is monotonic, in seconds. A
    delivery that goes again was *counted* against the app's own limit before: it needs no permit of that one."""

    def __init__(
        self,
        buckets: Sequence[Bucket],
        limiter: Limiter,
        *,
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._drawn = [_Drawn(bucket) for bucket in buckets]
        self._limiter = limiter
        self._wake = wake
        self._clock = clock
        self._fresh = self._counted = 0
        """The number of deliveries that would be sent if there were permits."""
        self._need = asyncio.Event()

    def __bool__(self) -> bool:
        """Return whether there is a bucket to draw from; otherwise no permits are needed."""
        return bool(self._drawn)

    def use(self, buckets: Sequence[Bucket]) -> None:
        """Draw from these buckets from now on. Permits of a bucket that stays are kept."""
        kept = {drawn.bucket: drawn for drawn in self._drawn}
        self._drawn = [kept.get(bucket) or _Drawn(bucket) for bucket in buckets]

    def permits(self) -> int:
        """Return how many deliveries that no limit has counted may be sent now."""
        now = self._clock()
        return min(drawn.left(now) for drawn in self._drawn)

    def permits_again(self) -> int:
        """Return how many deliveries that were counted before may be sent now."""
        now = self._clock()
        return min((drawn.left(now) for drawn in self._drawn if not drawn.once), default=UNLIMITED)

    def spend(self, fresh: int, counted: int = 0) -> None:
        """Consume permits for this many deliveries that were not counted before, and for those that were."""
        for drawn in self._drawn:
            drawn.spend(fresh if drawn.once else fresh + counted)

    def want(self, fresh: int, counted: int = 0) -> None:
        """Ask for permits for this many deliveries: `wake` is called when there are some."""
        self._fresh, self._counted = fresh, counted
        self._need.set()

    async def run(self) -> None:
        while True:
            await self._need.wait()
            self._need.clear()
            wait, asked = 0.0, False
            for drawn in self._drawn:
                wanted = self._fresh if drawn.once else self._fresh + self._counted
                missing = min(wanted, drawn.slot) - drawn.left(self._clock())
                if missing > 0:
                    wait, asked = max(wait, await self._lease(drawn, missing)), True
            if wait:
                await asyncio.sleep(wait)
                self._need.set()
            elif asked:
                self._wake()
            # Otherwise there are as many as may be in hand, and the pump waits for something else.

    async def _lease(self, drawn: _Drawn, missing: int) -> float:
        """Lease permits. Returns the seconds to wait where none was granted, otherwise 0."""
        asked = self._clock()
        try:
            lease: Grant = await self._limiter.lease(drawn.bucket, missing)
        except StoreUnavailable as error:
            REDIS.away(drawn.bucket, error)
            return 0.2
        REDIS.end(drawn.bucket)
        if not lease.granted:
            # Not for long: another dispatcher may go, and leave its share.
            return min(1.0, max(0.001, lease.wait_ms / 1000))
        drawn.grant(lease.granted, asked)
        return 0.0
