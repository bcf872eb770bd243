"""The receiving side of the live channel: one table of scenarios for both languages, and a model of a gateway.

The model cuts connections, loses acknowledgements, drops what is too old, sends again, and starts the app anew, in any
order. What it has played in Python is played again in JavaScript.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pushsvc import live_client
from pushsvc.live_client import (
    Ack,
    Drop,
    FileStorage,
    Handle,
    History,
    LiveClient,
    Message,
    Missing,
    Publication,
    Retry,
    Sequencer,
    Show,
    State,
    Step,
    connect_data,
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
            case "stopped":
                steps = sequencer.stopped()
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

    def stop(self) -> None:
        """The app disconnects, which ends its handler and the wait for a retry."""
        self.cut()
        self.handling, self.retry = None, ""
        self._run(self.play("stopped", None))

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
    Model.stop,
    Model.flush,
]


def played(ops: Sequence[Callable[[Model], None]]) -> Model:
    model = Model()
    for op in ops:
        op(model)
    model.finish()
    return model


@given(st.lists(st.sampled_from(OPS), max_size=60))
def test_whatever_happens_each_message_is_shown_once_and_what_is_lost_is_reported(
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
    ran = subprocess.run(
        [*node(), HERE / "live_client_golden.mjs", MODULE, scenarios], capture_output=True, text=True, check=True
    )
    assert ran.stdout == 'a wrong expectation is seen: play 0, received "a": ["show a"]\n'


class Refusal(Exception):
    """An error as the SDK raises it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Sdk:
    """A client as the SDK has it, whose answers are given."""

    def __init__(self) -> None:
        self.events: Any = SimpleNamespace(
            on_connected=self._nothing, on_subscribed=self._nothing, on_publication=self._nothing
        )
        self.state = SimpleNamespace(value="connected")
        self.calls: list[tuple[str, Any]] = []
        self.answers: dict[str, list[Any]] = {}

    async def _nothing(self, _: Any) -> None:
        pass

    async def connect(self) -> None:
        self.calls.append(("connect", None))

    async def disconnect(self) -> None:
        self.calls.append(("disconnect", None))

    async def rpc(self, method: str, data: Any) -> Any:
        return SimpleNamespace(data=self._answer(method, data, {}))

    async def history(self, channel: str, *, limit: int, since: Any, reverse: bool = False) -> Any:
        return SimpleNamespace(publications=self._answer("history", since.offset, []))

    def _answer(self, method: str, data: Any, otherwise: Any) -> Any:
        self.calls.append((method, data))
        answers = self.answers.get(method)
        answer = answers.pop(0) if answers else otherwise
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def subscribed(self, acked: int = 0) -> None:
        await self.events.on_connected(SimpleNamespace(data={"acked": acked, "unread": 1}))
        position = SimpleNamespace(epoch="e", offset=acked)
        await self.events.on_subscribed(SimpleNamespace(channel="device", stream_position=position, recovered=False))

    async def published(self, *numbers: int, prev: int | None = None, **more: Any) -> None:
        for n in numbers:
            await self.events.on_publication(SimpleNamespace(channel="device", pub=sent(n, prev, **more)))

    def acks(self) -> list[int]:
        return [data["ack"]["offset"] for method, data in self.calls if method == "ack"]


async def rest() -> None:
    """Let everything be done that waits for nothing outside."""
    for _ in range(50):
        await asyncio.sleep(0)


def sent(n: int, prev: int | None = None, **more: Any) -> Any:
    return SimpleNamespace(offset=n, data={"id": f"p{n}", "prev": n - 1 if prev is None else prev, **more})


@asynccontextmanager
async def driven(**options: Any) -> AsyncIterator[tuple[Sdk, LiveClient, dict[str, list[Any]]]]:
    sdk, seen = Sdk(), dict[str, list[Any]](message=[], missing=[], error=[], unread=[])

    async def show(message: Message) -> None:
        seen["message"].append(message)

    live = LiveClient(
        sdk,
        show,
        on_missing=seen["missing"].append,
        on_error=seen["error"].append,
        on_unread=seen["unread"].append,
        **options,
    )
    await live.connect()
    async with asyncio.timeout(30):
        yield sdk, live, seen


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Attempts do not wait for one another; the list has their numbers."""
    attempts: list[int] = []

    async def pause(attempt: int) -> None:
        attempts.append(attempt)

    monkeypatch.setattr(live_client.client, "_pause", pause)
    return attempts


def test_wrong_use_is_refused() -> None:
    with pytest.raises(TypeError, match=r"pip install centrifuge-python.*not object"):
        LiveClient(object(), lambda _: asyncio.sleep(0))
    sdk = Sdk()
    LiveClient(sdk, lambda _: asyncio.sleep(0))
    with pytest.raises(RuntimeError, match="call `connect` of the LiveClient"):
        asyncio.run(sdk.subscribed())


async def test_a_notice_is_fetched_and_one_whose_content_is_gone_is_missing(hasty: list[int]) -> None:
    async with driven() as (sdk, live, seen):
        content = {"id": "p1", "notification": {"title": "long"}}
        sdk.answers["fetch"] = [Refusal(100), content, Refusal(404)]
        await sdk.subscribed()
        await sdk.published(1, 2, notice=True, size=9000)
        await live.settled()
        await asyncio.sleep(0)
        (message,) = seen["message"]
        assert (message.id, message.data["notification"], message.data["notice"]) == ("p1", {"title": "long"}, False)
        assert (seen["missing"], [each.code for each in seen["error"]], sdk.acks()) == ([1], [100], [1, 2])


async def test_an_acknowledgement_is_repeated_until_it_is_taken_or_void(hasty: list[int]) -> None:
    async with driven() as (sdk, live, seen):
        sdk.answers["ack"] = [Refusal(100), Refusal(111), {}, Refusal(112)]
        await sdk.subscribed()
        await sdk.published(1)
        await live.settled()
        assert (sdk.acks(), hasty) == ([1, 1, 1], [0, 1, 2])
        await sdk.published(2)
        while len(sdk.acks()) < 4:
            await asyncio.sleep(0)
        await live.disconnect()
        assert (sdk.acks(), sdk.calls[-1][0]) == ([1, 1, 1, 2], "disconnect")
        assert [each.code for each in seen["error"]] == [100, 111, 112]


async def test_after_an_acknowledgement_beyond_the_stream_later_ones_are_sent() -> None:
    async with driven() as (sdk, _, seen):
        sdk.answers["ack"] = [Refusal(107)]
        await sdk.subscribed()
        for number in (1, 2):
            await sdk.published(number)
            await rest()
        assert (sdk.acks(), [each.code for each in seen["error"]]) == ([1, 2], [107])


@pytest.mark.parametrize("fails", [False, True])
async def test_what_a_disconnect_interrupts_is_handled_after_the_next_connect(fails: bool) -> None:
    begun, interrupted, shown = asyncio.Event(), asyncio.Event(), list[int]()

    async def show(message: Message) -> None:
        if not interrupted.is_set():
            begun.set()
            if fails:
                raise OSError
            await asyncio.Event().wait()
        shown.append(message.offset)

    sdk = Sdk()
    live = LiveClient(sdk, show)
    await live.connect()
    await sdk.subscribed()
    await sdk.published(1, 2)
    await begun.wait()
    await live.disconnect()
    interrupted.set()
    await live.connect()
    await sdk.subscribed()
    await rest()
    assert (shown, sdk.acks()[-1]) == ([1, 2], 2)


async def test_a_handler_that_disconnects_ends_as_it_would() -> None:
    shown = list[int]()

    async def show(message: Message) -> None:
        await live.disconnect()
        shown.append(message.offset)

    sdk = Sdk()
    live = LiveClient(sdk, show)
    await live.connect()
    await sdk.subscribed()
    await sdk.published(1)
    await rest()
    await live.connect()
    await sdk.subscribed()
    await rest()
    assert (shown, sdk.acks()[-1]) == ([1], 1)


async def test_a_hole_is_filled_though_history_fails_at_first(hasty: list[int]) -> None:
    async with driven() as (sdk, live, seen):
        sdk.answers["history"] = [Refusal(100), [sent(2), sent(3)]]
        await sdk.subscribed()
        await sdk.published(1, 3)
        await live.settled()
        assert [each.id for each in seen["message"]] == ["p1", "p2", "p3"]
        assert [data for method, data in sdk.calls if method == "history"] == [1, 1]
        assert sdk.acks()[-1] == 3


async def test_a_restarted_app_shows_nothing_again(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "live.json")
    async with driven(storage=storage) as (sdk, live, _):
        await sdk.subscribed()
        await sdk.published(1, 2)
        await live.settled()
        assert await live.received("p4") is True
    async with driven(storage=storage) as (sdk, live, seen):
        await sdk.subscribed()  # None of the acknowledgements has arrived.
        await sdk.published(1, 2, 3, 4)
        await live.settled()
        assert [each.id for each in seen["message"]] == ["p3"]
        assert [await live.received(each) for each in ("p1", "p3", "p4", "p5")] == [False, False, False, True]
        assert (sdk.acks()[0], sdk.acks()[-1]) == (2, 4)


def test_what_the_sdk_sends_at_its_connect() -> None:
    assert connect_data(heartbeat=240, foreground=False) == {"heartbeat": 240, "foreground": False}
    assert connect_data(app_version="3.1", protobuf=True) == b'{"app_version": "3.1"}'


@needs_node
def test_the_client_in_javascript_is_driven_in_the_same_way() -> None:
    command = [*node(), str(HERE / "live_client_driven.mjs"), str(MODULE)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.split()) == (
        0,
        ["notices", "acks", "lost", "holes", "restart", "visibility", "endpoints"],
    ), ran.stderr
