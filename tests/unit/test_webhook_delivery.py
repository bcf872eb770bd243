"""The loop of one webhook, call after call, over a claim and a receiver made of lists."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from pushsvc import telemetry
from pushsvc.model.status import FeedbackEvent
from pushsvc.ports.webhooks import Batch, WebhookCallNote
from pushsvc.stages.webhooks.caller import WebhookCaller
from pushsvc.stages.webhooks.config import WebhookConfig
from pushsvc.stages.webhooks.delivery import deliver
from pushsvc.stages.webhooks.verdict import WebhookReply

CONFIG = WebhookConfig(url="https://example.com/", keys=(b"k" * 32,), attempts=2, retry_for=0, base=1.0)
OK, BAD, AWAY = WebhookReply(200, "http_200"), WebhookReply(400, "http_400"), WebhookReply(503, "http_503", 5.0)
LARGE = WebhookReply(413, "http_413")


@dataclass
class Claim:
    """Hands out its batches, and notes what is said of them. `lost`: what is said is not heard."""

    batches: list[Batch]
    lost: bool = False
    said: list[str] = field(default_factory=list)
    calls: list[WebhookCallNote] = field(default_factory=list)

    async def next(self, most: int) -> Batch | None:
        return self.batches.pop(0) if self.batches else None

    def _say(self, what: str) -> bool:
        self.said.append(what)
        return not self.lost

    async def delivered(self, batch: Batch) -> bool:
        return self._say(f"delivered {batch.id}")

    async def failed(self, batch: Batch, reason: str, *, wait: float) -> bool:
        return self._say(f"failed {batch.id} {reason} {wait}")

    async def give_up(self, batch: Batch, reason: str) -> bool:
        return self._say(f"give_up {batch.id} {reason}")

    async def halve(self, batch: Batch, reason: str) -> bool:
        return self._say(f"halve {batch.id} {reason}")

    async def drop_asked(self) -> bool:
        return self._say("drop asked")

    async def switch_off(self, reason: str) -> bool:
        return self._say(f"off {reason}")

    async def note(self, call: WebhookCallNote) -> None:
        self.calls.append(call)

    async def rest(self, wait: float, reason: str = "") -> bool:
        return self._say(f"rest {wait}")


class Broken(Claim):
    """A claim that cannot record a delivery."""

    async def delivered(self, batch: Batch) -> bool:
        raise ZeroDivisionError


@dataclass
class Receiver:
    """Gives its answers one by one."""

    answers: Iterator[WebhookReply]

    async def post(self, message_id: str, body: bytes, *, trace: bytes = b"") -> WebhookReply:
        return next(self.answers)


def batch(name: str, **more: Any) -> Batch:
    count = more.pop("events", 3)
    return Batch(name, [("1-0", FeedbackEvent(1, "apns", "t", "Unregistered", "suppressed"))] * count, **more)


def run(claim: Claim, *answers: WebhookReply, calls: int = 100) -> int:
    left = iter(range(calls))

    def over() -> bool:
        return next(left, None) is None

    receiver = cast(WebhookCaller, Receiver(iter(answers)))
    return asyncio.run(
        deliver(claim, receiver, CONFIG, "shop", over=over, clock=lambda: 1_796_115_600.0, jitter=lambda: 0.5)
    )


@pytest.mark.parametrize(
    ("batches", "answers", "said", "reported"),
    [
        ([batch("a"), batch("b")], [OK, OK], ["delivered a", "delivered b"], 6),
        ([batch("a"), batch("b")], [OK, AWAY], ["delivered a", "failed b http_503 5.5"], 3),
        ([batch("a", attempts=1), batch("b")], [BAD, OK], ["give_up a http_400", "delivered b"], 3),
        ([batch("a"), batch("b")], [WebhookReply(410, "http_410")], ["off http_410"], 0),
        ([batch("a"), batch("b")], [LARGE, OK], ["halve a http_413", "delivered b"], 3),
        ([batch("a", events=1), batch("b")], [LARGE], ["give_up a http_413", "rest 0.5"], 0),
        ([batch("a", again=True), batch("b")], [LARGE, OK], ["halve a http_413", "delivered b"], 3),
        ([batch("a", events=1, again=True), batch("b")], [LARGE, OK], ["give_up a http_413", "delivered b"], 3),
        ([batch("a", again=True), batch("b")], [BAD, OK], ["give_up a http_400", "delivered b"], 3),
        ([batch("a", again=True), batch("b")], [AWAY, OK], ["give_up a http_503", "drop asked", "delivered b"], 3),
    ],
)
def test_what_is_said_of_each(
    batches: list[Batch], answers: list[WebhookReply], said: list[str], reported: int
) -> None:
    claim = Claim(batches)
    assert run(claim, *answers) == reported
    assert claim.said == said


def test_it_ends_between_two_calls() -> None:
    claim = Claim([batch("a"), batch("b"), batch("c")])
    assert run(claim, OK, OK, OK, calls=2) == 6
    assert claim.said == ["delivered a", "delivered b"]


def test_it_ends_where_somebody_else_has_taken_over() -> None:
    claim = Claim([batch("a"), batch("b")], lost=True)
    assert run(claim, OK, OK) == 0
    assert claim.said == ["delivered a"]


def test_the_span_of_a_call_whose_answer_is_not_recorded_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[set[str], str]] = []

    class Tracer:
        carried = b"c" * telemetry.traces.CARRIED

        def begin(self, *_: Any) -> Tracer:
            return self

        def note(self, names: telemetry.traces.Names, *_: Any) -> None:
            self.names = names

        def end(self, alike: telemetry.traces.Alike) -> None:
            about = {*dict(alike.attributes), *alike.names.texts}
            ended.append((about & {"pushsvc.batch", "http.response.status_code"}, alike.error))

    monkeypatch.setattr(telemetry.traces, "tracer", Tracer())
    with pytest.raises(ZeroDivisionError):
        run(Broken([batch("a")]), OK)
    run(Claim([batch("a")]), OK)
    assert ended == [({"pushsvc.batch"}, "ZeroDivisionError"), ({"pushsvc.batch", "http.response.status_code"}, "")]


def test_calls_are_counted_by_what_followed() -> None:
    def count(result: str) -> float:
        return float(telemetry.WEBHOOK_CALLS.labels("shop", result)._value.get())

    before = {result: count(result) for result in ("delivered", "failed", "given_up", "gone")}
    run(Claim([batch("a"), batch("b", attempts=1), batch("c"), batch("d")]), OK, BAD, AWAY)
    run(Claim([batch("a")]), WebhookReply(410, "http_410"))
    assert {result: count(result) - before[result] for result in before} == {
        "delivered": 1,
        "failed": 1,
        "given_up": 1,
        "gone": 1,
    }
