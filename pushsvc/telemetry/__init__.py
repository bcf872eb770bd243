"""Metrics, logs and traces: the names of all metrics, their exposition, and the configuration of structlog.

`metrics.py` has the metrics that processes count, `known.py` begins their series, `requests.py` has those of HTTP
requests, `gathered.py` observations in plain numbers, `figures.py` those of the whole service, `exposition.py` what
`/metrics` answers; `logs.py` structlog and the standard library's loggers, `states.py` the log of a lasting state;
`traces.py` has the traces of pushes. This package exports what others use.
"""

from . import traces
from .exposition import (
    CONTENT_TYPE,
    MULTIPROCESS_ENV,
    SharedFolder,
    exposition,
    forget,
    prepare_multiprocess,
    serve_metrics,
)
from .figures import (
    CLEANUP_ENDED,
    CLEANUP_REMOVED,
    CONDITIONS,
    DEAD_LETTERS,
    LIVE_WAITING,
    OLDEST_PENDING,
    PRUNING_FROZEN,
    QUEUE_LIMIT,
    QUEUE_PENDING,
    RECEIPTS_WAITING,
    REDIS_MEMORY,
    REDIS_UP,
    RETRY_PENDING,
    SCHEDULED,
    WEBHOOK_DEAD,
    WEBHOOK_LAG,
    WORKERS,
    Figure,
)
from .gathered import STAGES, Gathered, Instants, StageSeconds
from .known import begin_app, begin_jobs, begin_route
from .logs import LEVELS, configure_logging, get_logger, redact
from .metrics import (
    ACCEPTED,
    ATTEMPTS,
    BUILD_INFO,
    CHILD_RESTARTS,
    CREDENTIAL_EXPIRY,
    DEAD_LETTERS_DROPPED,
    DELIVERIES,
    DELIVERY_SECONDS,
    EVENT_LAG,
    EVENTS,
    FEEDBACK_GAPS,
    HTTP_REQUESTS,
    HTTP_SECONDS,
    JOBS,
    LIVE_ACK_SECONDS,
    LIVE_CONNECTIONS,
    LIVE_CONNECTS,
    LIVE_DISCONNECTS,
    LIVE_DUPLICATES,
    LIVE_FAULTS,
    LIVE_MESSAGES,
    LIVE_MISSING,
    LIVE_RECOVERIES,
    LIVE_RESENDS,
    PROVIDER_SECONDS,
    PRUNED,
    REDIS_ERRORS,
    REFUSED,
    RELOAD_SUCCESSFUL,
    RELOAD_TIMESTAMP,
    REPLAYED,
    ROUTE_HELD,
    STAGE_SECONDS,
    UNREADABLE,
    WEBHOOK_CALLS,
    count_ended,
)
from .requests import HTTP, UNMATCHED, Answered
from .states import REDIS, StateLog
from .traces import tracing
