"""Figures of the whole service, which one process reads from the store when it is scraped: the API.

They are what the last read has found, and nothing of an earlier one: a series ends with what it was about. Processes
that share a folder do not share them, so there is one value, that of the process that answers. Where several machines
run the API, each shows the same figures: aggregate with `max by`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, TypeVar

from prometheus_client import REGISTRY, Metric

Labels = TypeVar("Labels", bound=tuple[str, ...])


class Figure:
    """One metric of the whole service. A collector of prometheus_client."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str] = (), kind: Literal["gauge", "counter"] = "gauge"
    ) -> None:
        self.name = name
        self.labels = tuple(labels)
        self.kind = kind
        self._family = name.removesuffix("_total")
        self._documentation = documentation
        self._values: Mapping[tuple[str, ...], float] = {}
        REGISTRY.register(self)
        FIGURES.append(self)

    def show(self, values: Mapping[Labels, float]) -> None:
        """Set all series, by their labels, `()` where there are none. Other series end."""
        self._values = {labels: float(value) for labels, value in values.items()}

    def unknown(self, always: Iterable[tuple[str, ...]] = ()) -> None:
        """Set all present series and those of `always` to NaN, for which no condition of an alert is true."""
        self._values = dict.fromkeys({*self._values, *always}, math.nan)

    def describe(self) -> list[Metric]:
        return [Metric(self._family, self._documentation, self.kind)]

    def collect(self) -> list[Metric]:
        """Return the metric, also without series, or nothing in a process that reads no figures."""
        (metric,) = self.describe()
        for labels, value in sorted(self._values.items()):
            metric.add_sample(self.name, dict(zip(self.labels, labels, strict=True)), value)
        return [metric] if any(each._values for each in FIGURES) else []


FIGURES: Final[list[Figure]] = []

QUEUE_PENDING = Figure("pushsvc_queue_pending", "Deliveries that have not ended, by lane.", ["lane"])
QUEUE_COUNTED = Figure(
    "pushsvc_queue_counted",
    "Deliveries that count against pushsvc_queue_limit: all that have not ended, scheduled ones and those of removed "
    "apps among them.",
)
QUEUE_LIMIT = Figure("pushsvc_queue_limit", "Deliveries that may wait or be scheduled: queue.max_pending.")
OLDEST_PENDING = Figure(
    "pushsvc_oldest_pending_age_seconds",
    "Age of the oldest delivery in a lane that could be sent now; a retry counts from when it is due.",
    ["lane"],
)
RETRY_PENDING = Figure("pushsvc_retry_pending", "Deliveries that wait for their retry.")
LIVE_WAITING = Figure("pushsvc_live_waiting", "Deliveries that wait until their device acknowledges them.")
SCHEDULED = Figure("pushsvc_scheduled", "Deliveries of pushes that wait for their time.", ["app"])
DEAD_LETTERS = Figure("pushsvc_dead_letters", "Dead letters kept.", ["app"])
RECEIPTS_WAITING = Figure("pushsvc_receipts_waiting", "Outcomes that feedback has yet to judge.", ["app"])
WORKERS = Figure("pushsvc_workers", "Living processes of each part.", ["part"])
PRUNING_FROZEN = Figure(
    "pushsvc_pruning_frozen",
    "1 while too many answers of the route are bad for any device to be pruned.",
    ["app", "platform"],
)
CONDITIONS = Figure(
    "pushsvc_conditions",
    "Conditions that an operator should know, as /readyz has them; without `app`: of the whole service.",
    ["kind", "severity", "app"],
)
WEBHOOK_LAG = Figure(
    "pushsvc_webhook_lag_seconds", "Age of the oldest event that a webhook has yet to receive.", ["app"]
)
WEBHOOK_DEAD = Figure("pushsvc_webhook_dead_batches", "Batches of events that a webhook has given up.", ["app"])
CLEANUP_REMOVED = Figure(
    "pushsvc_cleanup_removed_total", "What cleanups have removed so far, by what.", ["app", "what"], "counter"
)
CLEANUP_ENDED = Figure(
    "pushsvc_cleanup_last_end_timestamp_seconds", "Unix time at which the last cleanup ended, 0 before the first."
)
REDIS_UP = Figure(
    "pushsvc_redis_up",
    "1 while Redis answers, by the last look of /metrics or /readyz; at 0 what is read from Redis is NaN.",
)
REDIS_MEMORY = Figure(
    "pushsvc_redis_memory_ratio",
    "Used memory as a share of maxmemory, of the fullest node; NaN where none is set.",
)
