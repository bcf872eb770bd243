"""The metrics that processes count by themselves.

They are module-level `prometheus_client` objects, so that a stage imports only the ones it updates. `labels()` costs a
lock and a dictionary look-up each time: keep the child where it is used often. Where several processes share a folder
(see `exposition.py`), each gauge says how it is summed, over those that run. Figures of the whole service are in
`figures.py`.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

from .. import __version__
from ..model.delivery import End
from ..model.push import Platform
from ..model.routing import platform_of
from .values import share_values

# When a counter began is not needed, and would double the number of series.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped
share_values()

HTTP_REQUESTS = Counter("pushsvc_http_requests_total", "HTTP requests answered.", ["app", "method", "route", "code"])
HTTP_SECONDS = Histogram(
    "pushsvc_http_request_duration_seconds",
    "Seconds from the head of a request to its answer; with `Prefer: wait` the wait is part of it.",
    ["method", "route"],
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
REFUSED = Counter(
    "pushsvc_pushes_refused_total", "Pushes refused with 429, by the limit that they were over.", ["app", "limit"]
)
ACCEPTED = Counter("pushsvc_deliveries_accepted_total", "Deliveries accepted into the queue.", ["app"])
DELIVERIES = Counter(
    "pushsvc_deliveries_total", "Deliveries that ended, by how.", ["app", "platform", "outcome", "reason"]
)
ATTEMPTS = Counter("pushsvc_attempts_total", "Answers of the providers, by kind.", ["app", "platform", "result"])
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
    "Deliveries that had left the stream before their device came back for them.",
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
WEBHOOK_CALLS = Counter("pushsvc_webhook_calls_total", "Calls of webhooks, by what followed.", ["app", "result"])
JOBS = Counter("pushsvc_jobs_total", "Jobs that ended, by how.", ["job", "result"])
PROVIDER_SECONDS = Histogram(
    "pushsvc_provider_request_duration_seconds",
    "Seconds from a request to the provider's answer.",
    ["app", "platform"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
DELIVERY_SECONDS = Histogram(
    "pushsvc_delivery_duration_seconds",
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
CREDENTIAL_EXPIRY = Gauge(
    "pushsvc_credential_expiry_timestamp_seconds",
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
CHILD_RESTARTS = Counter(
    "pushsvc_child_restarts_total", "Processes that ended by themselves and were started again.", ["part"]
)
REDIS_ERRORS = Counter("pushsvc_redis_errors_total", "Calls that found Redis away, or not able to serve them.")
BUILD_INFO = Gauge(
    "pushsvc_build_info", "1, with the version that runs as a label.", ["version"], multiprocess_mode="livemax"
)
BUILD_INFO.labels(__version__).set(1)


def count_ended(app: str, route: Platform, end: End, reason: str, count: int = 1) -> None:
    """Count deliveries that have ended, by the platform of their route. To be called once the end is recorded: by the
    dispatcher for what it settles, by a cancel for what was scheduled, by an erasure for what it ends."""
    if count:
        DELIVERIES.labels(app, platform_of(route), end, reason).inc(count)
