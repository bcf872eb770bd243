"""The message in which spans go to a collector: OTLP 1 as protobuf. Pure.

The packages of OpenTelemetry take about 45 µs for a span, much of it in the thread that encodes it, which the requests
of the process wait for: a third of a request. Here it is about half a µs: what many spans say alike is encoded once,
and packed in one call with the values that a span has of its own.

The messages: https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto.
Their encoding: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from struct import Struct
from typing import Final, TypeAlias

from ..net.protobuf import bytes_field, varint
from .traces import Alike, Kind, Recorded

_KINDS: Final[Mapping[Kind, int]] = {"internal": 1, "server": 2, "client": 3, "consumer": 5}
_ERROR: Final = b"\x18\x02"
"""`STATUS_CODE_ERROR` in a `Status`."""
_FLAGS: Final = b"\x85\x01" + (0x101).to_bytes(4, "little")
"""It is sampled, and whether its parent is of another process is known: it is not."""
_FLAGS_BELOW_REMOTE: Final = b"\x85\x01" + (0x301).to_bytes(4, "little")
_random: Final = random.getrandbits
_Field: TypeAlias = bytes | float


def resource(attributes: Mapping[str, str], scope: str, version: str) -> tuple[bytes, bytes]:
    """Return the parts of every message of a process: what it is, and what writes its spans."""
    about = b"".join(bytes_field(b"\x0a", _attribute(key, value)) for key, value in attributes.items())
    return bytes_field(b"\x0a", about), bytes_field(b"\x0a", _text(b"\x0a", scope) + _text(b"\x12", version))


def message(spans: Iterable[bytes], head: tuple[bytes, bytes]) -> bytes:
    """Return an `ExportTraceServiceRequest` with these spans, which are `encoded`. `head` is the `resource`."""
    process, scope = head
    own = (scope, *spans)
    size = sum(map(len, own))
    before = process + b"\x12" + varint(size)
    return b"".join((b"\x0a", varint(len(before) + size), before, *own))  # in one copy


def new_id() -> bytes:
    """Return a random id of a span."""
    return _random(64).to_bytes(8)


def encoded(span: Recorded, trace: bytes, own: bytes, parent: bytes, *, remote: bool) -> bytes:
    """Return a span as it stands in a message.

    `own` is its id in its `trace`, `parent` that of the span above it, or nothing if it begins the trace; `remote`:
    that one is of another process.
    """
    texts = [text.encode("utf-8", "replace") for text in span.texts]
    pack, layout = _layout(span.alike, remote, len(parent), *map(len, texts))
    fields = layout.copy()
    fields[2::2] = [trace, own, parent, span.start, span.end, *texts, *span.numbers]
    return pack(*fields)


@lru_cache(maxsize=4096)
def _layout(alike: Alike, remote: bool, parent: int, *sizes: int) -> tuple[Callable[..., bytes], list[_Field]]:
    """Return what packs spans that are alike, and its fields: each value of a span, whose place is empty, stands behind
    what comes before it. The sizes are those of the id of the parent and of the texts."""
    same = [_text(b"\x2a", alike.name), b"\x30", varint(_KINDS[alike.kind])]
    same += [bytes_field(b"\x4a", _attribute(key, value)) for key, value in alike.attributes]
    if alike.error:
        same.append(bytes_field(b"\x7a", _text(b"\x12", alike.error) + _ERROR))
    same.append(_FLAGS_BELOW_REMOTE if remote else _FLAGS)
    before = [b"".join(same) + b"\x0a\x10", b"\x12\x08", b"\x22" + varint(parent), b"\x39", b"\x41"]
    before += [_before(key, b"\x0a" + varint(size), size) for key, size in zip(alike.names.texts, sizes, strict=True)]
    before += [_before(key, b"\x21", 8) for key in alike.names.numbers]
    kinds = ("16s", "8s", f"{parent}s", "Q", "Q", *(f"{size}s" for size in sizes), *"d" * len(alike.names.numbers))
    form = "".join(f"{len(each)}s{kind}" for each, kind in zip(before, kinds, strict=True))
    head = b"\x12" + varint(Struct(f"<{form}").size)
    return Struct(f"<{len(head)}s{form}").pack, [head, *(field for each in before for field in (each, b""))]


def _before(key: str, tag: bytes, size: int) -> bytes:
    """Return what stands in an attribute of a span before a value of this size, up to its `tag`."""
    whole = bytes_field(b"\x4a", _text(b"\x0a", key) + bytes_field(b"\x12", tag + bytes(size)))
    return whole[: len(whole) - size]


def _attribute(key: str, value: str | int) -> bytes:
    encoded = b"\x18" + varint(value % (1 << 64)) if isinstance(value, int) else _text(b"\x0a", value)
    return _text(b"\x0a", key) + bytes_field(b"\x12", encoded)


def _text(tag: bytes, text: str) -> bytes:
    return bytes_field(tag, text.encode(errors="replace"))
