"""The configuration: TOML and environment into frozen structs; an unknown key or a bad value stops the start.

`schema.py` lists what there is, `loading.py` reads it, `environment.py` lays `PUSHSVC__..` over it and `decoding.py`
judges it. Providers bring the structs of their own sections: settings know none of them.
"""

from ..model.rates import Rate, parse_rate
from .environment import PREFIX
from .loading import check_name, load, load_server
from .schema import (
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
    WebhookSettings,
)

__all__ = [
    "PREFIX",
    "load",
    "load_server",
    "check_name",
    "Rate",
    "parse_rate",
    "Settings",
    "ServerSettings",
    "RedisSettings",
    "StoreSettings",
    "LoggingSettings",
    "MetricsSettings",
    "DispatchSettings",
    "CleanupSettings",
    "QueueSettings",
    "RetrySettings",
    "FeedbackSettings",
    "AppSettings",
    "KeySettings",
    "LimitsSettings",
    "WebhookSettings",
]
