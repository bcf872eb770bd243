"""The whole service on one machine: the embedded store if none is configured, and every part under a supervisor."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from msgspec import Struct

from ...errors import ConfigError
from ...runtime.store import own_embedded, require_store, require_unowned, running_store_url
from ...settings.environment import override
from ...settings.schema import Settings
from ...wording import other_port
from ..get import get
from ..state import local_url
from .children import Ready, children_of
from .supervisor import supervised


class Service(Struct, frozen=True):
    """A running service."""

    url: str
    store_url: str
    live_url: str = ""
    """Where devices connect; empty where no app has a live channel."""


@asynccontextmanager
async def open_service(
    settings: Settings,
    config: Path | None,
    environ: Mapping[str, str],
    stop: asyncio.Event | None = None,
    ready: Ready | None = None,
) -> AsyncIterator[Service]:
    """Start store, API, dispatchers and feedback. Yields once the API is ready and the gateway, if there is one,
    listens, or `stop` is set before that. `ready` are processes that were forked for the parts.

    They stop in the order in which pushes travel: the API first, so that what it accepted can still be sent. Raises
    `ConfigError`, `StoreOwned`.
    """
    settings.require_apps()
    listeners = {"server": ("serve", settings.server.host, settings.server.port)}
    if has_live := any(app.live for app in settings.apps.values()):
        listeners["live"] = ("live", settings.live.host, settings.live.port)
    for section, (part, host, port) in listeners.items():
        if not port:
            raise ConfigError(
                f"{section}.port", f"0 is for a single `{part}`", "name a port: the parts must agree on it"
            )
        await _until_free(section, host, port, settings)
    async with AsyncExitStack() as stack:
        if settings.redis.url:
            store_url = settings.redis.url
        else:
            store_url = await stack.enter_async_context(own_embedded(settings))
        stop = stop or asyncio.Event()
        await require_store(settings, store_url, stop)
        url = local_url(settings.server.host, settings.server.port)
        if stop.is_set():
            yield Service(url, store_url)
            return
        children, own = children_of(settings, live=has_live), override(environ, {"PUSHSVC__METRICS__PORT": "0"})
        await stack.enter_async_context(supervised(children, settings, config, store_url, own, ready))
        await _until_ready(url, stop)
        scheme = "wss" if settings.live.tls_cert else "ws"
        live_url = local_url(settings.live.host, settings.live.port, scheme) if has_live else ""
        if live_url:
            await _until_listening(live_url, stop)
        yield Service(url, store_url, live_url)


async def _until_free(section: str, host: str, port: int, settings: Settings, seconds: float = 5.0) -> None:
    """Wait until no other process listens on an address; its answers would be taken for ours.

    The parts of a service that was killed release their ports as soon as they notice that their parent has gone. That
    takes longer where its store still runs. Raises `ConfigError`, and `StoreOwned` at once where the parent is there.
    """
    loop = asyncio.get_running_loop()
    deadline: float | None = None
    while True:
        try:
            # Bound as its part will bind it, and closed without having listened.
            (await loop.create_server(asyncio.Protocol, host, port, start_serving=False)).close()
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return  # The part says better what is wrong with the address.
        if deadline is None:
            await asyncio.to_thread(require_unowned, settings)
            left = await running_store_url(settings) is not None
            deadline = loop.time() + (seconds if left else 1.0)
        if loop.time() >= deadline:
            raise ConfigError(f"{section}.port", f"{host}:{port} is in use by another process", other_port(section))
        await asyncio.sleep(0.1)


async def _until_listening(url: str, stop: asyncio.Event, seconds: float = 90.0) -> None:
    """Wait until the gateway listens: before it was started nothing did."""
    loop, address = asyncio.get_running_loop(), urlsplit(url)
    deadline = loop.time() + seconds
    while not stop.is_set():
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(5.0):
                _, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.close()
            return
        if loop.time() > deadline:
            raise ConfigError("live", f"the gateway does not listen after {seconds:.0f} s", "see the log lines above")
        await asyncio.sleep(0.05)


async def _until_ready(url: str, stop: asyncio.Event, seconds: float = 90.0) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not stop.is_set():
        try:
            status, why = await get(f"{url}/readyz")
            if status == 200:
                return
        except OSError as error:
            why = str(error) or "no answer"
        if loop.time() > deadline:
            raise ConfigError("server", f"the API is not ready after {seconds:.0f} s: {why}", "see the log lines above")
        await asyncio.sleep(0.05)
