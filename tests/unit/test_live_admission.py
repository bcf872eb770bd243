"""How many connects a gateway takes in."""

from __future__ import annotations

import pytest

from pushsvc.live.gateway.admission import CONNECTING, ENOUGH, STALLED, Admission, Connecting
from pushsvc.model.rates import Rate


@pytest.mark.parametrize(("rate", "at_once"), [(Rate(3, 1), 3), (Rate(29, 10), 2), (Rate(1, 10), 1)])
def test_a_second_of_the_rate_is_admitted_at_once_and_then_one_each_interval(rate: Rate, at_once: int) -> None:
    admission, interval = Admission(rate), 1 / rate.per_second
    assert [admission.admit(100.0) for _ in range(at_once + 1)] == [True] * at_once + [False]
    assert [admission.admit(100.0 + 1.01 * interval) for _ in range(2)] == [True, False]
    later = 100.0 + 60 * interval
    assert [admission.admit(later) for _ in range(at_once + 1)] == [True] * at_once + [False]


def test_without_a_rate_everything_is_admitted() -> None:
    admission = Admission(None)
    assert all(admission.admit(0.0) for _ in range(1000))


def test_nothing_is_accepted_while_enough_connects_wait_unless_none_of_them_ends() -> None:
    connecting = Connecting()
    assert connecting.accepts(100.0)
    for number in range(ENOUGH):
        assert connecting.accepts(100.0)
        connecting.begin(100.0 + number / 1e6)
    assert not connecting.accepts(100.0 + STALLED * 0.99)
    assert connecting.accepts(100.0 + STALLED), "who comes is answered, though Redis is away"
    connecting.begin(101.0)
    connecting.end(101.0)
    assert [connecting.accepts(101.0), connecting.accepts(101.0 + STALLED)] == [False, True]
    connecting.end(102.0)
    assert connecting.accepts(102.0), "there is room again"


def test_a_gateway_that_had_nothing_to_do_for_long_does_not_take_that_for_a_stall() -> None:
    connecting = Connecting()
    for now in (100.0, 200.0):
        for _ in range(ENOUGH):
            connecting.begin(now)
        assert not connecting.accepts(now + STALLED / 2)
        for _ in range(ENOUGH):
            connecting.end(now + STALLED / 2)


def test_a_connect_that_redis_would_not_take_in_time_finds_the_gateway_busy() -> None:
    connecting = Connecting()
    for _ in range(CONNECTING):
        assert not connecting.is_full
        connecting.begin(100.0)
    assert connecting.is_full
    connecting.end(100.0)
    assert not connecting.is_full
