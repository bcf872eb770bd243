"""The dispatcher's metrics, gathered in plain numbers and passed to prometheus_client a few times a second.

A Counter or a Histogram takes a lock for every value: one of each per delivery took a third of the dispatcher's time.
What is gathered here and not yet flushed is at most a quarter of a second old.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, get_args

from ... import telemetry
from ...model.delivery import End, Ended, Outcome, Settlement
from ...model.push import LANES, Lane, Platform, Route
from ...model.routing import CARRIERS, platform_of


class RouteMetrics:
    """Counts what one route does; `flush` makes it visible."""

    def __init__(self, route: Route) -> None:
        self._route = (route.app, route.platform)
        self._labels = (route.app, platform_of(route.platform))
        self._attempts: Counter[type[Outcome]] = Counter()
        self._provider = telemetry.Gathered(telemetry.PROVIDER_SECONDS.labels(*self._labels))
        self._delivery: dict[Lane, telemetry.Gathered] = {
            lane: telemetry.Gathered(telemetry.DELIVERY_SECONDS.labels(*self._labels, lane)) for lane in LANES
        }
        self.delivered = {lane: gathered.observe for lane, gathered in self._delivery.items()}
        """For each lane, takes the seconds from the start of a delivery to its answer."""
        self._held_reasons: set[str] = set()
        self._limited = 0
        telemetry.begin_route(*self._labels, _RESULTS)
        if route.platform in CARRIERS:
            for result in ("fallback", "expired", "dropped"):
                telemetry.LIVE_MESSAGES.labels(route.app, result)

    def answered(self, kinds: Sequence[type[Outcome]], seconds: Sequence[float]) -> None:
        """Count answers of a provider, and the seconds that each took."""
        self._attempts.update(kinds)
        self._provider.observe_all(seconds)

    def limited(self) -> None:
        """Count a delivery that was over one of our limits and was not attempted."""
        self._limited += 1

    def held(self, reasons: set[str]) -> None:
        """Set the reasons for which the route, or a part of it, is held; none if it is open. Ends the series of other
        reasons."""
        for reason in self._held_reasons - reasons:
            telemetry.forget(telemetry.ROUTE_HELD, *self._route, reason)
        for reason in reasons - self._held_reasons:
            telemetry.ROUTE_HELD.labels(*self._route, reason).set(1)
        self._held_reasons = reasons

    def flush(self) -> None:
        for kind, count in self._attempts.items():
            telemetry.ATTEMPTS.labels(*self._labels, snake(kind.__name__)).inc(count)
        if self._limited:
            telemetry.ATTEMPTS.labels(*self._labels, "rate_limited").inc(self._limited)
            self._limited = 0
        self._attempts.clear()
        self._provider.flush()
        for gathered in self._delivery.values():
            gathered.flush()


def snake(name: str) -> str:
    """Return a class name in snake case, as labels use it: `token_dead` for `TokenDead`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


_RESULTS: Final = (*(snake(kind.__name__) for kind in get_args(Outcome)), "rate_limited")


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


def passed(settlements: Iterable[Settlement]) -> Counter[telemetry.Instants]:
    """Return the instants of the deliveries that a provider has answered: those of one batch were taken, written and
    answered in few milliseconds. An answer that is not the last one counts as well: the retry that follows is queued
    later. At the live channel the gateway knows of the end."""
    return Counter(
        (delivery.chunk.starts_at, own, settlement.asked_at, settlement.at)
        for settlement in settlements
        if settlement.asked_at is not None
        and (own := (delivery := settlement.delivery).passed) is not None
        and delivery.chunk.channel not in CARRIERS
    )


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
