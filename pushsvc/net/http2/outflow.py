"""Outgoing flow control of HTTP/2: what may be written on a connection, and when. It uses no transport and no clock.

A body that does not fit waits in `unfinished` and is continued in the order of the streams. A body whose own stream
window is exhausted does not delay others; while the connection's window is exhausted no further stream is opened, so a
request that could not be sent stays with the pool, which may use another connection.

The windows are used to the last byte. A peer may grant credit only after all of it is spent, and a sender that waited
until a whole body fits would then wait forever.

Source: RFC 9113 5.2 and 6.9, https://www.rfc-editor.org/rfc/rfc9113#section-6.9
"""

from __future__ import annotations

from collections import deque

from . import frames
from .exchange import Request
from .frames import END_HEADERS, END_STREAM, HEADERS, MAX_WINDOW, ConnectionFault, pack_head
from .hpack_fields import EMPTY_TABLE


class Outflow:
    """The send windows of one connection, and the bodies that wait for them."""

    __slots__ = ("_initial", "_largest", "unfinished", "window")

    def __init__(self) -> None:
        self.window = frames.DEFAULT_WINDOW
        self.unfinished: dict[int, Request] = {}
        self._initial = frames.DEFAULT_WINDOW
        self._largest = frames.DEFAULT_FRAME

    def open(
        self, out: list[bytes], waiting: deque[Request], count: int, streams: dict[int, Request], stream: int
    ) -> int:
        """Write up to `count` requests from the left of `waiting`, on streams from `stream` on. Returns the next id."""
        window, largest = self.window, self._largest
        whole = min(self._initial, largest)
        while count > 0 and window > 0:
            count -= 1
            request = waiting.popleft()
            fields, body = request.fields, request.body
            size = len(body)
            streams[stream] = request
            if stream == 1:
                fields = EMPTY_TABLE + fields
            if 0 < size <= window and size <= whole and len(fields) <= largest:
                window -= size
                out += (
                    pack_head(len(fields) << 8 | HEADERS, END_HEADERS, stream),
                    fields,
                    pack_head(size << 8, END_STREAM, stream),  # DATA is type 0
                    body,
                )
            else:
                out.append(frames.headers(stream, fields, largest, end_stream=not size))
                if size:
                    request.credit = self._initial
                    self.unfinished[stream] = request
                    self.window = window
                    self._resume(out, stream, request)
                    window = self.window
            stream += 2
        self.window = window
        return stream

    def resume(self, out: list[bytes]) -> None:
        """Continue the waiting bodies, oldest first."""
        for stream, request in list(self.unfinished.items()):
            if self.window <= 0:
                return
            self._resume(out, stream, request)

    def _resume(self, out: list[bytes], stream: int, request: Request) -> None:
        body, position = request.body, request.sent
        left = len(body) - position
        while (size := min(left, self.window, request.credit, self._largest)) > 0:
            left -= size
            self.window -= size
            request.credit -= size
            out += (pack_head(size << 8, 0 if left else END_STREAM, stream), body[position : position + size])
            position += size
        request.sent = position
        if not left:
            del self.unfinished[stream]

    def grant(self, increment: int) -> None:
        """Handle a WINDOW_UPDATE of the connection. Raises `ConnectionFault`."""
        if not increment:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a window update by 0")
        self.window += increment
        if self.window > MAX_WINDOW:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a connection window beyond the protocol's limit")

    def grant_stream(self, stream: int, increment: int) -> int:
        """Handle a WINDOW_UPDATE of an open stream. Returns the error code to reset it with, or `NO_ERROR`."""
        if not increment:
            return frames.PROTOCOL_ERROR
        request = self.unfinished.get(stream)
        if request is not None:
            request.credit += increment
            if request.credit > MAX_WINDOW:
                return frames.FLOW_CONTROL_ERROR
        return frames.NO_ERROR

    def set_initial(self, value: int) -> None:
        """Handle SETTINGS_INITIAL_WINDOW_SIZE: adjust the window of every stream, even below zero (RFC 9113 6.9.2)."""
        if value > MAX_WINDOW:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "an initial window beyond the protocol's limit")
        change, self._initial = value - self._initial, value
        for request in self.unfinished.values():
            request.credit += change
            if request.credit > MAX_WINDOW:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a stream's window beyond the protocol's limit")

    def set_largest(self, value: int) -> None:
        """Handle SETTINGS_MAX_FRAME_SIZE."""
        if not frames.DEFAULT_FRAME <= value <= frames.LARGEST_FRAME:
            raise ConnectionFault(frames.PROTOCOL_ERROR, f"a largest frame of {value} bytes")
        self._largest = value
