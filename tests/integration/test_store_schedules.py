"""Schedules in every backend: launched once and when due, cancelled before or never launched, counted all the while."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Iterator

import pytest

from pushsvc import telemetry
from pushsvc.errors import StoreUnavailable
from pushsvc.model.codec import split
from pushsvc.model.push import Lane, Route
from pushsvc.model.status import Counts, PushStatus
from pushsvc.store import Store, StoreConfig, keys

from .servers import KINDS, Server, running_server
from .test_store_kit import ROUTE, AnyStore, World, all_of, make_push, moment, new_world, settlement, take, take_all

HOUR = 3_600_000


@pytest.fixture(scope="module", params=KINDS)
def redis(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running_server(request.param) as found:
        yield found


async def status_of(store: AnyStore, push_id: str = "p") -> PushStatus:
    status = await store.pushes.status("shop", push_id)
    assert status is not None
    return status


async def figures(store: AnyStore) -> tuple[int, int, int]:
    """Deliveries in the lanes, those that are scheduled, and what counts against the bound of the queue."""
    gauges = (await store.gauges({"shop": ("apns", "fcm")})).apps["shop"]
    return gauges.total_pending, gauges.scheduled, store.pushes.pending


def due() -> int:
    return moment() + 60_000


async def launch_all(store: AnyStore, now: int | None = None) -> int:
    """Until nothing is due any more."""
    launched = 0
    while some := await store.queue.launch("shop", due() if now is None else now):
        launched += some
    return launched


# --- in time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 7, 1203])
async def test_a_scheduled_push_waits_for_its_time(server: Server | None, total: int) -> None:
    async with new_world(server, StoreConfig(chunk_size=500)) as world:
        store = await world.store()
        await store.pushes.accept(make_push("p", total, platforms=("apns", "fcm"), send_at=due()))
        status = await status_of(store)
        assert (status.state, status.created_at, status.send_at) == ("scheduled", moment(), due())
        assert status.counts == Counts(total=2 * total, queued=2 * total)
        assert await figures(store) == (0, 2 * total, 2 * total)
        assert await launch_all(store, due() - 1) == 0
        assert await take_all(store) == []
        assert (await status_of(store)).state == "scheduled"

        assert [await store.queue.next_launch(app) for app in ("shop", "other")] == [due(), None]
        assert await launch_all(store) == 1
        assert await launch_all(store) == 0
        assert await store.queue.next_launch("shop") is None
        status = await status_of(store)
        assert (status.state, status.updated_at, status.send_at) == ("sending", due(), due())
        assert status.counts == Counts(total=2 * total, queued=2 * total)
        assert await figures(store) == (2 * total, 0, 2 * total)

        for route in (ROUTE, Route("shop", "fcm")):
            taken = await take_all(store, route=route)
            assert {(each.chunk.starts_at, each.chunk.expires_at) for each in taken} == {(due(), due() + HOUR)}
            assert sum(len(each.chunk.targets) for each in taken) == total
            for each in taken:
                await store.queue.settle("shop", *all_of(each))
        status = await status_of(store)
        assert (status.state, status.send_at, status.counts) == ("done", due(), Counts(total=2 * total, sent=2 * total))
        assert await figures(store) == (0, 0, 0)


@pytest.mark.parametrize("ended", [3, 1])
async def test_what_was_launched_and_sent_on_an_old_primary_is_not_sent_again(redis: Server, ended: int) -> None:
    """The new primary has the push as scheduled, and its outcomes: they were recorded there after the failover."""
    async with new_world(redis) as world:
        store = await world.store()
        assert isinstance(store, Store)
        push = make_push("p", 3, send_at=due())
        await store.pushes.accept(push)
        (chunk,) = split(push, 500)
        await store.queue.settle("shop", [settlement(chunk, index) for index in range(ended)], [])
        assert await launch_all(store) == 1
        store.link.behind_until = math.inf
        left = [target.index for each in await take_all(store) for target in each.chunk.targets]
        assert left == list(range(ended, 3))
        await store.queue.settle("shop", [settlement(chunk, index) for index in left], [])
        status = await status_of(store)
        assert (status.state, status.counts) == ("done", Counts(total=3, sent=3))
        assert (await figures(store))[1] == 0


async def test_what_is_due_first_goes_first(world: World) -> None:
    store = await world.store()
    for number in (3, 1, 2, 5, 4):
        await store.pushes.accept(make_push(f"p{number}", send_at=due() + number))
    seen = []
    for now in (due(), due() + 2, due() + 9):
        await launch_all(store, now)
        seen.append([each.chunk.push_id for each in await take_all(store)])
    assert sorted(seen[1]) == ["p1", "p2"]
    assert (seen[0], sorted(seen[2])) == ([], ["p3", "p4", "p5"])


async def test_apps_have_schedules_of_their_own(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", send_at=due(), app="other"))
    assert await launch_all(store) == 0
    assert await store.queue.launch("other", due()) == 1


async def test_scheduling_twice_writes_once(world: World) -> None:
    store = await world.store()
    push = make_push("p", 3, send_at=due())
    await store.pushes.accept(push)
    await store.pushes.accept(push)
    assert await figures(store) == (0, 3, 3)
    assert await launch_all(store) == 1
    await store.pushes.accept(push)  # its answer was lost, and it was launched meanwhile
    assert await launch_all(store) == 0
    assert [len(each.chunk.targets) for each in await take_all(store)] == [3]
    assert await figures(store) == (3, 0, 3)


async def test_under_an_idempotency_key(world: World) -> None:
    store = await world.store()
    push = make_push("p", 2, send_at=due())
    assert await store.pushes.accept_once([push, make_push("q")], key=b"key", record=b"first") is None
    assert await store.pushes.accept_once([make_push("r", 2, send_at=due())], key=b"key", record=b"x") == b"first"
    assert [each.chunk.push_id for each in await take_all(store)] == ["q"]
    assert await figures(store) == (1, 2, 3)
    assert await launch_all(store) == 1
    assert [each.chunk.push_id for each in await take_all(store)] == ["p"]


async def test_many_at_one_instant_are_launched_once_by_several(world: World) -> None:
    stores = [await world.store(name) for name in ("a", "b", "c")]
    pushes = [make_push(f"p{number}", 1 + number % 3, send_at=due()) for number in range(1300)]
    await asyncio.gather(*(stores[0].pushes.accept(push) for push in pushes))
    assert sum(await asyncio.gather(*(launch_all(store) for store in stores))) == 1300
    tokens = [target.token for each in await take_all(stores[0]) for target in each.chunk.targets]
    assert sorted(tokens) == sorted(target.token for push in pushes for target in push.targets["apns"])
    assert await figures(stores[1]) == (len(tokens), 0, len(tokens))


# --- cancelled ------------------------------------------------------------------------------------


def ended_as_cancelled() -> float:
    """By the metric of this process, which the store in memory leaves alone."""
    samples = [sample for metric in telemetry.DELIVERIES.collect() for sample in metric.samples]
    return sum(
        sample.value
        for sample in samples
        if sample.name == "pushsvc_deliveries_total" and sample.labels["outcome"] == "cancelled"
    )


@pytest.mark.parametrize("total", [1, 7, 1203])
async def test_a_push_that_is_cancelled_before_its_time_is_never_launched(
    server: Server | None, total: int, world: World
) -> None:
    store = await world.store()
    for push_id in ("p", "q"):
        await store.pushes.accept(make_push(push_id, total, send_at=due()))
    before = ended_as_cancelled()
    status = await store.pushes.cancel("shop", "p")
    assert status is not None
    assert server is None or ended_as_cancelled() - before == total
    assert (status.state, status.send_at) == ("cancelled", due())
    assert status.counts == Counts(total=total, cancelled=total)
    assert await store.pushes.cancel("shop", "p") == status
    assert await figures(store) == (0, total, total)
    await store.pushes.accept(make_push("p", total, send_at=due()))
    assert await launch_all(store) == 1
    assert {each.chunk.push_id for each in await take_all(store)} == {"q"}
    assert await status_of(store) == status
    assert await store.pushes.deliveries("shop", "p", outcome=None, cursor="", limit=5) == ([], None)
    assert await figures(store) == (total, 0, total)


async def test_after_its_time_it_is_cancelled_as_any_other(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", 4, send_at=due()))
    await launch_all(store)
    status = await store.pushes.cancel("shop", "p")
    assert status is not None
    assert (status.state, status.counts.cancelled) == ("cancelled", 4)
    (taken,) = await take_all(store)
    assert taken.skip == dict.fromkeys(range(4), "cancelled")
    await store.queue.settle("shop", *all_of(taken))
    after = await status_of(store)
    assert (after.state, after.counts) == (status.state, status.counts)
    assert await figures(store) == (0, 0, 0)


async def test_cancel_and_launch_at_once_agree(world: World) -> None:
    """The first one decides, and all see the same."""
    a, b = await world.store("a"), await world.store("b")
    rng = random.Random(7)
    count = 400
    await asyncio.gather(
        *(a.pushes.accept(make_push(f"p{number}", 2, send_at=due())) for number in range(count)),
        *(a.pushes.accept(make_push(f"later{number}", 2, send_at=due() + 1)) for number in range(count)),
    )
    steps: list[Awaitable[object]] = [
        b.pushes.cancel("shop", f"p{number}") for number in rng.sample(range(count), count // 2)
    ]
    steps += [b.pushes.cancel("shop", f"later{number}") for number in range(count // 2)]
    steps[50:50] = [launch_all(store) for store in (a, b)]
    await asyncio.gather(*steps)
    cancelled = {f"p{number}" for number in range(count) if (await status_of(a, f"p{number}")).state == "cancelled"}
    assert len(cancelled) == count // 2
    sent: set[str] = set()
    skipped: set[str] = set()
    for taken in await take_all(a):
        (skipped if taken.skip else sent).add(taken.chunk.push_id)
        await a.queue.settle("shop", *all_of(taken))
    assert sent == {f"p{number}" for number in range(count)} - cancelled
    # Some were cancelled before, and have no entry at all; the others stood in their lane and were not sent.
    assert skipped <= cancelled
    for number in range(count):
        status = await status_of(a, f"p{number}")
        assert status.counts in (Counts(total=2, sent=2), Counts(total=2, cancelled=2))
    assert await figures(a) == (0, count, count)


# --- what only servers have -------------------------------------------------------------------------


async def _ttl(store: AnyStore, key: str) -> int:
    assert isinstance(store, Store)
    found: int = await store.link.call("PTTL", key)
    return found


async def test_a_status_lives_from_its_end_on(redis: Server) -> None:
    status, waiting = keys.push("shop", 0, "p"), keys.waiting("shop", 0, "p")
    ttl = 100_000
    async with new_world(redis, StoreConfig(status_ttl=ttl // 1000)) as world:
        store = await world.store()
        await store.pushes.accept(make_push("p", 2, send_at=due()))
        # As long as it is open neither has a lifetime.
        assert (await _ttl(store, status), await _ttl(store, waiting)) == (-1, -1)
        await launch_all(store)
        assert (await _ttl(store, status), await _ttl(store, waiting)) == (-1, -2)
        for taken in await take_all(store):
            await store.queue.settle("shop", *all_of(taken))
        assert 0 < await _ttl(store, status) <= ttl
        await store.pushes.accept(make_push("q", 2, send_at=due()))
        await store.pushes.cancel("shop", "q")
        assert 0 < await _ttl(store, keys.push("shop", 0, "q")) <= ttl
        assert await _ttl(store, keys.waiting("shop", 0, "q")) == -2
        assert await _ttl(store, keys.scheduled("shop", 0)) == -2
        # No dispatcher needs to hear of it.
        assert await _ttl(store, keys.cancelled("shop", 0)) == -2


@pytest.mark.parametrize("total", [1, 1001])
async def test_a_push_outlives_its_status(redis: Server, total: int) -> None:
    """Nothing ran for longer than its status was kept: its deliveries travel, and no status comes back half."""
    async with new_world(redis) as world:
        store = await world.store()
        assert isinstance(store, Store)
        await store.pushes.accept(make_push("p", total, send_at=due()))
        await store.link.call("DEL", keys.push("shop", 0, "p"))
        assert await store.pushes.cancel("shop", "p") is None
        assert await launch_all(store) == 1
        assert await store.pushes.status("shop", "p") is None
        for taken in await take_all(store):
            assert len(await store.queue.settle("shop", *all_of(taken))) == len(taken.chunk.targets)
        assert await store.pushes.status("shop", "p") is None
        assert await figures(store) == (0, 0, 0)


async def test_a_launch_is_bounded(redis: Server) -> None:
    async with new_world(redis, StoreConfig(chunk_size=5)) as world:
        store = await world.store()
        await asyncio.gather(*(store.pushes.accept(make_push(f"p{n}", 50, send_at=due() + n)) for n in range(200)))
        some = await store.queue.launch("shop", due() + 1000)
        # 10 chunks a push; the first ones first.
        assert 0 < some * 10 <= 210
        assert [(await status_of(store, f"p{n}")).state for n in (0, some - 1, some)] == [
            "sending",
            "sending",
            "scheduled",
        ]
        assert some + await launch_all(store, due() + 1000) == 200
        assert await figures(store) == (10_000, 0, 10_000)


async def test_a_full_memory_refuses_a_schedule_whole(redis: Server) -> None:
    async with new_world(redis) as world:
        store = await world.store()
        assert isinstance(store, Store)
        await store.link.call("CONFIG", "SET", "maxmemory", "1")
        try:
            with pytest.raises(StoreUnavailable):
                await store.pushes.accept(make_push("p", 2000, send_at=due()))
        finally:
            await store.link.call("CONFIG", "SET", "maxmemory", "0")
        assert await store.pushes.status("shop", "p") is None
        assert await store.link.call("KEYS", "ps:{shop*") == []


@pytest.mark.parametrize("lane", ["urgent", "normal"])
@pytest.mark.parametrize("fate", ["launched", "cancelled"])
async def test_one_waits_for_none_of_a_later_lane(redis: Server, fate: str, lane: Lane) -> None:
    """Hundreds were due before it, and one of thousands: it is in its lane after the first step."""
    async with new_world(redis, StoreConfig(chunk_size=1)) as world:
        store = await world.store()
        assert isinstance(store, Store)
        await store.pushes.accept(make_push("large", 2000, lane="bulk", send_at=due() - 2))
        for number in range(300):
            await store.pushes.accept(make_push(f"p{number}", lane="bulk", send_at=due() - 1))
        await store.pushes.accept(make_push("one", 2, lane=lane, send_at=due()))
        if fate == "cancelled":
            await store.pushes.cancel("shop", "one")
            assert await store.link.call("EXISTS", *keys.first_due("shop", 0)) == 0
        assert await store.queue.launch("shop", due()) > 0
        assert [each.chunk.push_id for each in await take(store, lane)] == ["one"] * 2 * (fate == "launched")
        await launch_all(store)
        assert sum(len(each.chunk.targets) for each in await take_all(store, "bulk")) == 2300
        assert await take(store, lane) == []
        assert await store.link.call("EXISTS", *keys.first_due("shop", 0)) == 0


async def test_over_several_shards(redis: Server) -> None:
    async with new_world(redis, StoreConfig(shards=3)) as world:
        store = await world.store()
        assert isinstance(store, Store)
        for number in range(60):
            await store.pushes.accept(make_push(f"p{number}", 2, send_at=due()))
        for number in range(0, 60, 2):
            await store.pushes.cancel("shop", f"p{number}")
        counts = [await store.link.call("ZCARD", keys.scheduled("shop", shard)) for shard in range(3)]
        assert sum(counts) == 30
        assert min(counts) > 0
        assert await figures(store) == (0, 60, 60)
        assert await launch_all(store) == 30
        assert {int(each.chunk.push_id[1:]) % 2 for each in await take_all(store)} == {1}
        assert await take(store) == []
        assert await figures(store) == (60, 0, 60)
