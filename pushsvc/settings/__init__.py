"""The configuration: TOML and environment into frozen structs. An unknown key or a bad value stops the start.

`schema.py`, `live.py` and `webhook.py` define the keys, `loading.py` reads them, `environment.py` applies
`PUSHSVC__..`, and `pushsvc.decoding` validates the result. Providers define the structs of their own sections, which
are not known here.
"""

from ..model.rates import Rate as Rate, parse_rate as parse_rate
from .live import AppLive as AppLive, LiveRule as LiveRule, LiveSettings as LiveSettings
from .loading import (
    SIMULATED as SIMULATED,
    check_name as check_name,
    is_simulated as is_simulated,
    load as load,
    load_server as load_server,
)
from .schema import (
    NEW_FILE as NEW_FILE,
    AppSettings as AppSettings,
    CleanupSettings as CleanupSettings,
    KeySettings as KeySettings,
    LimitsSettings as LimitsSettings,
    MetricsSettings as MetricsSettings,
    RedisSettings as RedisSettings,
    RetrySettings as RetrySettings,
    ServerSettings as ServerSettings,
    Settings as Settings,
    StoreSettings as StoreSettings,
    settings_type as settings_type,
)
from .webhook import WebhookSettings as WebhookSettings
