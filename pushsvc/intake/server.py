"""Binding and draining: the application on a socket for as long as a block lasts.

aiohttp answers what its parser cannot read as plain text and logs a traceback for it; `_Connection` makes problem
documents of those as well, so that there is one form of error.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from ..errors import ConfigError
from .config import IntakeConfig
from .problems import crash, respond, unreadable

_log: FilteringBoundLogger = structlog.get_logger("intake")


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            # A part of an answer is out already: nothing can be said any more.
            raise ConnectionError
        if status < 500:
            error = unreadable(exc)
            _log.debug("unreadable", status=error.status, error=type(exc).__name__)
            response = respond(error)
        else:
            response = crash(request, exc or RuntimeError())
        response.force_close()
        return response


@asynccontextmanager
async def serve(app: web.Application, config: IntakeConfig) -> AsyncIterator[str]:
    """Serve `app` while the block lasts; then stop listening, let what is being handled end, and close.

    Yields the base URL, with the real port where 0 was asked for: `http://127.0.0.1:8080`.
    Raises `ConfigError` when the address cannot be bound.
    """
    loop = asyncio.get_running_loop()
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=config.shutdown_timeout)
    await runner.setup()
    try:
        server = runner.server
        assert server is not None
        options: dict[str, Any] = {"keepalive_timeout": config.keepalive_timeout, "access_log": None}
        try:
            listener = await loop.create_server(
                lambda: _Connection(server, loop=loop, **options),
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


def _why(error: OSError, config: IntakeConfig) -> str:
    place = f"{config.host}:{config.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{place} is in use by another process"
    return f"cannot listen on {place}: {error.strerror or error}"
