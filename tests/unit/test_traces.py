"""Traces without a collector: what callers hand on, what a batch of outcomes records, and what goes to gateways."""

from __future__ import annotations

import msgspec
import pytest

from pushsvc.errors import ConfigError
from pushsvc.model.delivery import Delivery, Ended, Outcome, Retry, Sent, Settlement, TokenDead, Unavailable
from pushsvc.model.push import Chunk
from pushsvc.runtime.checks.check import judge_traces
from pushsvc.settings.schema import Settings, TracesSettings
from pushsvc.stages.dispatch.spans import spans_of
from pushsvc.telemetry import traces

from .dispatch_fakes import chunk

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CARRIED = bytes.fromhex(TRACE + SPAN)


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f" 00-{TRACE}-{SPAN}-03\t", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"01-{TRACE}-{SPAN}-01-more", True),
    ],
)
def test_the_span_of_a_caller(header: str, sampled: bool) -> None:
    assert traces.parent_of(header) == traces.Parent(CARRIED, sampled)
    assert traces.header_of(CARRIED) == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"01-{TRACE}-{SPAN}-01more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        "00-" + "é" * 32 + f"-{SPAN}-01",
    ],
)
def test_what_is_no_span_of_a_caller(header: str | None) -> None:
    assert traces.parent_of(header) is None


def settled(of: Chunk, index: int, outcome: Outcome | None, *, retry: bool = False) -> Settlement:
    verdict = Retry(9_000, 2) if retry else Ended("sent" if type(outcome) is Sent else "cancelled")
    delivery = Delivery(of, of.targets[index], (1_000, 2_000))
    reason = "" if outcome is None else outcome.reason
    asked_at = None if outcome is None else 3_000 + index
    return Settlement(delivery, outcome, verdict, 4_000 + index, "", reason, asked_at)


def said(span: traces.Recorded) -> dict[str, str | float]:
    names = span.alike.names
    texts, numbers = zip(names.texts, span.texts, strict=True), zip(names.numbers, span.numbers, strict=True)
    return {key.removeprefix("pushsvc."): value for key, value in (*span.alike.attributes, *texts, *numbers)}


def test_an_attempt_of_a_push_to_one_device_is_a_span_with_the_times_of_its_parts() -> None:
    alone = msgspec.structs.replace(chunk("a"), trace=CARRIED)
    sent, retried, cancelled = spans_of(
        [
            settled(alone, 0, Sent(status=200, provider_id="one")),
            settled(alone, 0, Unavailable(status=503, reason="Shutdown"), retry=True),
            settled(alone, 0, None),
        ]
    )
    assert {trace for _, trace in (sent, retried, cancelled)} == {CARRIED}
    about = {"app": "shop", "platform": "apns", "lane": "normal", "attempt": 1, "push_id": "p", "queue_ms": 1000}
    asked = {"send_ms": 1000, "http.response.status_code": 200}
    failed = {"send_ms": 1000, "http.response.status_code": 503, "reason": "Shutdown"}
    for (span, _), error, more in (
        (sent, "", {"state": "sent", "outcome": "sent", "provider_id": "one", **asked}),
        (retried, "Shutdown", {"state": "retrying", "outcome": "unavailable", **failed}),
        (cancelled, "", {"state": "cancelled", "send_ms": 0}),
    ):
        assert (span.alike.name, span.alike.error, span.joined) == ("deliver", error, False)
        assert (span.start, span.end) == (1_000_000_000, 4_000_000_000)
        assert said(span) == {**about, "deliveries": 1, **more}


def test_deliveries_of_a_larger_push_that_end_alike_are_one_span() -> None:
    traced = msgspec.structs.replace(chunk("a", "b", "c", "d"), trace=CARRIED)
    batch = [
        settled(chunk("x"), 0, Sent(status=200)),
        settled(traced, 0, Sent(status=200, provider_id="one")),
        settled(traced, 1, Unavailable(status=503, reason="Shutdown"), retry=True),
        settled(traced, 2, Sent(status=200, provider_id="two")),
        settled(traced, 3, None),
    ]
    found = list(spans_of(batch))
    assert {trace for _, trace in found} == {CARRIED}
    ends = [(said(span)["deliveries"], said(span)["state"], span.end, span.alike.error) for span, _ in found]
    assert ends == [
        (2, "sent", 4_002_000_000, ""),
        (1, "retrying", 4_001_000_000, "Shutdown"),
        (1, "cancelled", 4_003_000_000, ""),
    ]
    assert {span.start for span, _ in found} == {1_000_000_000}
    assert all(span.joined and "provider_id" not in said(span) for span, _ in found)
    later = settled(msgspec.structs.replace(traced, turn=1), 0, Sent(status=200))
    ((further, _),) = spans_of([msgspec.structs.replace(later, at=9_000)])
    first = found[0][0]
    assert further.alike is first.alike
    both = first.join(further)
    assert (both.start, both.end) == (1_000_000_000, 9_000_000_000)
    assert said(both).items() >= {"queue_ms": 1000, "send_ms": 6000, "deliveries": 3}.items()


def test_a_span_has_no_token() -> None:
    traced = msgspec.structs.replace(chunk("token-of-a-phone"), trace=CARRIED)
    assert "token-of-a-phone" not in repr(list(spans_of([settled(traced, 0, TokenDead(reason="Unregistered"))])))


def test_a_variable_that_cannot_be_used_stops_the_start_and_check_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "jaeger_remote")
    with pytest.raises(ConfigError, match="jaeger_remote"), traces.tracing(0.5, "serve"):
        pass
    with traces.tracing(0.0, "serve"):
        assert traces.tracer is None
    (finding,) = judge_traces(Settings(traces=TracesSettings(share=0.5)))
    assert (finding.part, finding.level) == ("OTEL_TRACES_SAMPLER", "error")
    assert "parentbased_traceidratio" in finding.fix
    assert judge_traces(Settings()) == []
    monkeypatch.delenv("OTEL_TRACES_SAMPLER")
    assert judge_traces(Settings(traces=TracesSettings(share=0.5))) == []
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with traces.tracing(1.0, "serve"):
        assert traces.tracer is None


def test_a_stage_records_its_block_where_there_is_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[tuple[traces.Recorded, bytes]] = []

    class Fake:
        def begin(self, parent: traces.Parent | None = None) -> None:
            return None

        def record(self, span: traces.Recorded, parent: bytes) -> None:
            recorded.append((span, parent))

        def close(self) -> None:
            pass

    with traces.stage("expand", CARRIED):
        pass
    monkeypatch.setattr(traces, "tracer", Fake())
    with traces.stage("expand", b""):
        pass
    assert recorded == []
    with traces.stage("expand", CARRIED, push_id="p"):
        pass
    with pytest.raises(KeyError), traces.stage("expand", CARRIED):
        raise KeyError
    (well, parent), (failed, _) = recorded
    assert (well.alike.name, parent, well.alike.error, failed.alike.error) == ("expand", CARRIED, "", "KeyError")
    assert (said(well), said(failed)) == ({"push_id": "p"}, {})
    assert well.start <= well.end
