"""The message in which spans go to a collector: OTLP 1 as protobuf. Pure.

The packages of OpenTelemetry take about 45 µs for a span, much of it in the thread that encodes it, which the requests
of the process wait for: a third of a request. Here it is about 8 µs.

The messages: https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto.
Their encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from .traces import Kind, Recorded

_KINDS: Final[Mapping[Kind, int]] = {"internal": 1, "server": 2, "client": 3, "consumer": 5}
_SMALL: Final = [bytes((number,)) for number in range(128)]
_ERROR: Final = b"\x18\x02"
"""`STATUS_CODE_ERROR` in a `Status`."""
_FLAGS: Final = (0x101).to_bytes(4, "little")
"""It is sampled, and whether its parent is of another process is known: it is not."""
_FLAGS_BELOW_REMOTE: Final = (0x301).to_bytes(4, "little")


class EndedSpan(NamedTuple):
    """A span that is over, in its trace."""

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
        _add(found, *each)
    process, scope = head
    return _sized(b"\x0a", process + _sized(b"\x12", b"".join((scope, *found))))


def new_id(size: int) -> bytes:
    """Return a random id of a trace (16 bytes) or a span (8)."""
    return random.getrandbits(8 * size).to_bytes(size)


def _add(found: list[bytes], span: Recorded, own: bytes, parent: bytes, remote: bool) -> None:
    parts = [b"\x0a\x10", own[:16], b"\x12\x08", own[16:]]
    if parent:
        parts += (b"\x22\x08", parent)
    start, end = span.start.to_bytes(8, "little"), span.end.to_bytes(8, "little")
    parts += (_named(span.name, span.kind), b"\x39", start, b"\x41", end)
    for key, value in span.attributes.items():
        pair = _attribute(key, value)
        parts += (b"\x4a", _varint(len(pair)), pair)
    if span.error:
        parts.append(_sized(b"\x7a", _text(b"\x12", span.error) + _ERROR))
    parts += (b"\x85\x01", _FLAGS_BELOW_REMOTE if remote else _FLAGS)
    found.append(_sized(b"\x12", b"".join(parts)))
    for child in span.children:
        _add(found, child, own[:16] + new_id(8), own[16:], False)


@lru_cache(maxsize=1024)
def _named(name: str, kind: Kind) -> bytes:
    return _text(b"\x2a", name) + b"\x30" + _SMALL[_KINDS[kind]]


@lru_cache(maxsize=4096)
def _attribute(key: str, value: str | int) -> bytes:
    """Return a `KeyValue`."""
    said = b"\x18" + _varint(value) if isinstance(value, int) else _text(b"\x0a", value)
    return _text(b"\x0a", key) + _sized(b"\x12", said)


def _text(tag: bytes, text: str) -> bytes:
    return _sized(tag, text.encode(errors="replace"))


def _sized(tag: bytes, content: bytes) -> bytes:
    return tag + _varint(len(content)) + content


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
