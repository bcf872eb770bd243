"""The metrics of pushsvc, their exposition, and a small HTTP listener for processes without another server.

They are module-level `prometheus_client` objects, so that a stage imports only the ones it updates. `labels()` costs a
lock and a dictionary look-up each time: keep the child where it is used often.

If the environment names a folder in `PROMETHEUS_MULTIPROC_DIR` before this module is imported, each process stores its
values in files there, and `exposition()` in any of them returns the sum over all: so one scrape of the API shows a
whole `pushsvc up` (https://prometheus.github.io/client_python/multiprocess/). Each gauge below says how it is summed;
all of them cover running processes only, so the parent must call `mark_process_dead(pid, folder)` when a process has
ended.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from ..errors import ConfigError
from ..model.delivery import End
from ..model.push import Platform
from ..model.routing import platform_of
from .logs import get_logger

REQUESTS = Counter("pushsvc_requests_total", "HTTP requests answered.", ["app", "route", "status"])
REFUSED = Counter(
    "pushsvc_refused_total", "Pushes refused with 429, by the limit that they were over.", ["app", "limit"]
)
ACCEPTED = Counter("pushsvc_accepted_total", "Deliveries accepted into the queue.", ["app"])
DELIVERIES = Counter(
    "pushsvc_deliveries_total", "Deliveries that ended, by how.", ["app", "platform", "outcome", "reason"]
)
ATTEMPTS = Counter("pushsvc_attempts_total", "Answers of the providers, by kind.", ["app", "platform", "result"])
QUEUE_PENDING = Gauge(
    "pushsvc_queue_pending",
    "Deliveries that wait in a lane; read from Redis by the process that is scraped.",
    ["lane"],
    multiprocess_mode="livemostrecent",
)
QUEUE_LIMIT = Gauge(
    "pushsvc_queue_limit",
    "Deliveries that may wait: queue.max_pending.",
    multiprocess_mode="livemostrecent",
)
WORKERS = Gauge(
    "pushsvc_workers",
    "Living processes of each part; read from Redis by the process that is scraped.",
    ["part"],
    multiprocess_mode="livemostrecent",
)
RETRY_PENDING = Gauge(
    "pushsvc_retry_pending",
    "Deliveries that wait for their retry; read from Redis by the process that is scraped.",
    multiprocess_mode="livemostrecent",
)
SCHEDULED = Gauge(
    "pushsvc_scheduled",
    "Deliveries of pushes that wait for their time; read from Redis by the process that is scraped.",
    ["app"],
    multiprocess_mode="livemostrecent",
)
DEAD_LETTERS = Gauge(
    "pushsvc_dead_letters",
    "Dead letters kept; read from Redis by the process that is scraped.",
    ["app"],
    multiprocess_mode="livemostrecent",
)
LIVE_CONNECTIONS = Gauge(
    "pushsvc_live_connections",
    "Open connections of devices.",
    ["app", "transport"],
    multiprocess_mode="livesum",
)
LIVE_CONNECTS = Counter(
    "pushsvc_live_connects_total",
    "Connects of devices: `ok`, `refused` (token or device), `busy` (limits, or Redis away).",
    ["app", "result"],
)
LIVE_DISCONNECTS = Counter(
    "pushsvc_live_disconnects_total", "Connections of devices that ended, by the code of their end.", ["app", "code"]
)
LIVE_MESSAGES = Counter(
    "pushsvc_live_messages_total",
    "Deliveries of the live channel, by what became of them: `acked`, `fallback`, `expired`, `dropped`.",
    ["app", "result"],
)
LIVE_ACK_SECONDS = Histogram(
    "pushsvc_live_ack_seconds",
    "Seconds from the time at which a push was to be sent to the acknowledgement of a device.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
)
STAGE_SECONDS = Histogram(
    "pushsvc_stage_seconds",
    "Seconds that a delivery spends on its way: from the time at which it was to be sent until it is `queued`, then "
    "until it is `taken` by a dispatcher, until it is `written` to the provider or the device, and until the provider "
    "has `answered` or the device has `acked`. The four of a delivery add up to the whole.",
    ["stage"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
)
LIVE_RESENDS = Counter(
    "pushsvc_live_resends_total", "Publications that were sent again, because no acknowledgement came.", ["app"]
)
LIVE_DUPLICATES = Counter(
    "pushsvc_live_duplicates_total",
    "Acknowledged deliveries that had ended already, because another channel has carried them as well.",
    ["app"],
)
LIVE_MISSING = Counter(
    "pushsvc_live_missing_total",
    "Deliveries of which a device that came back was told that they left its stream before it had them.",
    ["app"],
)
LIVE_RECOVERIES = Counter(
    "pushsvc_live_recoveries_total",
    "Connects from a position in the stream: `recovered`, or `lost` where something is missing.",
    ["app", "result"],
)
LIVE_FAULTS = Counter("pushsvc_live_faults_total", "Faults in messages of devices, by kind.", ["kind"])
EVENTS = Counter(
    "pushsvc_events_total",
    "What devices report of pushes, each once: `arrived`, `shown`, `opened`, `dismissed`.",
    ["app", "platform", "event"],
)
EVENT_LAG = Histogram(
    "pushsvc_event_lag_seconds",
    "Seconds from an event, by the clock of its device, to its report.",
    buckets=(1, 5, 15, 60, 300, 900, 3600, 6 * 3600, 86_400),
)
DEAD_LETTERS_DROPPED = Counter(
    "pushsvc_dead_letters_dropped_total",
    "Dead letters that made room for later ones, because an app has more than queue.dead_letters_max.",
    ["app"],
)
UNREADABLE = Counter(
    "pushsvc_unreadable_total",
    "Records that this version could not read, as after a rollback, each time that one was met.",
    ["app", "record"],
)
REPLAYED = Counter("pushsvc_replayed_total", "Dead letters that were put back into their lanes.", ["app"])
FEEDBACK_GAPS = Counter(
    "pushsvc_feedback_gaps_total",
    "Stretches of feedback events that retention removed before a reader, the webhook or the API's, had them.",
    ["app", "reader"],
)
WEBHOOKS = Counter("pushsvc_webhooks_total", "Calls of webhooks, by what followed.", ["app", "result"])
WEBHOOK_LAG = Gauge(
    "pushsvc_webhook_lag_seconds",
    "Age of the oldest event that a webhook has still to tell; read from Redis by the process that is scraped.",
    ["app"],
    multiprocess_mode="livemostrecent",
)
WEBHOOK_DEAD = Gauge(
    "pushsvc_webhook_dead_batches",
    "Batches of events that a webhook has given up; read from Redis by the process that is scraped.",
    ["app"],
    multiprocess_mode="livemostrecent",
)
CLEANUP_REMOVED = Gauge(
    "pushsvc_cleanup_removed",
    "What cleanups have removed so far, by what; read from Redis by the process that is scraped.",
    ["app", "what"],
    multiprocess_mode="livemostrecent",
)
CLEANUP_ENDED = Gauge(
    "pushsvc_cleanup_ended_seconds",
    "Unix time at which the last cleanup ended, 0 before the first; read from Redis by the process that is scraped.",
    multiprocess_mode="livemostrecent",
)
REDIS_UP = Gauge(
    "pushsvc_redis_up",
    "1 while Redis answers, by the last look of /metrics or /readyz; at 0 what is read from Redis is NaN.",
    multiprocess_mode="livemostrecent",
)
REDIS_MEMORY = Gauge(
    "pushsvc_redis_memory_ratio",
    "Used memory as a share of maxmemory, of the fullest node; NaN where none is set.",
    multiprocess_mode="livemostrecent",
)
JOBS = Counter("pushsvc_jobs_total", "Jobs that ended, by how.", ["job", "result"])
PROVIDER_SECONDS = Histogram(
    "pushsvc_provider_seconds",
    "Seconds from a request to the provider's answer.",
    ["app", "platform"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
DELIVERY_SECONDS = Histogram(
    "pushsvc_delivery_seconds",
    "Seconds from acceptance, or from the time for which it was scheduled, to the provider's answer.",
    ["app", "platform", "lane"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0),
)
ROUTE_HELD = Gauge(
    "pushsvc_route_held",
    "1 while any dispatcher holds the route for this reason, else 0.",
    ["app", "platform", "reason"],
    multiprocess_mode="livemax",
)
PRUNED = Counter("pushsvc_pruned_total", "Tokens that were pruned or suppressed.", ["app", "platform", "reason"])
PRUNING_FROZEN = Gauge(
    "pushsvc_pruning_frozen",
    "1 while too many answers of the route are bad for any device to be pruned; read from Redis by who is scraped.",
    ["app", "platform"],
    multiprocess_mode="livemostrecent",
)
CREDENTIAL_EXPIRY = Gauge(
    "pushsvc_credential_expiry_seconds",
    # An instant does not go stale between two looks at the certificate, a remaining span would.
    "Unix time at which a credential of the route expires; subtract time().",
    ["app", "platform"],
    multiprocess_mode="livemin",
)

RELOAD_SUCCESSFUL = Gauge(
    "pushsvc_config_last_reload_successful",
    "1 while the configuration that was read last is the one that runs, 0 where any process has refused it.",
    multiprocess_mode="livemin",
)
RELOAD_TIMESTAMP = Gauge(
    "pushsvc_config_last_reload_timestamp_seconds",
    "Unix time at which the configuration that runs was read.",
    multiprocess_mode="livemostrecent",
)

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
"""The `Content-Type` of `exposition()`."""

MULTIPROCESS_ENV: Final = "PROMETHEUS_MULTIPROC_DIR"

# prometheus_client decides where values live when it is imported, and never again.
_MULTIPROCESS = MULTIPROCESS_ENV in os.environ


def exposition() -> bytes:
    """Return every metric in Prometheus' text format: of this process, or of all that share the multiprocess folder."""
    if not _MULTIPROCESS:
        return generate_latest(REGISTRY)
    # A registry of its own each time: it holds only what the files say now.
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped
    return generate_latest(registry)


def prepare_multiprocess(folder: Path) -> dict[str, str]:
    """Remove the values of an earlier run from `folder` and return the environment that the processes need.

    Files of dead processes are kept during a run, because their counters still count; across runs they would give the
    counters of a reused process id an arbitrary start value.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in folder.glob("*.db"):
        file.unlink(missing_ok=True)
    return {MULTIPROCESS_ENV: str(folder)}


def count_ended(app: str, route: Platform, end: End, reason: str, count: int = 1) -> None:
    """Count deliveries that have ended, by the platform of their route.

    To be called once the end is recorded: by the dispatcher for what it settles, by a cancel for what was scheduled, by
    an erasure for what it ends.
    """
    if count:
        DELIVERIES.labels(app, platform_of(route), end, reason).inc(count)


def forget(gauge: Gauge, *labels: str, value: float = 0.0) -> None:
    """Remove a series of something that has ended. If processes share a folder, set it to `value` instead.

    The files of a shared folder cannot lose a series.
    """
    _series(gauge, labels).set(value)
    if not _MULTIPROCESS:
        gauge.remove(*labels)


def _series(gauge: Gauge, labels: tuple[str, ...]) -> Gauge:
    return gauge.labels(*labels) if labels else gauge


Labels = TypeVar("Labels", bound=tuple[str, ...])

_SHOWN: dict[Gauge, set[tuple[str, ...]]] = {}


def show(gauge: Gauge, values: Mapping[Labels, float]) -> None:
    """Set all series of a gauge, by their labels, `()` where it has none; those that were shown before and are not
    among them end."""
    for labels in _SHOWN.get(gauge, set()) - values.keys():
        forget(gauge, *labels)
    for labels, value in values.items():
        _series(gauge, labels).set(value)
    _SHOWN[gauge] = set(values)


def unknown(gauge: Gauge, always: Iterable[tuple[str, ...]] = ()) -> None:
    """Set all series that `show` has set, and those of `always`, to NaN until `show` is called again.

    The value is currently unknown, and no alert condition is true for NaN. The series are not removed, because a
    process cannot remove those of another.
    """
    show(gauge, dict.fromkeys({*_SHOWN.get(gauge, set()), *always}, math.nan))


def mark_process_dead(pid: int, folder: Path) -> None:
    """Forget the gauges of a process that has ended; its counters stay."""
    multiprocess.mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]  # as above


@asynccontextmanager
async def serve_metrics(
    host: str, port: int, *, refresh: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[int]:
    """Serve `/metrics` and `/healthz` while the block lasts. Yields the port (`port` 0 takes a free one).

    `refresh` runs before each exposition and sets the gauges that are read from Redis. If it fails, the scrape is
    answered with the earlier values. Raises `ConfigError` if the address cannot be bound.
    """
    # Commands that serve nothing do not pay for this import.
    from aiohttp import web

    log = get_logger("telemetry")

    async def metrics(_: web.Request) -> web.Response:
        if refresh is not None:
            try:
                await refresh()
            except Exception as error:
                log.warning("metrics_refresh_failed", error=repr(error))
        return web.Response(body=exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                "metrics.port", f"cannot listen on {host}:{port}: {error.strerror}", "choose another port, 0 for none"
            ) from None
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
