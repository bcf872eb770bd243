"""A connection that reads HTTP/1.1: requests one after the other, or the one that becomes a long connection.

The bounds hold before anything is looked at: bytes of the head and the body, the time for a whole request, requests
that are sent ahead. What is refused gets its problem document, and the connection ends. No query is ever logged,
because SSE carries a token in it.
"""

from __future__ import annotations

import asyncio
import traceback
import uuid
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, NoReturn, cast

import httptools
import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from ...errors import (
    ContentTooLarge,
    InvalidRequest,
    MalformedBody,
    MethodNotAllowed,
    RequestError,
    StoreUnavailable,
    TooManyRequests,
    Unavailable,
)
from ...net.request_id import HEADER as REQUEST_ID, request_id
from ...net.websocket import handshake
from ...problems import HeadersTooLarge, InternalError, MalformedRequest, RequestTimeout
from ..peer import FaultKind, Format, Request
from .emulation import PROTOBUF, NoSession
from .http import Handler, HttpAnswer, HttpRoute, answer_bytes, head, problem_answer, read_query
from .shared import Shared
from .transports import HttpStreamTransport, LongConnection, SseTransport, WebSocketTransport

WEBSOCKET: Final = "/connection/websocket"
HTTP_STREAM: Final = "/connection/http_stream"
SSE: Final = "/connection/sse"

_AHEAD: Final = 4
"""Requests that a client may send before the first of them is answered."""
_LINGER: Final = 2.0
"""Seconds for which a refused client may go on sending, so that it reads its answer before the connection ends."""
_SUBPROTOCOLS: Final = ("centrifuge-json", "centrifuge-protobuf")
_STREAMS: Final = {WEBSOCKET: ("GET", "OPTIONS"), HTTP_STREAM: ("OPTIONS", "POST"), SSE: ("GET", "OPTIONS", "POST")}
_STREAM_HEADERS: Final = {
    "Server": "pushsvc",
    # No proxy may keep back or compress what is meant to arrive at once.
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
    "Connection": "close",
}

_log: FilteringBoundLogger = structlog.get_logger("live")


class UpgradeRequired(RequestError):
    """The path is only for WebSocket."""

    status, type, title = 426, "upgrade-required", "A WebSocket is opened here"


_REFUSED: Final[dict[int, type[RequestError]]] = {426: UpgradeRequired, 405: MethodNotAllowed}


_FAULTS: Final[dict[type[RequestError], FaultKind]] = {
    ContentTooLarge: "oversized",
    HeadersTooLarge: "oversized",
    MalformedRequest: "http",
    MalformedBody: "request",
    InvalidRequest: "request",
    NoSession: "session",
}
"""The errors that are faults of what a client has sent."""


class _Pending(NamedTuple):
    """A request that was read, with what its connection has to know of it."""

    request: Request
    id: str
    keep_alive: bool
    is_1_1: bool
    upgrade: bool


class HttpConnection(asyncio.Protocol):
    """One connection, until it ends or becomes a long one."""

    __slots__ = (
        "_address",
        "_body",
        "_deadline",
        "_fed",
        "_headers",
        "_io",
        "_parser",
        "_paused",
        "_queue",
        "_refusal",
        "_rest",
        "_shared",
        "_size",
        "_started",
        "_stranger",
        "_task",
        "_url",
    )

    _io: asyncio.Transport

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._parser: httptools.HttpRequestParser | None = None
        """None when nothing more is read."""
        self._queue: list[_Pending] = []
        self._refusal: RequestError | None = None
        """Why nothing more is read; said when the requests before it are answered."""
        self._task: asyncio.Task[HttpAnswer] | None = None
        self._rest = b""
        """What followed a request for an upgrade."""
        self._paused = False
        self._address = ""
        self._stranger = ""
        """As what the client is counted; empty for a proxy."""
        self._body: bytearray | None = None
        """None while the head of a request is read."""
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._drop_body()
        self._size = 0
        self._fed = 0
        self._started = False

    # --- the socket ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._io = cast(asyncio.Transport, transport)  # uvloop's is of no class of asyncio
        shared = self._shared
        self._deadline = shared.wheel.after(shared.config.request_within, self._late)
        shared.opened(self)
        peer = transport.get_extra_info("peername")
        self._address = peer[0] if peer else ""
        is_proxy = shared.is_proxy(self._address)
        if shared.is_refused(self._address) or not (is_proxy or self._meet(self._address)):
            self.abort()
        else:
            self._parser = httptools.HttpRequestParser(self)

    def _meet(self, address: str) -> bool:
        """Count the client as a stranger; False if its network has too many."""
        self._stranger = self._shared.strangers.meet(address)
        return self._stranger != ""

    def _drop_body(self) -> None:
        if self._body is not None:
            self._shared.bodies -= len(self._body)
            self._body = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        self._shared.closed(self)
        self._shared.strangers.leave(self._stranger)
        self._drop_body()
        self._parser = None
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._next()

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        waiting = len(self._queue)
        try:
            self._parser.feed_data(data)
            if self._started and self._body is None and len(self._queue) == waiting:
                # The parser keeps the beginning of a header to itself until its end is there.
                self._fed += len(data)
                if self._fed > self._shared.config.header_bytes:
                    self._count(self._fed)
        except httptools.HttpParserUpgrade as upgrade:
            self._rest = data[upgrade.args[0] :]
            self._parser = None
        except httptools.HttpParserError:
            self._parser = None
            self._refusal = self._refusal or MalformedRequest("The request could not be read as HTTP/1.1.")
        except RequestError:
            self._parser = None
        self._next()

    def shutdown(self) -> None:
        """Close the connection if it waits for a request; otherwise its answer is the last one."""
        if not self._queue and self._task is None and not self._started:
            self._io.close()

    def abort(self) -> None:
        self._io.abort()

    def _forget_deadline(self) -> None:
        """Let go of the deadline, which calls back: the two would keep each other until the garbage is collected."""
        self._deadline.cancel()
        del self._deadline

    def _late(self) -> None:
        """End a connection that has sent no whole request in time, or does not read its answer."""
        if self._io.get_write_buffer_size() or self._parser is None:
            self._io.abort()
        elif self._started:
            self._parser, self._refusal = None, RequestTimeout("The request did not arrive in time.")
            self._next()
        else:
            self._io.close()

    # --- what the parser calls --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._reset()
        self._started = True
        if self._task is None and not self._queue:
            self._deadline.move(self._shared.config.request_within)

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._body is not None:
            return  # A trailer of a body in chunks has nothing to say here.
        self._count(len(name) + len(value) + 4)
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        before = self._headers.get(key)
        self._headers[key] = text if before is None else f"{before}, {text}"

    def on_headers_complete(self) -> None:
        self._body = bytearray()
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._shared.config.body_bytes:
            self._refuse(_too_large(self._shared.config.body_bytes))
        if self._headers.get("expect", "").lower() == "100-continue" and self._task is None and not self._queue:
            self._io.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        assert self._body is not None
        if len(self._body) + len(body) > self._shared.config.body_bytes:
            self._refuse(_too_large(self._shared.config.body_bytes))
        if self._shared.bodies + len(body) > self._shared.config.bodies:
            self._refuse(Unavailable("Too many requests with large bodies are being read. Try again.", retry_after=1))
        self._body += body
        self._shared.bodies += len(body)

    def on_message_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        assert self._body is not None
        if len(self._queue) >= _AHEAD:
            self._refuse(MalformedRequest("Too many requests were sent ahead of their answers."))
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._refuse(MalformedRequest("Only HTTP/1.1 and HTTP/1.0 are supported."))
        host = self._headers.get("host")
        if "," in (host or "") or (host is None and version == "1.1"):
            self._refuse(MalformedRequest("A request has exactly one Host header."))
        try:
            url = httptools.parse_url(self._url)
        except httptools.HttpParserInvalidURLError:
            self._refuse(MalformedRequest("The target of the request is not a path."))
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
        own_id = request_id(self._headers.get(REQUEST_ID.lower()))
        self._queue.append(_Pending(request, own_id, keep_alive, is_1_1, upgrade))
        self._reset()

    def _address_of(self, headers: Mapping[str, str]) -> str:
        try:
            return self._shared.address_of(self._address, headers)
        except RequestError as error:
            self._refuse(error)

    def _query(self, query: bytes) -> dict[str, str]:
        try:
            return read_query(query.decode("latin-1"))
        except RequestError as error:
            self._refuse(error)

    def _count(self, size: int) -> None:
        self._size += size
        most = self._shared.config.header_bytes
        if self._size > most:
            self._refuse(HeadersTooLarge(f"The request line and the headers have more than {most:,} bytes."))

    def _refuse(self, error: RequestError) -> NoReturn:
        """Read nothing more, and say why when the requests before are answered."""
        self._refusal = error
        raise error

    # --- requests and their answers ---------------------------------------------------------------------

    def _next(self) -> None:
        """Go on with the next request, unless one is being handled or the client does not read."""
        while self._queue and self._task is None and not self._paused:
            self._deadline.cancel()
            self._handle(self._queue.pop(0))
        if self._refusal is not None and not self._queue and self._task is None:
            error, self._refusal = self._refusal, None
            _note(self._shared, error)
            headers = {REQUEST_ID: request_id(self._headers.get(REQUEST_ID.lower()))}
            self._io.write(answer_bytes(problem_answer(error), headers=headers, keep_alive=False, has_body=True))
            self._end(linger=_LINGER)

    def _handle(self, pending: _Pending) -> None:
        request, shared = pending.request, self._shared
        origin: dict[str, str] = {}
        extra: dict[str, str] = {}
        try:
            origin = shared.origin_headers(request)
            methods = _STREAMS.get(request.path) or shared.router.methods(request.path)
            if request.method not in methods:
                extra["Allow"] = ", ".join(methods)
                raise MethodNotAllowed(f"Allowed here: {extra['Allow']}.")
            if request.method == "OPTIONS":
                self._send(pending, HttpAnswer(status=204, headers=_preflight(methods)), origin)
            elif request.path in _STREAMS:
                self._open(pending, origin)
            elif pending.upgrade and request.method not in ("GET", "HEAD"):
                raise MalformedRequest("A request with a body asks for no upgrade.")
            else:
                route, request = shared.router.find(request)
                self._task = asyncio.get_running_loop().create_task(_run(shared, route.handler, request))
                self._task.add_done_callback(lambda task: self._answered(task, pending, route, origin))
        except handshake.HandshakeRefused as refused:
            shared.fault("handshake")
            error = _REFUSED.get(refused.status, MalformedRequest)(refused.detail)
            self._send(pending, problem_answer(error, headers=refused.headers), origin)
        except RequestError as error:
            _note(shared, error)
            self._send(pending, problem_answer(error, headers=extra), origin)

    def _open(self, pending: _Pending, origin: dict[str, str]) -> None:
        """Let the request become a long connection. Raises `HandshakeRefused` or a `RequestError`."""
        request, shared, io = pending.request, self._shared, self._io
        long: LongConnection
        if len(request.body) > shared.config.message_bytes:
            raise _too_large(shared.config.message_bytes)
        if request.path == WEBSOCKET:
            opening, subprotocol = handshake.accept(request.method, request.headers, _SUBPROTOCOLS)
            asked = {subprotocol.removeprefix("centrifuge-"), *map(request.query.get, ("format", "cf_protocol"))}
            frame_pings = request.query.get("cf_ws_frame_ping_pong") == "true"
            encoding: Format = "protobuf" if "protobuf" in asked else "json"
            long = WebSocketTransport(shared, io, encoding, frame_pings=frame_pings)
            first = self._rest
        elif request.path == SSE:
            first = request.query.get("cf_connect", "").encode() if request.method == "GET" else request.body
            if not first:
                raise MalformedRequest("The connect command is missing (`cf_connect`).")
            long = SseTransport(shared, io, "json", chunked=pending.is_1_1)
            # The empty line makes proxies send the head on.
            opening = _stream_head("text/event-stream; charset=utf-8", pending, origin)
            opening += b"2\r\n\r\n\r\n" if pending.is_1_1 else b"\r\n"
        else:
            first = request.body
            is_protobuf = request.headers.get("content-type") == PROTOBUF
            long = HttpStreamTransport(shared, io, "protobuf" if is_protobuf else "json", chunked=pending.is_1_1)
            opening = _stream_head(PROTOBUF if is_protobuf else "application/x-ndjson", pending, origin)
        if not self._stranger and not self._meet(request.address):
            raise TooManyRequests("Too many connections of this network show no valid token.", retry_after=5)
        self._forget_deadline()
        self._queue.clear()
        self._parser = self._refusal = None
        if shared.is_full:
            request = msgspec.structs.replace(request, full=True)
        shared.closed(self)
        long.start(request, opening, self._stranger)
        if request.path != WEBSOCKET:
            long.receive(first)
        elif first:
            long.data_received(first)
        if shared.draining:
            long.shutdown()

    def _answered(
        self, task: asyncio.Task[HttpAnswer], pending: _Pending, route: HttpRoute, origin: dict[str, str]
    ) -> None:
        self._task = None
        if self._io.is_closing():
            return
        answer = problem_answer(InternalError("The request was given up.")) if task.cancelled() else task.result()
        about = {"method": pending.request.method, "route": route.path, "request_id": pending.id}
        _log.debug("request", status=answer.status, **about)
        self._send(pending, answer, origin)
        self._next()

    def _send(self, pending: _Pending, answer: HttpAnswer, origin: dict[str, str]) -> None:
        keep_alive = pending.keep_alive and not self._shared.draining
        has_body = pending.request.method != "HEAD"
        headers = {**origin, REQUEST_ID: pending.id}
        self._io.write(answer_bytes(answer, headers=headers, keep_alive=keep_alive, has_body=has_body))
        if keep_alive:
            config = self._shared.config
            self._deadline.move(config.request_within if self._started else config.keep_alive)
        else:
            self._end(linger=self._shared.config.close_within)

    def _end(self, *, linger: float) -> None:
        """Close the connection when the client has read its answer, or after `linger` seconds."""
        self._queue.clear()
        self._parser = self._refusal = None
        self._deadline.move(linger)
        if self._io.can_write_eof():
            self._io.write_eof()
        else:
            self._io.close()


def _note(shared: Shared, error: RequestError) -> None:
    """Count a refused request, if the fault is in what was sent."""
    kind = _FAULTS.get(type(error))
    if kind is not None:
        shared.fault(kind)


async def _run(shared: Shared, handler: Handler, request: Request) -> HttpAnswer:
    """Return the handler's answer, or the one that says what it raised."""
    try:
        return await handler(request)
    except RequestError as error:
        _note(shared, error)
        return problem_answer(error)
    except StoreUnavailable:
        return problem_answer(Unavailable("Redis cannot be reached, or its answer was lost. Try again."))
    except Exception as error:
        instance = f"urn:uuid:{uuid.uuid4()}"
        where = "".join(traceback.format_tb(error.__traceback__)[-8:])
        # Without the text of the error, which may quote the body.
        _log.error("request_failed", instance=instance, method=request.method, error=type(error).__name__, where=where)
        detail = "An internal error occurred; it is in the log with this id."
        return problem_answer(InternalError(detail), instance=instance)


def _stream_head(media_type: str, pending: _Pending, origin: dict[str, str]) -> bytes:
    chunked = {"Transfer-Encoding": "chunked"} if pending.is_1_1 else {}
    return head(200, {**_STREAM_HEADERS, REQUEST_ID: pending.id, "Content-Type": media_type, **chunked, **origin})


def _preflight(methods: Sequence[str]) -> dict[str, str]:
    return {
        "Allow": ", ".join(methods),
        "Access-Control-Allow-Methods": ", ".join(methods),
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
        "Access-Control-Max-Age": "300",
    }


def _too_large(most: int) -> ContentTooLarge:
    return ContentTooLarge(f"The body is larger than {most:,} bytes.")
