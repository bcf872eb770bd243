"""Serves the application on a socket for the length of a block."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

from aiohttp import web

from ..errors import ConfigError
from ..wording import other_port
from .config import ApiConfig
from .http.connections import Connections
from .http.dispatch import CallDispatcher
from .http.request import ApiRequest

_MOMENT: Final = 0.1
"""Seconds for a request that is cut off to notice it."""


@asynccontextmanager
async def serve(app: CallDispatcher, config: ApiConfig) -> AsyncIterator[str]:
    """Serve `app` while the block lasts; then stop listening, let requests in progress end, and close. Yields the base
    URL, with the actual port where 0 was given: `http://127.0.0.1:8080`. Raises `ConfigError` when the address cannot
    be bound."""
    loop = asyncio.get_running_loop()

    # Of a response aiohttp's connections use only what `Response` has.
    handle: Any = app.handle
    make_request = partial(ApiRequest, loop=loop, client_max_size=config.body_limit)
    server = web.Server(handle, request_factory=make_request)
    connections = Connections(server, config)
    try:
        listener = await loop.create_server(
            connections.make,
            config.host,
            config.port,
            reuse_port=config.reuse_port or None,
            backlog=config.backlog,
        )
    except OSError as error:
        raise ConfigError("server.port", _why(error, config), other_port("server")) from None
    try:
        host, port = listener.sockets[0].getsockname()[:2]
        async with app.uses.noting():
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        listener.close()
        await asyncio.sleep(0)  # What has arrived is begun before idle connections are closed.
        server.pre_shutdown()
        await app.aclose()
        # aiohttp's own limit applies twice where a client does not read its answer, and 0 is none.
        with suppress(TimeoutError):
            async with asyncio.timeout(config.shutdown_timeout):
                await server.shutdown()
        await server.shutdown(_MOMENT)


def _why(error: OSError, config: ApiConfig) -> str:
    place = f"{config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{place} is in use by another process"
    return f"cannot listen on {place}: {error.strerror or error}"
