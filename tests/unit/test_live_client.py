"""The receiving side of the live channel: one table of scenarios for both languages, and a model of a gateway.

The model cuts connections, loses acknowledgements, drops what is too old, sends again, and starts the app anew, in any
order. What it has played in Python is played again in JavaScript.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.live_client import (
    Ack,
    Drop,
    Handle,
    History,
    Missing,
    Publication,
    Retry,
    Sequencer,
    Show,
    State,
    Step,
)

from ..node import needs_node, node

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "live_client.json"
MODULE = HERE.parents[1] / "pushsvc" / "live" / "clients" / "pushsvc-live.js"


def word(step: Step) -> str:
    match step:
        case Handle(message):
            return f"handle {message.id} {message.offset}"
        case Retry(push_id, attempt):
            return f"retry {push_id} {attempt}"
        case Ack(offset, epoch):
            return f"ack {offset} {epoch}"
        case History(since, epoch):
            return f"history {since} {epoch}"
        case Missing(count):
            return f"missing {'?' if count is None else count}"
        case Show(push_id):
            return f"show {push_id}"
        case Drop(push_id):
            return f"drop {push_id}"


def publication(came: Any) -> Publication:
    return Publication(came["offset"], {"id": came["id"], "prev": came["prev"]})


class Play:
    """A sequencer, and what was played with it, as a scenario of the table has it."""

    def __init__(self, state: State | None = None, memory: int = 500) -> None:
        self.memory = memory
        self.sequencer = Sequencer(state, memory=memory)
        self.plays: list[list[Any]] = []

    def __call__(self, call: str, argument: Any) -> list[Step]:
        sequencer, steps = self.sequencer, list[Step]()
        match call:
            case "restart":
                self.sequencer = Sequencer(sequencer.state, memory=self.memory)
            case "subscribed":
                steps = sequencer.subscribed(**argument)
            case "publication":
                steps = sequencer.publication(publication(argument))
            case "history":
                steps = sequencer.history([publication(each) for each in argument])
            case "handled":
                steps = sequencer.handled(succeeded=argument)
            case "acknowledged":
                steps = sequencer.acknowledged(argument["offset"], succeeded=argument["succeeded"])
            case _:
                steps = getattr(sequencer, call)(argument)
        self.plays.append([call, argument, [word(step) for step in steps]])
        return steps


TABLE = json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("scenario", TABLE, ids=[each["name"] for each in TABLE])
def test_scenarios(scenario: dict[str, Any]) -> None:
    play = Play(scenario.get("state"), scenario.get("memory", 500))
    for number, (call, argument, expected) in enumerate(scenario["plays"]):
        if call == "state":
            assert play.sequencer.state == expected
        else:
            assert [word(step) for step in play(call, argument)] == expected, (number, call, argument)


class Model:
    """A gateway and a phone: the stream, what is on the wire, and what the phone has shown."""

    def __init__(self) -> None:
        self.play = Play()
        self.stream: list[tuple[int, str]] = []
        self.epoch, self.top, self.acked, self.floor, self.lost = "e0", 0, 0, 0, 0
        self.position: tuple[str, int] | None = None
        """That of the SDK."""
        self.last = 0
        self.connected = False
        self.wire: list[tuple[str, Any]] = []
        self.handling: str | None = None
        self.retry = ""
        self.acks: list[Ack] = []
        self.asked: list[History] = []
        self.shown: list[str] = []
        self.pushed = 0
        self.gone: set[str] = set()
        """Messages that have left the stream."""
        self.overflowed: set[str] = set()
        self.reported: float = 0.0
        self.flushed = False

    # --- The server ------------------------------------------------------------------------------------------------

    def push(self) -> None:
        self.pushed += 1
        self.top += 1
        self.stream.append((self.top, f"p{self.pushed}"))
        if self.connected:
            self._send(*self.stream[-1])

    def replace(self) -> None:
        """A push with the collapse of one that is not acknowledged takes it out of the stream."""
        waiting = [each for each in self.stream if each[0] > self.acked]
        if waiting:
            self.stream.remove(waiting[0])
            self.gone.add(waiting[0][1])
        self.push()

    def overflow(self) -> None:
        if self.stream:
            offset, push_id = self.stream.pop(0)
            self.floor, self.lost = offset, self.lost + 1
            self.gone.add(push_id)
            self.overflowed.add(push_id)

    def flush(self) -> None:
        """Redis forgets everything, and the connection ends."""
        self.gone |= {push_id for _, push_id in self.stream}
        self.epoch, self.stream = f"e{int(self.epoch[1:]) + 1}", []
        self.top = self.acked = self.floor = self.lost = 0
        self.flushed = True
        self.cut()

    def resend(self) -> None:
        if self.connected:
            for offset, push_id in self.stream:
                if self.acked < offset <= self.last:
                    self.wire.append(self._publication(offset, push_id, self._before(offset)))

    def connect(self) -> None:
        if self.connected:
            return
        self.connected = True
        asked = self.position
        valid = asked is not None and asked[0] == self.epoch and asked[1] <= self.top
        since = asked[1] if valid and asked is not None else self.acked
        missing = min(self.floor - since, self.lost) if self.floor > since else 0
        recovered = valid and not missing
        self.wire.append(
            (
                "subscribed",
                {
                    "epoch": self.epoch,
                    "offset": since if recovered else self.top,
                    "recovered": recovered,
                    "acked": self.acked,
                    "missing": 0 if recovered else missing,
                },
            )
        )
        self.last = since
        for offset, push_id in self.stream:
            if offset > since:
                self._send(offset, push_id)

    def cut(self) -> None:
        self.connected = False
        self.wire, self.acks, self.asked = [], [], []

    def _send(self, offset: int, push_id: str) -> None:
        self.wire.append(self._publication(offset, push_id, self.last))
        self.last = offset

    def _before(self, offset: int) -> int:
        before = max((each for each, _ in self.stream if each < offset), default=0)
        return max(before, self.floor) if self.floor < offset else before

    def _publication(self, offset: int, push_id: str, prev: int) -> tuple[str, Any]:
        return "publication", {"offset": offset, "id": push_id, "prev": prev}

    # --- The phone -------------------------------------------------------------------------------------------------

    def deliver(self) -> None:
        if self.wire:
            call, argument = self.wire.pop(0)
            if call == "subscribed":
                self.acks, self.asked = [], []  # Answers of an earlier connection are not taken.
            self._run(self.play(call, argument))
            epoch = self.epoch if call == "subscribed" else (self.position or (self.epoch, 0))[0]
            self.position = epoch, argument["offset"]

    def succeed(self) -> None:
        if self.handling is not None:
            self.shown.append(self.handling)
            self.handling = None
            self._run(self.play("handled", True))

    def fail(self) -> None:
        if self.handling is not None:
            self.handling = None
            self._run(self.play("handled", False))

    def try_again(self) -> None:
        if self.retry:
            retry, self.retry = self.retry, ""
            self._run(self.play("retried", retry))

    def acknowledge(self) -> None:
        if self.acks and self.connected:
            ack = self.acks.pop(0)
            if ack.epoch != self.epoch:
                return  # An error, which the phone takes as the end of that stream.
            assert ack.offset <= self.top
            waiting = {push_id for offset, push_id in self.stream if self.acked < offset <= ack.offset}
            assert waiting <= set(self.shown), "acknowledged before it was shown"
            self.acked = max(self.acked, ack.offset)
            self._run(self.play("acknowledged", {"offset": ack.offset, "succeeded": True}))

    def ack_fails(self) -> None:
        if self.acks:
            ack = self.acks.pop(0)
            self._run(self.play("acknowledged", {"offset": ack.offset, "succeeded": False}))

    def ack_lost(self) -> None:
        """The server has it, and the phone does not know: the connection is cut."""
        if self.acks and self.connected and self.acks[0].epoch == self.epoch:
            self.acked = max(self.acked, self.acks[0].offset)
            self.cut()

    def answer(self) -> None:
        if self.asked and self.connected:
            asked = self.asked.pop(0)
            if asked.epoch != self.epoch:
                return
            since = asked.since
            page = [each for each in self.stream if each[0] > since][:2]
            found = [self._publication(offset, push_id, self._before(offset))[1] for offset, push_id in page]
            self._run(self.play("history", found))

    def provider_copy(self) -> None:
        if self.stream:
            push_id = self.stream[-1][1]
            steps = self.play("received", push_id)
            if isinstance(steps[0], Show):
                self.shown.append(push_id)
            else:
                assert push_id in self.shown or push_id == self.handling
            self._run(steps)

    def restart(self) -> None:
        self.cut()
        self.handling, self.retry, self.position = None, "", None
        self.play("restart", None)

    def _run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Handle(message):
                    assert self.handling is None, "two handlers at once"
                    self.handling = message.id
                case Retry(push_id, _):
                    self.retry = push_id
                case Ack():
                    assert not self.acks, "two acknowledgements at once"
                    self.acks.append(step)
                case History():
                    assert not self.asked, "two questions at once"
                    self.asked.append(step)
                case Missing(count):
                    self.reported += float("inf") if count is None else count
                case _:
                    pass

    def finish(self) -> None:
        """Let everything come to rest, after one more message."""
        self.push()
        for _ in range(2):
            self.connect()
            while self.wire or self.handling is not None or self.acks or self.asked or self.retry:
                for step in (self.deliver, self.answer, self.succeed, self.try_again, self.acknowledge):
                    step()
            self.resend()
        self.deliver()


OPS: list[Callable[[Model], None]] = [
    Model.push,
    Model.replace,
    Model.connect,
    Model.deliver,
    Model.succeed,
    Model.fail,
    Model.try_again,
    Model.acknowledge,
    Model.ack_fails,
    Model.ack_lost,
    Model.answer,
    Model.provider_copy,
    Model.overflow,
    Model.resend,
    Model.cut,
    Model.restart,
    Model.flush,
]


def played(ops: Sequence[Callable[[Model], None]]) -> Model:
    model = Model()
    for op in ops:
        op(model)
    model.finish()
    return model


@given(st.lists(st.sampled_from(OPS), max_size=60))
def test_whatever_happens_each_message_is_shown_once_and_what_is_lost_is_said(
    ops: list[Callable[[Model], None]],
) -> None:
    model = played(ops)
    assert len(model.shown) == len(set(model.shown)), "shown twice"
    lost = {f"p{n}" for n in range(1, model.pushed + 1)} - set(model.shown)
    assert lost <= model.gone
    assert {push_id for _, push_id in model.stream} <= set(model.shown)
    assert model.acked == model.top
    assert model.flushed or model.reported >= len(model.overflowed - set(model.shown))


def test_what_is_too_old_is_counted_as_missing() -> None:
    story = [Model.connect, Model.deliver, Model.push, Model.deliver, Model.succeed, Model.acknowledge, Model.cut]
    model = played([*story, *[Model.push] * 5, *[Model.overflow] * 4])
    assert model.reported == 3  # The fourth had been shown.
    assert model.shown == ["p1", "p5", "p6", "p7"]


@needs_node
def test_javascript_does_the_same(tmp_path: Path) -> None:
    chance = random.Random(7)
    weights = [3 if op in (Model.push, Model.connect, Model.deliver, Model.succeed) else 1 for op in OPS]
    played_here = [
        {"name": f"model {number}", "plays": played(chance.choices(OPS, weights, k=60)).play.plays}
        for number in range(200)
    ]
    wrong = {"name": "a wrong expectation is seen", "plays": [["received", "a", []]]}
    scenarios = tmp_path / "scenarios.json"
    scenarios.write_text(json.dumps([*TABLE, *played_here, wrong]))
    said = subprocess.run(
        [*node(), HERE / "live_client_golden.mjs", MODULE, scenarios], capture_output=True, text=True, check=True
    )
    assert said.stdout == 'a wrong expectation is seen: play 0, received "a": ["show a"]\n'
