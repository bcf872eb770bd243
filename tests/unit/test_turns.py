"""Whose audience is next: a simulation of apps that post at different rates, and the order within one."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.model import LANES, Lane
from pushsvc.ports.expansion import Waiting
from pushsvc.turns import ANY_LANE, Turns


def waits(app: str, push_id: str, lane: Lane = "normal", since: int = 0) -> Waiting:
    return Waiting(app, push_id, lane, since)


def order(waiting: list[Waiting]) -> list[str]:
    """The ids in the order in which they have their turn, each done by it."""
    turns, left, found = Turns(), list(waiting), []
    while left:
        chosen = turns.choose(left)
        left.remove(chosen)
        found.append(chosen.push_id)
    return found


def test_first_come_first_served_within_an_app_and_lane() -> None:
    assert order([waits("a", "3", since=3), waits("a", "1", since=1), waits("a", "2", since=2)]) == ["1", "2", "3"]


def test_urgent_first_then_apps_in_turn() -> None:
    waiting = [waits("a", f"a{n}", since=n) for n in range(3)] + [
        waits("b", "b", since=9),
        waits("b", "u", "urgent", 99),
    ]
    assert order(waiting) == ["u", "a0", "b", "a1", "a2"]


def test_many_urgent_ones_do_not_keep_others_from_beginning() -> None:
    turns = Turns()
    waiting = [waits("a", f"u{n}", "urgent") for n in range(100)] + [waits("b", "bulk", "bulk")]
    chosen = [turns.choose(waiting).push_id for _ in range(ANY_LANE)]
    assert "bulk" in chosen


@given(st.integers(1, 5), st.integers(1, 50))
def test_apps_share_alike_however_many_pushes_each_has(apps: int, flood: int) -> None:
    turns = Turns()
    waiting = [waits("flood", str(n)) for n in range(flood)] + [waits(f"app{n}", "x") for n in range(apps)]
    counts = Counter(turns.choose(waiting).app for _ in range(12 * (apps + 1)))
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len(counts) == apps + 1


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(LANES), st.integers(0, 3)), min_size=1, max_size=12))
def test_each_that_waits_has_its_turn_and_none_passes_an_older_of_its_app_and_lane(
    drawn: list[tuple[str, Lane, int]],
) -> None:
    waiting = [waits(app, f"{n:02}", lane, since) for n, (app, lane, since) in enumerate(drawn)]
    found = order(waiting)
    assert sorted(found) == [each.push_id for each in waiting]
    for place in {(each.app, each.lane) for each in waiting}:
        own = [each for each in waiting if (each.app, each.lane) == place]
        in_order = [each.push_id for each in sorted(own, key=lambda each: (each.since, each.push_id))]
        assert [each for each in found if each in in_order] == in_order
