"""The configured store: a Redis, or an embedded store that this process owns or joins."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .. import telemetry
from ..background import in_background, unless
from ..errors import PushsvcError, StoreOwned, StoreUnavailable
from ..ports.store import Store
from ..settings.loading import is_simulated
from ..settings.schema import Settings
from ..store import (
    Fsync,
    StoreConfig,
    attach_embedded,
    holds_data,
    lost_socket,
    open_embedded,
    open_store,
    require_free,
    server_log_tail,
)
from ..store.link.connect import open_sync_redis as open_sync_redis, store_error as store_error
from .providers import addresses

EMBEDDED_START = 15.0
"""Seconds that a part waits for the embedded store that another process starts."""


EMBEDDED_LOOK = 1.0
"""Seconds until the owner of an embedded server that has closed its connection checks it, and between two checks; after
two failures it is started again."""
REDIS_LOOK = 1.0
"""Seconds between two looks for a Redis that is away when a supervisor starts."""
EMBEDDED_AWAY = telemetry.StateLog(
    "store", "embedded_store_stays_away", "embedded_store_still_away", "embedded_store_back", level="error"
)
"""The state in which it cannot be started again."""
KEEP_SOCKET = "exempt the socket from what tidies files (systemd-tmpfiles: a line `x`), or set another store.data_dir"
EMBEDDED_CHECK = 30.0
"""Seconds until it checks a server that has not: one whose socket was removed, as by what tidies temporary folders,
serves those that are connected, and no other client reaches it."""


@asynccontextmanager
async def redis_url(settings: Settings) -> AsyncIterator[str]:
    """Yield the store's URL: the configured one, or that of a running embedded store, or of one started here. Of parts
    that start at the same time, one owns the embedded store and the others wait until it runs."""
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
                    raise StoreUnavailable(_unreachable(settings)) from None
                await asyncio.sleep(0.1)
        yield url


@asynccontextmanager
async def own_embedded(settings: Settings) -> AsyncIterator[str]:
    """Start the embedded store and own it; a server that dies is started again. Raises `StoreOwned` where another
    process owns it."""
    opened = ExitStack()
    url = await asyncio.to_thread(_open_embedded, opened, settings)
    stop = asyncio.Event()
    try:
        async with in_background(_keep_embedded(opened, settings, url, stop), "embedded", stop=stop):
            yield url
    finally:
        await asyncio.to_thread(opened.close)


def require_unowned(settings: Settings) -> None:
    """Raise `StoreOwned` while another process owns the embedded store of this configuration."""
    if not settings.redis.url:
        require_free(settings.store.data_dir)


def _open_embedded(opened: ExitStack, settings: Settings) -> str:
    opened.close()
    return opened.enter_context(open_embedded(settings.store.data_dir, fsync=embedded_fsync(settings)))


def embedded_fsync(settings: Settings) -> Fsync:
    """Return when the embedded store flushes: at each write where pushes wait for the disk, because Valkey does not
    report reliably when it has flushed otherwise; see `store/durable.py`."""
    return "always" if settings.queue.durability == "fsync" else settings.store.fsync


async def _keep_embedded(opened: ExitStack, settings: Settings, url: str, stop: asyncio.Event) -> None:
    """Watch the server, and start it again when it died or its socket is gone. Its files have everything that was
    accepted and its socket keeps its path, so that all clients continue."""
    log = telemetry.get_logger("store")
    missed = 0
    while not stop.is_set():
        await unless(stop, _until_closed(unquote(urlsplit(url).path)))
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), EMBEDDED_LOOK)
        try:
            living = await asyncio.to_thread(attach_embedded, settings.store.data_dir)
        except OSError:  # this process cannot look, as without a free descriptor: nothing is known
            continue
        missed = missed + 1 if living is None else 0
        if living is not None:
            EMBEDDED_AWAY.end()  # another process has started it
        if missed > 1 and not stop.is_set():
            folder = settings.store.data_dir
            if not EMBEDDED_AWAY.active:
                lost = await asyncio.to_thread(lost_socket, folder)
                if lost is None:
                    log.error("embedded_store_died", data_dir=str(folder), **server_log_tail(folder))
                else:
                    log.error("embedded_store_socket_removed", data_dir=str(folder), **lost, remedy=KEEP_SOCKET)
            try:
                await asyncio.to_thread(_open_embedded, opened, settings)
                log.warning("embedded_store_started_again", data_dir=str(folder))
                EMBEDDED_AWAY.end()
            except (PushsvcError, OSError) as error:
                EMBEDDED_AWAY.begin(error=str(error))
            missed = 0


async def _until_closed(path: str) -> None:
    """Wait until the server at this socket closes a connection, as it does when it ends, or cannot be reached; at most
    `EMBEDDED_CHECK` seconds."""
    with suppress(OSError):
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            async with asyncio.timeout(EMBEDDED_CHECK):
                await reader.read()
        finally:
            writer.close()


def store_config(settings: Settings) -> StoreConfig:
    """Return the store's part of the configuration."""
    return StoreConfig(
        addresses=addresses(),
        shards=settings.redis.shards,
        chunk_size=settings.dispatch.chunk,
        status_ttl=settings.queue.status_retention,
        dead_ttl=settings.queue.dead_letter_retention,
        dead_max=settings.queue.dead_letters_max,
        suppression_ttl=settings.queue.suppression_retention,
        events_ttl=settings.queue.feedback_retention,
        alive_ttl=settings.dispatch.takeover,
        history={name: app.live.history for name, app in settings.apps.items() if app.live},
        window={name: app.live.window for name, app in settings.apps.items() if app.live},
        history_age={name: app.live.history_age for name, app in settings.apps.items() if app.live},
        fsync=settings.queue.durability == "fsync",
        replicas={"auto": None, "replicas": settings.queue.replicas}.get(settings.queue.durability, 0),
    )


def connect(url: str, settings: Settings) -> AbstractAsyncContextManager[Store]:
    """Connect to the running store at `url`, used as configured. Raises `ConfigError`, `StoreUnavailable`."""
    telemetry.REDIS.at = store_place(settings)
    return open_store(url, store_config(settings))


async def require_durability(settings: Settings, store: Store) -> None:
    """Raise `ConfigError` where the store cannot provide `queue.durability`."""
    if settings.queue.durability == "fsync":
        await store.require_durable(settings.apps)


async def require_store(settings: Settings, url: str, stop: asyncio.Event, *, durable: bool = True) -> None:
    """Wait until the store at `url` answers, or `stop` is set. Raises `StoreFormat` or `ConfigError` where this version
    or `queue.durability` rules it out. So a supervisor says it, before it starts children that would each end with it.

    A Redis that is away is not waited for where it is to show that it flushes: then it raises `StoreUnavailable`.
    """

    async def look() -> bool:
        async with connect(url, settings) as store:
            if durable:
                await require_durability(settings, store)
        return True

    while not stop.is_set():
        try:
            if await unless(stop, look()):
                telemetry.REDIS.end("start")
                return
        except StoreUnavailable as error:
            if durable and settings.queue.durability == "fsync":
                raise
            telemetry.REDIS.away("start", error, what="waits for Redis, and starts the parts once it answers")
        await unless(stop, asyncio.sleep(REDIS_LOOK))


def log_durability(settings: Settings, store: Store) -> None:
    """Log what a 202 of this process guarantees."""
    fsync = settings.queue.durability == "fsync"
    durability = "fsync: the disk of Redis has it" if fsync else store.durability
    telemetry.get_logger("store").info("durability", promise=durability)


@asynccontextmanager
async def open_configured_store(settings: Settings) -> AsyncIterator[Store]:
    """Connect to the configured store; an embedded one that does not run is started, or created."""
    async with redis_url(settings) as url, connect(url, settings) as store:
        yield store


async def running_store_url(settings: Settings) -> str | None:
    """Return the configured store's URL, or that of a running embedded store, or None."""
    return settings.redis.url or await asyncio.to_thread(attach_embedded, settings.store.data_dir)


@asynccontextmanager
async def open_running_store(settings: Settings) -> AsyncIterator[Store]:
    """Connect to the configured store for reading: none is started. Raises `StoreUnavailable`."""
    url = await running_store_url(settings)
    if not url:
        raise StoreUnavailable(_no_store(settings, "runs"))
    async with connect(url, settings) as store:
        yield store


@asynccontextmanager
async def open_trial_store(settings: Settings, folder: Path) -> AsyncIterator[Store]:
    """Open a new embedded store in `folder` for the block, to test whether one can be started here."""
    opened = ExitStack()
    try:
        fsync = embedded_fsync(settings)
        url = await asyncio.to_thread(lambda: opened.enter_context(open_embedded(folder, fsync=fsync)))
        async with connect(url, settings) as store:
            yield store
    finally:
        await asyncio.to_thread(opened.close)


@asynccontextmanager
async def open_existing_store(settings: Settings) -> AsyncIterator[Store]:
    """Connect to the configured store for changes: an embedded one that does not run is started where it has data, and
    none is created. Raises `StoreUnavailable`."""
    if creates_store(settings):
        raise StoreUnavailable(_no_store(settings, "is"))
    async with open_configured_store(settings) as store:
        yield store


def store_place(settings: Settings) -> str:
    """Return where the configured store is: its URL without a password, or the folder of an embedded one."""
    return settings.redis.shown or str(settings.store.data_dir)


def creates_store(settings: Settings) -> bool:
    """Return whether `open_configured_store` creates an embedded store, because none has ever run in its folder."""
    return not settings.redis.url and not holds_data(settings.store.data_dir)


def _unreachable(settings: Settings) -> str:
    """Return the message for an embedded store that has an owner and does not answer."""
    return (
        f"the store in {settings.store.data_dir} has an owner that runs, and does not answer: it is about to start, or "
        "its socket was removed; its owner notices that within a minute, and starts it again"
    )


def _no_store(settings: Settings, verb: str) -> str:
    try:
        require_free(settings.store.data_dir)
    except StoreOwned:
        return _unreachable(settings)
    named = f"the configuration {settings.file}" if settings.file else "no configuration (--config)"
    start = "pushsvc up --simulator" if is_simulated(settings.file) else "pushsvc up"
    return (
        f"no store {verb} in {settings.store.data_dir}, which {named} names: start the service there "
        f"(`{start}`), or name its configuration or redis.url"
    )
