"""The dispatcher's metrics: children looked up once, so that counting costs an addition."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

from .. import telemetry
from ..model import LANES, Ended, Lane, Outcome, Route, Settlement


class Tally:
    """Counts what one route does."""

    def __init__(self, route: Route) -> None:
        self._route = (route.app, route.platform)
        self._attempts: dict[str, Counter] = {}
        self._deliveries: dict[tuple[str, str], Counter] = {}
        self._provider: Histogram = telemetry.PROVIDER_SECONDS.labels(*self._route)
        self._delivery: dict[Lane, Histogram] = {
            lane: telemetry.DELIVERY_SECONDS.labels(*self._route, lane) for lane in LANES
        }
        self._held_reason = ""

    def answered(self, outcome: Outcome, lane: Lane, provider_seconds: float, delivery_seconds: float) -> None:
        """An attempt came to an outcome."""
        result = type(outcome).__name__
        attempts = self._attempts.get(result)
        if attempts is None:
            attempts = self._attempts[result] = telemetry.ATTEMPTS.labels(*self._route, snake(result))
        attempts.inc()
        self._provider.observe(provider_seconds)
        self._delivery[lane].observe(delivery_seconds)

    def ended(self, settlement: Settlement) -> None:
        """A delivery ended, or is to go again."""
        verdict = settlement.verdict
        if isinstance(verdict, Ended):
            key = (verdict.end, settlement.reason)
            deliveries = self._deliveries.get(key)
            if deliveries is None:
                deliveries = self._deliveries[key] = telemetry.DELIVERIES.labels(*self._route, *key)
            deliveries.inc()

    def held(self, reason: str) -> None:
        """The route is held for `reason`; the empty string: it is open."""
        if reason != self._held_reason:
            if self._held_reason:
                telemetry.ROUTE_HELD.labels(*self._route, self._held_reason).set(0)
            if reason:
                telemetry.ROUTE_HELD.labels(*self._route, reason).set(1)
            self._held_reason = reason


def snake(name: str) -> str:
    """`TokenDead` as a label says it: `token_dead`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
