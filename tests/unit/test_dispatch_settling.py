"""Settlements in batches: in order, never acknowledged too early, never lost while Redis is away, never too many."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from hypothesis import given, settings, strategies as st
from prometheus_client import REGISTRY

from pushsvc.model.delivery import Delivery, Retry, Settlement, Unconfirmed
from pushsvc.model.push import Lane
from pushsvc.ports.entries import EntryRef
from pushsvc.rules.policy import EXPIRED
from pushsvc.stages.dispatch.lanes import OpenEntry
from pushsvc.stages.dispatch.recorder import Recorder
from pushsvc.stages.dispatch.settling import (
    ACKED,
    BATCH,
    BOUND,
    ENTRIES,
    FAIR,
    LINGER,
    QUIET,
    REPLICATED_BOUND,
    Settler,
)

from .dispatch_fakes import FakeQueue, chunk, many, settlement
from .virtual_time import VirtualLoop, run, until

LOOP = VirtualLoop


def entry(name: str, count: int, lane: Lane = "normal") -> OpenEntry:
    own = chunk(*many(name, count), name=name, lane=lane)
    return OpenEntry(EntryRef("shop", 0, "apns", lane, f"1-{name}"), own, own.targets)


def add(settler: Settler, entry: OpenEntry, index: int) -> None:
    settler.add([(settlement(entry.chunk, entry.chunk.targets[index]), entry)])


async def settle(queue: FakeQueue, act: Callable[[Settler], None], relief: Callable[[], None] = lambda: None) -> None:
    """Let a settler work until everything that `act` adds has been recorded."""
    settler = Settler("shop", queue, relief)
    task = asyncio.create_task(settler.run())
    act(settler)
    await settler.drain()
    settler.close()
    await task


def recorded(queue: FakeQueue) -> list[str]:
    return [each.delivery.target.token for settlements, _ in queue.settled for each in settlements]


def test_a_token_has_the_hash_of_its_own_platform_whichever_channel_carries_it() -> None:
    queue = FakeQueue()
    own = msgspec.structs.replace(chunk("token", name="p"), channel="live", home="webpush")
    carried = OpenEntry(EntryRef("shop", 0, "live", "normal", "1-0"), own, own.targets)

    def act(settler: Settler) -> None:
        recorder = Recorder(settler, lambda platform: lambda token: f"{platform} {token}")
        recorder.settle(Delivery(own, own.targets[0]), carried, EXPIRED, 5, "ttl")

    run(settle(queue, act))
    assert [each.token_hash for settlements, _ in queue.settled for each in settlements] == ["webpush token"]


def test_many_share_a_step_and_keep_their_order() -> None:
    queue = FakeQueue()
    large = entry("large", 1000)

    def act(settler: Settler) -> None:
        for index in range(1000):
            add(settler, large, index)

    run(settle(queue, act))
    assert [len(settlements) for settlements, _ in queue.settled] == [BATCH, BATCH, 1000 - 2 * BATCH]
    assert recorded(queue) == many("large", 1000)
    assert [finished for _, finished in queue.settled] == [[], [], [large.ref]]


@pytest.mark.parametrize(("lane", "behind"), [("urgent", "normal"), ("urgent", "bulk"), ("normal", "bulk")])
async def test_what_goes_on_to_a_provider_waits_for_two_batches_at_most_whatever_is_unrecorded(
    lane: Lane, behind: Lane
) -> None:
    loop, queue = asyncio.get_running_loop(), FakeQueue(seconds=0.1)
    settler = Settler("shop", queue, lambda: None)
    broadcast, waits = entry("broadcast", BOUND, behind), []

    def is_recorded(own: OpenEntry) -> bool:
        return any(own.ref in finished for _, finished in queue.settled)

    for index in range(BOUND):
        add(settler, broadcast, index)
    task = asyncio.create_task(settler.run())
    for number in range(8):
        await asyncio.sleep(0.13)
        own, began = entry(f"carried-{number}", 1, lane), loop.time()
        delivery = Delivery(own.chunk, own.chunk.targets[0])
        settler.add([(Settlement(delivery, None, Retry(0, 1, channel="apns"), 0, ""), own)])
        await until(partial(is_recorded, own))
        waits.append(loop.time() - began)
    assert not settler.has_recorded(settler.handed_over)
    assert max(waits) <= 3 * queue.seconds + LINGER  # the one that is being recorded, at most one other, and its own
    assert sum(waits) / len(waits) <= 2 * queue.seconds
    settler.close()
    await task


async def test_no_lane_waits_for_ever_and_what_was_handed_over_is_known_by_lane() -> None:
    queue = FakeQueue(seconds=0.01)
    settler = Settler("shop", queue, lambda: None)
    add(settler, late := entry("late", 1, "bulk"), 0)
    flood = entry("flood", 20 * BATCH, "urgent")
    for index in range(10 * BATCH):
        add(settler, flood, index)
    before = settler.handed_over
    task = asyncio.create_task(settler.run())
    for index in range(10 * BATCH, 20 * BATCH):
        add(settler, flood, index)
    while not settler.has_recorded(before):
        await asyncio.sleep(queue.seconds / 10)
    assert [late.ref in finished for _, finished in queue.settled].index(True) == FAIR - 1
    assert (len(queue.settled), settler.has_recorded(settler.handed_over)) == (11, False)
    settler.close()
    await task


def test_a_step_ends_fewer_pushes_of_their_own_than_it_settles_deliveries_of_a_large_one() -> None:
    queue = FakeQueue()
    own = [entry(f"own-{number}", 1) for number in range(ENTRIES + 1)]
    large = entry("large", BATCH)

    def act(settler: Settler) -> None:
        for each in own:
            add(settler, each, 0)
        for index in range(BATCH):
            add(settler, large, index)

    run(settle(queue, act))
    assert [len(settlements) for settlements, _ in queue.settled] == [ENTRIES, BATCH, 1]
    assert [len(finished) for _, finished in queue.settled] == [ENTRIES, 1, 1]
    assert sorted(recorded(queue)) == sorted(
        [each for one in own for each in many(one.chunk.push_id, 1)] + many("large", BATCH)
    )


@pytest.mark.parametrize("away", [0, 1])
def test_what_took_no_effect_is_not_counted(away: int) -> None:
    """A device has acknowledged it meanwhile, say. After an attempt that failed it may be this batch itself."""
    queue = FakeQueue(away=away, void={"both-1"})
    both = entry("both", 2)

    def act(settler: Settler) -> None:
        add(settler, both, 0)
        add(settler, both, 1)

    def counted() -> float:
        labels = {"app": "shop", "platform": "apns", "outcome": "sent", "reason": ""}
        return REGISTRY.get_sample_value("pushsvc_deliveries_total", labels) or 0.0

    before = counted()
    run(settle(queue, act))
    assert counted() == before + (1 if not away else 2)


async def test_one_alone_is_recorded_at_once_and_what_follows_soon_waits_a_moment_for_others() -> None:
    queue = FakeQueue()

    loop = asyncio.get_running_loop()
    settler = Settler("shop", queue, lambda: None)
    task = asyncio.create_task(settler.run())
    four = entry("four", 4)
    add(settler, four, 0)
    await settler.drain()
    assert loop.time() < LINGER / 100
    add(settler, four, 1)
    await asyncio.sleep(LINGER / 2)
    add(settler, four, 2)
    await settler.drain()
    assert loop.time() == pytest.approx(LINGER, rel=0.01)
    await asyncio.sleep(QUIET)
    add(settler, four, 3)
    await settler.drain()
    assert loop.time() == pytest.approx(LINGER + QUIET, rel=0.01)
    settler.close()
    await task
    assert [len(settlements) for settlements, _ in queue.settled] == [1, 2, 1]


async def test_what_devices_are_yet_to_acknowledge_waits_and_nothing_else_waits_for_it() -> None:
    queue = FakeQueue()

    settler = Settler("shop", queue, lambda: None)
    task = asyncio.create_task(settler.run())
    own = entry("many", 9)

    def write(index: int, *, within: float = 10.0, collapse: str = "") -> None:
        message = msgspec.structs.replace(own.chunk.message, collapse=collapse)
        delivery = Delivery(msgspec.structs.replace(own.chunk, message=message), own.chunk.targets[index])
        settler.add([(Settlement(delivery, Unconfirmed(within=within), Retry(10_000, 1), 0, ""), own)])

    def steps() -> list[int]:
        return [len(settlements) for settlements, _ in queue.settled]

    write(0)
    await asyncio.sleep(0.6 * ACKED)
    write(1)
    assert steps() == []
    await asyncio.sleep(0.6 * ACKED)
    assert steps() == [1], "the second has been waiting for less"
    await asyncio.sleep(0.9 * ACKED)
    assert steps() == [1, 1]
    others: list[Callable[[], None]] = [lambda: add(settler, own, 3), lambda: write(5, within=0.0)]
    for number, press in enumerate(others, 1):
        write(2 * number)
        await asyncio.sleep(0.3 * ACKED)
        press()
        await asyncio.sleep(0.3 * ACKED)
        assert steps() == [1, 1, *[2] * number]
    write(6, collapse="order")
    await asyncio.sleep(0.3 * ACKED)
    assert steps()[4:] == [1], "an older push with this collapse must not follow it"
    write(7)
    await asyncio.sleep(0.3 * ACKED)
    began = asyncio.get_running_loop().time()
    await settler.drain()
    assert (steps()[5:], asyncio.get_running_loop().time() - began < 0.3 * ACKED) == ([1], True)
    write(8)
    settler.close()
    await task


async def test_many_that_are_yet_to_be_acknowledged_do_not_stop_what_is_sent() -> None:
    queue = FakeQueue()

    settler = Settler("shop", queue, lambda: None)
    task = asyncio.create_task(settler.run())
    own = entry("many", BOUND // 2)
    for target in own.chunk.targets:
        settler.add([(Settlement(Delivery(own.chunk, target), Unconfirmed(within=10.0), Retry(10_000, 1), 0, ""), own)])
    await asyncio.sleep(ACKED / 2)
    assert sum(len(settlements) for settlements, _ in queue.settled) == BOUND // 2
    settler.close()
    await task


async def test_a_dropped_entry_is_taken_again_only_when_what_was_drawn_of_it_is_recorded() -> None:
    queue = FakeQueue(seconds=1.0, away=3)
    settler, own = Settler("shop", queue, lambda: None), entry("p", 2)
    settler.hold(own)
    task = asyncio.create_task(settler.run())
    add(settler, own, 0)
    await until(lambda: queue.attempts)
    own.cursor = 1
    settler.drop([(own, own.left)])  # the other one was not sent, and the lease has lapsed
    await until(lambda: len(queue.attempts) > 3)  # the record fails three times
    assert queue.forgotten == []
    await settler.drain()
    assert (recorded(queue), queue.forgotten) == (["p-0"], [own.ref])
    settler.close()
    await task


async def test_nothing_added_is_drained_already() -> None:
    settler = Settler("shop", FakeQueue(), lambda: None)
    await asyncio.wait_for(settler.drain(), 1)
    settler.close()
    await asyncio.wait_for(settler.run(), 1)


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 900), min_size=1, max_size=8),
    order=st.randoms(use_true_random=False),
    pause_after=st.sets(st.integers(0, 2000), max_size=5),
)
def test_an_entry_is_acknowledged_with_its_last_outcome_and_never_before(
    sizes: list[int], order: random.Random, pause_after: set[int]
) -> None:
    queue = FakeQueue(seconds=0.01)
    entries = [entry(f"e{number}", size) for number, size in enumerate(sizes)]
    outcomes = [(each, index) for each in entries for index in range(len(each.targets))]
    order.shuffle(outcomes)

    async def main() -> None:
        settler = Settler("shop", queue, lambda: None)
        task = asyncio.create_task(settler.run())
        for number, (each, index) in enumerate(outcomes):
            add(settler, each, index)
            if number in pause_after:
                await asyncio.sleep(0.02)
        await settler.drain()
        settler.close()
        await task

    run(main())
    left = {each.ref: len(each.targets) for each in entries}
    by_push = {each.chunk.push_id: each.ref for each in entries}
    acknowledged = []
    for settlements, finished in queue.settled:
        for each in settlements:
            left[by_push[each.delivery.chunk.push_id]] -= 1
        assert [left[ref] for ref in finished] == [0] * len(finished)
        acknowledged += finished
    assert sorted(acknowledged, key=str) == sorted(left, key=str)
    assert len(recorded(queue)) == len(outcomes)


def test_an_entry_of_which_nothing_was_left_is_acknowledged() -> None:
    queue = FakeQueue()
    empty = entry("empty", 0)

    run(settle(queue, lambda settler: settler.finish(empty)))
    assert queue.settled == [([], [empty.ref])]


async def test_while_redis_is_away_the_same_batch_waits_and_then_goes_first() -> None:
    queue = FakeQueue(away=6)
    large = entry("large", 2 * BATCH)

    def act(settler: Settler) -> None:
        for index in range(2 * BATCH):
            add(settler, large, index)

    await settle(queue, act)
    # 0.05, 0.1, 0.2 .. seconds between the attempts, and never more than 2 s.
    assert 0.05 + 0.1 + 0.2 + 0.4 + 0.8 + 1.6 <= asyncio.get_running_loop().time() < 3.2
    assert all(attempt == queue.attempts[0] for attempt in queue.attempts[:7])
    assert recorded(queue) == many("large", 2 * BATCH)
    assert [finished for _, finished in queue.settled] == [[], [large.ref]]


async def test_a_fault_of_another_kind_ends_the_settler() -> None:
    """The caller must learn of it: a dispatcher that records nothing must not go on."""
    queue = FakeQueue(fault=ZeroDivisionError("a bug"))

    settler = Settler("shop", queue, lambda: None)
    add(settler, entry("e", 1), 0)
    with pytest.raises(ZeroDivisionError):
        await settler.run()


async def test_a_close_gives_up_what_redis_does_not_take() -> None:
    queue = FakeQueue(away=1_000_000)

    settler = Settler("shop", queue, lambda: None)
    task = asyncio.create_task(settler.run())
    add(settler, entry("e", 1), 0)
    await asyncio.sleep(10)
    settler.close()
    await asyncio.wait_for(task, 5)
    assert queue.settled == []


@pytest.mark.parametrize(("empties", "bound"), [(0, BOUND), (1, BOUND), (BATCH, BOUND), (0, REPLICATED_BOUND)])
async def test_too_much_unrecorded_is_said_and_so_is_the_relief(empties: int, bound: int) -> None:
    """`empties`: entries without an outcome wait in the same line and count like any other."""
    queue = FakeQueue(seconds=0.01, replicated=bound == REPLICATED_BOUND)
    relieved: list[int] = []

    def relief() -> None:
        assert not settler.congested
        relieved.append(len(queue.settled))

    settler = Settler("shop", queue, relief)
    own = entry("large", bound - empties)
    for _ in range(empties):
        settler.finish(entry("empty", 0))
    for index in range(bound - empties - 1):
        add(settler, own, index)
    before = settler.congested
    add(settler, own, bound - empties - 1)
    assert (before, settler.congested) == (False, True)
    task = asyncio.create_task(settler.run())
    await until(lambda: relieved)
    await settler.drain()
    settler.close()
    await task
    assert relieved == [1]


async def test_what_ended_is_counted_once_when_it_is_recorded() -> None:
    queue = FakeQueue(away=3)
    name = "counted-when-recorded"

    def count() -> float:
        labels = {"app": name, "platform": "apns", "outcome": "sent", "reason": ""}
        return REGISTRY.get_sample_value("pushsvc_deliveries_total", labels) or 0.0

    own = msgspec.structs.replace(chunk(*many("c", 10)), app=name)
    entry = OpenEntry(EntryRef(name, 0, "apns", "normal", "1-0"), own, own.targets)

    settler = Settler(name, queue, lambda: None)
    task = asyncio.create_task(settler.run())
    for index in range(10):
        settler.add([(settlement(own, own.targets[index]), entry)])
    await until(lambda: queue.attempts)
    assert count() == 0, "nothing is recorded while Redis is away"
    await settler.drain()
    assert count() == 10
    settler.close()
    await task
