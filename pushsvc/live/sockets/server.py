"""The server: it listens while a block lasts, and lets its connections go one after the other."""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from ...errors import ConfigError
from ...model.live import Network
from ...wording import other_port
from ..peer import MakePeer
from ..wheel import Wheel
from .config import SocketsConfig
from .connection import HttpConnection
from .emulation import Forward, emulation_route
from .http import HttpRoute
from .listener import Listener, listen
from .shared import Shared
from .transports import LongConnection

_QUEUE: Final = 1.0
"""Seconds in which connections that wait in the kernel are accepted at the end, so that they learn of it."""
_STEP: Final = 0.1
"""Seconds between two groups of connections that are let go."""


class Sockets:
    """The connections of one listening port."""

    def __init__(self, shared: Shared, listener: Listener) -> None:
        self._shared = shared
        self._listener = listener

    @property
    def url(self) -> str:
        """The base URL, with the real port where 0 was asked for."""
        host, port = self._listener.address
        scheme = "http" if self._shared.config.tls is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def connections(self) -> int:
        """All connections that are open."""
        return len(self._shared.open)

    @property
    def paused(self) -> bool:
        """Whether new connections wait in the kernel at the moment."""
        return self._listener.paused

    def deliver(self, session: str, data: bytes) -> bool:
        """Hand over a message that another gateway received; return False if the session is not here."""
        return self._shared.deliver(session, data)

    def deny(self, networks: Sequence[Network]) -> None:
        """Close new connections from these networks unread from now on."""
        self._shared.denied = networks

    async def drain(self, seconds: float) -> None:
        """Accept nothing more than what waits already, and end all sessions evenly over `seconds`; then wait until they
        are gone."""
        shared = self._shared
        shared.draining = True
        await self._listener.finish(_QUEUE)
        for connection in list(shared.open):
            if isinstance(connection, HttpConnection):
                connection.shutdown()
        long = [connection for connection in shared.open if isinstance(connection, LongConnection)]
        steps = max(1, round(seconds / _STEP))
        for step in range(steps):
            for connection in long[len(long) * step // steps : len(long) * (step + 1) // steps]:
                connection.shutdown()
            if step + 1 < steps:
                await asyncio.sleep(_STEP)
        try:
            async with asyncio.timeout(shared.config.close_within):
                await shared.emptied()
        except TimeoutError:
            self.abort()

    def abort(self) -> None:
        """Cut all connections."""
        for connection in list(self._shared.open):
            connection.abort()


@asynccontextmanager
async def serve(
    config: SocketsConfig,
    make_peer: MakePeer,
    routes: Sequence[HttpRoute] = (),
    *,
    wheel: Wheel,
    forward: Forward | None = None,
    accepts: Callable[[], bool] = lambda: True,
) -> AsyncIterator[Sockets]:
    """Serve while the block lasts. What is still open at its end is cut; `Sockets.drain` comes before that.

    `forward` hands a command to the gateway where its session is. While `accepts` returns False, new connections wait
    in the kernel; see listener.py.

    Raises `ConfigError` when the address cannot be bound.
    """

    def deliver(session: str, data: bytes) -> bool:
        return shared.deliver(session, data)

    key = config.session_key or secrets.token_bytes(32)
    config = msgspec.structs.replace(config, session_key=key)
    emulation = emulation_route(deliver, config.node, forward, config.message_bytes, key)
    shared = Shared(config, wheel, make_peer, [*routes, emulation])
    try:
        listener = await listen(config, lambda: HttpConnection(shared), accepts)
    except OSError as error:
        used = error.errno == errno.EADDRINUSE
        why = "is in use by another process" if used else f"cannot be listened on: {error.strerror or error}"
        raise ConfigError("live.port", f"{config.host}:{config.port} {why}", other_port("live")) from None
    sockets = Sockets(shared, listener)
    try:
        yield sockets
    finally:
        listener.close()
        sockets.abort()
        await shared.emptied()
