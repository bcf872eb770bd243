"""The work of one process of each part, from its first connection to its last. Each function returns when `stop` is
set."""

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

from .. import telemetry
from ..api.app import build_app, reload_app
from ..api.ports import ApiPorts
from ..api.pushes.backlog import Backlog
from ..api.pushes.waits import Waits
from ..api.server import serve
from ..background import in_background, pulse
from ..errors import StoreError, StoreUnavailable
from ..garbage import collect_seldom
from ..model.devices import Environment
from ..model.push import Platform, Route
from ..ports.store import Store
from ..ports.work import RemovedRoute
from ..settings.schema import Settings
from ..stages import feedback
from ..stages.dispatch.dispatcher import Dispatcher
from .accounts import Accounts
from .channels import OpenedChannels
from .configuration import load_settings
from .plans import (
    api_apps,
    api_config,
    dispatch_config,
    environments_of,
    eraser,
    feedback_config,
    keyless_requests,
    route_limits,
    routes_of,
)
from .providers import addresses, renderers
from .reload import versions
from .state.admin import StoreAdministration
from .state.conditions import StoreConditions, watching
from .state.figures import Current, serve_part_metrics
from .state.removal import removal_of
from .state.workers import reporting
from .store import log_durability, open_configured_store, require_durability

REMOVED_EVERY = 1.0
"""Seconds between two checks for removed routes with waiting deliveries."""


def quiet_gc() -> None:
    """Look for garbage seldom, and never again among what is there now."""
    gc.collect()
    gc.freeze()
    collect_seldom()


def raise_file_limit() -> None:
    """Raise this process's limit of open files to the maximum: each connection needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # A system may have a lower bound of its own, as macOS does.
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def run_api(settings: Settings, stop: asyncio.Event, *, listening: Callable[[str], None]) -> None:
    """Serve the HTTP API until `stop`. `listening` is called with its URL."""
    settings.require_apps()
    async with open_configured_store(settings) as store:
        await _serve(settings, store, stop, listening)


async def run_dispatch(settings: Settings, stop: asyncio.Event, *, listening: Callable[[str], None]) -> None:
    """Send the deliveries of the queue until `stop`, then drain."""
    settings.require_apps()
    async with open_configured_store(settings) as store:
        await _dispatch(settings, store, stop, listening)


async def run_api_and_dispatch(settings: Settings, stop: asyncio.Event, *, listening: Callable[[str], None]) -> None:
    """Serve the HTTP API and send the deliveries of the queue until `stop`. The API ends first, so that what it has
    accepted is sent; where either fails, both end. `listening` is called once both are ready, with where each is."""
    settings.require_apps()
    drain = asyncio.Event()
    places: dict[str, str] = {"serve": "", "dispatch": ""}

    def ready(part: str, where: str) -> None:
        places[part] = where
        if all(places.values()):
            listening(", ".join(places.values()))

    async with open_configured_store(settings) as store:

        async def dispatch() -> None:
            try:
                await _dispatch(settings, store, drain, partial(ready, "dispatch"))
            finally:
                stop.set()

        dispatching = asyncio.create_task(dispatch(), name="dispatch")
        try:
            await _serve(settings, store, stop, partial(ready, "serve"))
        finally:
            drain.set()
            await dispatching


async def _serve(settings: Settings, store: Store, stop: asyncio.Event, listening: Callable[[str], None]) -> None:
    raise_file_limit()
    current = Current(settings)
    config = api_config(settings)
    channels = OpenedChannels(lambda: current.settings.apps, request_timeout=settings.retry.request_timeout)
    async with channels:
        await require_durability(settings, store)
        log_durability(settings, store)
        backlog = Backlog(store.pushes, settings.queue.max_pending, settings.queue_shares(), monotonic=time.monotonic)
        conditions = StoreConditions(current, store)
        ports = ApiPorts(
            pushes=store.pushes,
            receipts=store.receipts,
            keys=store.keys,
            dead=store.dead,
            registry=store.registry,
            erasures=eraser(store),
            suppressions=store.suppressions,
            channels=channels,
            live=store.live,
            renderers=renderers(),
            addresses=addresses(),
            conditions=conditions,
            admin=StoreAdministration(current, store, conditions),
            config=config,
            waits=Waits(store.pushes, most=config.max_waiting),
            limiter=store.limiter,
            backlog=backlog,
            clock=store.clock,
            session_secret=store.secret(b"console"),
        )
        app = build_app(ports, api_apps(settings), keyless=keyless_requests(settings))

        async def change(newer: Settings) -> None:
            fresh = set(routes_of(newer)) - set(routes_of(current.settings))
            current.settings = newer
            if fresh:
                await report()  # before anything is accepted for them
            backlog.limit(newer.queue.max_pending, newer.queue_shares())
            reload_app(app, api_apps(newer), keyless=keyless_requests(newer))

        quiet_gc()
        async with (
            ending_with(store, stop),
            backlog.watching(),
            reporting(store, "serve", lambda: current.settings.apps, lambda: routes_of(current.settings)) as report,
            telemetry.HTTP.flushing(),
            serve(app, config) as at,
            following(settings, stop, change),
            watching(store, current),
        ):
            listening(at)
            await stop.wait()


async def _dispatch(settings: Settings, store: Store, stop: asyncio.Event, listening: Callable[[str], None]) -> None:
    raise_file_limit()
    current = Current(settings)
    async with ending_with(store, stop), AsyncExitStack() as stack:
        await serve_part_metrics(stack, settings, "dispatch")
        accounts = await stack.enter_async_context(Accounts(store, request_timeout=settings.retry.request_timeout))
        await accounts.open_all(settings.apps)

        def accounts_of(app: str) -> Mapping[Platform, Environment]:
            known = current.settings.apps.get(app)
            return {} if known is None else environments_of(known)

        dispatcher = Dispatcher(
            store.queue,
            accounts.providers,
            dispatch_config(settings),
            hash_token=store.token_hash,
            wall_clock=store.seconds,
            limiter=store.limiter,
            limits=route_limits(settings.apps),
            environments=accounts_of,
        )

        def routes() -> list[Route]:
            return routes_of(current.settings)

        async def change(newer: Settings) -> None:
            current.settings = newer
            dispatcher.limit(route_limits(newer.apps))
            left = await _removed(store, routes(), anywhere=False)
            waiting = {each.route: str(removal_of(each, newer.apps)) for each in left or ()}
            await accounts.follow(newer.apps, dispatcher, waiting)
            await report()

        async def hold_removed() -> None:
            while not stop.is_set():
                left = await _removed(store, routes())
                if left is not None and not stop.is_set():
                    await accounts.hold(left, current.settings.apps, dispatcher)
                await pulse(REMOVED_EVERY)

        async with (
            reporting(store, "dispatch", lambda: [route.name for route in routes()], routes) as report,
            following(settings, stop, change),
            in_background(hold_removed(), "removed"),
        ):
            listening(f"{len(accounts.providers)} routes as {socket.gethostname()}:{os.getpid()}")
            quiet_gc()
            await dispatcher.run(stop)


async def _removed(store: Store, routes: Sequence[Route], *, anywhere: bool = True) -> list[RemovedRoute] | None:
    """Return the routes that are not among these and have deliveries waiting, or None where Redis is away."""
    try:
        left = await store.removed(routes, anywhere=anywhere)
        telemetry.REDIS.end("removed")
        return left
    except StoreUnavailable as error:
        telemetry.REDIS.away("removed", error)
        return None


async def run_feedback(settings: Settings, stop: asyncio.Event, *, listening: Callable[[str], None]) -> None:
    settings.require_apps()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_configured_store(settings))
        current = Current(settings)
        await serve_part_metrics(stack, settings, "feedback")

        async def change(newer: Settings) -> None:
            current.settings = newer
            again()

        async with (
            ending_with(store, stop),
            judging(store, current) as again,
            following(settings, stop, change),
        ):
            count = len(settings.apps)
            listening(f"{count} app{'s' * (count != 1)} as {socket.gethostname()}:{os.getpid()}")
            await stop.wait()


@asynccontextmanager
async def judging(store: Store, current: Current) -> AsyncIterator[Callable[[], None]]:
    """Judge receipts while the block lasts, and report that this process does. Call the yielded function when the
    configuration has changed. The block is cancelled where judging fails, and raises the error."""
    ports = feedback.FeedbackPorts(
        receipts=store.receipts,
        registry=store.registry,
        answers=store.answers,
        suppressions=store.suppressions,
        clock=store.clock,
    )
    again = asyncio.Event()
    ends = False

    async def judge() -> None:
        while not ends:
            again.clear()
            await feedback.run(ports, current.settings.apps, feedback_config(current.settings), again)

    async with reporting(store, "feedback", lambda: current.settings.apps), asyncio.TaskGroup() as tasks:
        tasks.create_task(judge(), name="feedback")
        try:
            yield again.set
        finally:
            ends = True
            again.set()


@asynccontextmanager
async def ending_with(store: Store, stop: asyncio.Event) -> AsyncIterator[None]:
    """Set `stop` when the store was replaced by another one, and raise `StoreError` so that the process is started
    again."""

    async def watch() -> None:
        await store.replaced.wait()
        stop.set()

    watching = asyncio.create_task(watch(), name="replaced")
    try:
        yield
    finally:
        watching.cancel()
    if store.replaced.is_set():
        raise StoreError("Redis came back empty and was initialised by other processes: restart this one")


@asynccontextmanager
async def following(
    settings: Settings,
    stop: asyncio.Event,
    change: Callable[[Settings], Awaitable[None]],
    *,
    check: Callable[[Settings], object] = lambda newer: None,
) -> AsyncIterator[None]:
    """Call `change` with each later version of the configuration while the block lasts. Those for which `check` raises
    `ConfigError` are refused."""

    async def follow() -> None:
        async for newer in versions(settings, partial(load_settings, settings.file), stop, check=check):
            await change(newer)

    async with in_background(follow(), "reload"):
        yield
