"""What `pushsvc stats` knows: the queues from the store, the counters from the API's `/metrics`, and rates between."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, field
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from ..store import Gauges, Worker

OUTCOMES = ("sent", "failed", "invalid", "expired", "suppressed", "cancelled")


class RouteFigures(Struct, frozen=True, kw_only=True):
    """One app at one platform. Counters are since the start of the processes, rates are a second."""

    app: str
    platform: str
    pending: dict[str, int]
    """Deliveries that have not ended, by lane; those that wait for a retry among them."""
    retrying: int
    consumers: int
    """Living dispatchers that serve it."""
    outcomes: dict[str, int]
    sent_rate: float | None = None
    held: str = ""
    """Why nothing is sent; empty while it is."""


class Figures(Struct, frozen=True, kw_only=True):
    """One look at the service."""

    at: float
    """Unix seconds."""
    pending: dict[str, int]
    """By lane, over all apps."""
    retrying: int
    scheduled: int
    """Deliveries of pushes that wait for their time; not pending yet."""
    dead_letters: dict[str, int]
    accepted: dict[str, int]
    """Deliveries that the API has taken since it started, by app."""
    accepted_rate: float | None = None
    """A second; None where there is no earlier look to compare with, or no API."""
    sent_rate: float | None = None
    routes: list[RouteFigures] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    """`app/platform` and why."""
    frozen: dict[str, str] = field(default_factory=dict)
    """Routes whose pruning is frozen, and why."""
    unserved: dict[str, str] = field(default_factory=dict)
    """Routes and parts of the service that no living process serves, and why."""
    webhooks: dict[str, str] = field(default_factory=dict)
    """Apps whose webhooks are in trouble, and how, with the remedy."""
    reload_refused: bool = False
    """Whether a process runs on an older configuration than that on disk, which it has refused."""
    api: str = ""
    """Why the counters are missing: the API does not answer. Empty: they are not."""


_REFUSED = re.compile(r"^pushsvc_config_last_reload_successful(\{.*\})? 0(\.0)?$", re.MULTILINE)

Counters = Mapping[tuple[str, ...], float]


def read_counters(text: str) -> tuple[dict[tuple[str, ...], float], dict[tuple[str, ...], float]]:
    """Prometheus' text: deliveries ended by (app, platform, outcome), and accepted by (app,)."""
    ended: dict[tuple[str, ...], float] = {}
    accepted: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "pushsvc_deliveries_total":
                key: tuple[str, ...] = (labels["app"], labels["platform"], labels["outcome"])
                ended[key] = ended.get(key, 0.0) + sample.value
            elif sample.name == "pushsvc_accepted_total":
                key = (labels["app"],)
                accepted[key] = accepted.get(key, 0.0) + sample.value
    return ended, accepted


def figures(
    gauges: Gauges,
    held: Mapping[str, str],
    metrics: str | None,
    before: Figures | None = None,
    *,
    now: float | None = None,
    api: str = "",
    frozen: Mapping[str, str] | None = None,
    workers: Sequence[Worker] = (),
    unserved: Mapping[str, str] | None = None,
    webhooks: Mapping[str, str] | None = None,
) -> Figures:
    """Join one look at the store and one at `/metrics` (None: it did not answer, `api` says why)."""
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
    return Figures(
        at=now,
        pending={str(lane): count for lane, count in gauges.pending.items()},
        retrying=gauges.retry_pending,
        scheduled=gauges.scheduled,
        dead_letters={app: each.dead_letters for app, each in gauges.apps.items()},
        accepted=taken,
        accepted_rate=_rate(sum(taken.values()), None if before is None else sum(before.accepted.values()), span),
        sent_rate=sum(rates) if rates else None,
        routes=routes,
        held=dict(held),
        frozen=dict(frozen or {}),
        unserved=dict(unserved or {}),
        webhooks=dict(webhooks or {}),
        reload_refused=bool(_REFUSED.search(metrics or "")),
        api=api,
    )


def _rate(now: int, before: int | None, span: float) -> float | None:
    # A counter that fell was started anew with its process.
    return max(0, now - before) / span if span > 0 and before is not None else None
