"""The measure of what may be in flight, against providers made of arithmetic: virtual time, no sockets."""

from __future__ import annotations

import heapq
import random

import pytest

from pushsvc.stages.dispatch.congestion import CALM, FLOOR, LEAN, MORE, START, Congestion, Window

WINDOW = 2000
FEW = 300
"""A window of a line whose requests cost the test more time than the provider."""


class Line:
    """A provider at a distance of `away` seconds that works on one request at a time, `each` seconds long; sent to as
    much as window and congestion allow."""

    def __init__(self, away: float, each: float, jitter: float = 0.0, alone: float = 0.0) -> None:
        """`alone`: seconds more for one that comes alone; who comes in company shares them."""
        self.away, self.each, self.jitter, self.alone = away, each, jitter, alone
        self.now = 0.0
        self.free_at = 0.0
        self.rng = random.Random(1)
        self.flights: list[tuple[float, float]] = []
        self.congestion = Congestion(0.0)
        self.answers = 0
        self.lean = False

    @property
    def window(self) -> Window:
        return self.congestion.lean if self.lean else self.congestion.calm

    def overtaken(self, lean: bool) -> None:
        self.lean = lean
        self.congestion.choose(self.now, lean=lean)

    def run(self, seconds: float, window: int = WINDOW) -> float:
        """Keep the line full for so long; answers a second."""
        began, before = self.now, self.answers
        while self.now < began + seconds:
            while len(self.flights) < min(window, self.window.limit):
                self.free_at = max(self.free_at, self.now + self.away / 2) + self.each
                self.free_at += self.alone / (len(self.flights) + 1)
                back = self.free_at + self.away / 2 + self.jitter * self.rng.random()
                heapq.heappush(self.flights, (back, self.now))
            self.now, sent = heapq.heappop(self.flights)
            self.answers += 1
            self.congestion.answered([self.now - sent], len(self.flights), self.now)
        return (self.answers - before) / (self.now - began)


@pytest.mark.parametrize("each", [200e-6, 500e-6])
@pytest.mark.parametrize("away", [0.0005, 0.02])
def test_a_provider_at_its_limit_is_kept_busy_without_a_queue(away: float, each: float) -> None:
    line = Line(away, each)
    line.run(20)
    rate = line.run(5)
    assert rate >= 0.9 / each
    in_flight = min(line.window.limit, WINDOW)
    # What is in flight takes hardly longer than the way there and back, or there is as little of it as may be.
    assert in_flight * each < 3 * away + 0.01 or in_flight <= 2 * CALM.least


@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_a_provider_that_is_far_away_keeps_its_window(jitter: float) -> None:
    line = Line(0.05, 1e-6, jitter)
    line.run(30, FEW)
    unbound = FEW / (0.05 + jitter / 2)
    assert line.run(10, FEW) >= 0.9 * unbound


def test_it_opens_again_when_the_provider_gets_faster() -> None:
    line = Line(0.02, 500e-6)
    line.run(20)
    assert line.window.limit < 200
    line.each = 10e-6
    line.run(15, FEW)
    assert line.run(5, FEW) >= 0.8 * FEW / (0.02 + FEW * 10e-6)


def test_a_line_that_is_not_full_is_never_bound() -> None:
    line = Line(0.001, 1e-3)
    line.run(30, window=CALM.least // 2)
    assert line.window.limit == START


def test_the_first_burst_at_a_slow_provider_is_small() -> None:
    line = Line(0.02, 0.01)
    line.run(30)
    assert line.run(10) >= 0.9 / line.each
    assert line.window.limit <= START


@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_a_provider_that_is_far_away_gets_its_window_within_two_seconds(jitter: float) -> None:
    line = Line(0.05, 1e-6, jitter)
    line.run(2, FEW)
    assert line.run(2, FEW) >= 0.85 * FEW / (0.05 + jitter / 2)


def test_a_line_that_is_overtaken_from_its_first_moment_on_opens_all_the_same() -> None:
    line = Line(0.05, 1e-6)
    for _ in range(40):
        line.congestion.choose(line.now, lean=True)
        line.run(0.1, FEW)
    assert min(line.congestion.calm.limit, line.congestion.lean.limit) >= FEW


def test_a_line_that_is_overtaken_gives_up_the_queue_that_it_is_quicker_for() -> None:
    line = Line(0.0005, 100e-6)
    line.run(10)
    calm = line.run(5)
    in_flight = len(line.flights)
    line.overtaken(True)
    line.run(5)
    assert line.run(5) >= 0.9 * FLOOR * calm
    assert len(line.flights) < max(in_flight, 2 * LEAN.least)
    assert line.window.limit * line.each <= MORE * (LEAN.stretch * (line.away + line.each) + LEAN.slack)
    line.overtaken(False)
    line.run(5)
    assert line.run(5) >= 0.9 * calm


@pytest.mark.parametrize("alone", [0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.01])
def test_a_line_that_is_overtaken_keeps_a_third_of_its_rate(alone: float) -> None:
    """The smaller the window, the more a request costs: somewhere between is the least that is quick enough."""
    line = Line(0.0005, 100e-6, alone=alone)
    line.run(10)
    calm = line.run(5)
    line.overtaken(True)
    line.run(10)
    assert line.run(10) >= 0.9 * FLOOR * calm
    assert line.window.limit < 0.6 * WINDOW


def test_a_lean_window_that_is_too_small_is_widened() -> None:
    """It begins with what should do by the quickest answer ever, which came before small windows became dear."""
    line = Line(0.0005, 20e-6)
    line.run(1, window=1)
    line.alone = 0.004
    line.run(10)
    calm = line.run(5)
    line.overtaken(True)
    assert line.run(0.3) < 0.95 * FLOOR * calm
    line.run(5)
    assert line.run(10) >= 0.9 * FLOOR * calm
    assert line.window.limit < line.congestion.calm.limit / 2


@pytest.mark.parametrize("jitter", [0.0, 0.2])
def test_a_line_that_is_far_away_is_not_slowed_down_when_it_is_overtaken(jitter: float) -> None:
    line = Line(0.05, 1e-6, jitter)
    line.run(30, FEW)
    line.overtaken(True)
    line.run(10, FEW)
    assert line.run(10, FEW) >= 0.9 * FEW / (0.05 + jitter / 2)


def test_a_trial_that_is_interrupted_is_given_up() -> None:
    line = Line(0.02, 500e-6)
    most = 0
    while line.window.limit >= most:
        most = line.window.limit
        line.run(0.05)
    line.overtaken(True)
    assert line.congestion.calm.limit == most
