"""Connect to a provider: DNS look-up, TCP, optional proxy tunnel, TLS with ALPN `h2`, the server's first SETTINGS.

All of this happens within one time limit. Every connect resolves the host name again, because providers spread their
load by DNS and Apple asks for it
(https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns). The addresses are
tried one after the other, each with its share of the time, so that an unreachable one does not use up the limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from .http2.connection import Connection
from .proxy import Proxy

SHUTDOWN_TIMEOUT: Final = 1.0
ANSWER_LIMIT: Final = 16_384
"""Bytes of a proxy's answer, at most."""
_CONNECT_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})[^\r\n]*").match
KEEPALIVE: Final = 60
"""Seconds of quiet after which the kernel asks whether the peer's is still there."""


class Origin(Struct, frozen=True):
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Parse `https://host[:port]`. Raises `ValueError` for anything else."""
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


UNANSWERED: Final = "accepts the connection, but has not answered within"
"""Begins what is wrong with a server that can be reached and says nothing; the seconds follow."""


class ProxyError(OSError):
    """The way ends at the proxy. The text names it."""


class SilentServer(OSError):
    """TLS is established, and then nothing came. The text says so."""


async def dial(
    origin: Origin,
    context: ssl.SSLContext,
    make: Callable[[], Connection],
    timeout: float,
    proxy: Proxy | None = None,
) -> Connection:
    """Return a connection that has received the server's SETTINGS. Raises `OSError`, which `describe` turns into a
    text."""
    loop = asyncio.get_running_loop()
    connection: Connection | None = None
    established = False
    try:
        async with asyncio.timeout(timeout):
            if proxy is None:
                sock = await _reach(loop, origin.host, origin.port, timeout)
            else:
                sock = await _tunnel(loop, proxy, origin, timeout)
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
            established = True
            await connection.ready
    except BaseException as error:
        if connection is not None:
            connection.abort()
        if established and isinstance(error, TimeoutError):
            raise SilentServer(f"{UNANSWERED} {timeout:g} s") from None
        raise
    return connection


async def _tunnel(loop: asyncio.AbstractEventLoop, proxy: Proxy, origin: Origin, timeout: float) -> socket.socket:
    """Return a socket on which the proxy passes everything on. The proxy looks the host up: here its name may be
    unknown."""
    try:
        sock = await _reach(loop, proxy.host, proxy.port, timeout)
    except OSError as error:
        raise ProxyError(f"{proxy.name}: {fault_of(error)}") from error
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    lines = [f"CONNECT {host}:{origin.port} HTTP/1.1", f"Host: {host}:{origin.port}", "User-Agent: pushsvc"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    try:
        await loop.sock_sendall(sock, "\r\n".join((*lines, "", "")).encode())
        answer = b""
        # A server behind TLS speaks second: no byte of it can follow the proxy's answer.
        while b"\r\n\r\n" not in answer:
            part = await loop.sock_recv(sock, 4096)
            if not part or len(answer) > ANSWER_LIMIT:
                raise ProxyError(f"{proxy.name} broke off instead of opening a tunnel to {origin}")
            answer += part
        status = _CONNECT_STATUS(answer)
        if status is None:
            raise ProxyError(f"{proxy.name} does not answer in HTTP/1")
        if not 200 <= int(status[1]) < 300:
            answer_line = " ".join(status[0].decode("latin-1").split()[1:])[:100]
            raise ProxyError(f"{proxy.name} refuses the tunnel to {origin}: {answer_line}")
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and not isinstance(error, ProxyError | TimeoutError):
            raise ProxyError(f"{proxy.name}: {fault_of(error)}") from error
        raise
    return sock


async def _reach(loop: asyncio.AbstractEventLoop, host: str, port: int, timeout: float) -> socket.socket:
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = OSError(f"no address for {host}")
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
    """Disable Nagle's algorithm and enable TCP keepalive, so that gateways do not drop an idle connection.

    HTTP/2's own PING is sent about once an hour (Apple's advice), but gateways drop idle connections within minutes,
    and the first push after that would be lost without an error.
    """
    with contextlib.suppress(OSError):  # some sockets know no such option; they work all the same
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in ("TCP_KEEPIDLE", "TCP_KEEPALIVE"):  # Linux's name, and macOS's
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), KEEPALIVE)


def describe(error: BaseException, origin: Origin, proxy: Proxy | None = None) -> str:
    """Return what is wrong, for an operator to read."""
    way = "" if proxy is None or isinstance(error, ProxyError) else f"through the {proxy.name}: "
    return f"{origin}: {way}{fault_of(error)}"


def fault_of(error: BaseException) -> str:
    """Return what is wrong, without the host."""
    match error:
        case ProxyError() | SilentServer():
            fault = str(error)
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
    return fault
