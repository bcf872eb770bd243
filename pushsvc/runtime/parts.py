"""One process's work each, from its first connection to its last: it returns when `stop` is set."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

from aiohttp import web

from .. import api, telemetry
from ..background import in_background
from ..errors import StoreError, StoreUnavailable
from ..model.documents import instant
from ..model.push import Route
from ..ports.removed import RemovedRoute
from ..ports.store import Store
from ..settings import Settings
from ..stages import feedback
from ..stages.dispatch import Dispatcher
from .accounts import Accounts, removal_of
from .channels import OpenedChannels
from .configuration import load_settings
from .figures import Current, StoreFigures, frozen_routes, serve_part_metrics, webhook_troubles
from .plans import (
    api_apps,
    api_is_open,
    dispatch_config,
    feedback_config,
    route_limits,
    routes_of,
)
from .providers import renderers
from .reload import refused_since, unapplied, versions
from .store import connect, log_durability, open_configured_store, redis_url, require_durability
from .workers import read_unserved, telling, watching

REFUSED = (
    "the changed configuration was refused, an older one runs: see `reload_refused` in the log, or `pushsvc check`"
)
REMOVED_EVERY = 1.0
"""Seconds between two looks for routes that were removed while something waits for them."""


def quiet_gc() -> None:
    """Look for garbage cycles seldom: deliveries make none, and a look at every object costs a tenth of the speed."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def raise_file_limit() -> None:
    """Let this process open as many files as it is allowed to ask for: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # A system may have a lower bound of its own, as macOS does.
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def run_api(settings: Settings, stop: asyncio.Event, *, listening: Callable[[str], None]) -> None:
    """Serve the HTTP API until `stop`; `listening` is told its URL."""
    settings.require_apps()
    raise_file_limit()
    current = Current(settings)
    channels = OpenedChannels(lambda: current.settings.apps, request_timeout=settings.retry.request_timeout)
    async with redis_url(settings) as url, connect(url, settings) as store, channels:
        await require_durability(settings, url)
        log_durability(settings, store)
        figures = StoreFigures(current, store)

        async def ready() -> Mapping[str, str]:
            why = await figures.away()
            return {"redis": why} if why else {}

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

        async def without() -> Mapping[str, str]:
            try:
                return await read_unserved(current.settings, store, await store.workers.living())
            except StoreUnavailable:
                return {}

        async def notes() -> list[str]:
            since = refused_since()
            found = [] if since is None else [f"{REFUSED}, since {instant(int(since * 1000))}"]
            if sections := unapplied():
                found.append(f"changed and not in use before a restart: {', '.join(f'[{name}]' for name in sections)}")
            with suppress(StoreUnavailable):
                found += [f"{route}: {text}" for route, text in sorted((await store.notes()).items())]
                troubles = await webhook_troubles(current.settings, store)
                found += [f"webhook of {app}: {text}" for app, text in sorted(troubles.items())]
            return found

        async def metrics() -> bytes:
            await figures.refresh()
            return telemetry.exposition()

        config = api.ApiConfig(
            host=settings.server.host,
            port=settings.server.port,
            reuse_port=settings.server.processes > 1,
            body_limit=settings.server.body_limit,
            shutdown_timeout=settings.server.shutdown_timeout,
            keepalive_timeout=settings.server.keepalive,
            first_request=settings.server.first_request,
            max_connections=settings.server.max_connections,
        )

        backlog = api.Backlog(
            store.pushes, settings.queue.max_pending, settings.queue_shares(), monotonic=time.monotonic
        )
        waits = api.Waits(store.pushes, most=config.max_waiting)

        def build(settings: Settings) -> web.Application:
            return api.build_app(
                apps=api_apps(settings),
                renderers=renderers(),
                pushes=store.pushes,
                receipts=store.receipts,
                keys=store.keys,
                dead=store.dead,
                registry=store.registry,
                suppressions=store.suppressions,
                erasures=store.erasures,
                channels=channels,
                ready=ready,
                metrics=metrics,
                held=held,
                frozen=frozen,
                unserved=without,
                notes=notes,
                public=api_is_open(settings),
                config=config,
                limiter=store.limiter,
                backlog=backlog,
                waits=waits,
                clock=store.clock,
            )

        app = build(settings)

        async def change(newer: Settings) -> None:
            fresh = set(routes_of(newer)) - set(routes_of(current.settings))
            current.settings = newer
            if fresh:
                await tell()  # before anything is accepted for them
            backlog.hold(newer.queue.max_pending, newer.queue_shares())
            api.reload_app(app, build(newer))

        quiet_gc()
        async with (
            _ending_with(store, stop),
            backlog.watching(),
            telling(store, "serve", lambda: current.settings.apps, lambda: routes_of(current.settings)) as tell,
            api.serve(app, config) as at,
            _following(settings, stop, change),
            watching(store, current),
        ):
            listening(at)
            await stop.wait()


async def run_dispatch(settings: Settings, stop: asyncio.Event, *, listening: Callable[[str], None]) -> None:
    """Send what the queue holds until `stop`, then drain."""
    settings.require_apps()
    raise_file_limit()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_configured_store(settings))
        accounts = await stack.enter_async_context(Accounts(request_timeout=settings.retry.request_timeout))
        await accounts.open_all(settings.apps)
        dispatcher = Dispatcher(
            store.queue,
            accounts.providers,
            dispatch_config(settings),
            hash_token=store.token_hash,
            wall_clock=store.seconds,
            limiter=store.limiter,
            limits=route_limits(settings.apps),
        )
        current = Current(settings)
        await serve_part_metrics(stack, current, "dispatch", store)
        listening(f"{len(accounts.providers)} routes as {socket.gethostname()}:{os.getpid()}")
        quiet_gc()

        def routes() -> list[Route]:
            return routes_of(current.settings)

        async def change(newer: Settings) -> None:
            current.settings = newer
            dispatcher.limit(route_limits(newer.apps))
            left = await _removed(store, routes(), anywhere=False)
            waiting = {each.route: str(removal_of(each, newer.apps)) for each in left or ()}
            await accounts.follow(newer.apps, dispatcher, waiting)
            await tell()

        async def hold_removed() -> None:
            while not stop.is_set():
                left = await _removed(store, routes())
                if left is not None and not stop.is_set():
                    await accounts.hold(left, current.settings.apps, dispatcher)
                await asyncio.sleep(REMOVED_EVERY)

        async with (
            _ending_with(store, stop),
            telling(store, "dispatch", lambda: [route.name for route in routes()], routes) as tell,
            _following(settings, stop, change),
            in_background(hold_removed(), "removed"),
        ):
            await dispatcher.run(stop)


async def _removed(store: Store, routes: Sequence[Route], *, anywhere: bool = True) -> list[RemovedRoute] | None:
    """Return the routes that are not among these any more and have something waiting; None where Redis is away."""
    try:
        left = await store.removed(routes, anywhere=anywhere)
        telemetry.REDIS.end("removed")
        return left
    except StoreUnavailable as error:
        telemetry.REDIS.begin("removed", error=str(error))
        return None


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
        listening(f"{len(settings.apps)} app{'s' * (len(settings.apps) != 1)} as {socket.gethostname()}:{os.getpid()}")
        turn = asyncio.Event()

        async def change(newer: Settings) -> None:
            current.settings = newer
            turn.set()

        async def end_turn() -> None:
            await stop.wait()
            turn.set()

        apps = telling(store, "feedback", lambda: current.settings.apps)
        async with _ending_with(store, stop), _following(settings, stop, change), apps, asyncio.TaskGroup() as tasks:
            tasks.create_task(end_turn())
            while not stop.is_set():
                turn.clear()
                config = feedback_config(current.settings)
                await feedback.run(ports, current.settings.apps, config, turn)


@asynccontextmanager
async def _ending_with(store: Store, stop: asyncio.Event) -> AsyncIterator[None]:
    """Set `stop` when the store has been replaced by another, and raise `StoreError` for it: who is started again
    begins with what is there now."""

    async def watch() -> None:
        await store.replaced.wait()
        stop.set()

    watching = asyncio.create_task(watch(), name="replaced")
    try:
        yield
    finally:
        watching.cancel()
    if store.replaced.is_set():
        raise StoreError("Redis has come back empty and was begun anew by others: start again")


@asynccontextmanager
async def _following(
    settings: Settings, stop: asyncio.Event, change: Callable[[Settings], Awaitable[None]]
) -> AsyncIterator[None]:
    """Call `change` with each later version of the configuration while the block lasts."""

    async def follow() -> None:
        async for newer in versions(settings, partial(load_settings, settings.file), stop):
            await change(newer)

    async with in_background(follow(), "reload"):
        yield
