"""The timing wheel: the same calls as a list of all deadlines would give, never early, at most one tick late."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pushsvc.live.wheel import TICK, Deadline, Wheel, running_wheel

SECONDS = st.one_of(st.floats(0, 3), st.floats(0, 1000), st.sampled_from([0.0, TICK, 2 * TICK, 0.3, 900.0]))


class WheelMachine(RuleBasedStateMachine):
    """Deadlines are added, moved, cancelled and reached in any order; a dictionary has what should happen."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1_000.0
        self.wheel = Wheel(lambda: self.time, self.woken)
        self.wake_at: float | None = None
        self.deadlines: list[Deadline] = []
        self.due: dict[int, float] = {}
        self.called: list[int] = []

    def woken(self, at: float) -> None:
        self.wake_at = at

    @rule(seconds=SECONDS)
    def add(self, seconds: float) -> None:
        number = len(self.deadlines)
        self.deadlines.append(self.wheel.after(seconds, lambda: self.called.append(number)))
        self.due[number] = self.time + seconds

    @rule(which=st.integers(0), seconds=SECONDS)
    def move(self, which: int, seconds: float) -> None:
        if self.deadlines:
            number = which % len(self.deadlines)
            self.deadlines[number].move(seconds)
            self.due[number] = self.time + seconds

    @rule(which=st.integers(0), seconds=SECONDS)
    def bring_forward(self, which: int, seconds: float) -> None:
        if self.deadlines:
            number, at = which % len(self.deadlines), self.time + seconds
            self.deadlines[number].bring_forward(at)
            self.due[number] = min(self.due.get(number, at), at)

    @rule(which=st.integers(0))
    def cancel(self, which: int) -> None:
        if self.deadlines:
            number = which % len(self.deadlines)
            self.deadlines[number].cancel()
            self.due.pop(number, None)

    @rule(seconds=SECONDS)
    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        self.called.clear()
        for call in self.wheel.expired():
            call()
        assert len(set(self.called)) == len(self.called)
        for number in self.called:
            assert self.due.pop(number) <= self.time
        assert all(due > self.time - TICK - 1e-6 for due in self.due.values())

    @invariant()
    def the_wheel_holds_what_is_due(self) -> None:
        assert len(self.wheel) == len(self.due)
        assert {n for n, deadline in enumerate(self.deadlines) if deadline.active} == self.due.keys()
        if self.due:
            # A timer for the first bucket is enough to be in time for all.
            assert self.wheel.next_at is not None
            assert self.wheel.next_at <= min(self.due.values()) + TICK + 1e-6


TestWheel = WheelMachine.TestCase


@given(st.lists(SECONDS, min_size=1, max_size=30))
def test_the_timer_is_woken_for_the_first(seconds: list[float]) -> None:
    woken: list[float] = []
    wheel = Wheel(lambda: 50.0, woken.append)
    for each in seconds:
        wheel.after(each, lambda: None)
    assert woken == sorted(woken, reverse=True)
    assert woken[-1] == wheel.next_at


def test_moving_further_away_stays_in_the_bucket_until_it_is_reached() -> None:
    now = 0.0
    wheel = Wheel(lambda: now)
    calls: list[float] = []
    deadline = wheel.after(1, lambda: calls.append(now))
    for step in range(50):
        now = step / 10
        for call in wheel.expired():
            call()
        deadline.move(1)
    assert calls == []
    now = 6.0
    for call in wheel.expired():
        call()
    assert calls == [6.0]
    assert not deadline.active


def test_a_call_may_cancel_another_that_is_due_at_the_same_time() -> None:
    now = 0.0
    wheel = Wheel(lambda: now)
    called: list[str] = []
    pair: dict[str, Deadline] = {}

    def call(name: str, other: str) -> None:
        called.append(name)
        pair[other].cancel()

    pair["a"] = wheel.after(1, lambda: call("a", "b"))
    pair["b"] = wheel.after(1, lambda: call("b", "a"))
    now = 2.0
    for each in wheel.expired():
        each()
    assert len(called) == 1


def test_a_turn_is_bounded() -> None:
    now = 0.0
    wheel = Wheel(lambda: now)
    for _ in range(100):
        wheel.after(1, lambda: None)
    now = 2.0
    assert len(list(wheel.expired(most=30))) == 30
    assert wheel.next_at is not None
    assert wheel.next_at <= now
    assert len(list(wheel.expired(most=200))) == 70


async def _in_a_loop() -> tuple[list[str], list[object]]:
    loop = asyncio.get_running_loop()
    faults: list[object] = []
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    called: list[str] = []
    done = asyncio.Event()
    with running_wheel() as wheel:

        def again() -> None:
            called.append("again")
            wheel.after(0, done.set)

        def fail() -> None:
            raise RuntimeError("a fault")

        wheel.after(0.05, fail)
        wheel.after(0.05, lambda: called.append("first"))
        wheel.after(0.15, again)
        wheel.after(0.0, lambda: called.append("cancelled")).cancel()
        far = wheel.after(500, lambda: called.append("far"))
        async with asyncio.timeout(30):
            await done.wait()
        far.move(0)
    await asyncio.sleep(2 * TICK)  # a timer that was left behind would fire within one
    return called, faults


def test_one_timer_of_the_loop_turns_the_wheel_while_its_block_lasts() -> None:
    called, faults = asyncio.run(_in_a_loop())
    assert called == ["first", "again"]
    assert [type(fault) for fault in faults] == [RuntimeError]


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.7, 0.9000000000000001, 1.8000000000000003, 12.3, 900.0])
def test_it_is_never_early_by_a_rounding(seconds: float) -> None:
    now = 0.0
    wheel = Wheel(lambda: now)
    wheel.after(seconds, lambda: None)
    assert wheel.next_at is not None
    assert wheel.next_at >= seconds
