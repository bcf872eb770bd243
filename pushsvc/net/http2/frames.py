"""HTTP/2 frames of a client: bytes in, whole frames out, and the few frames that a client writes. Pure.

`FrameReader` gives the same frames however the bytes are cut, which is what its property tests hold it to. It takes
padding and priority off and joins CONTINUATION to its HEADERS, so the connection sees one tuple a header block. What
a peer may not send at all (oversized frames, pushed streams, a torn header block) ends in `ConnectionFault`, which
names the HTTP/2 error code to close the connection with.

Source: RFC 9113, https://www.rfc-editor.org/rfc/rfc9113
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from typing import Final, TypeAlias

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
FLOW_CONTROL_ERROR: Final = 0x3
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
ENHANCE_YOUR_CALM: Final = 0xB

MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME: Final = 16_384
"""The largest payload that either side may send until the other allows more. We never allow more."""
STREAM_WINDOW: Final = 1 << 24
"""The receive window of a stream: far larger than any body, so that no stream waits for credit."""
LARGEST_FRAME: Final = 2**24 - 1
MAX_BLOCK: Final = 65_536
"""The largest header block that we accept, in bytes as sent."""
MAX_CONTINUATIONS: Final = 32
"""Frames a header block may be cut into: more is a flood (CVE-2024-27316 and its siblings)."""

pack_head: Final = struct.Struct(">IBI").pack
"""The nine bytes before a payload, from `size << 8 | kind`, the flags and the stream id."""
_unpack_head: Final = struct.Struct(">IBI").unpack_from
read_settings: Final = struct.Struct(">HI").iter_unpack
"""Returns the settings and values of a SETTINGS in the order sent, in which a later one takes precedence."""

Frame: TypeAlias = tuple[int, int, int, bytes]
"""Kind, flags, stream id, payload without padding and priority."""

_SIZES: Final = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_ON_CONNECTION: Final = frozenset({SETTINGS, PING, GOAWAY})
_ON_STREAM: Final = frozenset({DATA, HEADERS, PRIORITY, RST_STREAM, CONTINUATION})


class ConnectionFault(Exception):
    """The peer violated the protocol so that the connection must end. `code` is the error code of our GOAWAY."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class FrameReader:
    """Cuts a byte stream into frames.

    `consumed` adds up the flow-controlled bytes of DATA frames, padding included (RFC 9113 6.9.1). The connection takes
    it off when it returns the credit, so that no frame costs any bookkeeping of its own.
    """

    __slots__ = ("_block", "_block_flags", "_block_stream", "_need", "_pieces", "_tail", "consumed")

    def __init__(self) -> None:
        self.consumed = 0
        self._tail = bytearray()
        self._need = 0
        self._block: bytearray | None = None
        self._block_flags = 0
        self._block_stream = 0
        self._pieces = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes, in order. Raises `ConnectionFault` after the last valid one. A caller
        that stops iterating early must not call `feed` again."""
        if self._tail:
            self._tail += data
            if len(self._tail) < self._need:
                return
            data = bytes(self._tail)
            self._tail.clear()
        position, end = 0, len(data)
        while end - position >= 9:
            head, flags, stream = _unpack_head(data, position)
            size = head >> 8
            if size > DEFAULT_FRAME:
                raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame of {size} bytes, where {DEFAULT_FRAME} are allowed")
            start = position + 9
            position = start + size
            if position > end:
                position = start - 9
                self._need = 9 + size
                break
            kind = head & 0xFF
            payload = data[start:position]
            if self._block is None and 0 < stream <= MAX_STREAM:
                if kind == HEADERS and flags & (END_HEADERS | PADDED | PRIORITISED) == END_HEADERS:
                    yield HEADERS, flags, stream, payload
                    continue
                if kind == DATA and not flags & PADDED:
                    self.consumed += size
                    yield DATA, flags, stream, payload
                    continue
            frame = self._inspect(kind, flags, stream & MAX_STREAM, payload)
            if frame is not None:
                yield frame
        else:
            self._need = 9
        if position < end:
            self._tail += memoryview(data)[position:]

    def _inspect(self, kind: int, flags: int, stream: int, payload: bytes) -> Frame | None:
        """Everything but the plainest frames. None: nothing for the connection to see (yet)."""
        if self._block is not None:
            return self._join(kind, flags, stream, payload)
        size = _SIZES.get(kind)
        if size is not None and len(payload) != size:
            raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame of type {kind} with {len(payload)} bytes")
        if (kind in _ON_STREAM and not stream) or (kind in _ON_CONNECTION and stream):
            raise ConnectionFault(PROTOCOL_ERROR, f"a frame of type {kind} on stream {stream}")
        match kind:
            case 0x0:  # DATA
                self.consumed += len(payload)
                return kind, flags, stream, _unpad(payload, flags)
            case 0x1:  # HEADERS
                block = _unpad(payload, flags)
                if flags & PRIORITISED:
                    if len(block) < 5:
                        raise ConnectionFault(FRAME_SIZE_ERROR, "a HEADERS frame too short for its priority")
                    block = block[5:]
                if flags & END_HEADERS:
                    return kind, flags, stream, block
                self._block, self._block_flags, self._block_stream = bytearray(block), flags, stream
                self._pieces = 0
                return None
            case 0x4:  # SETTINGS
                if len(payload) % 6 or (flags & ACK and payload):
                    raise ConnectionFault(FRAME_SIZE_ERROR, f"a SETTINGS frame with {len(payload)} bytes")
            case 0x7:  # GOAWAY
                if len(payload) < 8:
                    raise ConnectionFault(FRAME_SIZE_ERROR, f"a GOAWAY frame with {len(payload)} bytes")
            case 0x5:  # PUSH_PROMISE
                raise ConnectionFault(PROTOCOL_ERROR, "a pushed stream, though push is disabled")
            case 0x9:  # CONTINUATION
                raise ConnectionFault(PROTOCOL_ERROR, "a CONTINUATION frame without a header block to continue")
        return kind, flags, stream, payload

    def _join(self, kind: int, flags: int, stream: int, payload: bytes) -> Frame | None:
        block = self._block
        assert block is not None
        if kind != CONTINUATION or stream != self._block_stream:
            raise ConnectionFault(PROTOCOL_ERROR, f"a frame of type {kind} inside a header block")
        block += payload
        self._pieces += 1
        if len(block) > MAX_BLOCK or self._pieces > MAX_CONTINUATIONS:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a header block too long")
        if not flags & END_HEADERS:
            return None
        self._block = None
        return HEADERS, self._block_flags | END_HEADERS, stream, bytes(block)


def _unpad(payload: bytes, flags: int) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def read_goaway(payload: bytes) -> tuple[int, int, str]:
    """Return the last processed stream, the error code and the reason of a GOAWAY. APNs sends the reason as JSON,
    others as text. Only a short plain word is returned, so that no token reaches a log."""
    last_stream, code = struct.unpack_from(">II", payload)
    try:
        reason = json.loads(payload[8:])["reason"]
    except (ValueError, TypeError, LookupError, RecursionError):
        reason = payload[8:].decode("latin-1")
    plain = isinstance(reason, str) and re.fullmatch(r"[A-Za-z0-9_ .-]{1,40}", reason)
    return last_stream & MAX_STREAM, code, reason if plain else ""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return pack_head(len(payload) << 8 | kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in values.items()))


def opening(receive_window: int) -> bytes:
    """Return the client's connection preface: no dynamic table, no push, and `receive_window` bytes of answers in
    flight."""
    data = PREFACE + settings(
        {HEADER_TABLE_SIZE: 0, ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: STREAM_WINDOW, MAX_HEADER_LIST_SIZE: MAX_BLOCK}
    )
    if receive_window > DEFAULT_WINDOW:  # the connection's own window is no setting: RFC 9113 6.9.2
        data += window_update(0, receive_window - DEFAULT_WINDOW)
    return data


def rst_stream(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def goaway(code: int, last_stream: int = 0) -> bytes:
    """Return a client's last stream is 0: the server opened none."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream, code))


def headers(stream: int, block: bytes, largest: int, *, end_stream: bool) -> bytes:
    """Return a header block as HEADERS, continued in CONTINUATION frames if it exceeds the peer's frame size."""
    flags = END_STREAM if end_stream else 0
    if len(block) <= largest:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    pieces = [block[start : start + largest] for start in range(0, len(block), largest)]
    last = len(pieces) - 1
    return frame(HEADERS, flags, stream, pieces[0]) + b"".join(
        frame(CONTINUATION, END_HEADERS if number == last else 0, stream, piece)
        for number, piece in enumerate(pieces)
        if number
    )
