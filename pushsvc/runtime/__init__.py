"""The composition root: the only package that imports both the providers and the store.

    configuration.py  the configuration of the file and the environment, with the providers' own sections
    plans.py          the configuration as the values that each part takes: pure
    store.py          the configured store, or an embedded one
    providers.py      what other parts need of the providers: their renderers, and whether credentials are usable
    parts.py          the work of one process of each part
    live.py           and that of the gateway
    state/            what runs now: figures, workers and conditions, for `/metrics`, `/readyz`, `stats` and the log
    checks/           what `pushsvc check` judges

Lifetimes are context managers: what was opened last is closed first.
"""

from typing import TYPE_CHECKING

from ..lazily import exports

if TYPE_CHECKING:
    from .configuration import load_settings as load_settings
    from .live import run_live as run_live
    from .parts import (
        judging as judging,
        quiet_gc as quiet_gc,
        raise_file_limit as raise_file_limit,
        run_api as run_api,
        run_dispatch as run_dispatch,
        run_feedback as run_feedback,
    )
    from .plans import (
        channel_rules as channel_rules,
        cleanup_plan as cleanup_plan,
        eraser as eraser,
        route_table as route_table,
        routes_of as routes_of,
        webhook_configs as webhook_configs,
    )
    from .providers import addresses as addresses, renderers as renderers
    from .state.figures import Current as Current, serve_part_metrics as serve_part_metrics
    from .state.workers import reporting as reporting
    from .store import (
        connect as connect,
        open_configured_store as open_configured_store,
        open_existing_store as open_existing_store,
        open_running_store as open_running_store,
        open_sync_redis as open_sync_redis,
        own_embedded as own_embedded,
        redis_url as redis_url,
        require_store as require_store,
        require_unowned as require_unowned,
        running_store_url as running_store_url,
    )
else:
    __getattr__ = exports(
        __name__,
        {
            "configuration": "load_settings",
            "live": "run_live",
            "parts": "judging quiet_gc raise_file_limit run_api run_dispatch run_feedback",
            "plans": "channel_rules cleanup_plan eraser route_table routes_of webhook_configs",
            "providers": "addresses renderers",
            "state.figures": "Current serve_part_metrics",
            "state.workers": "reporting",
            "store": "connect open_configured_store open_existing_store open_running_store open_sync_redis "
            "own_embedded redis_url require_store require_unowned running_store_url",
        },
    )
