"""Serves the application on a socket for the length of a block."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from ..errors import ConfigError
from .config import ApiConfig
from .http.connections import Connections


@asynccontextmanager
async def serve(app: web.Application, config: ApiConfig) -> AsyncIterator[str]:
    """Serve `app` while the block lasts; then stop listening, let requests in progress end, and close. Yields the base
    URL, with the actual port where 0 was given: `http://127.0.0.1:8080`. Raises `ConfigError` when the address cannot
    be bound."""
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=config.shutdown_timeout)
    await runner.setup()
    try:
        server = runner.server
        assert server is not None
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
            raise ConfigError("server.port", _why(error, config), "choose another host or port") from None
        try:
            host, port = listener.sockets[0].getsockname()[:2]
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            listener.close()
    finally:
        await runner.cleanup()


def _why(error: OSError, config: ApiConfig) -> str:
    place = f"{config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{place} is in use by another process"
    return f"cannot listen on {place}: {error.strerror or error}"
