"""Connections that stay: WebSocket, HTTP streaming and server-sent events.

Each is one small object behind a socket of the event loop: no task, no stream, no timer of its own. The object that
read the HTTP request is dropped when the connection becomes one of these.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import ClassVar

import structlog
from structlog.typing import FilteringBoundLogger

from ...net.websocket import frames
from ..peer import Format, Peer, Request, TransportName
from ..wheel import Deadline
from .emulation import new_session
from .shared import Shared

SLOW = 3008
"""The code of Centrifuge for a client that reads too slowly."""

ENDS_AFTER = 0.5
"""Seconds between the last message of an HTTP response and its end, which a client brings about before. Old versions of
centrifuge-js that see the end together with the message that announces it never come back: the end begins a reconnect,
and the message, which they handle a turn later, cancels it."""

_log: FilteringBoundLogger = structlog.get_logger("live")


class LongConnection(asyncio.Protocol):
    """What the transports have in common: the end of a connection, and a client that reads slowly."""

    __slots__ = ("_closing", "_io", "_peer", "_shared", "_stranger", "code", "format", "paused")

    name: ClassVar[TransportName]
    session: str
    frame_pings: bool

    def __init__(self, shared: Shared, io: asyncio.Transport, format: Format) -> None:  # noqa: A002  # the term of clients
        self._shared = shared
        self._io = io
        self.format = format
        self._peer: Peer | None = None
        self._closing: Deadline | None = None
        self._stranger = ""
        """As what the client is counted, until it is known."""
        self.code = 0
        self.paused = False

    def start(self, request: Request, head: bytes, stranger: str) -> None:
        """Take over the socket of a client that is counted as `stranger`: answer `head` and make the session."""
        self._stranger = stranger
        shared, io = self._shared, self._io
        shared.opened(self)
        io.set_protocol(self)
        io.set_write_buffer_limits(high=shared.config.buffer_soft)
        io.write(head)
        try:
            self._peer = shared.make_peer(self, request)
        except Exception as error:
            self._failed(error)

    def known(self) -> None:
        """Take note that the client has shown who it is: it may send messages of any size."""
        self._shared.strangers.leave(self._stranger)
        self._stranger = ""

    def write(self, data: bytes) -> None:
        if not self.code:
            self._io.write(self._framed(data))
            if self.paused and self._io.get_write_buffer_size() > self._shared.config.buffer_hard:
                self.close(SLOW, "slow")
                self._report()

    def ping(self) -> None:
        """Send nothing: only WebSocket has pings."""

    def close(self, code: int, reason: str) -> None:
        """End the connection after what was written; at once if the client does not take it in time."""
        if not self.code:
            self.code = code
            self._announce_end(code, reason)

    def abort(self) -> None:
        self.code = self.code or frames.ABNORMAL
        self._io.abort()

    def shutdown(self) -> None:
        """Have the session end the connection."""
        if self._peer is not None and not self.code:
            self._call(self._peer.shutdown)

    def receive(self, payload: bytes) -> None:
        """Hand a message to the session."""
        if self._peer is not None and not self.code:
            try:
                self._peer.received(payload)
            except Exception as error:
                self._failed(error)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._peer is not None and not self.code:
            self._call(self._peer.resumed)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.closed(self)
        self._shared.strangers.leave(self._stranger)
        self._stranger = ""
        self.code = self.code or frames.ABNORMAL
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        self._report()

    def _framed(self, data: bytes) -> bytes:
        raise NotImplementedError

    def _announce_end(self, code: int, reason: str) -> None:
        raise NotImplementedError

    def _abort_later(self) -> None:
        """End the connection, unless it has ended in time."""
        self._closing = self._shared.wheel.after(self._shared.config.close_within, self._io.abort)

    def _report(self) -> None:
        """Report the end to the session, once."""
        peer, self._peer = self._peer, None
        if peer is not None:
            self._call(peer.lost, self.code not in (frames.ABNORMAL, SLOW))

    def _call(self, method: Callable[..., None], *args: object) -> None:
        try:
            method(*args)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """End the connection for a fault of the session. The log gets no message of the error, which may quote data."""
        where = "".join(traceback.format_tb(error.__traceback__)[-8:])
        _log.error("live_session_failed", transport=self.name, error=type(error).__name__, where=where)
        self.close(frames.INTERNAL_ERROR, "internal error")


class WebSocketTransport(LongConnection):
    __slots__ = ("_messages", "_opcode", "_reader", "_since", "frame_pings")

    name = "websocket"
    session = ""

    def __init__(self, shared: Shared, io: asyncio.Transport, format: Format, *, frame_pings: bool) -> None:  # noqa: A002
        super().__init__(shared, io, format)
        self._opcode = frames.BINARY if format == "protobuf" else frames.TEXT
        self._reader = frames.MessageReader(min(shared.config.first_bytes, shared.config.message_bytes))
        self.frame_pings = frame_pings
        self._since = shared.wheel.now()
        """Since when `_messages` counts the messages of the client, in seconds of the wheel."""
        self._messages = 0

    def known(self) -> None:
        super().known()
        self._reader.allow(self._shared.config.message_bytes)

    def ping(self) -> None:
        if not self.code and not self.paused:
            self._io.write(frames.frame(frames.PING, b""))

    def data_received(self, data: bytes) -> None:
        events = self._reader.feed(data)
        self._messages += len(events) + len(data) // 256
        if self._messages > self._shared.config.messages:
            self._rest()
        for kind, payload in events:
            if kind <= frames.BINARY:
                self.receive(payload)
            elif kind == frames.CLOSE:
                self._closed_by_client(payload)
            elif self.code:
                continue
            elif kind == frames.PING:
                # Who does not read gets no pongs, which could pile up without end.
                if not self.paused:
                    self._io.write(frames.frame(frames.PONG, payload))
            elif kind == frames.PONG:
                if self._peer is not None:
                    self._call(self._peer.ponged)
            else:
                self._shared.fault("oversized" if frames.close_code(payload) == frames.TOO_BIG else "frame")
                self.close(frames.close_code(payload), payload[2:].decode())
                self._end_sending()

    def _rest(self) -> None:
        """Begin to count the client's next share of a second. If the last was sent within less, read nothing more for a
        second, so that others have theirs."""
        wheel = self._shared.wheel
        now = wheel.now()
        is_early = now < self._since + 1.0
        self._since, self._messages = now + is_early, 0
        if is_early:
            self._io.pause_reading()
            wheel.after(1.0, self._listen)

    def _listen(self) -> None:
        if not self._io.is_closing():
            self._io.resume_reading()

    def _end_sending(self) -> None:
        """Close this side of the socket: no close frame is waited for from a client that broke the protocol."""
        if self._io.can_write_eof():
            self._io.write_eof()
        else:
            self._io.close()

    def _closed_by_client(self, payload: bytes) -> None:
        """Answer the client's close frame, unless it answers ours; then the server closes the socket first."""
        if not self.code:
            self.code = frames.close_code(payload)
            self._io.write(frames.frame(frames.CLOSE, payload[:2]))
            self._abort_later()
        self._io.close()
        self._report()

    def _framed(self, data: bytes) -> bytes:
        return frames.frame(self._opcode, data)

    def _announce_end(self, code: int, reason: str) -> None:
        self._io.write(frames.frame(frames.CLOSE, frames.close_payload(code, reason)))
        self._abort_later()


class StreamTransport(LongConnection):
    """An HTTP response without end; what the client sends comes as requests of their own."""

    __slots__ = ("_chunked", "session")

    frame_pings = False

    def __init__(self, shared: Shared, io: asyncio.Transport, format: Format, *, chunked: bool) -> None:  # noqa: A002
        super().__init__(shared, io, format)
        self._chunked = chunked
        self.session = new_session(shared.config.session_key)

    def start(self, request: Request, head: bytes, stranger: str) -> None:
        self._shared.sessions[self.session] = self
        super().start(request, head, stranger)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.sessions.pop(self.session, None)
        super().connection_lost(exc)

    def _framed(self, data: bytes) -> bytes:
        message = self._message(data)
        return b"%x\r\n%b\r\n" % (len(message), message) if self._chunked else message

    def _message(self, data: bytes) -> bytes:
        raise NotImplementedError

    def _announce_end(self, code: int, reason: str) -> None:
        self._closing = self._shared.wheel.after(ENDS_AFTER, self._end)

    def _end(self) -> None:
        if self._chunked:
            self._io.write(b"0\r\n\r\n")
        self._io.close()
        self._abort_later()


class HttpStreamTransport(StreamTransport):
    """HTTP streaming: a line a message in JSON, or Protobuf with its lengths."""

    __slots__ = ()

    name = "http_stream"

    def _message(self, data: bytes) -> bytes:
        return data if self.format == "protobuf" else data + b"\n"


class SseTransport(StreamTransport):
    """Server-sent events: replies that come together are the lines of one event."""

    __slots__ = ()

    name = "sse"

    def _message(self, data: bytes) -> bytes:
        return b"data: %b\n\n" % data.replace(b"\n", b"\ndata: ")
