"""Stateless HPACK: encoded request fields that are valid on every connection, and answers that are decoded on demand.

Outgoing fields are literals without indexing, so a caller encodes its constant fields once and concatenates them.
`EMPTY_TABLE` opens the first block of a connection: it informs the server that the client keeps no dynamic table. RFC
7541 4.2 requires it after the table was shrunk, and it stays true whatever size the server allows later.

For answers, the client announces a table size of 0. A server that complies opens with a table-size update to 0 (RFC
7541 4.2), and from that block on each block can be decoded by itself: its status is one byte to look up, and the rest
need not be read at all. Until then, and again if a server enlarges its table nevertheless, every block is decoded in
order by a decoder of the connection, which is right for any server and takes about 1 microsecond per block.

Source: RFC 7541, https://www.rfc-editor.org/rfc/rfc7541; field rules: RFC 9113 8.2,
https://www.rfc-editor.org/rfc/rfc9113#section-8.2
"""

from __future__ import annotations

import re
from typing import Final, Protocol, TypeAlias, cast

try:  # Rust; the package's public decoder is the same thing in Python and 15 times slower.
    from jh2._hazmat import Decoder as Decoder  # type: ignore[import-untyped]  # jh2 ships no py.typed
except ImportError:  # pragma: no cover  (a platform for which jh2 has no compiled wheel)
    from jh2.hpack import Decoder as Decoder  # type: ignore[import-untyped]  # the same calls

EMPTY_TABLE: Final = b"\x20"
POST: Final = b"\x83"
"""`:method: POST`, from the static table."""
HTTPS: Final = b"\x87"
"""`:scheme: https`, from the static table."""

_TABLE: Final = (
    ":authority :method :method :path :path :scheme :scheme :status :status :status :status :status :status :status "
    "accept-charset accept-encoding accept-language accept-ranges accept access-control-allow-origin age allow "
    "authorization cache-control content-disposition content-encoding content-language content-length "
    "content-location content-range content-type cookie date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified link location max-forwards "
    "proxy-authenticate proxy-authorization range referer refresh retry-after server set-cookie "
    "strict-transport-security transfer-encoding user-agent vary via www-authenticate"
)
_INDEX: Final = {name: index for index, name in reversed(list(enumerate(_TABLE.split(), 1)))}
_STATUS: Final = {
    bytes([0x80 | index]): status for index, status in enumerate((200, 204, 206, 304, 400, 404, 500), _INDEX[":status"])
}

_NAME: Final = re.compile(r"(?::(?:authority|method|path|scheme)|[!#$%&'*+\-.^_`|~0-9a-z]+)\Z")
_FORBIDDEN: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|\A[ \t]|[ \t]\Z")
_CONNECTION_ONLY: Final = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})

Source: TypeAlias = bytes | dict[str, str]
"""The fields of an answer: a stateless block, or the decoded fields of any other block."""


class BlockFault(Exception):
    """A header block that cannot be decoded: HTTP/2's COMPRESSION_ERROR."""


class _Decodes(Protocol):
    header_table_size: int

    def decode(self, data: bytes, raw: bool | None = None) -> list[tuple[bytes, bytes, bool]]: ...


def _integer(value: int, prefix: int, pattern: int) -> bytes:
    """Encode an integer (RFC 7541 5.1):

    `value` in the low `prefix` bits of a byte and as many more bytes as it needs.
    """
    limit = (1 << prefix) - 1
    if value < limit:
        return bytes([pattern | value])
    out = bytearray([pattern | limit])
    value -= limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(name: str, value: str | bytes) -> bytes:
    """Return one field as a literal that is never indexed: neither end, nor a proxy, keeps it in a table.

    Text is sent as UTF-8. Raises ValueError, without the value, for a name that is not a lower-case field name or a
    value with control characters or space around it.
    """
    return _name(name) + _value(name, value)


def path(value: str) -> bytes:
    """Encode `:path`. Checks that the value is valid once, here."""
    if value[:1] != "/" or " " in value:
        raise ValueError(":path must start with '/' and hold no space")
    return _PATH + _value(":path", value)


def authority(value: str) -> bytes:
    """Encode `:authority`: the host, with the port unless it is 443."""
    return field(":authority", value)


def _name(name: str) -> bytes:
    if not _NAME.match(name):
        raise ValueError(f"{name!r} is not a lower-case HTTP field name")
    if name in _CONNECTION_ONLY:
        raise ValueError(f"{name!r} has no meaning in HTTP/2")
    index = _INDEX.get(name)
    if index is not None:
        return _integer(index, 4, 0x10)
    return b"\x10" + _integer(len(name), 7, 0) + name.encode()


def _value(name: str, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    if _FORBIDDEN.search(raw):
        raise ValueError(f"the value of {name!r} holds a control character, or space around it")
    size = len(raw)
    return (bytes((size,)) if size < 127 else _integer(size, 7, 0)) + raw


_PATH: Final = _name(":path")


class BlockReader:
    """Reads the header blocks of one connection, in their order of arrival."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder: _Decodes | None = cast(_Decodes, Decoder())
        """None once each block can be decoded by itself."""

    def read(self, block: bytes) -> tuple[int, Source]:
        """Return the status (0 for trailers, which have none) and the fields, decoded only if necessary. Every block of
        the connection must be passed to this method, even if it is not needed. Raises `BlockFault`."""
        if self._decoder is None:
            status = _STATUS.get(block[:1])
            if status is not None:
                return status, block
            bare = block.lstrip(EMPTY_TABLE)  # repeated, which is allowed and changes nothing
            status = _STATUS.get(bare[:1])
            if status is not None:
                return status, bare
            if not 0x20 < (bare[0] if bare else 0) < 0x40:
                return _split(_decode(_fresh(), bare))
            # The server enlarges its table although we allow none. Nothing can be in it yet, so a new decoder follows.
            self._decoder = cast(_Decodes, Decoder())
        decoder = self._decoder
        pairs = _decode(decoder, block)
        if decoder.header_table_size == 0:
            self._decoder = None
        return _split(pairs)


def read_fields(block: bytes) -> dict[str, str]:
    """Return the fields of a stateless block by lower-case name, without the status; empty if it cannot be decoded."""
    try:
        return _split(_decode(_fresh(), block))[1]
    except BlockFault:
        return {}


def _fresh() -> _Decodes:
    decoder = cast(_Decodes, Decoder())
    decoder.header_table_size = 0
    return decoder


def _decode(decoder: _Decodes, block: bytes) -> list[tuple[bytes, bytes, bool]]:
    try:
        return decoder.decode(block, True)
    except BaseException as error:
        # The Rust decoder panics on some torn blocks, and a panic is a BaseException to Python.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise BlockFault(f"a header block that cannot be decoded ({type(error).__name__})") from None
        raise


def _split(pairs: list[tuple[bytes, bytes, bool]]) -> tuple[int, dict[str, str]]:
    status = 0
    fields: dict[str, str] = {}
    for pair in pairs:
        name, value = pair[0].decode("latin-1"), pair[1].decode("latin-1")
        if name == ":status":
            status = int(value) if len(value) == 3 and value.isdecimal() and value.isascii() else -1
        elif name in fields:
            fields[name] += ", " + value
        else:
            fields[name] = value
    return status, fields
