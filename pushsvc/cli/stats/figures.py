"""The figures of `pushsvc stats`: those of the state of each app, counters from the API's `/metrics`, and rates between
two samples.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct, field
from prometheus_client.parser import text_string_to_metric_families

from ...model.push import LANES
from ...ports.conditions import Condition, texts

if TYPE_CHECKING:
    from ..operator.operator import ServiceState

OUTCOMES = ("sent", "failed", "invalid", "expired", "suppressed", "cancelled")


class RouteFigures(Struct, frozen=True, kw_only=True):
    """The figures of one route of an app. Counters start with the processes; rates are per second."""

    app: str
    platform: str
    """The name of the route, such as `apns_sandbox`."""
    pending: dict[str, int]
    """Deliveries that have not ended, by lane, including those that wait for a retry or for their phones."""
    retrying: int
    awaiting: int
    """Deliveries that wait until their phones acknowledge them."""
    consumers: int
    """The number of running dispatchers that serve the route."""
    outcomes: dict[str, int]
    """How deliveries have ended, of all routes of its platform, as is `sent_rate`."""
    sent_rate: float | None = None
    held: str = ""
    """Why the route currently does not send; empty while it does."""


class ServiceFigures(Struct, frozen=True, kw_only=True):
    """A sample of the service's figures."""

    at: float
    """Unix seconds."""
    pending: dict[str, int]
    """Deliveries that have not ended, by lane, over all apps."""
    retrying: int
    """Those of them that wait to be retried."""
    awaiting: int
    """Those of them that wait until their phones acknowledge them."""
    scheduled: int
    """Deliveries of scheduled pushes, which are not pending yet. An audience is counted when it is due."""
    schedules: int
    """Scheduled pushes, those to audiences included."""
    dead_letters: dict[str, int]
    accepted: dict[str, int]
    """Deliveries that the API has accepted since its start, by app."""
    accepted_rate: float | None = None
    """Per second; None without an earlier sample to compare with, or without the API."""
    sent_rate: float | None = None
    counted: int | None = None
    """Deliveries of all apps that count against `limit`, scheduled ones included; None without the API."""
    limit: int | None = None
    """`queue.max_pending`."""
    routes: list[RouteFigures] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    """Held routes (`app/platform`) with the reason."""
    frozen: dict[str, str] = field(default_factory=dict)
    """Routes whose pruning is frozen, with the reason."""
    unserved: dict[str, str] = field(default_factory=dict)
    """Routes and parts of the service that no running process serves, with the reason."""
    connections: dict[str, dict[str, int]] = field(default_factory=dict)
    """Connections of devices by app, if it has a live channel, and gateway."""
    webhooks: dict[str, str] = field(default_factory=dict)
    """Apps whose webhooks are in trouble, with the problem and its remedy."""
    conditions: list[Condition] = field(default_factory=list)
    """All conditions of the service, with cause and remedy; the fields above have the same as texts."""
    reload_refused: bool = False
    """Whether a process has refused the configuration on disk and runs with an older one."""
    api: str = ""
    """Why the counters are missing because the API does not answer; empty if they are not."""


class Counters(NamedTuple):
    """What is read of `/metrics`."""

    ended: dict[tuple[str, str, str], float]
    """Ended deliveries by app, platform and outcome."""
    accepted: dict[str, float]
    """Accepted deliveries by app."""
    counted: int | None
    """Deliveries that count against `limit`; None where this is not known, as while Redis is away."""
    limit: int | None


def read_counters(text: str) -> Counters:
    """Parse the Prometheus text format."""
    ended: dict[tuple[str, str, str], float] = {}
    accepted: dict[str, float] = {}
    queue: dict[str, int] = {}
    # The text has more than a thousand lines, of which each takes long to parse.
    own = "\n".join(line for line in text.splitlines() if line.startswith(("pushsvc_deliveries_", "pushsvc_queue_")))
    for family in text_string_to_metric_families(f"{own}\n"):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "pushsvc_deliveries_total":
                key = (labels["app"], labels["platform"], labels["outcome"])
                ended[key] = ended.get(key, 0.0) + sample.value
            elif sample.name == "pushsvc_deliveries_accepted_total":
                accepted[labels["app"]] = accepted.get(labels["app"], 0.0) + sample.value
            elif not labels and math.isfinite(sample.value):
                queue[sample.name] = int(sample.value)
    return Counters(ended, accepted, queue.get("pushsvc_queue_counted"), queue.get("pushsvc_queue_limit"))


def figures(
    state: ServiceState, metrics: str | None, before: ServiceFigures | None = None, *, now: float, api: str = ""
) -> ServiceFigures:
    """Return the figures of a sample of the state and of `/metrics`. `now` is in Unix seconds.

    `metrics` is None if the API did not answer; `api` has the reason. `before` is the earlier sample for the rates.
    """
    read = read_counters(metrics or "")
    api = state.away or api
    span = now - before.at if before is not None and before.api == api == "" else 0.0
    earlier = {(route.app, route.platform): route for route in before.routes} if before is not None else {}
    conditions = state.conditions
    held = texts(conditions, "held")
    routes = []
    rates: dict[tuple[str, str], float] = {}
    for stats in state.apps:
        for each in stats.routes:
            name = each.route.removeprefix(f"{stats.app}/")
            # Counted by the platform, whichever of its accounts has sent it.
            outcomes = {end: int(read.ended.get((stats.app, each.platform, end), 0)) for end in OUTCOMES}
            last = earlier.get((stats.app, name))
            rate = _rate(outcomes["sent"], None if last is None else last.outcomes["sent"], span)
            if rate is not None:
                rates[stats.app, each.platform] = rate
            routes.append(
                RouteFigures(
                    app=stats.app,
                    platform=name,
                    pending={str(lane): count for lane, count in each.lanes.items()},
                    retrying=each.retrying,
                    awaiting=each.unacknowledged,
                    consumers=each.workers,
                    outcomes=outcomes,
                    sent_rate=rate,
                    held=held.get(each.route, ""),
                )
            )
    taken = {stats.app: int(read.accepted.get(stats.app, 0)) for stats in state.apps}
    return ServiceFigures(
        at=now,
        pending={
            str(lane): sum(each.waiting for stats in state.apps for each in stats.lanes if each.lane == lane)
            for lane in LANES
        },
        retrying=sum(stats.retrying for stats in state.apps),
        awaiting=sum(stats.unacknowledged for stats in state.apps),
        scheduled=sum(stats.scheduled for stats in state.apps),
        schedules=sum(stats.schedules for stats in state.apps),
        dead_letters={stats.app: stats.dead_letters for stats in state.apps},
        accepted=taken,
        accepted_rate=_rate(sum(taken.values()), None if before is None else sum(before.accepted.values()), span),
        sent_rate=sum(rates.values()) if rates else None,
        counted=read.counted,
        limit=read.limit,
        routes=routes,
        held=held,
        frozen=texts(conditions, "frozen"),
        unserved=texts(conditions, "unserved"),
        connections={
            stats.app: {each.gateway: each.connections for each in stats.live.gateways}
            for stats in state.apps
            if stats.live is not None
        },
        webhooks=texts(conditions, "webhook"),
        reload_refused=any(each.kind == "reload" for each in conditions),
        conditions=list(conditions),
        api=api,
    )


def _rate(now: int, before: int | None, span: float) -> float | None:
    # A counter that fell belongs to a restarted process.
    return max(0, now - before) / span if span > 0 and before is not None else None
