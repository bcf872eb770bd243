"""Traces of pushes by OpenTelemetry, which are off unless `traces.share` is set.

A request that is chosen becomes a span, and its push carries the ids of trace and span in its queue entries: `CARRIED`
bytes, or none. Each later stage records its spans below that one when its work is done, from instants that are known
anyway. So nothing waits for a trace, and where they are off the cost is one look at `tracer`. `otel.py`, which sends
them, is imported only where traces are on.

A push to a million devices is a trace that people can read and backends accept: deliveries that end alike are one span
with their number. Tempo refuses what goes beyond 5 MB of a trace, some 10,000 spans (`max_bytes_per_trace` in
https://grafana.com/docs/tempo/latest/configuration/), and the pages of Jaeger are slow from some thousand spans on
(https://github.com/jaegertracing/jaeger-ui/issues/645).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from msgspec import Struct

CARRIED: Final = 24
"""The bytes that a push of a trace carries: the id of the trace, and that of the span of its request."""
HEADER: Final = "traceparent"
"""The header that hands a trace on: https://www.w3.org/TR/trace-context/."""
DISABLED: Final = "OTEL_SDK_DISABLED"
"""The standard variable that turns traces off, whatever the configuration says, by the value `true`."""

Kind = Literal["server", "client", "consumer", "internal"]
Attributes: TypeAlias = tuple[tuple[str, str | int], ...]
"""Names with their values. None has a token, a body or a key."""
DELIVERIES: Final = "pushsvc.deliveries"
"""The attribute that adds up where spans are joined; of any other number the largest counts."""

CURRENT: Final[ContextVar[bytes]] = ContextVar("trace", default=b"")
"""The trace that the running task works on, which its log lines name; empty: none."""

_PARENT: Final = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_VERSION: Final = "00"


class Parent(NamedTuple):
    """The span of a caller, from its `traceparent`."""

    carried: bytes
    sampled: bool
    """Whether the caller records it."""


class Names(Struct, frozen=True, eq=False, gc=False):
    """The names of attributes for which each span has its own values. They are compared as objects, so keep it."""

    texts: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()


NAMELESS: Final = Names()


class Alike(Struct, frozen=True, eq=False, gc=False):
    """What many spans say alike. It is encoded once for all spans that refer to the same object, so keep it."""

    name: str
    kind: Kind
    attributes: Attributes = ()
    error: str = ""
    """Why they have failed; empty: they have not."""
    names: Names = NAMELESS


class Recorded(Struct, frozen=True, gc=False):
    """A span that is over. Instants are Unix ns."""

    alike: Alike
    start: int
    end: int
    texts: tuple[str, ...] = ()
    numbers: tuple[float, ...] = ()
    """Both are the values for the names of `alike`."""
    joined: bool = False
    """Whether it is one with those of its trace that are `alike`, have the same `texts`, and end soon after it."""

    def join(self, other: Recorded) -> Recorded:
        """Return the one span that this and the other one are."""
        return Recorded(
            self.alike,
            min(self.start, other.start),
            max(self.end, other.end),
            self.texts,
            tuple(
                [
                    one + two if name == DELIVERIES else max(one, two)
                    for name, one, two in zip(self.alike.names.numbers, self.numbers, other.numbers, strict=True)
                ]
            ),
            joined=True,
        )


class OpenSpan(Protocol):
    """A span that has begun. Log lines of its task have its `trace_id` until it ends."""

    @property
    def carried(self) -> bytes:
        """Return what a push carries of it."""

    @property
    def names(self) -> Names:
        """Return the names for which it has values."""

    def note(self, names: Names, texts: tuple[str, ...], numbers: tuple[float, ...] = ()) -> None:
        """Let it have these values, and no others."""

    def end(self, alike: Alike) -> None:
        """End it. `alike` has its `names`."""


class Tracer(Protocol):
    """Records the spans of this process and sends them, behind everything else, to a collector."""

    def begin(self, parent: Parent | None = None) -> OpenSpan | None:
        """Begin a span below that of the caller, or a trace. Returns None if it is not chosen."""

    def record(self, span: Recorded, parent: bytes) -> None:
        """Record a span that is over below the one that is carried."""

    def close(self) -> None:
        """Send what was recorded, for a few seconds at most."""


tracer: Tracer | None = None
"""The tracer of this process; None while traces are off."""


def parent_of(header: str | None) -> Parent | None:
    """Return the span that a `traceparent` names, or None if there is none or it is not valid. Of a later version the
    parts of this one count: https://www.w3.org/TR/trace-context/#versioning-of-traceparent."""
    found = None if header is None else _PARENT.fullmatch(header.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if (more and version == _VERSION) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Parent(bytes.fromhex(trace_id + span_id), bool(int(flags, 16) & 1))


def header_of(carried: bytes) -> str:
    """Return the `traceparent` of a span that is carried, which is recorded."""
    return f"{_VERSION}-{carried[:16].hex()}-{carried[16:].hex()}-01"


@contextmanager
def stage(name: str, parent: bytes, **about: str) -> Iterator[None]:
    """Record the block as a span below the one that is carried; do nothing if none is, or traces are off. Attributes
    get the prefix `pushsvc.`."""
    start, error = time.time_ns(), ""
    try:
        yield
    except BaseException as raised:
        error = type(raised).__name__
        raise
    finally:
        if tracer is not None and parent:
            alike = _stage(name, error, *about)
            tracer.record(Recorded(alike, start, time.time_ns(), tuple(about.values())), parent)


@cache
def _stage(name: str, error: str, *keys: str) -> Alike:
    return Alike(name, "internal", (), error, Names(tuple(f"pushsvc.{key}" for key in keys)))


@contextmanager
def tracing(share: float, part: str) -> Iterator[None]:
    """Record traces while the block lasts, beginning one for this share of requests that are part of none; with 0 none
    at all. `part` is the part of the service. Raises `ConfigError` for a standard variable that cannot be used."""
    global tracer  # one process has one
    if not share or os.environ.get(DISABLED, "").lower() == "true":
        yield
        return
    from .otel import OtelTracer

    tracer = opened = OtelTracer(share, part)
    try:
        yield
    finally:
        tracer = None
        opened.close()
