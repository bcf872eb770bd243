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


def test_deliveries_of_an_entry_that_end_alike_are_one_span() -> None:
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
    spans = [span for span, _ in found]
    assert [
        (dict(span.alike)["pushsvc.deliveries"], dict(span.alike)["pushsvc.state"], span.start, span.end)
        for span in spans
    ] == [
        (2, "sent", 1_000_000_000, 4_002_000_000),
        (1, "retrying", 1_000_000_000, 4_001_000_000),
        (1, "cancelled", 1_000_000_000, 4_003_000_000),
    ]
    below = [[(each.name, each.start, each.end, each.error) for each in span.children] for span in spans]
    queue = ("queue", 1_000_000_000, 2_000_000_000, "")
    assert below == [
        [queue, ("send apns", 3_000_000_000, 4_002_000_000, "")],
        [queue, ("send apns", 3_001_000_000, 4_001_000_000, "Shutdown")],
        [queue],
    ]
    assert spans[0].children[1].own == ()
    (alone,) = spans_of([settled(traced, 0, Sent(status=200, provider_id="one"))])
    assert alone[0].children[1].own == (("pushsvc.provider_id", "one"),)


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
        def begin(self, name: str, kind: traces.Kind, parent: traces.Parent | None = None) -> None:
            return None

        def record(self, span: traces.Recorded, parent: bytes) -> None:
            recorded.append((span, parent))

        def close(self) -> None:
            pass

    with traces.stage("accept", CARRIED):
        pass
    monkeypatch.setattr(traces, "tracer", Fake())
    with traces.stage("accept", b""):
        pass
    assert recorded == []
    with traces.stage("accept", CARRIED, push_id="p", deliveries=2):
        pass
    with pytest.raises(KeyError), traces.stage("accept", CARRIED):
        raise KeyError
    (well, parent), (failed, _) = recorded
    assert (well.name, parent, well.error, failed.error) == ("accept", CARRIED, "", "KeyError")
    assert well.own == (("pushsvc.push_id", "p"), ("pushsvc.deliveries", 2))
    assert well.start <= well.end
