"""Listens on an address, and accepts nothing while there is enough to do.

Who is not accepted waits in the kernel's queue, where it costs nothing: no handshake is done, of TLS or WebSocket, only
to refuse the client after it. A client whose first packet finds that queue full sends it again after a second or more
by itself. The event loop has no pause for a listening socket; so the loop's part of it is closed, and made again from
a socket that stays open all the time, with its queue.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

from ... import telemetry
from .config import SocketsConfig

LOOK: Final = 0.01
"""Seconds between two looks whether more may be accepted."""
AGAIN: Final = 1.0
"""Seconds until another attempt, where the system does not let the loop listen."""

MakeProtocol: TypeAlias = Callable[[], asyncio.Protocol]


class Listener:
    """The listening sockets of a server. Made by `listen`."""

    def __init__(
        self, config: SocketsConfig, sockets: Sequence[socket.socket], make: MakeProtocol, accepts: Callable[[], bool]
    ) -> None:
        self._config = config
        self._sockets = sockets
        self._make = make
        self._accepts = accepts
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        """The loop's part of each socket; empty while nothing is accepted."""
        self._looking: asyncio.TimerHandle | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def address(self) -> tuple[str, int]:
        """The first address, with the real port where 0 was asked for."""
        host, port = self._sockets[0].getsockname()[:2]
        return host, port

    @property
    def paused(self) -> bool:
        """Whether nothing is accepted at the moment."""
        return not self._servers

    async def resume(self) -> None:
        """Accept connections. Raises `OSError`."""
        config, tls = self._config, self._config.tls
        for own in self._sockets:
            server = await self._loop.create_server(
                self._accepted,
                sock=socket.socket(fileno=os.dup(own.fileno())),
                backlog=config.backlog,
                ssl=tls,
                # During the handshake a connection is not known here.
                ssl_handshake_timeout=config.request_within if tls else None,
                ssl_shutdown_timeout=config.close_within if tls else None,
            )
            self._servers.append(server)
        if self._closed or self._looking is not None:  # or it was full before all of them listened
            self._stop()

    async def finish(self, seconds: float) -> None:
        """Accept those that wait in the queue, for so long at most, and then nothing more: the kernel would reset
        them."""
        self._accepts = lambda: True
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self._resuming is not None:
            await self._resuming
        waiting = select.poll()
        for own in self._sockets:
            waiting.register(own, select.POLLIN)
        until = self._loop.time() + seconds
        with suppress(OSError):  # No descriptor is left.
            while waiting.poll(0) and self._loop.time() < until:
                if self.paused:
                    await self.resume()
                await asyncio.sleep(0)  # A turn of the loop accepts some of them.
        for _ in range(2):  # The last one begins, and what it has sent is read.
            await asyncio.sleep(0)
        self.close()

    def close(self) -> None:
        """Accept nothing more. Clients that wait in the queue are reset by the kernel."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
        self._stop()
        for each in self._sockets:
            each.close()

    def _accepted(self) -> asyncio.Protocol:
        if not self._accepts() and self._looking is None:
            self._looking = self._loop.call_later(LOOK, self._look)
            self._loop.call_soon(self._stop)  # The loop is about to use the server that has accepted this one.
        return self._make()

    def _stop(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _look(self) -> None:
        self._looking = None
        if self._accepts():
            self._resuming = self._loop.create_task(self._resume())
        else:
            self._looking = self._loop.call_later(LOOK, self._look)

    async def _resume(self) -> None:
        try:
            if not self._closed:
                await self.resume()
        except Exception as error:
            if not isinstance(error, OSError):  # as where no descriptor is left
                telemetry.get_logger("live").error("live_task_failed", **telemetry.unforeseen(error))
            self._stop()
            self._looking = self._loop.call_later(AGAIN, self._look)


async def listen(config: SocketsConfig, make: MakeProtocol, accepts: Callable[[], bool]) -> Listener:
    """Listen, and make a protocol for each connection; accept no more of them while `accepts` returns False. Raises
    `OSError`."""
    bound = await asyncio.get_running_loop().create_server(
        make, config.host, config.port, reuse_port=config.reuse_port or None, start_serving=False
    )
    sockets = [socket.socket(fileno=os.dup(each.fileno())) for each in bound.sockets]
    bound.close()
    listener = Listener(config, sockets, make, accepts)
    try:
        await listener.resume()
    except BaseException:
        listener.close()
        raise
    return listener
