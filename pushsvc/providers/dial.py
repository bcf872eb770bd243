"""Reaching a provider: a fresh look-up, TCP, TLS with ALPN `h2`, the server's first SETTINGS, within one time limit.

Every connect asks the resolver again, since providers spread their load by DNS and Apple asks for it by name
(https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns). The addresses are
tried one after the other, each with its share of the time, so that a dead one does not use it all up.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from .http2 import Connection

SHUTDOWN_TIMEOUT: Final = 1.0
KEEPALIVE: Final = 60
"""Seconds of quiet after which the kernel asks whether the peer's is still there."""


class Origin(Struct, frozen=True):
    """Where to connect."""

    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """From `https://host[:port]`. Raises ValueError for anything else."""
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
            raise ValueError(f"{url!r} is not an origin of the form https://host or https://host:port")
        return cls(parts.hostname, parts.port or 443)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"


def prepare(context: ssl.SSLContext) -> None:
    """Offer HTTP/2 alone, and TLS 1.2 at least (RFC 9113 9.2)."""
    context.set_alpn_protocols(["h2"])
    if context.minimum_version < ssl.TLSVersion.TLSv1_2:
        context.minimum_version = ssl.TLSVersion.TLSv1_2


async def dial(origin: Origin, context: ssl.SSLContext, make: Callable[[], Connection], timeout: float) -> Connection:
    """A connection that has seen the server's SETTINGS. Raises OSError, which `describe` puts into words."""
    loop = asyncio.get_running_loop()
    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeout):
            sock = await _reach(loop, origin, timeout)
            connection = make()
            made = connection
            await loop.create_connection(  # which closes the socket if it fails
                lambda: made,
                sock=sock,
                ssl=context,
                server_hostname=origin.host,
                ssl_handshake_timeout=timeout,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT,
            )
            await connection.ready
    except BaseException:
        if connection is not None:
            connection.abort()
        raise
    return connection


async def _reach(loop: asyncio.AbstractEventLoop, origin: Origin, timeout: float) -> socket.socket:
    found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    failure: OSError = OSError(f"no address for {origin.host}")
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            _tune(sock)
            async with asyncio.timeout(timeout / len(found)):
                await loop.sock_connect(sock, address)
            return sock
        except OSError as error:  # TimeoutError is one
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise failure


def _tune(sock: socket.socket) -> None:
    """No waiting to fill packets; and a word from the kernel now and then, lest a gateway forgets a quiet connection.

    HTTP/2's own PING is for hours (Apple's advice); gateways forget within minutes, and the first push after that
    would be lost in silence.
    """
    with contextlib.suppress(OSError):  # some sockets know no such option; they work all the same
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in ("TCP_KEEPIDLE", "TCP_KEEPALIVE"):  # Linux's name, and macOS's
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), KEEPALIVE)


def describe(error: BaseException, origin: Origin) -> str:
    """What is wrong, for an operator to read."""
    match error:
        case ssl.SSLCertVerificationError():
            fault = f"certificate verify failed: {error.verify_message}"
        case ssl.SSLError() if "NO_APPLICATION_PROTOCOL" in str(error.reason):
            fault = "the server does not speak HTTP/2 (it refused ALPN h2)"
        case ssl.SSLError():
            fault = f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
        case ConnectionRefusedError():
            fault = "connection refused"
        case socket.gaierror():
            fault = f"name look-up failed: {error.strerror}"
        case TimeoutError():
            fault = "connect timed out"
        case OSError() if error.strerror:
            fault = error.strerror.lower()
        case _:
            fault = str(error) or type(error).__name__
    return f"{origin}: {fault}"
