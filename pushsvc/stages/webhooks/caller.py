"""One HTTP call to a receiver that someone else configured: to public addresses only, without redirects, with a time
limit.

The address is checked where its socket is created, so that the checked address is the one that is called, even if the
name resolves to another address the next time. Redirects are not followed, proxies of the environment are ignored,
cookies are not kept, and little of the answer's body is read.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import aiohttp
from aiohttp import ClientTimeout, TCPConnector

from ... import __version__
from ...errors import ConfigError
from ...model.signing import sign
from ...net.public_address import is_public
from ...net.retry_after import retry_after
from ...net.tls import client_context
from ...net.urls import exact_url
from ...ports.admin import WebhookTest
from ...telemetry import traces
from .body import trial_body
from .config import WebhookConfig
from .verdict import WebhookReply

READ_MOST: Final = 64 * 1024
"""Bytes of an answer that are read, so that its connection can serve again; beyond, it is closed."""
READ_TIME: Final = 1.0
"""Seconds for reading the body; the status is all that matters."""


class AddressRefused(OSError):
    """The address is not one of the public internet."""


def _public_socket(address: Any) -> socket.socket:
    """Create the socket for an address that aiohttp is about to connect to. Raises an error if the address is not
    public."""
    family, kind, protocol, _, place = address
    if not is_public(place[0]):
        raise AddressRefused("the address is not one of the public internet")
    return socket.socket(family, kind, protocol)


class WebhookCaller:
    """Calls one receiver, by connections that are used again."""

    def __init__(self, session: aiohttp.ClientSession, config: WebhookConfig, clock: Callable[[], float]) -> None:
        self._session = session
        self._config = config
        self._clock = clock

    async def post(self, message_id: str, body: bytes, *, trace: bytes = b"") -> WebhookReply:
        """Sign and send a call, which is part of this trace if there is one. Raises nothing: a failure is an answer
        too."""
        signed = sign(self._config.keys, message_id, int(self._clock()), body)
        headers = {**self._config.headers, "content-type": "application/json", **signed}
        if trace:
            headers[traces.HEADER] = traces.header_of(trace)
        try:
            url = exact_url(self._config.url)
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as got:
                received = {name.lower(): value for name, value in got.headers.items()}
                answer = WebhookReply(got.status, f"http_{got.status}", retry_after(received, self._clock()))
                await _read_a_little(got)
                return answer
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return WebhookReply(0, _why(error))


async def _read_a_little(response: aiohttp.ClientResponse) -> None:
    with suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(READ_TIME):
            left = READ_MOST
            while left > 0 and (part := await response.content.read(left)):
                left -= len(part)


def _why(error: Exception) -> str:
    """Return a one-word reason. The text of the error may quote the URL."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    match error, cause:
        case _, AddressRefused():
            return "address_refused"
        case TimeoutError(), _:
            return "timeout"
        case aiohttp.ClientConnectorDNSError(), _:
            return "name_unknown"
        case aiohttp.ClientSSLError(), _:
            return "tls"
        case aiohttp.ClientConnectorError(), _:
            return "unreachable"
        case ValueError(), _:  # `aiohttp.InvalidURL` is one
            return "bad_url"
        case _:
            return "broken_off"


@asynccontextmanager
async def open_caller(
    config: WebhookConfig, app: str, *, clock: Callable[[], float] = time.time
) -> AsyncIterator[WebhookCaller]:
    """Open a caller for the length of the block. Raises `ConfigError` for an unusable `ca_file`."""
    connector = TCPConnector(
        ssl=tls_context(config, app), limit=1, socket_factory=None if config.allow_private else _public_socket
    )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=ClientTimeout(total=config.timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"user-agent": f"pushsvc/{__version__}"},
        auto_decompress=False,
        trust_env=False,
    ) as session:
        yield WebhookCaller(session, config, clock)


async def trial_call(config: WebhookConfig, app: str, now: int) -> WebhookTest:
    """Make a call without events at `now`, in Unix ms, and return its result. Raises as `open_caller`."""
    began = time.monotonic()
    async with open_caller(config, app) as caller:
        reply = await caller.post(f"test_{app}_{now}", trial_body(app, now))
    seconds = round(time.monotonic() - began, 3)
    return WebhookTest(200 <= reply.status < 300, config.host, reply.status, reply.reason, seconds)


def tls_context(config: WebhookConfig, app: str) -> ssl.SSLContext:
    """Return what a receiver's certificate is judged by."""
    try:
        return client_context(config.ca_file)
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror if not isinstance(error, ssl.SSLError) else "not certificates in PEM form"
        raise ConfigError(f"apps.{app}.webhook.ca_file", f"{config.ca_file}: {why}", "correct `ca_file`") from None
