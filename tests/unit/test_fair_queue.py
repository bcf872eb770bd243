"""The choice of the next audience: apps that post at different rates in a simulation, and the order within one app."""

from __future__ import annotations

from hypothesis import given, strategies as st

from pushsvc.model.push import LANES, Lane
from pushsvc.ports.expansion import Waiting
from pushsvc.stages.expand.fair_queue import OTHERS, FairQueue


def waits(app: str, push_id: str, lane: Lane = "normal", since: int = 0) -> Waiting:
    return Waiting(app, push_id, lane, since)


def order(waiting: list[Waiting]) -> list[str]:
    """Return the ids in the order in which they are chosen, each complete after a second."""
    queue, left, found = FairQueue(), list(waiting), []
    while left:
        chosen = queue.choose(left)
        queue.use(chosen, 1.0)
        left.remove(chosen)
        found.append(chosen.push_id)
    return found


def test_first_come_first_served_within_an_app_and_lane() -> None:
    assert order([waits("a", "3", since=3), waits("a", "1", since=1), waits("a", "2", since=2)]) == ["1", "2", "3"]


def test_urgent_first_then_apps_alternately() -> None:
    waiting = [waits("a", f"a{n}", since=n) for n in range(3)] + [
        waits("b", "b", since=9),
        waits("b", "u", "urgent", 99),
    ]
    assert order(waiting) == ["u", "a0", "a1", "b", "a2"]


def use(queue: FairQueue, waiting: list[Waiting], seconds: dict[str, float], span: float) -> dict[str, float]:
    """Return the seconds of `span` that each app used, if a choice takes its `seconds` and its pushes never end."""
    used = dict.fromkeys(seconds, 0.0)
    while sum(used.values()) < span:
        chosen = queue.choose(waiting)
        queue.use(chosen, seconds[chosen.app])
        used[chosen.app] += seconds[chosen.app]
    return used


@given(st.floats(0.005, 0.5), st.floats(0.005, 0.5))
def test_endless_urgent_ones_leave_others_their_share(short: float, long: float) -> None:
    waiting = [waits("a", f"u{n}", "urgent") for n in range(3)] + [waits("b", "bulk", "bulk")]
    used = use(FairQueue(), waiting, {"a": short, "b": long}, 100.0)
    assert abs(used["b"] - OTHERS * 100.0) < 2.0


@given(st.lists(st.floats(0.005, 0.5), min_size=2, max_size=6), st.integers(1, 20))
def test_apps_share_alike_however_many_pushes_each_has_and_however_long_its_turns_are(
    seconds: list[float], flood: int
) -> None:
    waiting = [waits("0", str(n)) for n in range(flood)] + [waits(str(n), "x") for n in range(1, len(seconds))]
    used = use(FairQueue(), waiting, {str(n): each for n, each in enumerate(seconds)}, 50.0)
    assert len(used) == len(seconds)
    assert max(used.values()) - min(used.values()) <= 2 * max(seconds)


@given(st.integers(1, 3), st.floats(0.01, 0.5), st.sampled_from(LANES))
def test_an_app_of_short_turns_waits_for_one_turn_of_each_other_app(apps: int, slice_: float, lane: Lane) -> None:
    """The app expands an audience in 5 ms every 50 ms, beside apps that always have more to do."""
    queue, now, posted, waited = FairQueue(), 0.0, 0, []
    floods = [waits(f"flood{n}", "x") for n in range(apps)]
    while now < 30.0:
        # Posted before now, and not yet looked up.
        own = [waits("short", f"{n:04}", lane, n) for n in range(posted, int(now / 0.05))]
        chosen = queue.choose(floods + own)
        seconds = 0.005 if chosen.app == "short" else slice_
        if chosen.app == "short":
            waited.append(now - 0.05 * posted)
            posted += 1
        queue.use(chosen, seconds)
        now += seconds
    assert max(waited) < (1 + (1 if lane == "urgent" else apps)) * slice_ + 0.1


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
