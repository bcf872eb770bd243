"""HTTP/2 frames and HPACK literals as bytes. Pure.

The answers' header blocks use only the static table and literals without indexing: such a block means the same on
every connection and at every time, so it can be built once and sent to anyone.

Source: RFC 9113 (frames, error codes, settings), https://www.rfc-editor.org/rfc/rfc9113, and RFC 7541 (HPACK),
https://www.rfc-editor.org/rfc/rfc7541.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD: Final = struct.Struct(">IBI")
"""A frame's nine bytes: length (24 bits) and type (8 bits) as one number, flags, stream id."""

MAX_FRAME: Final = 16_384
MAX_WINDOW: Final = 2**31 - 1

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

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

EMPTY_TABLE: Final = b"\x20"
"""HPACK: the encoder's dynamic table has size 0 from here on."""


class ErrorCode(IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame. The payload must fit in `MAX_FRAME`."""
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in values))


def rst_stream(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def goaway(last_stream: int, code: int, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream, code) + debug)


def ping(opaque: bytes, *, ack: bool = False) -> bytes:
    return frame(PING, ACK if ack else 0, 0, opaque)


def _integer(value: int, prefix: int) -> bytes:
    """Encode an integer (RFC 7541 section 5.1), with the bits before the prefix zero."""
    limit = (1 << prefix) - 1
    if value < limit:
        return bytes([value])
    out = bytearray([limit])
    value -= limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def literal(name: bytes, value: bytes) -> bytes:
    """Return one header field as a literal without indexing and without Huffman: no state at either end."""
    return b"\x00" + _integer(len(name), 7) + name + _integer(len(value), 7) + value


_STATIC_STATUS: Final = {200: 8, 204: 9, 206: 10, 304: 11, 400: 12, 404: 13, 500: 14}


def status_field(status: int) -> bytes:
    """Encode `:status`, from the static table if it contains the status."""
    index = _STATIC_STATUS.get(status)
    return bytes([0x80 | index]) if index else b"\x08\x03" + str(status).encode()


def header_block(status: int, fields: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """Return a whole header block of an answer."""
    return status_field(status) + b"".join(literal(name, value) for name, value in fields)
