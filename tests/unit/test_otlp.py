"""What a collector is sent: the messages as the official schema of OTLP reads them, and the standard variables."""

from __future__ import annotations

import gzip
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given, strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from structlog.testing import capture_logs

from pushsvc.errors import ConfigError
from pushsvc.telemetry import otel, otlp, traces

from ..integration.ports import free_ports
from ..integration.servers import wait_until

TRACE, SPAN = bytes(range(1, 17)), bytes(range(101, 109))
PARENT = traces.Parent(TRACE + SPAN, sampled=True)
KINDS: dict[traces.Kind, int] = {"internal": 1, "server": 2, "client": 3, "consumer": 5}

texts = st.text(st.characters(codec="utf-8"), max_size=200)
instants = st.integers(0, 2**64 - 1)
values = texts | st.integers(-(2**63), 2**63 - 1)
abouts: st.SearchStrategy[traces.Attributes] = st.lists(st.tuples(texts, values), max_size=8).map(tuple)
kinds: st.SearchStrategy[traces.Kind] = st.sampled_from(list(KINDS))
numbers = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53)


@st.composite
def spans(draw: st.DrawFn) -> traces.Recorded:
    """A span, with values for its names."""
    names = traces.Names(*(tuple(draw(st.lists(texts, max_size=4))) for _ in range(2)))
    alike = traces.Alike(draw(texts), draw(kinds), draw(abouts), draw(texts), names)
    said = tuple([draw(texts) for _ in names.texts])
    return traces.Recorded(alike, draw(instants), draw(instants), said, tuple([draw(numbers) for _ in names.numbers]))


def recorded(name: str, start: int = 0) -> traces.Recorded:
    return traces.Recorded(traces.Alike(name, "internal"), start, 0)


def read(body: bytes) -> Any:
    """The one group of spans of a message, by the official schema."""
    request: Any = ExportTraceServiceRequest()
    request.ParseFromString(body)
    (of_process,) = request.resource_spans
    (scope,) = of_process.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("pushsvc", "1")
    assert {each.key: each.value.string_value for each in of_process.resource.attributes} == {"service.name": "é"}
    return scope.spans


@given(st.lists(spans(), max_size=4), st.booleans())
def test_the_official_schema_reads_what_was_recorded(recorded: list[traces.Recorded], remote: bool) -> None:
    above = SPAN if remote else b""
    ids = [otlp.new_id() for _ in recorded]
    ended = [otlp.encoded(span, TRACE, own, above, remote=remote) for span, own in zip(recorded, ids, strict=True)]
    found = read(otlp.message(ended, otlp.resource({"service.name": "é"}, "pushsvc", "1")))
    assert [span.span_id for span in found] == ids
    for span, each in zip(found, recorded, strict=True):
        assert (span.trace_id, span.parent_span_id) == (TRACE, above)
        assert (span.name, span.kind) == (each.alike.name, KINDS[each.alike.kind])
        assert (span.start_time_unix_nano, span.end_time_unix_nano) == (each.start, each.end)
        about = [(pair.key, getattr(pair.value, pair.value.WhichOneof("value"))) for pair in span.attributes]
        names = each.alike.names
        own = zip((*names.texts, *names.numbers), (*each.texts, *each.numbers), strict=True)
        assert about == [*each.alike.attributes, *own]
        error = each.alike.error
        assert (span.status.code, span.status.message) == ((2, error) if error else (0, ""))
        assert span.flags == (0x301 if remote else 0x101)


SAMPLERS: list[tuple[dict[str, str], float, bool, bool, bool]] = [
    # environment, share, and whether traced: no caller's trace; one that the caller records; one that it does not
    ({}, 1.0, True, True, False),
    ({}, 0.0, False, True, False),
    ({"OTEL_TRACES_SAMPLER": "always_on"}, 0.0, True, True, True),
    ({"OTEL_TRACES_SAMPLER": "always_off"}, 1.0, False, False, False),
    ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, 1.0, False, False, False),
    ({"OTEL_TRACES_SAMPLER": "traceidratio"}, 0.0, True, True, True),
    ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, 0.0, True, True, False),
    ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, 1.0, False, True, False),
    ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.0"}, 1.0, False, True, False),
]


@contextmanager
def opened(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str], share: float) -> Iterator[otel.OtelTracer]:
    for name, value in {**environment, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_ports()}"}.items():
        monkeypatch.setenv(name, value)
    tracer = otel.OtelTracer(share, "test")
    try:
        yield tracer
    finally:
        tracer.close()


@pytest.mark.parametrize(("environment", "share", "alone", "recorded", "unrecorded"), SAMPLERS)
def test_which_requests_are_traced(
    environment: dict[str, str],
    share: float,
    alone: bool,
    recorded: bool,
    unrecorded: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parents = (None, PARENT, PARENT._replace(sampled=False))
    with opened(monkeypatch, environment, share) as tracer:
        begun = [tracer.begin(parent) for parent in parents]
        for span in reversed(begun):  # the one begun last is within the others
            if span is not None:
                span.end(traces.Alike("GET /", "server"))
    assert [span is not None for span in begun] == [alone, recorded, unrecorded]
    assert all(span is None or span.carried[:16] == TRACE for span in begun[1:])


def test_a_share_is_of_the_ids_of_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(7)
    with opened(monkeypatch, {}, 0.25) as tracer:
        chosen = 0
        for _ in range(4000):
            if span := tracer.begin():
                span.end(traces.Alike("GET /", "server"))
                chosen += 1
                assert int.from_bytes(span.carried[8:16]) < 2**62  # as every process decides, by the standard
    assert 900 < chosen < 1100


def test_where_spans_go_and_how() -> None:
    plain = otel.exporting({})
    assert (plain.url, plain.headers, plain.seconds, plain.gzip) == ("http://localhost:4318/v1/traces", {}, 10, False)
    assert (plain.queue, plain.batch, plain.delay) == (2048, 512, 5)
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://all:4318/",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b, other = c=d,broken",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_BSP_MAX_QUEUE_SIZE": "100",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    given = otel.exporting(environment)
    assert (given.url, given.seconds, given.gzip) == ("http://all:4318/v1/traces", 2.5, True)
    assert given.headers == {"api-key": "a b", "other": "c=d"}
    assert (given.queue, given.batch, given.delay) == (100, 100, 0.05)
    assert "a b" not in repr(given)
    own = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://own/path", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "1000"}
    assert (otel.exporting({**environment, **own}).url, otel.exporting(own).seconds) == ("http://own/path", 1)


def test_what_a_process_says_of_itself() -> None:
    assert otel.described({}, "serve")["service.name"] == "pushsvc"
    variables = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=one,team=push%2Cwest"}
    assert otel.described(variables, "serve")["service.name"] == "one"
    assert otel.described(variables, "serve")["team"] == "push,west"
    assert otel.described({**variables, "OTEL_SERVICE_NAME": "two"}, "serve")["service.name"] == "two"


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:secret@collector"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "collector"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "10s"}, "OTEL_EXPORTER_OTLP_TIMEOUT"),
        ({"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "0"}, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "brotli"}, "OTEL_EXPORTER_OTLP_COMPRESSION"),
        ({"OTEL_BSP_SCHEDULE_DELAY": "-1"}, "OTEL_BSP_SCHEDULE_DELAY"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such.pem"},
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
        ),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(environment: dict[str, str], place: str) -> None:
    with pytest.raises(ConfigError) as refused:
        otel.exporting(environment)
    assert refused.value.path == place
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("share", ["half", "2", "-0.1", "nan"])
def test_a_share_that_is_none_is_refused(share: str) -> None:
    with pytest.raises(ConfigError, match="OTEL_TRACES_SAMPLER_ARG"):
        otel.sampling({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": share}, 1.0)


@contextmanager
def collector(*statuses: int, elsewhere: str = "") -> Iterator[tuple[str, list[tuple[Mapping[str, str], bytes]]]]:
    """A collector that gives these answers, one after another, and what it has got. It refers to `elsewhere`."""
    got: list[tuple[Mapping[str, str], bytes]] = []
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((dict(self.headers), self.rfile.read(int(self.headers.get("Content-Length", 0)))))
            self.send_response(left.pop(0) if left else 200)
            self.send_header("Content-Length", "0")
            if elsewhere:
                self.send_header("Location", elsewhere)
            self.end_headers()

        def do_GET(self) -> None:  # as a client asks that follows a redirect
            self.do_POST()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        running = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        running.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", got
        finally:
            server.shutdown()
            running.join()


def test_a_busy_collector_is_sent_the_same_again_and_a_refusal_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel, "FIRST_WAIT", 0.01)
    with collector(503, 429, 200, 400) as (url, got):
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_HEADERS": "Api-Key=a",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        }
        sender = otel.Sender(otel.exporting(environment))
        assert sender.send(b"first", threading.Event()) == ""
        assert sender.send(b"second", threading.Event()) == "the collector answers 400"
    assert [gzip.decompress(body) for _, body in got] == [b"first", b"first", b"first", b"second"]
    for headers, _ in got:
        assert (headers["Content-Type"], headers["Content-Encoding"]) == ("application/x-protobuf", "gzip")
        assert headers["Api-Key"] == "a"


def test_a_process_that_ends_does_not_try_again() -> None:
    with collector(503) as (url, got):
        sender = otel.Sender(otel.exporting({"OTEL_EXPORTER_OTLP_ENDPOINT": url}))
        stopping = threading.Event()
        stopping.set()
        assert sender.send(b"last", stopping) == "the collector answers 503"
    assert len(got) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_no_other_address_gets_the_headers(status: int) -> None:
    with collector() as (elsewhere, theirs), collector(status, elsewhere=f"{elsewhere}/v1/traces") as (url, got):
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_HEADERS": "Api-Key=secret"}
        sender = otel.Sender(otel.exporting(environment))
        assert sender.send(b"spans", threading.Event()) == f"the collector answers {status}"
    assert [headers["Api-Key"] for headers, _ in got] == ["secret"]
    assert theirs == []


def test_a_span_that_cannot_be_encoded_costs_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    otel.EXPORT.reset()
    sent: list[bytes] = []

    def send(_: object, body: bytes, __: object) -> str:
        sent.append(body)
        return ""

    monkeypatch.setattr(otel.Sender, "send", send)
    with capture_logs() as lines:
        with opened(monkeypatch, {}, 1.0) as tracer:
            tracer.record(recorded("text-of-a-push", -1), TRACE + SPAN)
            (line,) = lines
            tracer.record(recorded("well"), TRACE + SPAN)
        assert (line["event"], line["spans"]) == ("traces_not_sent", 1)
        assert line["reason"] == "a fault in encoding them: error"
        assert [each["event"] for each in lines[1:]] == ["traces_sent_again"]
    assert len(sent) == 1
    assert b"well" in sent[0]
    assert "text-of-a-push" not in repr(lines)


def test_a_fault_in_sending_does_not_end_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    otel.EXPORT.reset()
    sent = threading.Event()

    def send(_: object, body: bytes, __: object) -> str:
        if b"well" not in body:
            raise RuntimeError("text-of-a-push")
        sent.set()
        return ""

    monkeypatch.setattr(otel.Sender, "send", send)
    with capture_logs() as lines:
        with opened(monkeypatch, {}, 1.0) as tracer:
            tracer.record(recorded("first"), TRACE + SPAN)
            wait_until(lambda: bool(lines) or not tracer._thread.is_alive())
            assert tracer._thread.is_alive()
            tracer.record(recorded("well"), TRACE + SPAN)
            assert sent.wait(30)
        assert [(line["event"], line.get("spans")) for line in lines] == [
            ("traces_not_sent", 1),
            ("traces_sent_again", None),
        ]
    assert lines[0]["reason"] == "a fault in sending them: RuntimeError"
    assert "text-of-a-push" not in repr(lines)


def test_spans_that_a_process_cannot_send_before_its_end_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel, "CLOSING", 0.01)
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    otel.EXPORT.reset()
    began, gate = threading.Event(), threading.Event()

    def send(*_: object) -> str:
        began.set()
        gate.wait()
        return ""

    monkeypatch.setattr(otel.Sender, "send", send)
    with capture_logs() as lines:
        with opened(monkeypatch, {}, 1.0) as tracer:
            for name in "abc":
                tracer.record(recorded(name), TRACE + SPAN)
            assert began.wait(30)
        (line,) = lines
        gate.set()
        tracer._thread.join()
    assert (line["event"], line["spans"]) == ("traces_not_sent", 3)
    assert line["reason"] == "the process ends before they are sent"
    otel.EXPORT.reset()


def test_what_does_not_fit_is_dropped_the_oldest_first_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "2")
    sent: list[list[str]] = []
    began, gate = threading.Event(), threading.Event()

    def send(_: object, body: bytes, __: object) -> str:
        request: Any = ExportTraceServiceRequest.FromString(body)
        sent.append([span.name for span in request.resource_spans[0].scope_spans[0].spans])
        began.set()
        gate.wait()
        return ""

    monkeypatch.setattr(otel.Sender, "send", send)
    otel.EXPORT.reset()
    with capture_logs() as lines, opened(monkeypatch, {}, 1.0) as tracer:
        for name in ("a", "b"):
            tracer.record(recorded(name), TRACE + SPAN)
        began.wait()
        for name in ("c", "d", "e", "f"):
            tracer.record(recorded(name), TRACE + SPAN)
        gate.set()
        wait_until(lambda: bool(lines))
        for name in ("g", "h"):
            tracer.record(recorded(name), TRACE + SPAN)
    assert sent == [["a", "b"], ["e", "f"], ["g", "h"]]
    assert [(line["event"], line.get("spans"), line.get("reason")) for line in lines] == [
        ("traces_not_sent", 2, otel.FULL),
        ("traces_sent_again", None, None),
    ]


def test_spans_that_are_joined_are_sent_as_one_and_those_of_other_pushes_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "3")
    bodies: list[bytes] = []

    def send(_: object, body: bytes, __: object) -> str:
        bodies.append(body)
        return ""

    monkeypatch.setattr(otel.Sender, "send", send)
    names = traces.Names(("pushsvc.push_id",), ("pushsvc.send_ms", traces.DELIVERIES))
    sent, failed = (traces.Alike("deliver", "consumer", (), error, names) for error in ("", "Shutdown"))
    with opened(monkeypatch, {}, 1.0) as tracer:

        def end(alike: traces.Alike, push: str, at: int, deliveries: int) -> None:
            tracer.record(traces.Recorded(alike, at, at + 1, (push,), (at % 7, deliveries), joined=True), TRACE + SPAN)

        for at in range(1000):
            end(sent, "a", at, 400)
        end(failed, "a", 1000, 1)
        assert bodies == []
        end(sent, "b", 1001, 1)  # as many as go into one batch
        wait_until(lambda: len(bodies) == 1)
        end(sent, "a", 1002, 2)
    found = []
    for body in bodies:
        request: Any = ExportTraceServiceRequest.FromString(body)
        for span in request.resource_spans[0].scope_spans[0].spans:
            about = {each.key: each.value.string_value or each.value.double_value for each in span.attributes}
            assert (span.trace_id, span.parent_span_id, span.flags) == (TRACE, SPAN, 0x301)
            times = (span.start_time_unix_nano, span.end_time_unix_nano)
            found.append((*about.values(), *times, span.status.message))
    assert found == [
        ("a", 6, 400_000, 0, 1000, ""),
        ("a", 6, 1, 1000, 1001, "Shutdown"),
        ("b", 0, 1, 1001, 1002, ""),
        ("a", 1, 2, 1002, 1003, ""),
    ]
