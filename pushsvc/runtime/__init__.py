"""The composition root: the only package that imports both the providers and the store.

    configuration.py  the configuration of the file and the environment, with the providers' own sections
    plans.py          the configuration as the values that each part takes: pure
    store.py          the configured store, or an embedded one
    providers.py      what other parts need of the providers: their renderers, and whether credentials are usable
    parts.py          the work of one process of each part
    live.py           and that of the gateway
    figures.py        what `/metrics` shows of Redis
    workers.py        which processes live, and what no process serves
    conditions.py     what an operator should know now, for `/readyz`, `stats`, metrics and the log

Lifetimes are context managers: what was opened last is closed first.
"""

from __future__ import annotations

from .conditions import read_conditions
from .configuration import configured_type, load_settings
from .figures import (
    GAUGES_EVERY,
    Current,
    StoreFigures,
    frozen_routes,
    serve_part_metrics,
    show_cleanups,
    show_frozen,
    show_gauges,
    show_webhooks,
    webhook_standings,
)
from .live import run_live
from .live_check import check_live
from .live_files import live_tls
from .parts import quiet_gc, raise_file_limit, run_api, run_dispatch, run_feedback
from .plans import (
    ages,
    api_apps,
    channel_rules,
    cleanup_plan,
    dispatch_config,
    eraser,
    feedback_config,
    live_config,
    live_endpoints,
    retry_policy,
    route_limits,
    route_table,
    routes_of,
    webhook_configs,
)
from .providers import addresses, check_credentials, renderers
from .store import (
    EMBEDDED_LOOK,
    EMBEDDED_START,
    connect,
    embedded_fsync,
    open_configured_store,
    open_existing_store,
    open_running_store,
    open_sync_redis,
    open_trial_store,
    own_embedded,
    redis_url,
    require_durability,
    running_store_url,
    store_config,
)
from .workers import reporting, unserved

__all__ = [
    "check_live",
    "live_config",
    "live_endpoints",
    "live_tls",
    "reporting",
    "unserved",
    "EMBEDDED_START",
    "EMBEDDED_LOOK",
    "redis_url",
    "own_embedded",
    "embedded_fsync",
    "store_config",
    "require_durability",
    "open_configured_store",
    "open_existing_store",
    "running_store_url",
    "open_running_store",
    "open_trial_store",
    "open_sync_redis",
    "connect",
    "renderers",
    "addresses",
    "check_credentials",
    "api_apps",
    "channel_rules",
    "retry_policy",
    "dispatch_config",
    "route_limits",
    "route_table",
    "routes_of",
    "feedback_config",
    "webhook_configs",
    "ages",
    "cleanup_plan",
    "eraser",
    "GAUGES_EVERY",
    "Current",
    "StoreFigures",
    "show_gauges",
    "show_frozen",
    "show_webhooks",
    "webhook_standings",
    "show_cleanups",
    "frozen_routes",
    "read_conditions",
    "serve_part_metrics",
    "quiet_gc",
    "raise_file_limit",
    "run_api",
    "run_dispatch",
    "run_feedback",
    "run_live",
    "load_settings",
    "configured_type",
]
