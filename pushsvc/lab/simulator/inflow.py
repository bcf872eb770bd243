"""The receiving half of a connection: parses bytes into whole requests. No I/O.

Frames are parsed in bulk: everything that one read returned is parsed and passed to the application before anything is
written. It is strict where a client could make an unnoticed mistake (flow control, stream limits that the client
acknowledged, stream states), so that a test detects it.

A stream counts as open until the batch that answered it has been written: a client that keeps the limit cannot have
opened the next one before it read that answer.

Source: https://www.rfc-editor.org/rfc/rfc9113
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct

from . import frames
from .frames import (
    END_HEADERS,
    END_STREAM,
    HEAD,
    MAX_FRAME,
    PADDED,
    PREFACE,
    PRIORITISED,
    ErrorCode,
)
from .hpack import Headers, malformed, new_decode
from .outflow import DEFAULT_WINDOW, Outflow

if TYPE_CHECKING:
    from .http2 import Connection

_TOO_LONG = (MAX_FRAME + 1) << 8
_WHOLE_BLOCK = END_HEADERS | PADDED | PRIORITISED  # the flags that decide whether a HEADERS frame is the plain case
_MAX_BLOCK = 65_536
_KEPT_BODY = 262_144  # bytes; more of a body than this is counted but not kept
# A client makes all its requests in one way, so only the first 50 of a connection are checked in detail.
_INSPECTED = 99
UNLIMITED = 2**31


class Traffic(Struct):
    """Counters below the level of requests, over all connections of a port."""

    connections: int = 0
    refused_streams: int = 0
    """Streams beyond a limit that the client had acknowledged: a mistake of the client."""
    resets_received: int = 0
    goaways_received: int = 0
    protocol_errors: int = 0
    peak_streams: int = 0
    """The maximum number of streams that were open on one connection at the same time."""


class Limits(Struct, frozen=True):
    """The windows that a connection grants to the client, in bytes."""

    connection_window: int = 1 << 20
    stream_window: int = 65_535


class ProtocolFault(Exception):
    """The client broke the protocol: the connection ends with this code."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Inflow:
    """Parses the bytes that a connection receives, and calls it."""

    def __init__(self, connection: Connection, flow: Outflow, limits: Limits, traffic: Traffic) -> None:
        self.requests: dict[int, Headers] = {}
        """Streams whose header block was received and whose body is still awaited."""
        self.last = 0
        """The highest stream that was opened."""
        self.final = UNLIMITED
        """The last stream that is processed: after a GOAWAY, streams above it are ignored."""
        self.hold_credit = False
        """Whether consumed flow-control credit is kept: the client must then handle an empty window."""
        self.greeted = False
        self._connection = connection
        self._flow = flow
        self._window = max(limits.connection_window, DEFAULT_WINDOW)
        self._stream_window = limits.stream_window
        self._traffic = traffic
        self._decode = new_decode()
        self._rest = b""
        self._block: tuple[int, int, bytearray] | None = None  # a header block that CONTINUATION continues
        self._bodies: dict[int, tuple[bytearray, int]] = {}  # bodies in several frames, with the credit to return
        self._credit = self._window
        self._active = 0
        self._allowed = UNLIMITED
        self._unacknowledged: deque[int] = deque()

    def limit_streams(self, limit: int) -> None:
        """Enforce a stream limit that was sent.

        A lower one applies once the client has acknowledged it (RFC 9113 6.5.3).
        """
        self._unacknowledged.append(limit)
        if self._allowed < limit:
            self._allowed = limit

    def forget(self, stream: int) -> None:
        self.requests.pop(stream, None)
        self._bodies.pop(stream, None)

    def feed(self, data: bytes) -> None:
        """Parse what was read. Raises `ProtocolFault`."""
        if self._rest:
            data = self._rest + data
        position, end = 0, len(data)
        if not self.greeted:
            if not data.startswith(PREFACE[:end]):
                raise ProtocolFault(ErrorCode.PROTOCOL_ERROR, "this port speaks HTTP/2 only")
            if end >= len(PREFACE):
                self.greeted = True
                position = len(PREFACE)
        self._active = self._connection.open_streams
        unpack = HEAD.unpack_from
        while self.greeted and end - position >= 9:
            word, flags, stream = unpack(data, position)
            if word >= _TOO_LONG:
                raise ProtocolFault(ErrorCode.FRAME_SIZE_ERROR, "the frame is longer than SETTINGS_MAX_FRAME_SIZE")
            start = position + 9
            after = start + (word >> 8)
            if after > end:
                break
            position = after
            kind = word & 0xFF
            if kind == frames.DATA and self._block is None:
                self._data(stream & 0x7FFFFFFF, flags, data[start:after])
            elif kind == frames.HEADERS and flags & _WHOLE_BLOCK == END_HEADERS and self._block is None:
                self._open(stream & 0x7FFFFFFF, flags & END_STREAM, data[start:after])
            else:
                self._other(kind, flags, stream & 0x7FFFFFFF, data[start:after])
        self._rest = data[position:]
        if not self.hold_credit:
            self.return_credit()

    def return_credit(self) -> None:
        """Send WINDOW_UPDATE for what was consumed, if it is enough for a frame."""
        owed = self._window - self._credit
        if owed * 2 >= self._window:
            self._flow.put(frames.window_update(0, owed))
            self._credit += owed
        for stream, (body, credit) in self._bodies.items():
            if credit:
                self._flow.put(frames.window_update(stream, credit))
                self._bodies[stream] = (body, 0)

    # --- streams --------------------------------------------------------------------------------

    def _idle(self, stream: int) -> bool:
        """Return whether a stream was never opened and is not one that our GOAWAY made us ignore."""
        return self.last < stream <= self.final

    def _open(self, stream: int, ended: int, block: bytes) -> None:
        """Handle a whole header block. It is always decoded, so that the table stays in step with the client's."""
        try:
            headers = self._decode(block, True)
        except Exception as error:
            raise ProtocolFault(ErrorCode.COMPRESSION_ERROR, "the header block cannot be decoded") from error
        if stream <= self.last:
            self._trailers(stream, ended)
            return
        if not stream & 1:
            raise ProtocolFault(ErrorCode.PROTOCOL_ERROR, "a client's streams have odd numbers")
        if stream > self.final:
            return
        self.last = stream
        self._active += 1
        if self._active > self._traffic.peak_streams:
            self._traffic.peak_streams = self._active
        if self._active > self._allowed:
            self._traffic.refused_streams += 1
            self._active -= 1
            self._flow.put(frames.rst_stream(stream, ErrorCode.REFUSED_STREAM))
        elif stream <= _INSPECTED and malformed(headers):
            self._traffic.protocol_errors += 1
            self._flow.put(frames.rst_stream(stream, ErrorCode.PROTOCOL_ERROR))
        elif ended:
            self._connection.received(stream, headers, b"")
        else:
            self.requests[stream] = headers

    def _trailers(self, stream: int, ended: int) -> None:
        headers = self.requests.get(stream)
        if headers is None:
            return  # of a stream that was reset or refused
        if not ended:
            raise ProtocolFault(ErrorCode.PROTOCOL_ERROR, "a second header block must end the stream")
        body = bytes(self._bodies[stream][0]) if stream in self._bodies else b""
        self.forget(stream)
        self._connection.received(stream, headers, body)

    def _data(self, stream: int, flags: int, payload: bytes) -> None:
        size = len(payload)
        self._credit -= size
        if self._credit < 0:
            raise ProtocolFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        if flags & PADDED:
            payload = _unpadded(payload)
        headers = self.requests.get(stream)
        if headers is None:
            if not stream or self._idle(stream):
                raise ProtocolFault(ErrorCode.PROTOCOL_ERROR, "data on a stream that was never opened")
            return  # of a stream that was reset or refused
        if stream in self._bodies:
            body, credit = self._bodies[stream]
        elif flags & END_STREAM and size <= self._stream_window:  # the usual case: the whole body in one frame
            del self.requests[stream]
            self._connection.received(stream, headers, payload)
            return
        else:
            body, credit = bytearray(), 0
        if credit + size > self._stream_window:
            self.forget(stream)
            self._flow.put(frames.rst_stream(stream, ErrorCode.FLOW_CONTROL_ERROR))
            return
        if len(body) < _KEPT_BODY:
            body += payload
        if flags & END_STREAM:
            self.forget(stream)
            self._connection.received(stream, headers, bytes(body))
        else:
            self._bodies[stream] = (body, credit + size)

    # --- the rarer frames -----------------------------------------------------------------------

    def _other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.CONTINUATION:
            self._continue(flags, stream, payload)
        elif self._block is not None:
            raise ProtocolFault(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
        elif kind == frames.HEADERS:
            if flags & PADDED:
                payload = _unpadded(payload)
            if flags & PRIORITISED:
                payload = payload[5:]
            if flags & END_HEADERS:
                self._open(stream, flags & END_STREAM, payload)
            else:
                self._block = (stream, flags & END_STREAM, bytearray(payload))
        elif kind == frames.SETTINGS:
            self._settings(flags, stream, payload)
        elif kind == frames.WINDOW_UPDATE:
            self._window_update(stream, payload)
        elif kind == frames.PING:
            _sized(payload, 8, "PING")
            if flags & frames.ACK:
                self._connection.pong(payload)
            else:
                self._flow.put(frames.ping(payload, ack=True))
        elif kind == frames.RST_STREAM:
            _sized(payload, 4, "RST_STREAM")
            if not stream or self._idle(stream):
                raise ProtocolFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on a stream that was never opened")
            self._traffic.resets_received += 1
            self._connection.forget(stream)
        elif kind == frames.GOAWAY:
            self._traffic.goaways_received += 1
            self._connection.leave()
        elif kind == frames.PUSH_PROMISE:
            raise ProtocolFault(ErrorCode.PROTOCOL_ERROR, "a client cannot push")
        # PRIORITY and unknown types are ignored (RFC 9113 sections 5.3.2 and 5.5).

    def _continue(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream:
            raise ProtocolFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block to continue")
        _, ended, block = self._block
        block += payload
        if len(block) > _MAX_BLOCK:
            raise ProtocolFault(ErrorCode.ENHANCE_YOUR_CALM, "the header block is too large")
        if flags & END_HEADERS:
            self._block = None
            self._open(stream, ended, bytes(block))

    def _settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream or len(payload) % 6 or (flags & frames.ACK and payload):
            raise ProtocolFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS belong on stream 0, six bytes a value")
        if flags & frames.ACK:
            if self._unacknowledged:
                self._allowed = self._unacknowledged.popleft()
                self._allowed = max(self._allowed, *self._unacknowledged, 0)
            return
        # The acknowledgement is sent first: a client may widen its windows only when it reads it.
        self._flow.put(frames.frame(frames.SETTINGS, frames.ACK, 0))
        for offset in range(0, len(payload), 6):
            key = int.from_bytes(payload[offset : offset + 2], "big")
            value = int.from_bytes(payload[offset + 2 : offset + 6], "big")
            if key == frames.INITIAL_WINDOW_SIZE:
                if value > frames.MAX_WINDOW:
                    raise ProtocolFault(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is too large")
                self._flow.resize(value)
            elif key == frames.HEADER_TABLE_SIZE:
                self._flow.limit_table(value)

    def _window_update(self, stream: int, payload: bytes) -> None:
        _sized(payload, 4, "WINDOW_UPDATE")
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if not increment:
            raise ProtocolFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by 0")
        if stream:
            if self._idle(stream):
                raise ProtocolFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was never opened")
            if stream not in self.requests and not self._connection.waits(stream):
                return  # the stream is over
        if not self._flow.widen(stream, increment):
            raise ProtocolFault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")


def _sized(payload: bytes, size: int, name: str) -> None:
    if len(payload) != size:
        raise ProtocolFault(ErrorCode.FRAME_SIZE_ERROR, f"{name} has {size} bytes")


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ProtocolFault(ErrorCode.PROTOCOL_ERROR, "the padding is longer than the frame")
    return payload[1 : len(payload) - payload[0]]
