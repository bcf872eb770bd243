"""All sections and keys of the configuration, with their types, bounds and defaults. `config/example.toml` describes
the same for operators; a test compares them. Spans are in seconds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Literal, cast
from urllib.parse import urlsplit, urlunsplit

from msgspec import Meta, Struct, defstruct, field

from ..decoding import Rule
from ..errors import ConfigError
from ..model.access import Scope
from ..model.defaults import Defaults
from ..model.push import Platform
from ..model.rates import Rate
from ..net.redis_url import SCHEMES, check_redis_url
from .live import AppLive, LiveSettings
from .processes import Processes
from .values import SPAN, Count, Name, NotNegative, Port, Positive, RateText, Seconds, Share
from .webhook import WebhookSettings

NEW_FILE = Path("pushsvc.toml")
"""The name of a configuration that `pushsvc init` writes, in the working directory."""


class ServerSettings(Struct, frozen=True, kw_only=True):
    """`[server]`: the HTTP API."""

    host: str = "127.0.0.1"
    port: Port = 8080
    processes: Processes = 1
    body_limit: Annotated[int, Meta(ge=1024)] = 4 * 1024 * 1024
    """Bytes. 10,000 targets with FCM's long tokens make about 2.5 MB."""
    shutdown_timeout: NotNegative = 30.0
    keepalive: Positive = 75.0
    """How long a connection may be idle between two requests."""
    first_request: Positive = 15.0
    """How long a connection may take to send its first request with all its headers."""
    max_connections: Count = 10_000
    """The maximum number of connections of one process."""


def _check_url(url: str, schemes: Collection[str] = SCHEMES) -> None:
    """Raise `ValueError` for a URL that is not empty and not that of a Redis, with the remedy."""
    try:
        if url:
            check_redis_url(url, schemes)
    except ValueError as error:
        raise ValueError(f"url: {error}") from None


def _shown(url: str) -> str:
    """Return a URL without its password and without options."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class RedisSettings(Struct, frozen=True, kw_only=True):
    """`[redis]`: where the store is. Its password is left out of `repr`."""

    url: str = ""
    shards: Annotated[int, Meta(ge=1, le=256)] = 1
    """The number of shards of each app, spread over the nodes of a cluster. Use 1 for a single server."""

    def __post_init__(self) -> None:
        _check_url(self.url)

    @property
    def shown(self) -> str:
        """The URL without its password and without options, for logs and errors."""
        return _shown(self.url)

    def __repr__(self) -> str:
        return f"RedisSettings(url={self.shown!r}, shards={self.shards})"


class StoreSettings(Struct, frozen=True, kw_only=True):
    """`[store]`: the embedded store, used where `redis.url` is empty."""

    data_dir: Annotated[Path, Rule("a path", parse=Path)] = Path("var")
    fsync: Literal["always", "everysec", "no"] = "everysec"


class LoggingSettings(Struct, frozen=True, kw_only=True):
    """`[logging]`: the level and format of the log."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["auto", "json", "text"] = "auto"

    @property
    def json(self) -> bool | None:
        """Return the argument of `telemetry.configure_logging`: None means JSON unless the stream is a terminal."""
        return None if self.format == "auto" else self.format == "json"


PARTS = ("dispatch", "feedback", "jobs", "live")


class MetricsSettings(Struct, frozen=True, kw_only=True):
    """`[metrics]`: the listener of the parts that have no HTTP server of their own."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65532)] = 9464
    public: bool = False
    """Whether the API shows `/metrics` and the details of `/readyz` without a key, whatever address it listens on."""

    def port_of(self, part: str) -> int | None:
        """Return the port of a part, or None where the listener is off. Each part has its own port, so that all can run
        on one machine."""
        return self.port + PARTS.index(part) if self.port else None


class TracesSettings(Struct, frozen=True, kw_only=True):
    """`[traces]`: traces of pushes by OpenTelemetry; the standard environment `OTEL_..` says where they go."""

    share: Share = 0.0
    """The share of requests that begin a trace; 0: there are no traces, not even those of callers."""


class DispatchSettings(Struct, frozen=True, kw_only=True):
    """`[dispatch]`: the processes that send."""

    processes: Processes = 1
    drain_timeout: NotNegative = 25.0
    chunk: Annotated[int, Meta(ge=1, le=5000)] = 500
    """Targets of one queue entry, which are read, sent and settled together."""
    takeover: Annotated[float, Meta(ge=3), SPAN] = 15.0
    """Seconds after the last report of a process until others take over its unrecorded deliveries. Where this is
    shorter than a pause of a busy machine, two processes send the same delivery."""


class JobsSettings(Struct, frozen=True, kw_only=True):
    """`[jobs]`: the processes for work that is done once rather than once a push. The URL's password is left out of
    `repr`."""

    processes: Processes = 1
    takeover: Annotated[float, Meta(ge=1), SPAN] = 15.0
    """Seconds after the last report of a job's worker until the job is given to another one."""
    url: str = ""
    """The Redis in which rq stores its jobs; empty: `redis.url`."""

    def __post_init__(self) -> None:
        _check_url(self.url, [name for name in SCHEMES if not name.endswith("+cluster")])

    @property
    def shown(self) -> str:
        """The URL without its password and without options, for logs and errors."""
        return _shown(self.url)

    def __repr__(self) -> str:
        return f"JobsSettings(processes={self.processes}, takeover={self.takeover}, url_set={bool(self.url)})"


class CleanupSettings(Struct, frozen=True, kw_only=True):
    """`[cleanup]`: when data is removed. 0 means never, except for `share`. More keys: `settings_type`."""

    every: NotNegative = 86400.0
    share: Annotated[float, Meta(gt=0, le=1)] = 0.25
    """The share of time that a cleanup may use."""
    tombstones: NotNegative = 30 * 86400.0
    suspects: NotNegative = 90 * 86400.0
    stale: NotNegative = 0.0
    """The span of platforms whose provider documents none."""


class QueueSettings(Struct, frozen=True, kw_only=True):
    """`[queue]`: the maximum size of the store, and how long it keeps data."""

    max_pending: Count = 5_000_000
    app_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """The share of `max_pending` that one of several apps may use, unless its own `limits.max_pending` is set."""
    durability: Literal["auto", "memory", "fsync", "replicas"] = "auto"
    """What a 202 guarantees: that Redis has the push, its disk has it, or its replicas have it. "auto" means replicas
    if redis.url names sentinels or a cluster whose primary has any, otherwise memory."""
    replicas: Annotated[int, Meta(ge=1, le=10)] = 1
    """Under "replicas", the least number of replicas that must have a write."""
    status_retention: Seconds = 7 * 86400
    dead_letter_retention: Seconds = 30 * 86400
    dead_letters_max: Count = 1_000_000
    """The approximate maximum for each app; a dead letter takes about 200 bytes. The oldest are removed, counted and
    logged."""
    suppression_retention: Seconds = 180 * 86400
    feedback_retention: Seconds = 30 * 86400


class RetrySettings(Struct, frozen=True, kw_only=True):
    """`[retry]`: when a delivery is sent again, and when it fails permanently. More keys: `settings_type`."""

    attempts: Annotated[int, Meta(ge=1, le=100)] = 8
    base: Positive = 1.0
    cap: Positive = 900.0
    request_timeout: Positive = 10.0

    def __post_init__(self) -> None:
        if self.base > self.cap:
            raise ValueError("base: must not be greater than `cap`")


class FeedbackSettings(Struct, frozen=True, kw_only=True):
    """`[feedback]`: what prunes a device, and what freezes pruning. It can change while processes run."""

    strikes: Count = 3
    strike_span: NotNegative = 86400.0
    strike_memory: Positive = 30 * 86400.0
    freeze_window: Annotated[float, Meta(ge=10, le=3600)] = 600.0
    freeze_dead: Share = 0.5
    freeze_dead_answers: Count = 200
    freeze_suspect: Share = 0.2
    freeze_suspect_answers: Count = 100
    prune_anyway: Annotated[
        dict[str, Annotated[datetime, Meta(tz=True), Rule("an instant such as 2026-12-01T09:00:00Z")]],
        Rule('routes with an instant each, as in { "shop/apns" = 2026-12-01T09:00:00Z }'),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.strikes > 1 and self.strike_memory < self.strike_span / (self.strikes - 1):
            raise ValueError(
                "strike_memory: must not be shorter than `strike_span` / (`strikes` - 1): "
                "no device would have two strikes"
            )


class KeySettings(Struct, frozen=True, kw_only=True):
    """`[[apps.NAME.keys]]`: an API key, as its hash."""

    name: Name
    sha256: Annotated[
        str,
        Meta(pattern=r"^[0-9a-f]{64}\Z"),
        Rule("64 lower-case hex digits: the SHA-256 of the key's text, as `pushsvc keys new` shows it", secret=True),
    ]
    scopes: tuple[Scope, ...] = ("push",)
    intake: RateText = None
    """The limit for pushes that are posted with this key, in addition to the limit of the app."""


class LimitsSettings(Struct, frozen=True, kw_only=True):
    """`[apps.NAME.limits]`."""

    per_token: RateText = Rate(240, 60)
    per_app: RateText = None
    intake: RateText = None
    max_pending: Annotated[int, Meta(ge=0)] = 0
    """The maximum number of waiting deliveries; 0: the app's share of the queue."""
    on_exceed: Literal["delay", "drop"] = "delay"


class AppSettings(Struct, frozen=True, kw_only=True):
    """`[apps.NAME]`: one app, its keys, its account at each provider, and its live channel."""

    name: str
    keys: tuple[KeySettings, ...] = ()
    providers: dict[str, Struct] = field(default_factory=dict)
    """The provider sections by platform, each a `Config` of its provider: `[apps.NAME.apns]`, `[apps.NAME.fcm]`."""
    live: AppLive | None = None
    """None: the app has no live channel."""
    limits: LimitsSettings = LimitsSettings()
    webhook: WebhookSettings = WebhookSettings()

    @property
    def accounts(self) -> dict[str, Struct]:
        """Return the section of each of its routes, by the name of the route: its providers, and `live`."""
        return self.providers if self.live is None else {**self.providers, "live": self.live}


class Settings(Struct, frozen=True, kw_only=True):
    """The whole configuration."""

    server: ServerSettings = ServerSettings()
    redis: RedisSettings = RedisSettings()
    store: StoreSettings = StoreSettings()
    logging: LoggingSettings = LoggingSettings()
    metrics: MetricsSettings = MetricsSettings()
    traces: TracesSettings = TracesSettings()
    dispatch: DispatchSettings = DispatchSettings()
    jobs: JobsSettings = JobsSettings()
    cleanup: CleanupSettings = CleanupSettings()
    queue: QueueSettings = QueueSettings()
    retry: RetrySettings = RetrySettings()
    feedback: FeedbackSettings = FeedbackSettings()
    live: LiveSettings = LiveSettings()
    apps: dict[str, AppSettings] = field(default_factory=dict)
    file: Path | None = None
    """The file that was read, if any. It is not a key of the configuration."""
    value_files: tuple[Path, ...] = ()
    """The files that variables `PUSHSVC__.._FILE` name, each with one value. They are not a key either."""

    def queue_shares(self) -> dict[str, int]:
        """Return the maximum number of waiting deliveries of each app. A single app may use the whole queue."""
        most = self.queue.max_pending
        share = most if len(self.apps) == 1 else max(1, int(most * self.queue.app_share))
        return {name: min(most, app.limits.max_pending or share) for name, app in self.apps.items()}

    def require_apps(self) -> None:
        """Raise `ConfigError` where no app is configured, or an app has neither a provider nor a live channel."""
        where = str(self.file) if self.file else "the configuration"
        if not self.apps:
            played = self.store.data_dir / "playground" / NEW_FILE
            trial = "or try it: " + (f"--config {played}" if played.exists() else "pushsvc up --simulator")
            if self.file:
                remedy = f"add a section [apps.NAME], as `pushsvc init` writes it; {trial}"
            elif NEW_FILE.is_file():
                remedy = f"{NEW_FILE} in this folder is read where --config or PUSHSVC_CONFIG names it"
            else:
                written = "`pushsvc init` writes a file with a section [apps.NAME]"
                remedy = f"{written}; name it with --config or PUSHSVC_CONFIG; {trial}"
            raise ConfigError("apps", f"{where} names no app", remedy)
        if bare := [name for name, app in self.apps.items() if not (app.providers or app.live)]:
            raise ConfigError(
                f"apps.{bare[0]}",
                f"the app has no provider and no live channel{''.join(f', nor has {name}' for name in bare[1:])}",
                f"add [apps.{bare[0]}.apns], [apps.{bare[0]}.fcm] or [apps.{bare[0]}.live]; see config/example.toml",
            )

    def require_live(self) -> None:
        """Raise `ConfigError` where no app has a live channel."""
        self.require_apps()
        if not any(app.live for app in self.apps.values()):
            where = str(self.file) if self.file else "the configuration"
            raise ConfigError(where, "no app has a live channel", "add a section [apps.NAME.live]")


def settings_type(defaults: Mapping[Platform, Defaults]) -> type[Settings]:
    """Return `Settings` with the providers' keys, each with its provider's own value as default:
    `retry.<platform>_5xx`, `retry.<platform>_429` and `cleanup.<platform>_stale`. Equal defaults give the same type, so
    that settings that are read again compare equal where nothing has changed."""
    return _settings_type(tuple(sorted(defaults.items(), key=itemgetter(0))))


@lru_cache(maxsize=8)
def _settings_type(defaults: tuple[tuple[Platform, Defaults], ...]) -> type[Settings]:
    retry = _keys(
        {f"{platform}_5xx": each.server_error for platform, each in defaults}
        | {f"{platform}_429": each.throttled for platform, each in defaults}
    )
    stale = _keys({f"{platform}_stale": each.stale for platform, each in defaults})
    sections = [
        (name, extended, extended())
        for name, extended in (
            ("retry", defstruct("RetrySettings", retry, bases=(RetrySettings,), frozen=True, kw_only=True)),
            ("cleanup", defstruct("CleanupSettings", stale, bases=(CleanupSettings,), frozen=True, kw_only=True)),
        )
    ]
    return cast("type[Settings]", defstruct("Settings", sections, bases=(Settings,), frozen=True, kw_only=True))


def _keys(spans: Mapping[str, float | None]) -> list[tuple[str, object, float]]:
    return [(name, NotNegative, span) for name, span in spans.items() if span is not None]
