"""Traces of a real small service: its parts in one process, the simulator as the providers, and a collector that
decodes what it is sent by the schema of OpenTelemetry."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from aiohttp import web

from pushsvc import telemetry
from pushsvc.model.push import Chunk
from pushsvc.runtime.store import running_store_url
from pushsvc.store import keys, open_store

from .harness import apns, fcm
from .ports import free_ports
from .test_live_flow import LOOP as LOOP, Town, open_town

CALLER = "0af7651916cd43dd8448eb211c80319c"
SPAN_OF_CALLER = "b7ad6b7169203331"
TITLE = "only for the device"


class Span:
    """A span as the collector has got it."""

    def __init__(self, span: Any, resource: dict[str, str]) -> None:
        self.name: str = span.name
        self.trace: str = span.trace_id.hex()
        self.id: str = span.span_id.hex()
        self.parent: str = span.parent_span_id.hex()
        self.seconds: float = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
        self.failed: str = span.status.message
        self.resource = resource
        self.about = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.bytes = b""
        request = import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2").ExportTraceServiceRequest
        self._request: Callable[[], Any] = request

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bytes += body
        message = self._request()
        message.ParseFromString(body)
        for of_process in message.resource_spans:
            resource = {each.key: each.value.string_value for each in of_process.resource.attributes}
            self.spans += [Span(span, resource) for scope in of_process.scope_spans for span in scope.spans]
        return web.Response(body=b"", content_type="application/x-protobuf")

    def of(self, push: str) -> list[Span]:
        """The spans of the trace of a push."""
        traces = {span.trace for span in self.spans if span.about.get("pushsvc.push_id") == push}
        assert len(traces) <= 1
        return [span for span in self.spans if span.trace in traces]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment without settings of OpenTelemetry."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@asynccontextmanager
async def collecting(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host}:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    try:
        yield collector
    finally:
        await runner.cleanup()


@asynccontextmanager
async def traced_town(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, share: float = 1.0
) -> AsyncIterator[tuple[Town, Collector]]:
    async with asyncio.timeout(90), collecting(monkeypatch) as collector:
        tracing = telemetry.tracing(share, "test")
        tracing.__enter__()
        try:
            async with open_town(folder) as town:
                yield town, collector
        finally:
            # Not in the loop, in which the collector takes the last spans.
            await asyncio.to_thread(tracing.__exit__, None, None, None)


async def test_a_push_is_one_trace_to_the_answer_of_its_provider_or_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: None
) -> None:
    async with traced_town(tmp_path, monkeypatch) as (town, collector):

        async def traced(push: str, *names: str) -> dict[str, Span]:
            def there() -> bool:
                return {"POST /v1/push", *names} <= {span.name for span in collector.of(push)}

            await town.until(f"{push} has {names}", there)
            spans = {span.name: span for span in collector.of(push)}
            root, whole = spans["POST /v1/push"], {span.id: span for span in spans.values()}
            assert spans["deliver"].parent == root.id
            assert root.about["http.response.status_code"] == 202
            assert (root.about["pushsvc.app"], root.about["pushsvc.push_id"]) == ("shop", push)
            assert (root.about["pushsvc.deliveries"], root.about["pushsvc.accept_ms"] > 0) == (1, True)
            assert root.resource["service.name"] == "pushsvc"
            assert root.resource["deployment.environment.name"] == "test"
            assert all(span.parent in whole for span in spans.values() if span is not root)
            assert all(0 <= span.seconds < 60 for span in spans.values())
            return spans

        tokens = {"apns": apns("ok", 1), "fcm": fcm("ok", 1)}
        for platform, target in tokens.items():
            push = await town.push(target, notification={"title": TITLE})
            spans = await traced(push, "deliver")
            assert spans["POST /v1/push"].parent == ""
            about = spans["deliver"].about
            assert (about["http.response.status_code"], about["pushsvc.outcome"]) == (200, "sent")
            assert (about["pushsvc.platform"], about["pushsvc.state"]) == (platform, "sent")
            assert {"pushsvc.queue_ms", "pushsvc.send_ms"} <= about.keys()

        await town.register("phone", "live")
        async with town.phone("phone"):
            push = await town.send("phone", notification={"title": TITLE})
            spans = await traced(push, "deliver", "acknowledge")
            assert spans["deliver"].about["pushsvc.outcome"] == "unconfirmed"
            assert spans["acknowledge"].parent == spans["POST /v1/push"].id

        bad = await town.push(apns("BadDeviceToken", 2))
        spans = await traced(bad, "deliver")
        assert spans["deliver"].failed == spans["deliver"].about["pushsvc.reason"] == "BadDeviceToken"

        # A caller's own trace goes on, and is not begun where the caller does not record it.
        for flags, push_is_traced in (("01", True), ("00", False)):
            headers = {"traceparent": f"00-{CALLER}-{SPAN_OF_CALLER}-{flags}"}
            document = {"to": {"tokens": apns("ok", flags)}, "notification": {"title": TITLE}}
            async with town.session.post("/v1/push", json=document, headers=headers) as answer:
                push = (await answer.json())["id"]
            if push_is_traced:
                spans = await traced(push, "deliver")
                root = spans["POST /v1/push"]
                assert (root.trace, root.parent) == (CALLER, SPAN_OF_CALLER)
            else:
                assert await town.done(push) == {"total": 1, "sent": 1}
                unsampled = push
        assert collector.of(unsampled) == []

        for key in ({}, {"Idempotency-Key": "of-a-batch"}):
            async with town.session.post("/v1/push/batch", json=[document, document], headers=key) as answer:
                push = (await answer.json())["results"][0]["id"]

            def roots() -> list[Span]:
                return [span for span in collector.of(push) if not span.parent]  # noqa: B023  # awaited below

            await town.until("the request of the batch has its span", roots)
            ((name, about),) = [(span.name, span.about) for span in roots()]
            own = (about["pushsvc.pushes"], about["pushsvc.deliveries"], about["pushsvc.accept_ms"] > 0)
            assert (name, *own) == ("POST /v1/push/batch", 2, 2, True)
        secrets = [target["token"] for targets in tokens.values() for target in targets] + [TITLE]
        assert not [secret for secret in secrets if secret.encode() in collector.bytes]


async def test_without_traces_nothing_is_sent_or_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: None
) -> None:
    async with traced_town(tmp_path, monkeypatch, share=0.0) as (town, collector):
        headers = {"traceparent": f"00-{CALLER}-{SPAN_OF_CALLER}-01"}
        at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        later = {"to": {"tokens": apns("ok", 1)}, "notification": {"title": TITLE}, "send_at": at}
        async with town.session.post("/v1/push", json=later, headers=headers) as answer:
            assert answer.status == 202, await answer.text()
            push = (await answer.json())["id"]
        async with open_store(await running_store_url(town.settings) or "") as store:
            _, _, _, blob = await store.link.call("LRANGE", keys.waiting("shop", 0, push), 0, -1)
        assert len(msgspec.msgpack.decode(blob[1:])) < len(Chunk.__struct_fields__)
        assert bytes.fromhex(CALLER) not in blob
        sent = await town.push(apns("ok", 2))
        assert await town.done(sent) == {"total": 1, "sent": 1}
        assert collector.spans == []


def test_a_collector_that_is_away_is_logged_as_a_state_and_lines_of_the_log_name_their_trace(
    monkeypatch: pytest.MonkeyPatch, environment: None
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_ports()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    import_module("pushsvc.telemetry.otel").EXPORT.reset()
    with structlog.testing.capture_logs() as lines, telemetry.tracing(1.0, "test"):
        assert telemetry.traces.tracer is not None
        while not lines:
            span = telemetry.traces.tracer.begin()
            assert span is not None
            assert telemetry.traces.CURRENT.get() == span.carried
            span.end(telemetry.traces.Alike("POST /v1/push", "server"))
            assert telemetry.traces.CURRENT.get() == b""
            time.sleep(0.01)
    assert [line["event"] for line in lines] == ["traces_not_sent"]
