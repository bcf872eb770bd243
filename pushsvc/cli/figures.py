"""The figures of `pushsvc stats`: queues from the store, counters from the API's `/metrics`, and rates between two
samples.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, field
from prometheus_client.parser import text_string_to_metric_families

from ..ports.conditions import Condition

if TYPE_CHECKING:
    from ..ports.figures import Gauges
    from ..ports.workers import Worker

OUTCOMES = ("sent", "failed", "invalid", "expired", "suppressed", "cancelled")


class RouteFigures(Struct, frozen=True, kw_only=True):
    """The figures of one app on one platform. Counters start with the processes; rates are per second."""

    app: str
    platform: str
    pending: dict[str, int]
    """Deliveries that have not ended, by lane, including those that wait for a retry or for their phones."""
    retrying: int
    awaiting: int
    """Deliveries that wait until their phones acknowledge them."""
    consumers: int
    """The number of running dispatchers that serve the route."""
    outcomes: dict[str, int]
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
    """Those of them that wait for the time of their retry."""
    awaiting: int
    """Those of them that wait until their phones acknowledge them."""
    scheduled: int
    """Deliveries of scheduled pushes, which are not pending yet. An audience has none before its time."""
    schedules: int
    """Scheduled pushes, those to audiences included."""
    dead_letters: dict[str, int]
    accepted: dict[str, int]
    """Deliveries that the API has accepted since its start, by app."""
    accepted_rate: float | None = None
    """Per second; None without an earlier sample to compare with, or without the API."""
    sent_rate: float | None = None
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


Counters = Mapping[tuple[str, ...], float]


def read_counters(text: str) -> tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]]:
    """Parse the Prometheus text format.

    Returns ended deliveries by (app, platform, outcome), and accepted ones by (app,).
    """
    ended: dict[tuple[str, ...], float] = {}
    accepted: dict[tuple[str, ...], float] = {}
    # The text has more than a thousand lines, of which each takes long to parse.
    own = "\n".join(line for line in text.splitlines() if line.startswith("pushsvc_deliveries_"))
    for family in text_string_to_metric_families(f"{own}\n"):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "pushsvc_deliveries_total":
                key: tuple[str, ...] = (labels["app"], labels["platform"], labels["outcome"])
                ended[key] = ended.get(key, 0.0) + sample.value
            elif sample.name == "pushsvc_deliveries_accepted_total":
                key = (labels["app"],)
                accepted[key] = accepted.get(key, 0.0) + sample.value
    return ended, accepted


def figures(
    gauges: Gauges,
    held: Mapping[str, str],
    metrics: str | None,
    before: ServiceFigures | None = None,
    *,
    now: float | None = None,
    api: str = "",
    frozen: Mapping[str, str] | None = None,
    schedules: int = 0,
    workers: Sequence[Worker] = (),
    unserved: Mapping[str, str] | None = None,
    connections: Mapping[str, dict[str, int]] | None = None,
    webhooks: Mapping[str, str] | None = None,
    conditions: Sequence[Condition] = (),
) -> ServiceFigures:
    """Return the figures of a sample of the store and of `/metrics`.

    `metrics` is None if the API did not answer; `api` says why. `before` is the earlier sample for the rates.
    """
    now = time.time() if now is None else now
    ended, accepted = read_counters(metrics or "")
    span = now - before.at if before is not None and before.api == api == "" else 0.0
    earlier = {(route.app, route.platform): route for route in before.routes} if before is not None else {}
    routes = []
    for app, each in gauges.apps.items():
        for platform, lanes in each.pending.items():
            outcomes = {name: int(ended.get((app, platform, name), 0)) for name in OUTCOMES}
            last = earlier.get((app, platform))
            routes.append(
                RouteFigures(
                    app=app,
                    platform=platform,
                    pending={str(lane): count for lane, count in lanes.items()},
                    retrying=each.retry_pending[platform],
                    awaiting=each.ack_pending[platform],
                    consumers=sum(
                        worker.part == "dispatch" and f"{app}/{platform}" in worker.serves for worker in workers
                    ),
                    outcomes=outcomes,
                    sent_rate=_rate(outcomes["sent"], None if last is None else last.outcomes["sent"], span),
                    held=held.get(f"{app}/{platform}", ""),
                )
            )
    taken = {app: int(accepted.get((app,), 0)) for app in gauges.apps}
    rates = [route.sent_rate for route in routes if route.sent_rate is not None]
    return ServiceFigures(
        at=now,
        pending={str(lane): count for lane, count in gauges.pending.items()},
        retrying=gauges.retry_pending,
        awaiting=gauges.ack_pending,
        scheduled=gauges.scheduled,
        schedules=schedules,
        dead_letters={app: each.dead_letters for app, each in gauges.apps.items()},
        accepted=taken,
        accepted_rate=_rate(sum(taken.values()), None if before is None else sum(before.accepted.values()), span),
        sent_rate=sum(rates) if rates else None,
        routes=routes,
        held=dict(held),
        frozen=dict(frozen or {}),
        unserved=dict(unserved or {}),
        connections=dict(connections or {}),
        webhooks=dict(webhooks or {}),
        reload_refused=any(each.kind == "reload" for each in conditions),
        conditions=list(conditions),
        api=api,
    )


def _rate(now: int, before: int | None, span: float) -> float | None:
    # A counter that fell belongs to a restarted process.
    return max(0, now - before) / span if span > 0 and before is not None else None
