"""The agreed interval, against networks that forget idle connections."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from pushsvc.live.protocol.heartbeat import NOTHING, Bounds, Learned, agree, ended

from ..bench.live_heartbeats import days

BOUNDS = Bounds(default=25.0, least=4.0, most=900.0)


@pytest.mark.parametrize(
    ("requested", "foreground", "learned", "agreed"),
    [
        (None, None, NOTHING, 25.0),
        (None, True, NOTHING, 25.0),
        (None, False, NOTHING, 240.0),
        (240.0, True, NOTHING, 240.0),
        (240.0, False, NOTHING, 240.0),
        (1.0, None, NOTHING, 4.0),
        (10**9, None, NOTHING, 900.0),
        (600.0, None, Learned(cap=228.0), 228.0),
        (60.0, None, Learned(cap=228.0), 60.0),
        (600.0, None, Learned(cap=1.0), 4.0),
    ],
)
def test_what_is_agreed(requested: float | None, foreground: bool | None, learned: Learned, agreed: float) -> None:
    assert agree(BOUNDS, learned, requested, foreground) == agreed


def connection(agreed: float, timeout: float) -> float:
    """Return how long a connection lives that a network forgets after `timeout` idle seconds."""
    return agreed + 8.0 if agreed >= timeout else 20 * agreed


def live(learned: Learned, requested: float, timeout: float, connections: int) -> tuple[Learned, list[float]]:
    """Return what is learned in so many connections, none of which ends with a close frame, and what was agreed."""
    agreements = []
    for _ in range(connections):
        agreed = agree(BOUNDS, learned, requested, False)
        agreements.append(agreed)
        learned = ended(BOUNDS, learned, agreed, connection(agreed, timeout), clean=False)
    return learned, agreements


@pytest.mark.parametrize("timeout", [30.0, 60.0, 240.0, 300.0, 600.0])
@pytest.mark.parametrize("requested", [240.0, 600.0, 900.0])
def test_it_settles_below_the_timeout_of_a_network(timeout: float, requested: float) -> None:
    learned, first = live(NOTHING, requested, timeout, 12)
    failed = [agreed for agreed in first if agreed >= timeout]
    assert len(failed) <= 7
    _, later = live(learned, requested, timeout, 1000)
    best = min(requested, timeout)
    assert sum(agreed >= timeout for agreed in later) <= 12, "it stays, and tries longer ones ever more rarely"
    assert sorted(later)[len(later) // 2] >= best * 0.45, "it is not needlessly short"


@pytest.mark.parametrize(("span", "most"), [(240.0, 60.0), (300.0, 32.0), (600.0, 32.0)])
def test_a_session_in_the_background_is_pinged_a_tenth_as_often_as_every_25_s(span: float, most: float) -> None:
    """Real sessions on a simulated clock, for three days."""
    every = days(span, None, 3, seed="background")
    assert every[-1].interval < span
    assert every[-1].messages <= most
    assert every[-1].lost == 0
    assert sum(day.lost for day in every) <= 6


def test_a_network_that_holds_longer_is_found_again() -> None:
    learned, _ = live(NOTHING, 900.0, 60.0, 20)
    assert agree(BOUNDS, learned, 900.0, False) < 60.0
    _, later = live(learned, 900.0, math.inf, 8000)
    assert later[-1] == 900.0


def test_a_single_end_does_not_shorten_what_has_held() -> None:
    learned = ended(BOUNDS, NOTHING, 240.0, 10_000.0, clean=False)
    assert agree(BOUNDS, ended(BOUNDS, learned, 240.0, 100.0, clean=False), 240.0, False) == 240.0
    for _ in range(3):
        learned = ended(BOUNDS, learned, 240.0, 248.0, clean=False)
    assert agree(BOUNDS, learned, 240.0, False) < 240.0


def test_an_end_with_a_close_frame_shortens_nothing() -> None:
    assert ended(BOUNDS, NOTHING, 240.0, 1.0, clean=True) == NOTHING


@given(
    st.lists(
        st.tuples(st.floats(0.1, 2000), st.floats(0, 10**6), st.booleans(), st.booleans()),
        max_size=60,
    )
)
def test_what_is_agreed_is_always_within_the_bounds(ends: list[tuple[float, float, bool, bool]]) -> None:
    learned = NOTHING
    for requested, lived, clean, foreground in ends:
        agreed = agree(BOUNDS, learned, requested, foreground)
        assert BOUNDS.least <= agreed <= BOUNDS.most
        learned = ended(BOUNDS, learned, agreed, lived, clean=clean)
    assert learned.cap >= BOUNDS.least
