"""Reads requests of HTTP/1.1, one after the other, within bounds. No I/O.

The bounds hold before anything is looked at: bytes of the head and the body, and requests that are sent ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, NoReturn

import httptools

from ...errors import ContentTooLarge, RequestError, Unavailable
from ...net.request_id import HEADER as REQUEST_ID, request_id
from ...problems import HeadersTooLarge, MalformedRequest
from ..peer import Request
from .http import read_query
from .shared import Shared

_AHEAD: Final = 4
"""Requests that a client may send before the first of them is answered."""


class Incoming(NamedTuple):
    """A request that was read, with what its connection has to know of it."""

    request: Request
    id: str
    keep_alive: bool
    is_1_1: bool
    upgrade: bool


class RequestReader:
    """Reads what a client sends, until a request asks for an upgrade or is refused."""

    __slots__ = (
        "_body",
        "_fed",
        "_headers",
        "_parser",
        "_peer",
        "_shared",
        "_size",
        "_url",
        "awaits_body",
        "refusal",
        "requests",
        "rest",
        "started",
    )

    def __init__(self, shared: Shared, peer: str) -> None:
        """Begin to read. `peer` is the address of the other end, which may be a proxy."""
        self._shared = shared
        self._peer = peer
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self.requests: list[Incoming] = []
        """The requests that were read and are not handled yet."""
        self.refusal: RequestError | None = None
        """Why nothing more is read, which is to be answered after the requests before."""
        self.rest = b""
        """What followed a request for an upgrade."""
        self._body: bytearray | None = None
        """None while the head of a request is read."""
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._drop_body()
        self._size = 0
        self._fed = 0
        self.started = False
        """Whether a request has begun and is not complete."""
        self.awaits_body = False
        """Whether the client waits for a sign to send the body, of which nothing has come."""

    def _drop_body(self) -> None:
        if self._body is not None:
            self._shared.bodies -= len(self._body)
            self._body = None

    @property
    def is_reading(self) -> bool:
        return self._parser is not None

    @property
    def request_id(self) -> str:
        """The id of the request whose head is being read, or a new one."""
        return request_id(self._headers.get(REQUEST_ID.lower()))

    def feed(self, data: bytes) -> None:
        """Read what has come: it adds to `requests`, or gives the `refusal` with which reading ends."""
        assert self._parser is not None
        waiting = len(self.requests)
        try:
            self._parser.feed_data(data)
            if self.started and self._body is None and len(self.requests) == waiting:
                # The parser keeps the beginning of a header to itself until its end is there.
                self._fed += len(data)
                if self._fed > self._shared.config.header_bytes:
                    self._count(self._fed)
        except httptools.HttpParserUpgrade as upgrade:
            self.rest = data[upgrade.args[0] :]
            self._parser = None
        except httptools.HttpParserError:
            self.refuse(self.refusal or MalformedRequest("The request could not be read as HTTP/1.1."))
        except RequestError as error:
            self.refuse(error)

    def refuse(self, error: RequestError) -> None:
        """Read nothing more, because of this error."""
        self._parser, self.refusal = None, error

    def stop(self) -> None:
        """Read nothing more, and forget what was read."""
        self._parser = self.refusal = None
        self.requests.clear()
        self._drop_body()

    # --- what the parser calls --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._reset()
        self.started = True

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._body is not None:
            return  # A trailer of a body in chunks means nothing here.
        self._count(len(name) + len(value) + 4)
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        before = self._headers.get(key)
        self._headers[key] = text if before is None else f"{before}, {text}"

    def on_headers_complete(self) -> None:
        self._body = bytearray()
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._shared.config.body_bytes:
            self._fail(too_large(self._shared.config.body_bytes))
        self.awaits_body = self._headers.get("expect", "").lower() == "100-continue"

    def on_body(self, body: bytes) -> None:
        assert self._body is not None
        self.awaits_body = False
        if len(self._body) + len(body) > self._shared.config.body_bytes:
            self._fail(too_large(self._shared.config.body_bytes))
        if self._shared.bodies + len(body) > self._shared.config.bodies:
            self._fail(Unavailable("Too many requests with large bodies are being read. Try again.", retry_after=1))
        self._body += body
        self._shared.bodies += len(body)

    def on_message_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        assert self._body is not None
        if len(self.requests) >= _AHEAD:
            self._fail(MalformedRequest("Too many requests were sent ahead of their answers."))
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._fail(MalformedRequest("Only HTTP/1.1 and HTTP/1.0 are supported."))
        host = self._headers.get("host")
        if "," in (host or "") or (host is None and version == "1.1"):
            self._fail(MalformedRequest("A request has exactly one Host header."))
        try:
            url = httptools.parse_url(self._url)
        except httptools.HttpParserInvalidURLError:
            self._fail(MalformedRequest("The target of the request is not a path."))
        request = Request(
            method=parser.get_method().decode("latin-1"),
            path=(url.path or b"/").decode("latin-1"),
            query=self._query(url.query) if url.query else {},
            headers=self._headers,
            body=bytes(self._body),
            address=self._address_of(self._headers),
        )
        upgrade, is_1_1 = parser.should_upgrade(), version == "1.1"
        keep_alive = parser.should_keep_alive() and is_1_1 and not upgrade
        self.requests.append(Incoming(request, self.request_id, keep_alive, is_1_1, upgrade))
        self._reset()

    def _address_of(self, headers: Mapping[str, str]) -> str:
        try:
            return self._shared.address_of(self._peer, headers)
        except RequestError as error:
            self._fail(error)

    def _query(self, query: bytes) -> dict[str, str]:
        try:
            return read_query(query.decode("latin-1"))
        except RequestError as error:
            self._fail(error)

    def _count(self, size: int) -> None:
        self._size += size
        most = self._shared.config.header_bytes
        if self._size > most:
            self._fail(HeadersTooLarge(f"The request line and the headers have more than {most:,} bytes."))

    def _fail(self, error: RequestError) -> NoReturn:
        """Refuse what is being read. The error is noted because the parser raises one of its own in its place."""
        self.refusal = error
        raise error


def too_large(most: int) -> ContentTooLarge:
    return ContentTooLarge(f"The body is larger than {most:,} bytes.")
