"""The configuration: TOML and environment into frozen structs. An unknown key or a bad value stops the start.

`schema.py`, `live.py` and `webhook.py` define the keys, `loading.py` reads them, `environment.py` applies
`PUSHSVC__..`, and `pushsvc.decoding` validates the result. Providers define the structs of their own sections, which
are not known here.
"""

from ..model.rates import Rate, parse_rate
from .environment import PREFIX
from .live import AppLive, LiveRule, LiveSettings
from .loading import check_name, load, load_server
from .schema import (
    NEW_FILE,
    AppSettings,
    CleanupSettings,
    DispatchSettings,
    FeedbackSettings,
    KeySettings,
    LimitsSettings,
    LoggingSettings,
    MetricsSettings,
    QueueSettings,
    RedisSettings,
    RetrySettings,
    ServerSettings,
    Settings,
    StoreSettings,
    settings_type,
)
from .webhook import WebhookSettings
