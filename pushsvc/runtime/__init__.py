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

from typing import TYPE_CHECKING

from ..lazily import exports

if TYPE_CHECKING:
    from .checks.live import check_live as check_live
    from .configuration import configured_type as configured_type, load_settings as load_settings
    from .live import run_live as run_live
    from .live_files import live_tls as live_tls
    from .parts import (
        judging as judging,
        quiet_gc as quiet_gc,
        raise_file_limit as raise_file_limit,
        run_api as run_api,
        run_dispatch as run_dispatch,
        run_feedback as run_feedback,
    )
    from .plans import (
        ages as ages,
        api_apps as api_apps,
        channel_rules as channel_rules,
        cleanup_plan as cleanup_plan,
        dispatch_config as dispatch_config,
        eraser as eraser,
        feedback_config as feedback_config,
        live_config as live_config,
        live_endpoints as live_endpoints,
        retry_policy as retry_policy,
        route_limits as route_limits,
        route_table as route_table,
        routes_of as routes_of,
        webhook_configs as webhook_configs,
    )
    from .providers import addresses as addresses, check_credentials as check_credentials, renderers as renderers
    from .state.conditions import read_conditions as read_conditions
    from .state.figures import (
        GAUGES_EVERY as GAUGES_EVERY,
        Current as Current,
        StoreFigures as StoreFigures,
        frozen_routes as frozen_routes,
        serve_part_metrics as serve_part_metrics,
        show_cleanups as show_cleanups,
        show_frozen as show_frozen,
        show_gauges as show_gauges,
        show_webhooks as show_webhooks,
        webhook_standings as webhook_standings,
    )
    from .state.workers import reporting as reporting, unserved as unserved
    from .store import (
        EMBEDDED_LOOK as EMBEDDED_LOOK,
        EMBEDDED_START as EMBEDDED_START,
        connect as connect,
        embedded_fsync as embedded_fsync,
        open_configured_store as open_configured_store,
        open_existing_store as open_existing_store,
        open_running_store as open_running_store,
        open_sync_redis as open_sync_redis,
        open_trial_store as open_trial_store,
        own_embedded as own_embedded,
        redis_url as redis_url,
        require_store as require_store,
        require_unowned as require_unowned,
        running_store_url as running_store_url,
        store_config as store_config,
    )
else:
    __getattr__ = exports(
        __name__,
        {
            "state.conditions": "read_conditions",
            "configuration": "configured_type load_settings",
            "state.figures": "GAUGES_EVERY Current StoreFigures frozen_routes serve_part_metrics show_cleanups "
            "show_frozen show_gauges show_webhooks webhook_standings",
            "live": "run_live",
            "checks.live": "check_live",
            "live_files": "live_tls",
            "parts": "judging quiet_gc raise_file_limit run_api run_dispatch run_feedback",
            "plans": "ages api_apps channel_rules cleanup_plan dispatch_config eraser feedback_config "
            "live_config live_endpoints retry_policy route_limits route_table routes_of webhook_configs",
            "providers": "addresses check_credentials renderers",
            "store": "EMBEDDED_LOOK EMBEDDED_START connect embedded_fsync open_configured_store "
            "open_existing_store open_running_store open_sync_redis open_trial_store own_embedded "
            "redis_url require_store require_unowned running_store_url store_config",
            "state.workers": "reporting unserved",
        },
    )
