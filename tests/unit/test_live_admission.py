"""How many connects a gateway takes in."""

from __future__ import annotations

import pytest

from pushsvc.live.gateway.admission import Admission
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
