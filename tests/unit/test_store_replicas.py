"""How many replicas must have what is promised."""

from __future__ import annotations

from pushsvc.store.replicas import GRACE, TRY, Quorum


def judge(quorum: Quorum, acknowledged: int, connected: int, now: float, confirmed: float | None = None) -> bool:
    return quorum.judge(
        quorum.asked(now), acknowledged, connected, now=now, confirmed=now if confirmed is None else confirmed
    )


def watched() -> Quorum:
    """Of a primary with two replicas behind sentinels, both in step."""
    quorum = Quorum(1, strict=False, all_of_them=True)
    assert quorum.asked(0.0) == 1
    assert judge(quorum, 1, 2, 0.0)
    assert quorum.asked(0.0) == 2
    assert judge(quorum, 2, 2, 0.0)
    return quorum


def test_all_replicas_are_waited_for() -> None:
    quorum = watched()
    assert quorum.wanted == 2
    assert judge(quorum, 3, 3, 1.0)
    assert quorum.wanted == 3


def test_when_one_is_missing_nothing_is_promised_until_it_is_known_to_have_failed() -> None:
    """It may have been promoted: then the one that still acknowledges is about to throw away what it has."""
    quorum = watched()
    assert not judge(quorum, 1, 1, 10.0)
    assert quorum.asked(10.1) == 1  # an answer that is no anyway is given at once
    assert not judge(quorum, 1, 1, 11.0)
    assert not judge(quorum, 1, 1, 20.0, confirmed=10.0 + GRACE - 0.1)  # no sentinel has been heard since
    assert judge(quorum, 1, 1, 20.0, confirmed=10.0 + GRACE)
    assert quorum.wanted == 1
    assert judge(quorum, 1, 1, 20.1)
    assert not judge(quorum, 0, 1, 21.0)


def test_one_that_comes_back_ends_the_doubt() -> None:
    quorum = watched()
    assert not judge(quorum, 1, 2, 10.0)
    assert judge(quorum, 2, 2, 10.5)
    assert quorum.asked(10.5) == 2


def test_one_that_is_connected_and_silent_is_tried_once_a_minute() -> None:
    quorum = watched()
    assert not judge(quorum, 1, 2, 10.0)
    assert judge(quorum, 1, 2, 20.0)
    assert quorum.asked(21.0) == 1
    assert quorum.asked(20.0 + TRY) == 2
    assert judge(quorum, 1, 2, 20.0 + TRY)
    assert quorum.asked(21.0 + TRY) == 1
    assert judge(quorum, 2, 2, 20.0 + 2 * TRY)
    assert quorum.wanted == 2


def test_at_least_so_many_where_they_are_asked_for() -> None:
    quorum = Quorum(1, strict=True, all_of_them=True)
    for now in range(100):
        assert not judge(quorum, 0, 0, float(now))
    lone = Quorum(1, strict=False, all_of_them=True)
    assert not judge(lone, 0, 0, 0.0)
    assert judge(lone, 0, 0, GRACE)  # the service goes on without replicas, as before it had any
    assert lone.asked(GRACE) == 0
    assert judge(lone, 0, 1, GRACE + 1)
    assert lone.asked(GRACE + TRY) == 1


def test_of_a_cluster_so_many_as_are_asked_for() -> None:
    """Its own failover waits for the replica, or takes the one that has most."""
    quorum = Quorum(1, strict=True, all_of_them=False)
    assert judge(quorum, 2, 2, 0.0)
    assert quorum.asked(1.0) == 1
