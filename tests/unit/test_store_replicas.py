"""How many replicas must have what is promised."""

from __future__ import annotations

import pytest

from pushsvc.errors import StoreUnavailable
from pushsvc.store.link.replicas import SAMPLE, TRY, Quorum, Role, owner_of, read_role
from pushsvc.store.link.sentinels import GRACE


def judge(quorum: Quorum, acknowledged: int, connected: int, now: float, confirmed: float | None = None) -> bool:
    """With replicas that keep up, all that are connected."""
    written = int(now * 1000) + 1
    role = Role(written, (written,) * connected)
    return quorum.judge(acknowledged, role, now=now, confirmed=now if confirmed is None else confirmed)


def watched() -> Quorum:
    """Of a primary with two replicas behind sentinels, both in step."""
    quorum = Quorum(1, strict=False, all_of_them=True)
    quorum.look(Role(100, (90, 95)), 0.0)
    assert quorum.asked(0.0) == 2
    assert judge(quorum, 2, 2, 0.0)
    return quorum


def test_all_replicas_are_waited_for_from_the_first_write_on() -> None:
    quorum = watched()
    assert quorum.wanted == 2
    assert judge(quorum, 3, 3, 1.0)
    assert quorum.wanted == 3
    fresh = Quorum(1, strict=False, all_of_them=True)
    fresh.look(Role(100, (90, 95)), 0.0)
    assert not judge(fresh, 1, 2, 0.0)


def test_when_one_is_missing_nothing_is_promised_until_it_is_known_to_have_failed() -> None:
    """It may have been promoted: then the one that still acknowledges is about to throw away what it has."""
    quorum = watched()
    assert not judge(quorum, 1, 1, 10.0)
    assert quorum.asked(10.1) == 1  # an answer that is no anyway is given at once
    assert not judge(quorum, 1, 1, 11.0)
    assert not judge(quorum, 1, 1, 20.0, confirmed=10.0 + GRACE - 0.1)  # no sentinel has been heard since
    assert not judge(quorum, 1, 1, 20.0, confirmed=float("-inf"))  # or they name another one
    assert judge(quorum, 1, 1, 20.0, confirmed=10.0 + GRACE)
    assert quorum.wanted == 1
    assert judge(quorum, 1, 1, 20.1)
    assert not judge(quorum, 0, 1, 21.0)


def test_one_that_comes_back_ends_the_doubt() -> None:
    quorum = watched()
    assert not judge(quorum, 1, 2, 10.0)
    assert quorum.asked(10.1) == 2  # both are in step: they were slow once
    assert judge(quorum, 2, 2, 10.5)
    assert quorum.asked(10.5) == 2


def test_one_that_was_gone_is_waited_for_again_as_soon_as_it_keeps_up() -> None:
    """It may be the one that is promoted next."""
    quorum = watched()
    assert not judge(quorum, 1, 1, 10.0)
    assert judge(quorum, 1, 1, 20.0)
    for at in range(5):
        now = 21.0 + at * SAMPLE
        assert quorum.judge(1, Role(int(now * 100), (int(now * 100), 0)), now=now, confirmed=now)  # it loads its data
        assert quorum.asked(now) == 1
    assert not judge(quorum, 1, 2, 30.0)
    assert quorum.asked(30.1) == 2
    assert judge(quorum, 2, 2, 30.2)
    assert quorum.wanted == 2


def test_one_that_falls_behind_is_not_waited_for() -> None:
    """It has been silent, as its host is or its process; its connection stands."""
    quorum = watched()
    for at in range(1, 10):
        now = at * SAMPLE
        promised = quorum.judge(1, Role(at * 1000, (at * 1000, 500)), now=now, confirmed=now)
        assert promised == (now > GRACE)
    assert quorum.asked(20.0) == 1


def test_one_that_keeps_up_and_never_acknowledges_in_time_is_tried_once_a_minute() -> None:
    quorum = watched()
    assert not judge(quorum, 1, 2, 10.0)
    assert judge(quorum, 1, 2, 20.0)
    assert quorum.asked(21.0) == 1
    assert quorum.asked(20.0 + TRY) == 2
    assert not judge(quorum, 1, 2, 20.0 + TRY)
    assert judge(quorum, 1, 2, 20.0 + TRY + GRACE)
    assert judge(quorum, 2, 2, 40.0 + TRY)
    assert quorum.wanted == 2


def test_one_that_the_sentinels_know_is_missed_from_the_first_write_on() -> None:
    """We have just been started, and it is being promoted: the other one still follows the old primary."""
    quorum = Quorum(1, strict=False, all_of_them=True)
    quorum.expect(2)
    quorum.look(Role(100, (95,)), 0.0)
    assert not judge(quorum, 1, 1, 0.0)
    assert not judge(quorum, 1, 1, GRACE, confirmed=GRACE - 0.1)
    assert judge(quorum, 1, 1, GRACE)


def test_what_is_no_primary_any_more_promises_nothing() -> None:
    assert read_role([b"master", 7, [[b"h", b"1", b"5"], [b"h", b"2", b"7"]]]) == Role(7, (5, 7))
    assert read_role(ValueError("NOPERM")) is None
    with pytest.raises(StoreUnavailable, match="not the primary any more"):
        read_role([b"slave", b"h", 1, b"connected", 7])


def test_at_least_so_many_where_they_are_asked_for() -> None:
    quorum = Quorum(1, strict=True, all_of_them=True)
    for now in range(100):
        assert not judge(quorum, 0, 0, float(now))
    lone = Quorum(1, strict=False, all_of_them=True)
    assert not judge(lone, 0, 0, 0.0)
    assert judge(lone, 0, 0, GRACE)  # the service goes on without replicas, as before it had any
    assert lone.asked(GRACE) == 0
    assert lone.judge(0, Role(9, (0,)), now=GRACE + 1, confirmed=0.0)  # the first is being made
    assert not judge(lone, 0, 1, GRACE + 2)
    assert lone.asked(GRACE + 2) == 1


def test_of_a_cluster_so_many_as_are_asked_for() -> None:
    """Its own failover waits for the replica, or takes the one that has most."""
    quorum = Quorum(1, strict=True, all_of_them=False)
    assert judge(quorum, 2, 2, 0.0)
    assert quorum.asked(1.0) == 1


@pytest.mark.parametrize("least", [0, 1])
def test_of_a_cluster_one_that_was_gone_is_waited_for_again(least: int) -> None:
    """As in a restart of all replicas, one after the other."""
    quorum = Quorum(least, strict=False, all_of_them=False)
    assert judge(quorum, 1, 1, 0.0)
    assert not judge(quorum, 0, 0, 10.0)
    assert judge(quorum, 0, 0, 10.0 + GRACE)
    assert quorum.asked(20.0) == 0
    assert not judge(quorum, 0, 2, 20.0)
    assert quorum.asked(20.1) == 1
    assert judge(quorum, 1, 2, 20.2)
    assert not judge(quorum, 0, 0, 30.0)


def test_who_has_a_slot() -> None:
    slots = [[0, 8191, [b"10.0.0.1", 7000, b"id", []], [b"10.0.0.3", 7002, b"id", []]], [8192, 16000, [None, 7001]]]
    assert owner_of(8191, slots, "asked") == ("10.0.0.1", 7000)
    assert owner_of(8192, slots, "asked") == ("asked", 7001)  # a node that does not know its own address
    assert owner_of(16001, slots, "asked") is None
