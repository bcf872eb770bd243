"""An HTTP/2 server connection over asyncio: passes on whole requests, and writes all answers to a read at once.

It is written independently of the client's transport on purpose: two independent readings of RFC 9113 find each
other's mistakes. `inflow` parses, `outflow` encodes; this module has the transport, the waiting answers, and the
misbehaviour that a test requests: late answers, none, RST_STREAM, GOAWAY, stream limits, a dropped connection.

Source: https://www.rfc-editor.org/rfc/rfc9113
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from msgspec import Struct

from . import frames
from .hpack import Headers
from .inflow import UNLIMITED, Inflow, Limits, ProtocolFault, Traffic
from .outflow import DEFAULT_WINDOW, Outflow

_LINGER = 1.0  # seconds that a client has to close after a GOAWAY
_MAX_HEADER_LIST = 65_536
_FAREWELL = b"farewell"

_WRONG_PROTOCOL = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Content-Length: 45\r\n\r\nThis port speaks HTTP/2 only (ALPN id: h2).\r\n"
)


class Answer(Struct, frozen=True, gc=False):
    """A response to send: the header block of stateless literals, and the body."""

    status: int
    reason: str
    """The provider's reason; empty on success. With status 0, what was done instead of an answer."""
    block: bytes
    body: bytes = b""


class Application(Protocol):
    """The application that handles the requests of a connection."""

    def opened(self, connection: Connection) -> int:
        """Handle a new connection. Returns its first SETTINGS_MAX_CONCURRENT_STREAMS."""

    def request(self, connection: Connection, stream: int, headers: Headers, body: bytes) -> None:
        """Handle a request. Answer it by `connection.answer`, now or later, or misbehave on purpose."""


class Connection(asyncio.Protocol):
    """One client. Call every method on its event loop."""

    transport: asyncio.Transport

    def __init__(self, application: Application, limits: Limits, traffic: Traffic, crowd: set[Connection]) -> None:
        self.memory: Any = None
        """The application's own data about this connection."""
        self.number = 0
        """The number of this connection on its port, from 1."""
        self.stream_limit = UNLIMITED
        """The SETTINGS_MAX_CONCURRENT_STREAMS that was sent last."""
        self._application = application
        self._limits = limits
        self._traffic = traffic
        self._crowd = crowd
        self._flow = Outflow()
        self._inflow = Inflow(self, self._flow, limits, traffic)
        self._waiting: dict[int, tuple[Headers, bytes] | None] = {}  # received whole, not answered yet
        self._later: deque[tuple[float, int, Answer]] = deque()  # answers with a due time, in its order
        self._batching = self._closed = self._leaving = self._goodbye = self._agreed = False
        self._farewell: bytes | None = None
        self._request: Callable[[Connection, int, Headers, bytes], None] = application.request

    # --- the transport --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._traffic.connections += 1
        self.number = self._traffic.connections
        self._crowd.add(self)
        self.stream_limit = self._application.opened(self)
        self._inflow.limit_streams(self.stream_limit)
        values = [
            (frames.MAX_CONCURRENT_STREAMS, self.stream_limit),
            (frames.INITIAL_WINDOW_SIZE, self._limits.stream_window),
            (frames.MAX_HEADER_LIST_SIZE, _MAX_HEADER_LIST),
        ]
        self._flow.put(frames.settings(values))
        if (more := self._limits.connection_window - DEFAULT_WINDOW) > 0:
            self._flow.put(frames.window_update(0, more))
        tls = transport.get_extra_info("ssl_object")
        self._agreed = tls is not None and tls.selected_alpn_protocol() == "h2"
        if self._agreed:  # otherwise the client may speak HTTP/1, and its first bytes decide
            self._flush()

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        self._batching = True
        try:
            self._inflow.feed(data)
        except ProtocolFault as fault:
            self._traffic.protocol_errors += 1
            if self._agreed or self._inflow.greeted:
                self._flow.put(frames.goaway(self._inflow.last, fault.code, str(fault).encode()))
            else:
                self._flow.take()
                self._flow.put(_WRONG_PROTOCOL)
            self.close()
        else:
            self._end_batch()

    def _end_batch(self) -> None:
        self._batching = False
        self._flush()
        if self._leaving and not self._goodbye and not self._closed and not self.open_streams:
            # The last answer was sent: the client may close now; if it does not, the server does.
            self._goodbye = True
            self._loop.call_later(_LINGER, self.close)

    def _flush(self) -> None:
        if not self._batching and not self._closed and (data := self._flow.take()):
            self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        self._crowd.discard(self)
        self._waiting.clear()
        self._inflow.requests.clear()

    def pause_writing(self) -> None:
        # Reading from a client that does not read its answers is paused, or the answers would fill the memory.
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._closed:
            self.transport.resume_reading()

    def close(self) -> None:
        """Close after what is queued has been written."""
        if not self._closed:
            self._batching = False
            self._flush()
            self._closed = True
            self.transport.close()

    def abort(self) -> None:
        """Drop the TCP connection at once, as a failing network does."""
        self._closed = True
        self.transport.abort()

    # --- for the receiving half -----------------------------------------------------------------

    @property
    def open_streams(self) -> int:
        """Requests that have begun and whose answer is not complete."""
        return len(self._inflow.requests) + len(self._waiting) + self._flow.blocked

    def received(self, stream: int, headers: Headers, body: bytes) -> None:
        """Handle a whole request."""
        if not self._closed:
            self._request(self, stream, headers, body)

    def forget(self, stream: int) -> None:
        """Forget a stream that was reset."""
        self._inflow.forget(stream)
        self._waiting.pop(stream, None)
        self._flow.forget(stream)

    def waits(self, stream: int) -> bool:
        """Return whether the stream still waits for (the rest of) its answer."""
        return stream in self._waiting or self._flow.waits(stream)

    def pong(self, opaque: bytes) -> None:
        """Handle the answer to one of our PINGs."""
        if opaque == _FAREWELL and self._farewell is not None:
            self.go_away(debug=self._farewell)

    def leave(self) -> None:
        """Handle a GOAWAY of the client."""
        self._leaving = True

    # --- answering ------------------------------------------------------------------------------

    def answer(self, stream: int, answer: Answer) -> None:
        self._flow.answer(stream, answer.block, answer.body)
        if not self._batching:
            self._end_batch()

    def answer_later(self, stream: int, answer: Answer, delay: float) -> None:
        """Answer after `delay` seconds, unless the client gives up before that."""
        self._waiting[stream] = None
        due = self._loop.time() + delay
        if self._later and due < self._later[-1][0]:  # out of order: needs a timer of its own
            self._loop.call_at(due, self._answer_waiting, stream, answer)
            return
        self._later.append((due, stream, answer))
        if len(self._later) == 1:  # one timer for all that have the same delay
            self._loop.call_at(due, self._answer_due)

    def _answer_due(self) -> None:
        now = self._loop.time() + 0.0005
        self._batching = True
        while self._later and self._later[0][0] <= now:
            _, stream, answer = self._later.popleft()
            self._answer_waiting(stream, answer)
        if self._later and not self._closed:
            self._loop.call_at(self._later[0][0], self._answer_due)
        self._end_batch()

    def _answer_waiting(self, stream: int, answer: Answer) -> None:
        if stream in self._waiting:  # otherwise the client or a command has reset it
            del self._waiting[stream]
            self.answer(stream, answer)

    def hold(self, stream: int, request: tuple[Headers, bytes] | None = None) -> None:
        """Leave a request without an answer. With `request`, `release` passes it to the application again."""
        self._waiting[stream] = request

    def release(self) -> None:
        """Pass the requests that `hold` was given to the application again."""
        self._batching = True
        for stream, request in list(self._waiting.items()):
            if request is not None:
                del self._waiting[stream]
                self.received(stream, *request)
        self._end_batch()

    # --- misbehaving on command -------------------------------------------------------------------

    def reset(self, stream: int, code: int) -> None:
        """Send RST_STREAM instead of an answer."""
        self.forget(stream)
        self._flow.put(frames.rst_stream(stream, code))
        self._flush()

    def reset_open(self, code: int) -> int:
        """Send RST_STREAM on every request that waits for its answer. Returns their number."""
        streams = self.open_stream_ids()
        for stream in streams:
            self.reset(stream, code)
        return len(streams)

    def open_stream_ids(self) -> list[int]:
        """Return the requests that wait for their answer, oldest first."""
        return sorted((*self._inflow.requests, *self._waiting))

    def limit_streams(self, limit: int) -> None:
        """Change SETTINGS_MAX_CONCURRENT_STREAMS. A lower limit is enforced once the client has acknowledged it."""
        self.stream_limit = limit
        self._inflow.limit_streams(limit)
        self._flow.put(frames.settings([(frames.MAX_CONCURRENT_STREAMS, limit)]))
        self._flush()

    def hold_credit(self, on: bool) -> None:
        """Keep consumed flow-control credit while on: the client must handle an empty window."""
        self._inflow.hold_credit = on
        if not on:
            self._inflow.return_credit()
            self._flush()

    def go_away(self, last_stream: int | None = None, *, debug: bytes = b"") -> None:
        """Send GOAWAY, then close. Streams above `last_stream` are not answered; None: all received ones are."""
        final = self._inflow.last if last_stream is None else max(last_stream, 0)
        self._inflow.final = min(final, self._inflow.final)
        for stream in self.open_stream_ids():
            if stream > final:
                self.forget(stream)
        self._flow.put(frames.goaway(final, 0, debug))
        self._leaving = True
        if not self._batching:
            self._end_batch()

    def go_away_gracefully(self, debug: bytes = b"") -> None:
        """Send the two GOAWAYs of RFC 9113 section 6.8: first "open no more", a round trip later the actual last
        stream."""
        self._farewell = debug
        self._flow.put(frames.goaway(frames.MAX_WINDOW, 0, debug))
        self._flow.put(frames.ping(_FAREWELL))
        self._flush()
