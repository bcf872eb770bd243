"""The configuration as the values that each part takes, since no part imports the settings. Pure, except that
`live_config` reads public keys."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from ipaddress import ip_address

from ..api.config import ApiApp, ApiConfig, ApiLive, Keyless
from ..live.config import LiveAppConfig, LiveConfig
from ..model.access import ApiKey
from ..model.defaults import Defaults
from ..model.devices import Environment
from ..model.live import Endpoint, denied, endpoints_of, own_endpoints
from ..model.push import Platform, Route
from ..model.rates import AccountLimits
from ..model.routing import RouteTable, table_of
from ..model.signing import parse_secret
from ..model.status import EventKind
from ..ports.store import Store
from ..providers import REGISTRY
from ..rules.channels import NO_LIVE, ChannelRule, ChannelRules
from ..rules.freeze import FreezePolicy
from ..rules.policy import PrunePolicy, RetryPolicy
from ..settings.live import AppLive
from ..settings.processes import share_address
from ..settings.schema import AppSettings, CleanupSettings, RetrySettings, Settings
from ..stages import cleanup, feedback
from ..stages.dispatch.config import DispatchConfig
from ..stages.dispatch.limits import RouteLimits
from ..stages.erase import Eraser
from ..stages.webhooks.config import WebhookConfig
from .live_files import read_public_key


def environments_of(app: AppSettings) -> dict[Platform, Environment]:
    found = {route: REGISTRY[route].environment(config) for route, config in app.providers.items()}
    return {route: environment for route, environment in found.items() if environment is not None}


def route_table(settings: Settings, app: str) -> RouteTable:
    """Return which of the app's accounts reaches a token, where tokens belong to an environment; empty for an app that
    is no longer configured."""
    return table_of(environments_of(settings.apps[app])) if app in settings.apps else {}


def channel_rules(settings: Settings, app: str) -> ChannelRules:
    """Return the order of the channels to an app's devices; the provider alone without a live channel."""
    live = settings.apps[app].live if app in settings.apps else None
    if live is None:
        return NO_LIVE
    return ChannelRules(live.order, tuple(ChannelRule(rule.where, rule.order) for rule in live.rules))


def api_apps(settings: Settings) -> dict[str, ApiApp]:
    return {
        name: ApiApp(
            name=name,
            accounts=frozenset(app.accounts),
            routes=route_table(settings, name),
            keys=tuple(
                ApiKey(name=key.name, app=name, sha256=key.sha256, scopes=tuple(key.scopes), intake=key.intake)
                for key in app.keys
            ),
            limit=app.limits.intake,
            live=None if app.live is None else _api_live(settings, name, app.live),
            channels=channel_rules(settings, name),
        )
        for name, app in settings.apps.items()
    }


def _api_live(settings: Settings, name: str, live: AppLive) -> ApiLive:
    from ..live.protocol.tokens import issue

    secret = live.secret

    def sign(device_id: str, now: float, ttl: float, token_id: str) -> str:
        return issue(name, device_id, secret, now=now, ttl=ttl, token_id=token_id)

    return ApiLive(live.token_ttl, sign if secret else None, live_endpoints(settings), live.history_age)


def api_config(settings: Settings) -> ApiConfig:
    """Return the bind address and the bounds of the API's server."""
    server = settings.server
    return ApiConfig(
        host=server.host,
        port=server.port,
        reuse_port=share_address(server.processes),
        body_limit=server.body_limit,
        shutdown_timeout=server.shutdown_timeout,
        keepalive_timeout=server.keepalive,
        first_request=server.first_request,
        max_connections=server.max_connections,
    )


def _spans(
    settings: RetrySettings | CleanupSettings, ending: str, default: Callable[[Defaults], float | None]
) -> dict[Platform, float]:
    """Return by platform the configured spans, with the provider's own as default. Platforms whose provider documents
    none are left out."""
    own = {kind.platform: default(kind.defaults) for kind in REGISTRY.values()}
    return {
        platform: getattr(settings, f"{platform}_{ending}", span) for platform, span in own.items() if span is not None
    }


def retry_policy(settings: RetrySettings) -> RetryPolicy:
    errors = _spans(settings, "5xx", lambda defaults: defaults.server_error)
    return RetryPolicy(
        attempts=settings.attempts,
        base=settings.base,
        cap=settings.cap,
        server_error=errors,
        silent={platform: span for platform, span in errors.items() if REGISTRY[platform].defaults.unanswered},
        throttled=_spans(settings, "429", lambda defaults: defaults.throttled),
    )


def dispatch_config(settings: Settings) -> DispatchConfig:
    """Return the dispatcher's part of the configuration. Several reports that it lives, and checks for dead consumers,
    fit into the time after which entries are taken over."""
    return DispatchConfig(
        retry=retry_policy(settings.retry),
        drain_timeout=settings.dispatch.drain_timeout,
        takeover=settings.dispatch.takeover,
        read_wait=settings.dispatch.takeover / 3,
        beat_every=settings.dispatch.takeover / 4,
        reclaim_every=settings.dispatch.takeover / 3,
    )


def route_limits(apps: Mapping[str, AppSettings]) -> dict[Route, RouteLimits]:
    """Return the limits of each route: those of the app, and those of its account at the provider."""
    return {
        Route(name, platform): RouteLimits(
            per_token=app.limits.per_token,
            per_app=app.limits.per_app,
            on_exceed=app.limits.on_exceed,
            account=REGISTRY[platform].account_limits(config) if platform in REGISTRY else AccountLimits(),
        )
        for name, app in apps.items()
        for platform, config in app.accounts.items()
    }


def keyless_requests(settings: Settings) -> Keyless:
    """Return which requests need no key for `/metrics` and the details of `/readyz`: all where it is configured; on a
    loopback address those of this machine itself, which come through no proxy."""
    if settings.metrics.public:
        return "all"
    host = settings.server.host
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    return "direct" if local else "none"


def routes_of(settings: Settings) -> list[Route]:
    return [Route(name, platform) for name, app in settings.apps.items() for platform in app.accounts]


def feedback_config(settings: Settings) -> feedback.FeedbackConfig:
    rules = settings.feedback
    return feedback.FeedbackConfig(
        prune=PrunePolicy(strikes=rules.strikes, strike_span=rules.strike_span, strike_memory=rules.strike_memory),
        freeze=FreezePolicy(
            window=rules.freeze_window,
            dead=rules.freeze_dead,
            dead_answers=rules.freeze_dead_answers,
            suspect=rules.freeze_suspect,
            suspect_answers=rules.freeze_suspect_answers,
        ),
        prune_anyway={
            Route(*route.split("/", 1)): int(until.timestamp() * 1000) for route, until in rules.prune_anyway.items()
        },
        environments={
            Route(name, route): environment
            for name, app in settings.apps.items()
            for route, environment in environments_of(app).items()
        },
    )


def webhook_configs(settings: Settings, kind: EventKind | None = None) -> dict[str, WebhookConfig]:
    """Return the webhook of each app that has one; with `kind` only where it is sent events of this kind."""
    found = {}
    for app, each in settings.apps.items():
        hook = each.webhook
        if hook.url and (kind is None or kind in hook.kinds):
            found[app] = WebhookConfig(
                url=hook.url,
                keys=tuple(parse_secret(secret) for secret in (hook.secret, hook.old_secret) if secret),
                headers=hook.headers,
                allow_private=hook.allow_private,
                ca_file=hook.ca_file,
                batch=hook.batch,
                timeout=hook.timeout,
                attempts=hook.attempts,
                retry_for=hook.retry_for,
                base=hook.base,
                cap=hook.cap,
            )
    return found


def live_endpoints(settings: Settings) -> tuple[Endpoint, ...]:
    """Return the ways to the gateway that devices are given; none where its port is not known before it listens."""
    live = settings.live
    if live.endpoints:
        return tuple(endpoint for text in live.endpoints for endpoint in endpoints_of(text))
    return own_endpoints(live.host, live.port, secure=bool(live.tls_cert)) if live.port else ()


def live_config(settings: Settings) -> LiveConfig:
    """Return the gateway's part of the configuration. Raises `ConfigError` for a public key that cannot be used."""
    live = settings.live
    refused = denied(live.deny)
    return LiveConfig(
        endpoints=live_endpoints(settings),
        heartbeat=live.heartbeat,
        heartbeat_min=live.heartbeat_min,
        heartbeat_max=live.heartbeat_max,
        pong_within=live.pong_within,
        connects=live.connects,
        inline=live.inline,
        deny_networks=refused.networks,
        deny_ids=refused.ids,
        apps={name: _live_app(name, app, app.live) for name, app in settings.apps.items() if app.live is not None},
    )


def _live_app(name: str, app: AppSettings, live: AppLive) -> LiveAppConfig:
    key = live.public_key_file
    return LiveAppConfig(
        secret=live.secret,
        old_secret=live.old_secret,
        public_key=read_public_key(key, f"apps.{name}.live.public_key_file") if key else "",
        ack_within=live.ack_within,
        window=live.window,
        resend=live.resend,
        log_events=bool(app.webhook.url) and "event" in app.webhook.kinds,
    )


def ages(settings: CleanupSettings) -> cleanup.Ages:
    return cleanup.Ages(
        tombstones=settings.tombstones,
        suspects=settings.suspects,
        stale=_spans(settings, "stale", lambda defaults: defaults.stale),
        stale_else=settings.stale,
    )


def eraser(store: Store) -> Eraser:
    return Eraser(store.registry, store.erasures, store.locks)


def cleanup_plan(
    settings: Settings,
    store: Store,
    clock: Callable[[], int],
    *,
    apps: Collection[str] | None = None,
    dry_run: bool = False,
) -> list[cleanup.Sweep]:
    """Return the sweeps of a cleanup of these apps, by default of every configured one, by the clock of
    `store.cleanups`."""
    return cleanup.sweeps(
        store.registry,
        store.leftovers,
        store.live,
        list(settings.apps if apps is None else apps),
        ages(settings.cleanup),
        clock=clock,
        dry_run=dry_run,
    )
