"""Metrics, logs and traces: the names of all metrics, their exposition, and the configuration of structlog.

`metrics.py` has the metrics that processes count, `values.py` their values in shared files, `known.py` begins their
series, `requests.py` has those of HTTP requests, `gathered.py` observations in plain numbers, `figures.py` those of the
whole service, `exposition.py` what `/metrics` answers; `logs.py` structlog and the standard library's loggers,
`states.py` the log of a lasting state; `traces.py` has the traces of pushes. What is imported here is exported: of
`metrics.py` and `figures.py` everything.
"""

from . import traces
from .exposition import (
    CONTENT_TYPE,
    MULTIPROCESS_ENV,
    SharedFolder,
    claim,
    exposition,
    forget,
    serve_metrics,
)
from .figures import *
from .gathered import STAGES, Gathered, Instants, StageSeconds
from .known import AppRecord, SharedRecord, begin_app, begin_apps, begin_jobs, begin_route
from .logs import configure_logging, get_logger, redact, set_level, unforeseen
from .metrics import *
from .requests import HTTP, UNMATCHED, Answered
from .states import REDIS, StateLog
from .traces import tracing
