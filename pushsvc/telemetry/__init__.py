"""Metrics, logs and traces: the names of all metrics, their exposition, and the configuration of structlog.

`metrics.py` has the metrics that processes count, `known.py` begins their series, `requests.py` has those of HTTP
requests, `gathered.py` observations in plain numbers, `figures.py` those of the whole service, `exposition.py` what
`/metrics` answers; `logs.py` structlog and the standard library's loggers, `states.py` the log of a lasting state;
`traces.py` has the traces of pushes. This package exports what others use.
"""

from . import traces as traces
from .exposition import (
    CONTENT_TYPE as CONTENT_TYPE,
    MULTIPROCESS_ENV as MULTIPROCESS_ENV,
    SharedFolder as SharedFolder,
    claim as claim,
    exposition as exposition,
    forget as forget,
    prepare_multiprocess as prepare_multiprocess,
    serve_metrics as serve_metrics,
)
from .figures import (
    CLEANUP_ENDED as CLEANUP_ENDED,
    CLEANUP_REMOVED as CLEANUP_REMOVED,
    CONDITIONS as CONDITIONS,
    DEAD_LETTERS as DEAD_LETTERS,
    LIVE_WAITING as LIVE_WAITING,
    OLDEST_PENDING as OLDEST_PENDING,
    PRUNING_FROZEN as PRUNING_FROZEN,
    QUEUE_LIMIT as QUEUE_LIMIT,
    QUEUE_PENDING as QUEUE_PENDING,
    RECEIPTS_WAITING as RECEIPTS_WAITING,
    REDIS_MEMORY as REDIS_MEMORY,
    REDIS_UP as REDIS_UP,
    RETRY_PENDING as RETRY_PENDING,
    SCHEDULED as SCHEDULED,
    WEBHOOK_DEAD as WEBHOOK_DEAD,
    WEBHOOK_LAG as WEBHOOK_LAG,
    WORKERS as WORKERS,
    Figure as Figure,
)
from .gathered import STAGES as STAGES, Gathered as Gathered, Instants as Instants, StageSeconds as StageSeconds
from .known import begin_app as begin_app, begin_jobs as begin_jobs, begin_route as begin_route
from .logs import configure_logging as configure_logging, get_logger as get_logger, redact as redact
from .metrics import (
    ACCEPTED as ACCEPTED,
    ATTEMPTS as ATTEMPTS,
    BUILD_INFO as BUILD_INFO,
    CHILD_RESTARTS as CHILD_RESTARTS,
    CREDENTIAL_EXPIRY as CREDENTIAL_EXPIRY,
    DEAD_LETTERS_DROPPED as DEAD_LETTERS_DROPPED,
    DELIVERIES as DELIVERIES,
    DELIVERY_SECONDS as DELIVERY_SECONDS,
    EVENT_LAG as EVENT_LAG,
    EVENTS as EVENTS,
    FEEDBACK_GAPS as FEEDBACK_GAPS,
    HTTP_REQUESTS as HTTP_REQUESTS,
    HTTP_SECONDS as HTTP_SECONDS,
    JOBS as JOBS,
    LIVE_ACK_SECONDS as LIVE_ACK_SECONDS,
    LIVE_CONNECTIONS as LIVE_CONNECTIONS,
    LIVE_CONNECTS as LIVE_CONNECTS,
    LIVE_DISCONNECTS as LIVE_DISCONNECTS,
    LIVE_DUPLICATES as LIVE_DUPLICATES,
    LIVE_FAULTS as LIVE_FAULTS,
    LIVE_MESSAGES as LIVE_MESSAGES,
    LIVE_MISSING as LIVE_MISSING,
    LIVE_RECOVERIES as LIVE_RECOVERIES,
    LIVE_RESENDS as LIVE_RESENDS,
    PROVIDER_SECONDS as PROVIDER_SECONDS,
    PRUNED as PRUNED,
    REDIS_ERRORS as REDIS_ERRORS,
    REFUSED as REFUSED,
    RELOAD_SUCCESSFUL as RELOAD_SUCCESSFUL,
    RELOAD_TIMESTAMP as RELOAD_TIMESTAMP,
    REPLAYED as REPLAYED,
    ROUTE_HELD as ROUTE_HELD,
    STAGE_SECONDS as STAGE_SECONDS,
    UNREADABLE as UNREADABLE,
    WEBHOOK_CALLS as WEBHOOK_CALLS,
    count_ended as count_ended,
)
from .requests import HTTP as HTTP, UNMATCHED as UNMATCHED, Answered as Answered
from .states import REDIS as REDIS, StateLog as StateLog
from .traces import tracing as tracing
