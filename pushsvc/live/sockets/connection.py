"""A connection of HTTP/1.1: requests are answered one after the other, or one becomes a long connection.

What is refused gets its problem document, and the connection ends, as it does when a whole request takes too long. No
query is ever logged, because SSE carries a token in it.
"""

from __future__ import annotations

import asyncio
import traceback
import uuid
from collections.abc import Sequence
from typing import Final, cast

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
from ...net.request_id import HEADER as REQUEST_ID
from ...net.websocket import handshake
from ...problems import HeadersTooLarge, InternalError, MalformedRequest, RequestTimeout
from ..peer import FaultKind, Format, Request
from ..wheel import Deadline
from .emulation import PROTOBUF, NoSession
from .http import SSE, STREAMS, WEBSOCKET, Handler, HttpAnswer, HttpRoute, answer_bytes, head, problem_answer
from .reader import Incoming, RequestReader, too_large
from .shared import Shared
from .transports import HttpStreamTransport, LongConnection, SseTransport, WebSocketTransport

_LINGER: Final = 2.0
"""Seconds for which a refused client may go on sending, so that it reads its answer before the connection ends."""
_SUBPROTOCOLS: Final = ("centrifuge-json", "centrifuge-protobuf")
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
"""The errors of a refused handshake by its status; `MalformedRequest` for any other."""
_FAULTS: Final[dict[type[RequestError], FaultKind]] = {
    ContentTooLarge: "oversized",
    HeadersTooLarge: "oversized",
    MalformedRequest: "http",
    MalformedBody: "request",
    InvalidRequest: "request",
    NoSession: "session",
}
"""The errors that are faults of what a client has sent."""


class HttpConnection(asyncio.Protocol):
    """One connection, until it ends or becomes a long one."""

    __slots__ = (
        "_deadline",
        "_io",
        "_paused",
        "_reader",
        "_shared",
        "_stranger",
        "_task",
    )

    _io: asyncio.Transport
    _reader: RequestReader
    _deadline: Deadline

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._task: asyncio.Task[HttpAnswer] | None = None
        self._paused = False
        self._stranger = ""
        """As what the client is counted; empty for a proxy."""

    # --- the socket ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._io = cast(asyncio.Transport, transport)  # uvloop's is of no class of asyncio
        shared = self._shared
        self._deadline = shared.wheel.after(shared.config.request_within, self._late)
        shared.opened(self)
        peer = transport.get_extra_info("peername")
        address = peer[0] if peer else ""
        self._reader = RequestReader(shared, address)
        if shared.is_refused(address) or not (shared.is_proxy(address) or self._enter(address)):
            self._reader.stop()
            self.abort()

    def _enter(self, address: str) -> bool:
        """Count the client as a stranger; False if its network has too many."""
        self._stranger = self._shared.strangers.enter(address)
        return self._stranger != ""

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        self._shared.closed(self)
        self._shared.strangers.leave(self._stranger)
        self._reader.stop()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._next()

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if not reader.is_reading:
            return
        had_begun = reader.started
        reader.feed(data)
        if self._is_idle:
            if reader.started and not had_begun:
                self._deadline.move(self._shared.config.request_within)
            if reader.awaits_body and reader.is_reading:
                reader.awaits_body = False
                self._io.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._next()

    @property
    def _is_idle(self) -> bool:
        """Whether no request waits for its answer."""
        return self._task is None and not self._reader.requests

    def shutdown(self) -> None:
        """Close the connection if it waits for a request; otherwise its answer is the last one."""
        if self._is_idle and not self._reader.started:
            self._io.close()

    def abort(self) -> None:
        self._io.abort()

    def _forget_deadline(self) -> None:
        """Let go of the deadline, which calls back: the two would keep each other until the garbage is collected."""
        self._deadline.cancel()
        del self._deadline

    def _late(self) -> None:
        """End a connection that has sent no whole request in time, or does not read its answer."""
        reader = self._reader
        if self._io.get_write_buffer_size() or not reader.is_reading:
            self._io.abort()
        elif reader.started:
            reader.refuse(RequestTimeout("The request did not arrive in time."))
            self._next()
        else:
            self._io.close()

    # --- requests and their answers ---------------------------------------------------------------------

    def _next(self) -> None:
        """Go on with the next request, unless one is being handled or the client does not read."""
        reader = self._reader
        while reader.requests and self._task is None and not self._paused:
            self._deadline.cancel()
            self._handle(reader.requests.pop(0))
        if reader.refusal is not None and self._is_idle:
            error = reader.refusal
            _note(self._shared, error)
            headers = {REQUEST_ID: reader.request_id}
            self._io.write(answer_bytes(problem_answer(error), headers=headers, keep_alive=False, has_body=True))
            self._end(linger=_LINGER)

    def _handle(self, incoming: Incoming) -> None:
        request, shared = incoming.request, self._shared
        origin: dict[str, str] = {}
        extra: dict[str, str] = {}
        try:
            origin = shared.origin_headers(request)
            methods = shared.router.methods(request.path)
            if request.method not in methods:
                extra["Allow"] = ", ".join(methods)
                raise MethodNotAllowed(f"Allowed here: {extra['Allow']}.")
            if request.method == "OPTIONS":
                self._send(incoming, HttpAnswer(status=204, headers=_preflight(methods)), origin)
            elif request.path in STREAMS:
                self._open(incoming, origin)
            elif incoming.upgrade and request.method not in ("GET", "HEAD"):
                raise MalformedRequest("A request with a body asks for no upgrade.")
            else:
                route, request = shared.router.find(request)
                self._task = asyncio.get_running_loop().create_task(_run(shared, route.handler, request))
                self._task.add_done_callback(lambda task: self._answered(task, incoming, route, origin))
        except handshake.HandshakeRefused as refused:
            shared.fault("handshake")
            error = _REFUSED.get(refused.status, MalformedRequest)(refused.detail)
            self._send(incoming, problem_answer(error, headers=refused.headers), origin)
        except RequestError as error:
            _note(shared, error)
            self._send(incoming, problem_answer(error, headers=extra), origin)

    def _open(self, incoming: Incoming, origin: dict[str, str]) -> None:
        """Let the request become a long connection. Raises `HandshakeRefused` or a `RequestError`."""
        request, shared, io = incoming.request, self._shared, self._io
        long: LongConnection
        if len(request.body) > shared.config.message_bytes:
            raise too_large(shared.config.message_bytes)
        if request.path == WEBSOCKET:
            opening, subprotocol = handshake.accept(request.method, request.headers, _SUBPROTOCOLS)
            asked = {subprotocol.removeprefix("centrifuge-"), *map(request.query.get, ("format", "cf_protocol"))}
            frame_pings = request.query.get("cf_ws_frame_ping_pong") == "true"
            encoding: Format = "protobuf" if "protobuf" in asked else "json"
            long = WebSocketTransport(shared, io, encoding, frame_pings=frame_pings)
            first = self._reader.rest
        elif request.path == SSE:
            first = request.query.get("cf_connect", "").encode() if request.method == "GET" else request.body
            if not first:
                raise MalformedRequest("The connect command is missing (`cf_connect`).")
            long = SseTransport(shared, io, "json", chunked=incoming.is_1_1)
            # The empty line makes proxies send the head on.
            opening = _stream_head("text/event-stream; charset=utf-8", incoming, origin)
            opening += b"2\r\n\r\n\r\n" if incoming.is_1_1 else b"\r\n"
        else:
            first = request.body
            is_protobuf = request.headers.get("content-type") == PROTOBUF
            long = HttpStreamTransport(shared, io, "protobuf" if is_protobuf else "json", chunked=incoming.is_1_1)
            opening = _stream_head(PROTOBUF if is_protobuf else "application/x-ndjson", incoming, origin)
        if not self._stranger and not self._enter(request.address):
            raise TooManyRequests("Too many connections of this network show no valid token.", retry_after=5)
        self._forget_deadline()
        self._reader.stop()
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
        self, task: asyncio.Task[HttpAnswer], incoming: Incoming, route: HttpRoute, origin: dict[str, str]
    ) -> None:
        self._task = None
        if self._io.is_closing():
            return
        answer = problem_answer(InternalError("The request was given up.")) if task.cancelled() else task.result()
        about = {"method": incoming.request.method, "route": route.path, "request_id": incoming.id}
        _log.debug("request", status=answer.status, **about)
        self._send(incoming, answer, origin)
        self._next()

    def _send(self, incoming: Incoming, answer: HttpAnswer, origin: dict[str, str]) -> None:
        keep_alive = incoming.keep_alive and not self._shared.draining
        has_body = incoming.request.method != "HEAD"
        headers = {**origin, REQUEST_ID: incoming.id}
        self._io.write(answer_bytes(answer, headers=headers, keep_alive=keep_alive, has_body=has_body))
        if keep_alive:
            config = self._shared.config
            self._deadline.move(config.request_within if self._reader.started else config.keep_alive)
        else:
            self._end(linger=self._shared.config.close_within)

    def _end(self, *, linger: float) -> None:
        """Close the connection when the client has read its answer, or after `linger` seconds."""
        self._reader.stop()
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
    """Return the handler's answer, or the one for the error that it raised."""
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


def _stream_head(media_type: str, incoming: Incoming, origin: dict[str, str]) -> bytes:
    chunked = {"Transfer-Encoding": "chunked"} if incoming.is_1_1 else {}
    return head(200, {**_STREAM_HEADERS, REQUEST_ID: incoming.id, "Content-Type": media_type, **chunked, **origin})


def _preflight(methods: Sequence[str]) -> dict[str, str]:
    return {
        "Allow": ", ".join(methods),
        "Access-Control-Allow-Methods": ", ".join(methods),
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
        "Access-Control-Max-Age": "300",
    }
