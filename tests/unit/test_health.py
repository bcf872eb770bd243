"""A held route: one probe at a time, further and further apart, and back at the first good answer."""

from __future__ import annotations

import pytest

from pushsvc.dispatch.health import FIRST_PROBE, LAST_PROBE, UNBOUNDED, RouteHealth
from pushsvc.model import Misconfigured, Outcome, Sent, Throttled, TokenDead, Unavailable

REFUSED = Misconfigured(status=403, reason="InvalidProviderToken")


def held_at(now: float) -> RouteHealth:
    health = RouteHealth()
    assert health.observe(REFUSED, probe=False, now=now) == "held"
    return health


def test_an_open_route_sends_without_bound() -> None:
    health = RouteHealth()
    assert health.allowance(0.0) == UNBOUNDED
    assert not health.begin_probe()


def test_a_held_route_lets_one_probe_through_when_it_is_time() -> None:
    health = held_at(10.0)
    assert health.held_for == "InvalidProviderToken"
    assert health.allowance(10.0) == 0
    assert health.allowance(10.0 + FIRST_PROBE) == 1
    assert health.begin_probe()
    assert health.allowance(10.0 + FIRST_PROBE) == 0


def test_probes_come_at_growing_distances_up_to_a_bound() -> None:
    health, now, waits = held_at(0.0), 0.0, []
    for _ in range(8):
        waits.append(health.probe_at - now)
        now = health.probe_at
        health.begin_probe()
        assert health.observe(REFUSED, probe=True, now=now) is None
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, LAST_PROBE, LAST_PROBE, LAST_PROBE]


@pytest.mark.parametrize("outcome", [Sent(status=200), TokenDead(status=410)])
def test_an_answer_that_accepts_who_we_are_opens_the_route(outcome: Outcome) -> None:
    health = held_at(0.0)
    health.begin_probe()
    assert health.observe(outcome, probe=True, now=1.0) == "resumed"
    assert health.allowance(1.0) == UNBOUNDED
    assert health.held_for == ""


@pytest.mark.parametrize("outcome", [Unavailable(status=503), Throttled(status=429)])
def test_a_provider_in_trouble_says_nothing_about_the_credentials(outcome: Outcome) -> None:
    health = held_at(0.0)
    health.begin_probe()
    assert health.observe(outcome, probe=True, now=1.0) is None
    assert health.held_for == "InvalidProviderToken"
    assert health.allowance(1.0) == 0
    assert health.allowance(health.probe_at) == 1


def test_stragglers_of_before_change_nothing() -> None:
    health = held_at(0.0)
    probe_at = health.probe_at
    assert health.observe(REFUSED, probe=False, now=0.5) is None
    assert health.observe(Sent(status=200), probe=False, now=0.5) is None
    assert health.probe_at == probe_at
    assert health.held_for


def test_a_mend_is_probed_at_once() -> None:
    health = held_at(100.0)
    health.probe_now()
    assert health.allowance(100.0) == 1
