"""Header blocks: decodes them with jh2 (in Rust, or in Python where its extension module is missing), and checks
them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ...net.http2.hpack_fields import Decoder

Headers: TypeAlias = list[tuple[bytes, bytes, bool]]
"""Names and values in the order received. From jh2's Python decoder the third item is missing: do not unpack it."""


def new_decode() -> Callable[[bytes, bool], Headers]:
    """Return a decoder for one connection: call it with a block and True (names and values stay bytes), in order."""
    decode: Callable[[bytes, bool], Headers] = Decoder().decode
    return decode


_CONNECTION_SPECIFIC = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})


def malformed(headers: Headers) -> str:
    """Return why a request's header fields are malformed (RFC 9113 sections 8.2 and 8.3), or the empty string."""
    names = [field[0] for field in headers]
    pseudo = [name for name in names if name[:1] == b":"]
    if names[: len(pseudo)] != pseudo:
        return "a pseudo-header field after a regular one"
    if len(set(pseudo)) != len(pseudo) or not set(pseudo) <= _PSEUDO:
        return "a pseudo-header field that is unknown or repeated"
    if not {b":method", b":scheme", b":path"} <= set(pseudo):
        return "no :method, :scheme or :path"
    for field in headers:
        if field[0] != field[0].lower() or field[0] in _CONNECTION_SPECIFIC:
            return "a name with capitals, or a field of HTTP/1"
        if field[1] != field[1].strip() or any(byte in field[1] for byte in b"\0\r\n"):
            return "a value with white space at an end, or a forbidden character"
    return ""
