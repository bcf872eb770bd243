"""The message in which spans go to a collector: OTLP 1 as protobuf. Pure.

The packages of OpenTelemetry take about 45 µs for a span, much of it in the thread that encodes it, which the requests
of the process wait for: a third of a request. Here it is about 7 µs.

The messages: https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto.
Their encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from msgspec import Struct

from .traces import Kind, Recorded

_KINDS: Final[Mapping[Kind, int]] = {"internal": 1, "server": 2, "client": 3, "consumer": 5}
_SMALL: Final = [bytes((number,)) for number in range(128)]
_ERROR: Final = b"\x18\x02"
"""`STATUS_CODE_ERROR` in a `Status`."""
_FLAGS: Final = b"\x85\x01" + (0x101).to_bytes(4, "little")
"""It is sampled, and whether its parent is of another process is known: it is not."""
_FLAGS_BELOW_REMOTE: Final = b"\x85\x01" + (0x301).to_bytes(4, "little")
_SHORT: Final = 24
"""Characters from which on a value is not kept in its encoded form."""
_times: Final = struct.Struct("<BQBQ").pack


class EndedSpan(Struct, frozen=True, gc=False):
    """A span that is over, in its trace. The collector of garbage does not look at the many that wait."""

    span: Recorded
    own: bytes
    """The id of its trace (16 bytes) and its own (8)."""
    parent: bytes
    """The id of the span above it; empty: it begins the trace."""
    remote: bool
    """Whether that one is of another process."""


def resource(attributes: Mapping[str, str], scope: str, version: str) -> tuple[bytes, bytes]:
    """Return the parts of every message of a process: what it is, and what writes its spans."""
    about = b"".join(_sized(b"\x0a", _attribute(key, value)) for key, value in attributes.items())
    return _sized(b"\x0a", about), _sized(b"\x0a", _text(b"\x0a", scope) + _text(b"\x12", version))


def message(spans: Iterable[EndedSpan], head: tuple[bytes, bytes]) -> bytes:
    """Return an `ExportTraceServiceRequest` with these spans and all below them. `head` is the `resource`."""
    found: list[bytes] = []
    for each in spans:
        _add(found, each.span, each.own, each.parent, each.remote)
    process, scope = head
    return _sized(b"\x0a", process + _sized(b"\x12", b"".join((scope, *found))))


def new_id(size: int) -> bytes:
    """Return a random id of a trace (16 bytes) or a span (8)."""
    return random.getrandbits(8 * size).to_bytes(size)


def _add(found: list[bytes], span: Recorded, own: bytes, parent: bytes, remote: bool) -> None:
    trace = own[:16]
    parts = [
        b"\x0a\x10%b\x12\x08%b" % (trace, own[16:]),
        b"\x22\x08" + parent if parent else b"",
        _named(span.name, span.kind),
        _times(0x39, span.start, 0x41, span.end),
        *[
            # What is longer is an id, which no other span has.
            _kept_field(key, value) if isinstance(value, int) or len(value) < _SHORT else _field(key, value)
            for key, value in span.attributes.items()
        ],
        _sized(b"\x7a", _text(b"\x12", span.error) + _ERROR) if span.error else b"",
        _FLAGS_BELOW_REMOTE if remote else _FLAGS,
    ]
    found.append(_sized(b"\x12", b"".join(parts)))
    for child in span.children:
        _add(found, child, trace + new_id(8), own[16:], False)


@lru_cache(maxsize=1024)
def _named(name: str, kind: Kind) -> bytes:
    return _text(b"\x2a", name) + b"\x30" + _SMALL[_KINDS[kind]]


def _field(key: str, value: str | int) -> bytes:
    """Return an attribute of a span, a `KeyValue`."""
    return _sized(b"\x4a", _attribute(key, value))


_kept_field: Final = lru_cache(maxsize=4096)(_field)


def _attribute(key: str, value: str | int) -> bytes:
    said = b"\x18" + _varint(value) if isinstance(value, int) else _text(b"\x0a", value)
    return _key(key) + _sized(b"\x12", said)


@lru_cache(maxsize=1024)
def _key(key: str) -> bytes:
    return _text(b"\x0a", key)


def _text(tag: bytes, text: str) -> bytes:
    return _sized(tag, text.encode(errors="replace"))


def _sized(tag: bytes, content: bytes) -> bytes:
    size = len(content)
    return tag + (_SMALL[size] if size < 128 else _varint(size)) + content


def _varint(number: int) -> bytes:
    if 0 <= number < 128:
        return _SMALL[number]
    number &= (1 << 64) - 1  # a negative one is sent as its two's complement
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)
