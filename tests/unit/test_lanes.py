"""Whose turn it is: urgent first, nobody starved, nothing lost or drawn twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given, strategies as st

from pushsvc.model.push import LANES, Chunk, Lane, Message, Target
from pushsvc.ports.entries import EntryRef
from pushsvc.stages.dispatch.lanes import SHARE, SLICE, Drawn, Lanes, OpenEntry


def entry(lane: Lane, count: int, name: str = "p") -> OpenEntry:
    targets = tuple(Target(index, f"{name}-{index}") for index in range(count))
    chunk = Chunk(name, "shop", "apns", lane, count, 0, 1, Message("apns", b"{}"), targets)
    return OpenEntry(EntryRef("shop", 0, "apns", lane, "1-1"), chunk, targets)


def size_of(drawn: Sequence[Drawn]) -> int:
    return sum(len(targets) for _, targets in drawn)


def test_urgent_goes_before_what_waits_already() -> None:
    lanes = Lanes()
    lanes.add(entry("bulk", 1000))
    lanes.draw(SLICE)
    lanes.add(entry("normal", 10))
    lanes.add(entry("urgent", 10))
    drawn = lanes.draw(100)
    assert drawn[0][0].chunk.lane == "urgent"
    following = lanes.draw(100)
    assert following[0][0].chunk.lane == "normal"


def test_a_retry_needs_no_permit_and_does_not_overtake_what_waits_for_one_in_its_lane() -> None:
    lanes = Lanes()
    first, again = entry("bulk", 2, "first"), entry("bulk", 1, "again")
    again.counted = True
    lanes.add(first)
    lanes.add(again)
    assert lanes.draw(SLICE, permits=0) == []
    assert lanes.draw(SLICE, permits=2) == [(first, first.targets)]
    assert lanes.draw(SLICE, permits=0) == [(again, again.targets)]


def test_waiting_lanes_get_their_share_and_no_more() -> None:
    lanes = Lanes()
    sizes: dict[Lane, int] = {"urgent": 100_000, "normal": 100_000, "bulk": 100_000}
    for lane, size in sizes.items():
        lanes.add(entry(lane, size))
    sent: Counter[Lane] = Counter()
    while sent.total() < 50_000:
        drawn = lanes.draw(SLICE)
        sent[drawn[0][0].chunk.lane] += size_of(drawn)
    share = {lane: sent[lane] / sent.total() for lane in LANES}
    assert abs(share["bulk"] - SHARE["bulk"]) < 0.01
    assert abs(share["normal"] - SHARE["normal"]) < 0.02
    assert share["urgent"] > 0.75


def test_the_reserve_is_for_urgent_alone() -> None:
    lanes = Lanes()
    lanes.add(entry("bulk", 5))
    assert lanes.draw(5, spare=0) == []
    lanes.add(entry("urgent", 5))
    drawn = lanes.draw(5, spare=0)
    assert drawn[0][0].chunk.lane == "urgent"


def test_a_lane_that_is_overtaken_takes_what_is_lean() -> None:
    lanes = Lanes()
    lanes.add(entry("bulk", 500))
    assert lanes.draw(64, spare=50, lean=0, overtaken=("bulk",)) == []
    drawn = lanes.draw(64, spare=50, lean=7, overtaken=("bulk",))
    assert size_of(drawn) == 7
    drawn = lanes.draw(64, spare=20, lean=7, overtaken=())
    assert size_of(drawn) == 20


def test_a_lane_that_is_overtaken_still_gets_its_share() -> None:
    lanes = Lanes()
    lanes.add(entry("normal", 100_000))
    lanes.add(entry("bulk", 100_000))
    sent: Counter[Lane] = Counter()
    while sent.total() < 50_000:
        drawn = lanes.draw(SLICE, spare=1000, lean=0, overtaken=("bulk",))
        sent[drawn[0][0].chunk.lane] += size_of(drawn)
    assert abs(sent["bulk"] / sent.total() - SHARE["bulk"]) < 0.01


@given(
    sizes=st.lists(st.tuples(st.sampled_from(LANES), st.integers(0, 100)), max_size=20),
    limits=st.lists(st.integers(1, 200), min_size=1, max_size=10),
)
def test_every_target_is_drawn_once_and_in_the_order_of_its_lane(
    sizes: list[tuple[Lane, int]], limits: list[int]
) -> None:
    lanes = Lanes()
    expected: dict[Lane, list[str]] = {lane: [] for lane in LANES}
    for number, (lane, size) in enumerate(sizes):
        added = entry(lane, size, name=f"p{number}")
        expected[lane] += [target.token for target in added.targets]
        lanes.add(added)
    drawn: dict[Lane, list[str]] = {lane: [] for lane in LANES}
    turn = 0
    while lanes:
        slice_ = lanes.draw(limits[turn % len(limits)])
        assert 1 <= size_of(slice_) <= min(SLICE, limits[turn % len(limits)])
        assert len({own.chunk.lane for own, _ in slice_}) == 1
        drawn[slice_[0][0].chunk.lane] += [target.token for _, targets in slice_ for target in targets]
        turn += 1
    assert drawn == expected
    assert lanes.draw(1) == []


def test_what_is_withdrawn_is_what_was_not_drawn_and_the_others_keep_their_order() -> None:
    lanes = Lanes()
    first, second, third = (entry("bulk", 40, name) for name in "abc")
    for each in (first, second, third):
        lanes.add(each)
    lanes.draw(SLICE)
    wanted = {id(first.chunk), id(third.chunk)}
    taken = lanes.sift(lambda own: own.left if id(own.chunk) in wanted else ())
    assert [(own, len(left)) for own, left in taken] == [(first, 40 - SLICE), (third, 40)]
    assert lanes.size["bulk"] == 40
    drawn = lanes.draw(SLICE)
    assert drawn[0][0] is second
    assert lanes.sift(lambda own: ()) == []
    # Of an entry whose targets go only in part the others stay, in their order.
    assert lanes.sift(lambda own: own.left[::2])[0][0] is second
    assert lanes.size["bulk"] == 4
    assert lanes.draw(SLICE) == [(second, second.chunk.targets[SLICE + 1 :: 2])]
