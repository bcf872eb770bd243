"""`traces.Tracer` by the packages of OpenTelemetry, which only a process with traces imports.

Spans go to a collector by OTLP over HTTP, from a thread of their own. Where that is, what is told of the service and
how many spans wait is read from the standard environment (`OTELEXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`,
`OTEL_BSP_MAX_QUEUE_SIZE` ..): https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/. What
does not fit, or cannot be sent, is dropped.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from .. import __version__
from .states import StateLog
from .traces import Kind, OpenSpan, Parent, Recorded

SAMPLER: Final = "OTEL_TRACES_SAMPLER"
CLOSING: Final = 3.0
"""Seconds that the last spans have to be sent when the process ends."""

_KINDS: Final = {
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "consumer": SpanKind.CONSUMER,
    "internal": SpanKind.INTERNAL,
}
EXPORT: Final = StateLog("traces", "traces_not_sent", "traces_still_not_sent", "traces_sent_again")
"""The state of a collector that does not take what is sent."""


class OtelTracer:
    """See `traces.Tracer`."""

    def __init__(self, share: float, part: str) -> None:
        # Whether a trace begins is drawn here, which costs less than asking the SDK, unless the environment says how.
        self._share = None if os.environ.get(SAMPLER) else share
        known = OTELResourceDetector().detect().attributes
        own = {
            "service.name": "pushsvc",
            "service.version": __version__,
            "service.instance.id": f"{part}-{os.getpid()}",
        }
        resource = Resource.create({key: value for key, value in own.items() if key not in known})
        self._provider = TracerProvider(
            sampler=None if self._share is None else ALWAYS_ON, resource=resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter()))
        self._tracer = self._provider.get_tracer("pushsvc", __version__)

    def begin(self, name: str, kind: Kind, parent: Parent | None = None) -> OpenSpan | None:
        if self._share is not None and not (random.random() < self._share if parent is None else parent.sampled):  # noqa: S311  # no secret
            return None
        context = Context() if parent is None else _context_of(parent.carried, sampled=parent.sampled)
        span = self._tracer.start_span(name, context, _KINDS[kind])
        return _Open(span) if span.is_recording() else None

    def record(self, span: Recorded, parent: bytes) -> None:
        self._record(span, _context_of(parent))

    def _record(self, span: Recorded, context: Context) -> None:
        made = self._tracer.start_span(
            span.name, context, _KINDS[span.kind], attributes=span.attributes, start_time=span.start
        )
        if span.children:
            below = set_span_in_context(made, Context())
            for child in span.children:
                self._record(child, below)
        _end(made, span.error, span.end)

    def close(self) -> None:
        ending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(CLOSING)


class _Open:
    """See `traces.OpenSpan`."""

    __slots__ = ("_span", "_tokens", "carried")

    def __init__(self, span: Any) -> None:
        self._span = span
        own = span.get_span_context()
        self.carried: bytes = own.trace_id.to_bytes(16) + own.span_id.to_bytes(8)
        self._tokens = structlog.contextvars.bind_contextvars(trace_id=self.carried[:16].hex())

    def end(self, attributes: Mapping[str, str | int], error: str = "") -> None:
        structlog.contextvars.reset_contextvars(**self._tokens)
        self._span.set_attributes(attributes)
        _end(self._span, error, None)


def _end(span: Any, error: str, at: int | None) -> None:
    if error:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(at)


def _context_of(carried: bytes, *, sampled: bool = True) -> Context:
    """Return the context of a span of another process."""
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    remote = SpanContext(int.from_bytes(carried[:16]), int.from_bytes(carried[16:]), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(remote), Context())


class _Exporter:
    """Sends spans, and logs a collector that is away as a state: the package would write a line for each try."""

    def __init__(self) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._exporter = OTLPSpanExporter()

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            EXPORT.end()
        else:
            EXPORT.begin(spans=len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._exporter.force_flush(timeout_millis))
