"""The work of one process of each part, from its first connection to its last."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Final, TypeAlias

from .. import telemetry
from ..api.app import build_app
from ..api.ports import ApiPorts
from ..api.pushes.backlog import Backlog
from ..api.pushes.waits import Waits
from ..api.server import serve
from ..background import in_background, pulse
from ..errors import StoreError
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
from .reload import Current, applying, following
from .state.admin import StoreAdministration
from .state.conditions import StoreConditions, watching
from .state.figures import serve_part_metrics
from .state.flow import noting
from .state.removal import removal_of
from .state.workers import reporting
from .store import log_durability, open_configured_store, require_durability

REMOVED_EVERY = 1.0
"""Seconds between two checks for removed routes with waiting deliveries."""
REFUSED_EVERY: Final = 60.0
"""Seconds between two tries to open the accounts that could not be opened."""


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


REPLACED: Final = "Redis came back empty and was initialised by other processes: restart this one"
"""The error with which a process ends that has the hash key of an earlier store."""

_Part: TypeAlias = Callable[[Store, Current, asyncio.Event], AbstractAsyncContextManager[str]]
"""The work of a part while a block lasts, which yields where it is. It sets the event if it cannot go on."""


async def run_parts(
    names: Sequence[str], settings: Settings, stop: asyncio.Event, *, listening: Callable[[str], None]
) -> None:
    """Run these of `PARTS` in this process until `stop`, and end them one after the other: the API before what sends
    what it has accepted. Where one fails, all end. `listening` is called once all are ready, with where each is."""
    settings.require_apps()
    raise_file_limit()
    current = Current(settings)
    async with (
        open_configured_store(settings) as store,
        ending_with(store, stop),
        following(current, stop),
        noting(store.flow, lambda: current.settings.apps if "serve" in names else ()),
        AsyncExitStack() as stack,
    ):
        if "serve" not in names:  # whose API shows them
            await serve_part_metrics(stack, settings, names[0])
        where = [await stack.enter_async_context(PARTS[name](store, current, stop)) for name in reversed(names)]
        quiet_gc()
        listening(", ".join(reversed(where)))
        await stop.wait()


@asynccontextmanager
async def _serving(store: Store, current: Current, stop: asyncio.Event) -> AsyncIterator[str]:
    news, settings = current.news(), current.settings
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

        def routes() -> list[Route]:
            return routes_of(current.settings)

        async def change() -> None:
            newer = current.settings
            await report()  # before anything is accepted for routes that are new
            backlog.limit(newer.queue.max_pending, newer.queue_shares())
            app.serve(api_apps(newer), keyless=keyless_requests(newer))

        async with (
            backlog.watching(),
            reporting(store, current, "serve", lambda: current.settings.apps, routes) as report,
            telemetry.HTTP.flushing(),
            serve(app, config) as at,
            applying(current, news, change),
            watching(store, current),
        ):
            yield at


@asynccontextmanager
async def _dispatching(store: Store, current: Current, stop: asyncio.Event) -> AsyncIterator[str]:
    news, settings = current.news(), current.settings
    drain = asyncio.Event()
    async with Accounts(store, request_timeout=settings.retry.request_timeout) as accounts:
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

        async def dispatch() -> None:
            try:
                await dispatcher.run(drain)
            finally:
                stop.set()

        def routes() -> list[Route]:
            return routes_of(current.settings)

        async def change() -> None:
            newer = current.settings
            dispatcher.limit(route_limits(newer.apps))
            left = await _removed(store, routes_of(newer), anywhere=False)
            waiting = {each.route: str(removal_of(each, newer.apps)) for each in left or ()}
            await accounts.follow(newer.apps, dispatcher, waiting)
            await report()

        async def hold_removed() -> None:
            while not drain.is_set():
                left = await _removed(store, routes())
                if left is not None and not drain.is_set():
                    await accounts.hold(left, current.settings.apps, dispatcher)
                await pulse(REMOVED_EVERY)

        async def try_refused() -> None:
            while not drain.is_set():
                await pulse(REFUSED_EVERY)
                if not drain.is_set() and await accounts.try_refused(current.settings.apps, dispatcher):
                    dispatcher.limit(route_limits(current.settings.apps))  # they depend on its files

        async with (
            reporting(store, current, "dispatch", lambda: [route.name for route in routes()], routes) as report,
            applying(current, news, change),
            in_background(hold_removed(), "removed"),
            in_background(try_refused(), "refused"),
        ):
            dispatching = asyncio.create_task(dispatch(), name="dispatch")
            try:
                yield f"{len(accounts.providers)} routes as {_process()}"
            finally:
                drain.set()
                await dispatching


async def _removed(store: Store, routes: Sequence[Route], *, anywhere: bool = True) -> list[RemovedRoute] | None:
    """Return the routes that are not among these and have deliveries waiting, or None where Redis is away."""
    try:
        left = await store.removed(routes, anywhere=anywhere)
        telemetry.REDIS.end("removed")
        return left
    except StoreError as error:
        telemetry.REDIS.away("removed", error)
        return None


@asynccontextmanager
async def _feeding_back(store: Store, current: Current, stop: asyncio.Event) -> AsyncIterator[str]:
    async with judging(store, current):
        count = len(current.settings.apps)
        yield f"{count} app{'s' * (count != 1)} as {_process()}"


PARTS: Final[Mapping[str, _Part]] = {"serve": _serving, "dispatch": _dispatching, "feedback": _feeding_back}


@asynccontextmanager
async def judging(store: Store, current: Current) -> AsyncIterator[None]:
    """Judge receipts while the block lasts, and report that this process does. The block is cancelled where judging
    fails, and raises the error."""
    ports = feedback.FeedbackPorts(
        receipts=store.receipts,
        registry=store.registry,
        answers=store.answers,
        suppressions=store.suppressions,
        clock=store.clock,
    )
    again, ends = current.news(), False

    async def judge() -> None:
        while not ends:
            again.clear()
            await feedback.run(ports, current.settings.apps, feedback_config(current.settings), again)

    async with reporting(store, current, "feedback", lambda: current.settings.apps), asyncio.TaskGroup() as tasks:
        tasks.create_task(judge(), name="feedback")
        try:
            yield
        finally:
            ends = True
            again.set()


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


@asynccontextmanager
async def ending_with(store: Store, stop: asyncio.Event) -> AsyncIterator[None]:
    """Set `stop` when the store was replaced by another one, and raise `StoreError` so that the process is started
    again."""

    async def watch() -> None:
        await store.replaced.wait()
        stop.set()

    async with in_background(watch(), "replaced"):
        yield
    if store.replaced.is_set():
        raise StoreError(REPLACED)
