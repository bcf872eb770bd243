"""The limit as pure arithmetic: what goes through in every window, and how a bucket ramps up."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from pushsvc.model.rates import Rate
from pushsvc.rules.gcra import FLOOR, US, Level, admit, interval_of, lease

RATES = st.builds(Rate, st.integers(1, 50), st.integers(1, 120))
STEPS = st.lists(st.integers(0, 20 * US), min_size=1, max_size=200)


@pytest.mark.parametrize(
    ("rate", "interval"),
    [(Rate(240, 60), 250_000), (Rate(10, 1), 100_000), (Rate(3, 1), 333_334), (Rate(10_000_000, 1), 1)],
)
def test_interval(rate: Rate, interval: int) -> None:
    assert interval_of(rate) == interval


@given(RATES, STEPS)
def test_no_window_sees_more_than_rate_times_t_plus_burst(rate: Rate, steps: list[int]) -> None:
    interval, tat, now, granted = interval_of(rate), 0, 1_000_000 * US, []
    for step in steps:
        now += step
        decision = admit(tat, now, interval=interval, burst=rate.count)
        tat = decision.tat
        if not decision.wait:
            granted.append(now)
    for first in range(len(granted)):
        for last in range(first, len(granted)):
            span = granted[last] - granted[first]
            assert last - first + 1 <= span / interval + rate.count


@given(RATES, STEPS)
def test_the_wait_is_exact(rate: Rate, steps: list[int]) -> None:
    interval, tat, now = interval_of(rate), 0, 1_000_000 * US
    for step in steps:
        now += step
        decision = admit(tat, now, interval=interval, burst=rate.count)
        if decision.wait:
            assert admit(decision.tat, now + decision.wait, interval=interval, burst=rate.count).wait == 0
            assert admit(decision.tat, now + decision.wait - 1, interval=interval, burst=rate.count).wait == 1
        tat = decision.tat


def test_a_clock_that_was_put_back_does_not_lock_a_token_out() -> None:
    decision = admit(10_000 * US, 1000 * US, interval=US, burst=5)
    assert decision.wait == US


@given(RATES, st.lists(st.tuples(st.integers(0, 5 * US), st.integers(1, 60)), max_size=200), st.integers(0, 60))
def test_leases_keep_the_limit(rate: Rate, asks: list[tuple[int, int]], ramp: int) -> None:
    interval = interval_of(rate)
    span = interval * rate.count
    level, now, total, owed = Level(), 1_000_000 * US, 0, 0.0
    for step, wanted in asks:
        now += step
        owed = max(0.0, owed - step / interval)
        leased = lease(level, now, wanted, interval=interval, span=span, ramp=ramp * US)
        assert 0 <= leased.granted <= wanted
        assert (leased.wait > 0) == (leased.granted == 0)
        total += leased.granted
        owed += leased.granted
        # A ramp may round one permit up where it costs more than the whole span.
        assert owed <= max(rate.count, 1) + 1e-6
        level = leased.level


def rates_by_second(seconds: int, demand: int, level: Level | None = None, start: int = 0) -> tuple[list[int], Level]:
    """What a bucket of 10,000/s with a ramp of 60 s grants in each second, asked for `demand` a second."""
    level = level or Level()
    given_by_second = []
    for second in range(start, start + seconds):
        given_now = 0
        for tenth in range(20):
            now = 1_000_000 * US + second * US + tenth * US // 20
            leased = lease(level, now, demand // 20, interval=100, span=US, ramp=60 * US)
            level = leased.level
            given_now += leased.granted
        given_by_second.append(given_now)
    return given_by_second, level


def test_a_busy_bucket_ramps_up_within_its_span_and_an_idle_one_begins_again() -> None:
    rates, level = rates_by_second(80, 40_000)
    assert rates[0] <= 2 * 10_000 * FLOOR + 200
    assert 4_000 < rates[30] < 7_000
    assert all(9_900 <= rate <= 10_100 for rate in rates[62:])
    assert all(after >= before - 200 for before, after in itertools.pairwise(rates[1:]))
    again, _ = rates_by_second(3, 40_000, level, start=80 + 120)
    assert again[0] <= 2 * 10_000 * FLOOR + 200


def test_little_use_does_not_ramp() -> None:
    rates, level = rates_by_second(120, 100)
    assert rates[-1] == 100
    assert level.share < 0.1
