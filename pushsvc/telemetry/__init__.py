"""Metrics and logs: the names of every metric, one exposition for them, and one configuration of structlog.

`metrics.py` holds the metrics and their listener, `logs.py` structlog and the standard library's loggers,
`redaction.py` the last line of defence against secrets in logs. Everything that others use stands here.
"""

from .logs import LEVELS, configure_logging, get_logger
from .metrics import (
    ACCEPTED,
    ATTEMPTS,
    CLEANUP_ENDED,
    CLEANUP_REMOVED,
    CONTENT_TYPE,
    CREDENTIAL_EXPIRY,
    DEAD_LETTERS,
    DELIVERIES,
    DELIVERY_SECONDS,
    JOBS,
    MULTIPROCESS_ENV,
    PROVIDER_SECONDS,
    PRUNED,
    QUEUE_PENDING,
    REPLAYED,
    REQUESTS,
    RETRY_PENDING,
    ROUTE_HELD,
    exposition,
    mark_process_dead,
    prepare_multiprocess,
    serve_metrics,
)
from .redaction import REDACTED, is_secret, redact, scrub_text

__all__ = [
    "REQUESTS",
    "ACCEPTED",
    "DELIVERIES",
    "ATTEMPTS",
    "QUEUE_PENDING",
    "RETRY_PENDING",
    "DEAD_LETTERS",
    "REPLAYED",
    "CLEANUP_REMOVED",
    "CLEANUP_ENDED",
    "JOBS",
    "PROVIDER_SECONDS",
    "DELIVERY_SECONDS",
    "ROUTE_HELD",
    "PRUNED",
    "CREDENTIAL_EXPIRY",
    "CONTENT_TYPE",
    "MULTIPROCESS_ENV",
    "exposition",
    "serve_metrics",
    "prepare_multiprocess",
    "mark_process_dead",
    "LEVELS",
    "configure_logging",
    "get_logger",
    "REDACTED",
    "is_secret",
    "redact",
    "scrub_text",
]
