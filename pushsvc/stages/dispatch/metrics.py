"""The dispatcher's metrics, gathered in plain numbers and passed to prometheus_client a few times a second.

A Counter or a Histogram takes a lock for every value: one of each per delivery took a third of the dispatcher's time.
What is gathered here and not yet flushed is at most a quarter of a second old.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise

from prometheus_client import Histogram

from ... import telemetry
from ...model.delivery import End, Ended, Outcome, Settlement
from ...model.push import LANES, Lane, Platform, Route
from ...model.routing import CARRIERS, platform_of
from .lanes import OpenEntry


class RouteMetrics:
    """Counts what one route does; `flush` makes it visible."""

    def __init__(self, route: Route) -> None:
        self._route = (route.app, route.platform)
        self._labels = (route.app, platform_of(route.platform))
        self._attempts: Counter[type[Outcome]] = Counter()
        self._provider = _Gathered(telemetry.PROVIDER_SECONDS.labels(*self._labels))
        self._delivery: dict[Lane, _Gathered] = {
            lane: _Gathered(telemetry.DELIVERY_SECONDS.labels(*self._labels, lane)) for lane in LANES
        }
        self._stages: dict[str, _Gathered] = {}
        self._held_reasons: set[str] = set()
        self._limited = 0

    def answered(self, outcome: Outcome, lane: Lane, provider_seconds: float, delivery_seconds: float) -> None:
        """Count an attempt and its outcome."""
        self._attempts[type(outcome)] += 1
        self._provider.observe(provider_seconds)
        self._delivery[lane].observe(delivery_seconds)

    def staged(self, stages: Mapping[str, float]) -> None:
        """Observe the seconds of some stages of a delivery."""
        for stage, seconds in stages.items():
            gathered = self._stages.get(stage)
            if gathered is None:
                gathered = self._stages[stage] = _Gathered(telemetry.STAGE_SECONDS.labels(stage))
            gathered.observe(max(0.0, seconds))

    def limited(self) -> None:
        """Count a delivery that was over one of our limits and was not attempted."""
        self._limited += 1

    def held(self, reasons: set[str]) -> None:
        """Set the reasons for which the route, or a part of it, is held; none if it is open.

        Ends the series of other reasons.
        """
        for reason in self._held_reasons - reasons:
            telemetry.forget(telemetry.ROUTE_HELD, *self._route, reason)
        for reason in reasons - self._held_reasons:
            telemetry.ROUTE_HELD.labels(*self._route, reason).set(1)
        self._held_reasons = reasons

    def flush(self) -> None:
        """Hand what was gathered to prometheus_client."""
        for kind, count in self._attempts.items():
            telemetry.ATTEMPTS.labels(*self._labels, snake(kind.__name__)).inc(count)
        if self._limited:
            telemetry.ATTEMPTS.labels(*self._labels, "rate_limited").inc(self._limited)
            self._limited = 0
        self._attempts.clear()
        self._provider.flush()
        for gathered in (*self._delivery.values(), *self._stages.values()):
            gathered.flush()


def count_ended(settlements: Iterable[Settlement]) -> None:
    """Count the deliveries of a batch that have ended, once the batch is recorded.

    Not when they are answered: what a process that is killed had not recorded is recorded by another one, and counted
    there. So a kill costs the counters one batch at most.
    """
    ended: dict[tuple[str, Platform, End, str], int] = {}
    live: Counter[tuple[str, str]] = Counter()
    for settlement in settlements:
        verdict, chunk = settlement.verdict, settlement.delivery.chunk
        if type(verdict) is Ended:
            kind = (chunk.app, chunk.home or chunk.channel, verdict.end, settlement.reason)
            ended[kind] = ended.get(kind, 0) + 1
        if chunk.home and (result := live_result(settlement)):
            live[chunk.app, result] += 1
    for (app, result), count in live.items():
        telemetry.LIVE_MESSAGES.labels(app, result).inc(count)
    for (app, route, end, reason), count in ended.items():
        telemetry.count_ended(app, route, end, reason, count)


def stages_of(entry: OpenEntry, seconds: float, now: int) -> dict[str, float]:
    """Return the seconds of the stages that end with an outcome, of a delivery that the live channel carries: first
    there, and then `seconds` for the provider that carries it on. `now` is in Unix ms."""
    chunk = entry.chunk
    if chunk.turn > 1:
        return {} if chunk.channel in CARRIERS else {"answered": seconds}
    queued_at = int(entry.ref.entry_id.partition("-")[0])  # the instant of an entry in a stream of Redis
    instants = (chunk.starts_at, queued_at, entry.taken_at, now)
    spans = ((later - earlier) / 1000 for earlier, later in pairwise(instants))
    return dict(zip(("queued", "taken", "written"), spans, strict=True))


def live_result(settlement: Settlement) -> str:
    """Return what became of a delivery at the live channel, or an empty text if that is not known yet. Those that are
    not acknowledged in time are counted when they go on."""
    verdict, chunk = settlement.verdict, settlement.delivery.chunk
    if chunk.channel not in CARRIERS:
        return ""
    if isinstance(verdict, Ended):
        return {"sent": "", "expired": "expired"}.get(verdict.end, "dropped")
    returns = any(following.channel in CARRIERS for following in chunk.fallbacks)
    return "fallback" if verdict.channel and verdict.due_at <= settlement.at and not returns else ""


class _Gathered:
    """Observations for one child of a histogram."""

    __slots__ = ("_bounds", "_counts", "_histogram", "_sum")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._bounds = histogram._upper_bounds
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._sum += value
        self._counts[bisect_left(self._bounds, value)] += 1

    def flush(self) -> None:
        # prometheus_client has no way to observe many at once: these are the fields that its `observe` adds to.
        if not any(self._counts):
            return
        self._histogram._sum.inc(self._sum)
        for bucket, count in zip(self._histogram._buckets, self._counts, strict=True):
            if count:
                bucket.inc(count)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0


def snake(name: str) -> str:
    """Return a class name in snake case, as labels use it: `token_dead` for `TokenDead`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
