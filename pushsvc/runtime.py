"""The composition root: the only module that knows both the providers and the store.

Each `run_*` is one process's work from its first connection to its last, and returns when `stop` is set. Lifetimes
are context managers, innermost last: what was opened last is closed first.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from aiohttp import web

from . import feedback, intake, janitor, telemetry, webhooks
from .accounts import Accounts
from .channels import OpenedChannels
from .devices import Environment
from .dispatch import DispatchConfig, Dispatcher, RouteLimits
from .errors import PushsvcError, StoreOwned, StoreUnavailable
from .freeze import FreezePolicy
from .model import ApiKey, Platform, Route
from .policy import PrunePolicy, RetryPolicy
from .ports import KeyRing
from .ports.cleanup import CleanupRecord
from .ports.webhooks import Standing
from .providers import REGISTRY
from .reload import versions
from .settings import AppSettings, CleanupSettings, FeedbackSettings, RetrySettings, Settings, load
from .signing import parse_secret
from .store import (
    Fsync,
    Gauges,
    Store,
    StoreConfig,
    attach_embedded,
    open_embedded,
    open_store,
    token_hash,
    wall_clock,
)

GAUGES_EVERY = 2.0
"""Seconds that the figures read from Redis are good for, however often `/metrics` is scraped."""

EMBEDDED_START = 15.0
"""Seconds that a part waits for the embedded store that another one starts."""

EMBEDDED_LOOK = 0.5
"""Seconds between two looks at the embedded server by its owner; two in vain, and it is started again."""


def load_settings(path: Path | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The configuration of a file and the environment. Raises `ConfigError`."""
    return load(path, environ, providers={platform: kind.config for platform, kind in REGISTRY.items()})


def quiet_gc() -> None:
    """Look for garbage cycles seldom: deliveries make none, and a look at every object costs a tenth of the speed."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


# --- the store ----------------------------------------------------------------------------------


@asynccontextmanager
async def redis_url(settings: Settings) -> AsyncIterator[str]:
    """The store's URL: the configured one, else that of a living embedded store, else of one started here.

    Parts that start at the same time find one another: one of them owns the store, the others wait until it is up.
    """
    if settings.redis.url:
        yield settings.redis.url
        return
    deadline = time.monotonic() + EMBEDDED_START
    async with AsyncExitStack() as stack:
        while True:
            url = await asyncio.to_thread(attach_embedded, settings.store.data_dir)
            if url is not None:
                break
            try:
                url = await stack.enter_async_context(own_embedded(settings))
                break
            except StoreOwned:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
        yield url


@asynccontextmanager
async def own_embedded(settings: Settings) -> AsyncIterator[str]:
    """Start the embedded store and own it; a server that dies is started again. Raises `StoreOwned` when another
    process does."""
    opened = ExitStack()
    url = await asyncio.to_thread(_open_embedded, opened, settings)
    stop = asyncio.Event()
    keeping = asyncio.create_task(_keep_embedded(opened, settings, stop), name="embedded")
    try:
        yield url
    finally:
        stop.set()
        try:
            await keeping
        finally:
            await asyncio.to_thread(opened.close)


def _open_embedded(opened: ExitStack, settings: Settings) -> str:
    opened.close()
    return opened.enter_context(open_embedded(settings.store.data_dir, fsync=embedded_fsync(settings)))


def embedded_fsync(settings: Settings) -> Fsync:
    """When the embedded store flushes. Where a push waits for the disk it is with each write, because Valkey does not
    say truly when it has flushed otherwise; see `store/durable.py`."""
    return "always" if settings.queue.durability == "fsync" else settings.store.fsync


async def _keep_embedded(opened: ExitStack, settings: Settings, stop: asyncio.Event) -> None:
    """Look after the server each second. Its files hold all that was accepted, and its socket stays where it is, so
    that everybody goes on when it is back."""
    log = telemetry.get_logger("store")
    missed = 0
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), EMBEDDED_LOOK)
        living = await asyncio.to_thread(attach_embedded, settings.store.data_dir)
        missed = missed + 1 if living is None else 0
        if missed > 1 and not stop.is_set():
            log.error("embedded_store_died", data_dir=str(settings.store.data_dir))
            try:
                await asyncio.to_thread(_open_embedded, opened, settings)
            except PushsvcError as error:
                log.error("embedded_store_stays_away", error=str(error))
            missed = 0


def store_config(settings: Settings) -> StoreConfig:
    """What the store is told by the configuration."""
    return StoreConfig(
        shards=settings.redis.shards,
        chunk_size=settings.dispatch.chunk,
        status_ttl=settings.queue.status_retention,
        dead_ttl=settings.queue.dead_letter_retention,
        suppression_ttl=settings.queue.suppression_retention,
        events_ttl=settings.queue.feedback_retention,
        alive_ttl=settings.dispatch.takeover,
        fsync=settings.queue.durability == "fsync",
    )


async def require_durability(settings: Settings, url: str) -> None:
    """Raises `ConfigError` where `queue.durability` is more than the store at `url` can keep."""
    if settings.queue.durability == "fsync":
        async with open_store(url, store_config(settings)) as store:
            await store.pushes.require_durable(settings.apps)


@asynccontextmanager
async def open_configured_store(settings: Settings) -> AsyncIterator[Store]:
    """The store of the configuration, connected."""
    async with redis_url(settings) as url, open_store(url, store_config(settings)) as store:
        yield store


async def running_store_url(settings: Settings) -> str | None:
    """The configured store's URL, or that of the embedded store where one runs."""
    return settings.redis.url or await asyncio.to_thread(attach_embedded, settings.store.data_dir)


@asynccontextmanager
async def open_running_store(settings: Settings) -> AsyncIterator[Store]:
    """The store of the configuration, for somebody who only looks: none is started. Raises `StoreUnavailable`."""
    url = await running_store_url(settings)
    if not url:
        raise StoreUnavailable(f"no store runs in {settings.store.data_dir}: is the service running on this machine?")
    async with open_store(url, store_config(settings)) as store:
        yield store


@asynccontextmanager
async def open_keyring(settings: Settings) -> AsyncIterator[KeyRing]:
    """The API keys kept in the store."""
    async with open_configured_store(settings) as store:
        yield store.keys


def environments(settings: Settings, app: str) -> dict[Platform, Environment]:
    """By platform the environment whose tokens the app's account can send to, where tokens belong to one."""
    accounts = settings.apps[app].providers
    found = {platform: REGISTRY[platform].environment(config) for platform, config in accounts.items()}
    return {platform: environment for platform, environment in found.items() if environment is not None}


def _exposition(current: Current, store: Store) -> Callable[[], Awaitable[None]]:
    """A step that brings the gauges that live in Redis up to date, at most every `GAUGES_EVERY` seconds."""
    read_at = 0.0

    async def refresh() -> None:
        nonlocal read_at
        if time.monotonic() - read_at < GAUGES_EVERY:
            return
        read_at = time.monotonic()
        show_gauges(await store.gauges({app: tuple(each.providers) for app, each in current.settings.apps.items()}))
        show_frozen(current.settings, await frozen_routes(current.settings, store))
        for app, config in webhook_configs(current.settings).items():
            show_webhook(app, await store.webhooks.standing(app, config.place))
        show_cleanups(await store.cleanups.record())

    return refresh


def show_gauges(gauges: Gauges) -> None:
    """Set the metrics that are read from Redis."""
    for lane, count in gauges.pending.items():
        telemetry.QUEUE_PENDING.labels(lane).set(count)
    telemetry.RETRY_PENDING.set(gauges.retry_pending)
    for app, each in gauges.apps.items():
        telemetry.DEAD_LETTERS.labels(app).set(each.dead_letters)
        telemetry.SCHEDULED.labels(app).set(each.scheduled)


def show_frozen(settings: Settings, frozen: Mapping[str, str]) -> None:
    """Set the alarm of each route."""
    for route in routes_of(settings):
        telemetry.PRUNING_FROZEN.labels(route.app, route.platform).set(f"{route.app}/{route.platform}" in frozen)


def show_webhook(app: str, standing: Standing) -> None:
    """Set the metrics of one webhook that are read from Redis."""
    since = standing.waiting_since
    telemetry.WEBHOOK_LAG.labels(app).set(0.0 if since is None else max(0.0, time.time() - since / 1000))
    telemetry.WEBHOOK_DEAD.labels(app).set(standing.dead)


def show_cleanups(record: CleanupRecord) -> None:
    """Set the metrics of what cleanups have done, whichever process ran them."""
    for (app, what), count in record.total.items():
        telemetry.CLEANUP_REMOVED.labels(app, what).set(count)
    telemetry.CLEANUP_ENDED.set(record.ended_at / 1000)


# --- intake -------------------------------------------------------------------------------------


def intake_apps(settings: Settings) -> dict[str, intake.IntakeApp]:
    """The configured apps as intake knows them."""
    return {
        name: intake.IntakeApp(
            name=name,
            platforms=frozenset(app.providers),
            environments=environments(settings, name),
            keys=tuple(
                ApiKey(name=key.name, app=name, sha256=key.sha256, scopes=tuple(key.scopes), intake=key.intake)
                for key in app.keys
            ),
            limit=app.limits.intake,
        )
        for name, app in settings.apps.items()
    }


async def run_intake(settings: Settings, stop: asyncio.Event, *, listening: Callable[[str], None]) -> None:
    """Serve the HTTP API until `stop`; `listening` is told its URL."""
    settings.require_apps()
    current = Current(settings)
    channels = OpenedChannels(lambda: current.settings.apps, request_timeout=settings.retry.request_timeout)
    async with redis_url(settings) as url, open_store(url, store_config(settings)) as store, channels:
        await require_durability(settings, url)
        refresh = _exposition(current, store)

        async def ready() -> Mapping[str, str]:
            try:
                await store.pushes.ping()
            except StoreUnavailable as error:
                return {"redis": str(error)}
            return {}

        async def held() -> Mapping[str, str]:
            try:
                return await store.held()
            except StoreUnavailable:
                return {}  # Redis went between two calls; the next `ready` says so.

        async def frozen() -> Mapping[str, str]:
            try:
                return await frozen_routes(current.settings, store)
            except StoreUnavailable:
                return {}

        async def metrics() -> bytes:
            try:
                await refresh()
            except StoreUnavailable as error:
                telemetry.get_logger("telemetry").warning("gauges_wait_for_redis", error=str(error))
            return telemetry.exposition()

        config = intake.IntakeConfig(
            host=settings.server.host,
            port=settings.server.port,
            reuse_port=settings.server.processes > 1,
            body_limit=settings.server.body_limit,
            shutdown_timeout=settings.server.shutdown_timeout,
        )

        backlog = intake.Backlog(store.pushes, settings.queue.max_pending, settings.apps, monotonic=time.monotonic)
        waits = intake.Waits(store.pushes, most=config.max_waiting)

        def build(settings: Settings) -> web.Application:
            return intake.build_app(
                apps=intake_apps(settings),
                renderers={platform: kind.renderer for platform, kind in REGISTRY.items()},
                pushes=store.pushes,
                receipts=store.receipts,
                keys=store.keys,
                dead=store.dead,
                registry=store.registry,
                erasures=store.erasures,
                channels=channels,
                ready=ready,
                metrics=metrics,
                held=held,
                frozen=frozen,
                config=config,
                limiter=store.limiter,
                backlog=backlog,
                waits=waits,
            )

        app = build(settings)

        async def change(newer: Settings) -> None:
            current.settings = newer
            backlog.hold(newer.queue.max_pending, newer.apps)
            intake.reload_app(app, build(newer))

        quiet_gc()
        async with backlog.watching(), intake.serve(app, config) as at, _following(settings, stop, change):
            listening(at)
            await stop.wait()


# --- dispatch -----------------------------------------------------------------------------------


def retry_policy(settings: RetrySettings) -> RetryPolicy:
    """The configured retry rules as policy knows them."""
    return RetryPolicy(
        attempts=settings.attempts,
        base=settings.base,
        cap=settings.cap,
        server_error={"apns": settings.apns_5xx},
        throttled={"fcm": settings.fcm_429},
    )


def dispatch_config(settings: Settings) -> DispatchConfig:
    """What the dispatcher is told by the configuration. Several signs of life, and looks for dead consumers, fit into
    the time after which entries are taken over."""
    return DispatchConfig(
        retry=retry_policy(settings.retry),
        drain_timeout=settings.dispatch.drain_timeout,
        beat_every=settings.dispatch.takeover / 4,
        reclaim_every=settings.dispatch.takeover / 3,
    )


def route_limits(apps: Mapping[str, AppSettings]) -> dict[Route, RouteLimits]:
    """The limits of each route: the app's own, and those of its account at the provider."""
    return {
        Route(name, platform): RouteLimits(
            per_token=app.limits.per_token,
            per_app=app.limits.per_app,
            on_exceed=app.limits.on_exceed,
            account=REGISTRY[platform].account_limits(config),
        )
        for name, app in apps.items()
        for platform, config in app.providers.items()
    }


async def run_dispatch(settings: Settings, stop: asyncio.Event, *, listening: Callable[[str], None]) -> None:
    """Send what the queue holds until `stop`, then drain."""
    settings.require_apps()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_configured_store(settings))
        accounts = await stack.enter_async_context(Accounts(request_timeout=settings.retry.request_timeout))
        await accounts.open_all(settings.apps)
        dispatcher = Dispatcher(
            store.queue,
            accounts.providers,
            dispatch_config(settings),
            hash_token=partial(token_hash, store.hash_key),
            limiter=store.limiter,
            limits=route_limits(settings.apps),
        )
        current = Current(settings)
        await serve_part_metrics(stack, current, "dispatch", store)
        listening(f"{len(accounts.providers)} routes as {socket.gethostname()}:{os.getpid()}")
        quiet_gc()

        async def change(newer: Settings) -> None:
            current.settings = newer
            dispatcher.limit(route_limits(newer.apps))
            await accounts.follow(newer.apps, dispatcher)

        async with _following(settings, stop, change):
            await dispatcher.run(stop)


# --- feedback -----------------------------------------------------------------------------------


def routes_of(settings: Settings) -> list[Route]:
    """Every route of the configuration."""
    return [Route(name, platform) for name, app in settings.apps.items() for platform in app.providers]


def feedback_config(settings: FeedbackSettings) -> feedback.FeedbackConfig:
    """The configured rules as feedback knows them."""
    return feedback.FeedbackConfig(
        prune=PrunePolicy(
            strikes=settings.strikes, strike_span=settings.strike_span, strike_memory=settings.strike_memory
        ),
        freeze=FreezePolicy(
            window=settings.freeze_window,
            dead=settings.freeze_dead,
            dead_answers=settings.freeze_dead_answers,
            suspect=settings.freeze_suspect,
            suspect_answers=settings.freeze_suspect_answers,
        ),
        prune_anyway={
            Route(*route.split("/", 1)): int(until.timestamp() * 1000) for route, until in settings.prune_anyway.items()
        },
    )


async def frozen_routes(settings: Settings, store: Store) -> dict[str, str]:
    """The routes whose pruning is frozen now, `app/platform` and why."""
    frozen = await feedback.frozen_routes(
        store.answers, routes_of(settings), feedback_config(settings.feedback), store.clock()
    )
    return {f"{route.app}/{route.platform}": freeze.why for route, freeze in frozen.items()}


async def run_feedback(settings: Settings, stop: asyncio.Event, *, listening: Callable[[str], None]) -> None:
    """Judge receipts until `stop`."""
    settings.require_apps()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_configured_store(settings))
        ports = feedback.FeedbackPorts(
            receipts=store.receipts,
            registry=store.registry,
            answers=store.answers,
            suppressions=store.suppressions,
            clock=store.clock,
        )
        current = Current(settings)
        await serve_part_metrics(stack, current, "feedback", store)
        listening(f"{len(settings.apps)} apps as {socket.gethostname()}:{os.getpid()}")
        turn = asyncio.Event()

        async def change(newer: Settings) -> None:
            current.settings = newer
            turn.set()

        async def end_turn() -> None:
            await stop.wait()
            turn.set()

        async with _following(settings, stop, change), asyncio.TaskGroup() as tasks:
            tasks.create_task(end_turn())
            while not stop.is_set():
                turn.clear()
                config = feedback_config(current.settings.feedback)
                await feedback.run(ports, current.settings.apps, config, turn)


# --- webhooks -----------------------------------------------------------------------------------


def webhook_configs(settings: Settings) -> dict[str, webhooks.WebhookConfig]:
    """The webhook of each app that has one."""
    found = {}
    for app, each in settings.apps.items():
        hook = each.webhook
        if hook.url:
            found[app] = webhooks.WebhookConfig(
                url=hook.url,
                keys=tuple(parse_secret(secret) for secret in (hook.secret, hook.old_secret) if secret),
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


# --- cleanup ------------------------------------------------------------------------------------


def ages(settings: CleanupSettings) -> janitor.Ages:
    """When a device has outlived its use, as the janitor knows it."""
    return janitor.Ages(
        tombstones=settings.tombstones,
        suspects=settings.suspects,
        stale={"fcm": settings.fcm_stale},
        stale_else=settings.stale,
    )


def cleanup_plan(settings: Settings, store: Store, *, dry_run: bool = False) -> list[janitor.Sweep]:
    """What a cleanup of every configured app does."""
    return janitor.sweeps(
        store.registry, store.leftovers, list(settings.apps), ages(settings.cleanup), clock=wall_clock, dry_run=dry_run
    )


# --- what the parts share -----------------------------------------------------------------------


class Current:
    """The configuration as it is now."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


@asynccontextmanager
async def _following(
    settings: Settings, stop: asyncio.Event, change: Callable[[Settings], Awaitable[None]]
) -> AsyncIterator[None]:
    """Call `change` with each later version of the configuration while the block lasts."""

    async def follow() -> None:
        async for newer in versions(settings, partial(load_settings, settings.file), stop):
            await change(newer)

    following = asyncio.create_task(follow(), name="reload")
    try:
        yield
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def serve_part_metrics(stack: AsyncExitStack, current: Current, part: str, store: Store) -> None:
    """The listener for `/metrics` of a part without an HTTP API, where one is configured."""
    settings = current.settings
    port = settings.metrics.port_of(part)  # type: ignore[arg-type]  # all callers pass a literal
    if port is not None:
        await stack.enter_async_context(
            telemetry.serve_metrics(settings.metrics.host, port, refresh=_exposition(current, store))
        )
