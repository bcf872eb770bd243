"""Dead letters over every backend: listed by filter and page, replayed once each, counts balanced at each step."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import REGISTRY

from pushsvc.errors import InvalidRequest
from pushsvc.model.delivery import BadNotification, Ended, Retry, Unavailable
from pushsvc.model.push import Message, Push, Target
from pushsvc.ports.letters import DeadFilter, ReplaySpec
from pushsvc.store import Store, StoreConfig, keys

from .servers import Server
from .test_store_kit import (
    ROUTE,
    AnyStore,
    World,
    all_of,
    backend_server,
    counts,
    make_push,
    moment,
    new_world,
    settlement,
    take,
    take_all,
)

FAILED = Ended("failed", dead_letter=True)
BAD = BadNotification(status=400, reason="BadTopic")
ANY = DeadFilter()


async def fail_all(
    store: AnyStore, *pushes: Push, bad: BadNotification | Unavailable = BAD, at: int | None = None
) -> None:
    """Accept and fail every delivery of these pushes."""
    for push in pushes:
        await store.pushes.accept(push)
        for taken in await take_all(store, push.lane):
            settlements = [settlement(taken.chunk, target.index, FAILED, bad, at=at) for target in taken.chunk.targets]
            await store.queue.settle("shop", settlements, [taken.ref])


async def replay(store: AnyStore, which: DeadFilter = ANY, *, limit: int = 0, most: int = 500) -> tuple[int, int]:
    """Ask for a replay and run it to its end: how many were moved and skipped."""
    job = (await store.dead.request(ReplaySpec("shop", which, limit))).job
    while not (await store.dead.step("shop", job, most=most)).over:
        pass
    await store.dead.finish("shop", job)
    status = await store.dead.replay("shop", job)
    assert status is not None
    assert status.state == "done"
    return status.moved, status.skipped


async def test_the_oldest_dead_letters_make_room_and_are_counted(server: Server | None) -> None:
    async with new_world(server, StoreConfig(consumer="a", dead_max=250)) as world:
        store = await world.store()
        before = dropped()
        for number in range(4):
            await fail_all(store, make_push(f"p-{number}", targets=150))
        kept = await store.dead.count("shop", ANY)
        assert 250 <= kept < 250 + 100, "a stream gives up whole nodes of a hundred entries"
        assert dropped() - before == 600 - kept
        rows, _ = await store.dead.page("shop", ANY, cursor="", limit=1000)
        assert len(rows) == kept
        assert {row.push_id for row in rows[-150:]} == {"p-3"}
        assert await replay(store) == (kept, 0)


def dropped() -> float:
    return REGISTRY.get_sample_value("pushsvc_dead_letters_dropped_total", {"app": "shop"}) or 0.0


async def test_dead_letters_are_listed_by_filter_and_page(world: World) -> None:
    store = await world.store()
    await fail_all(store, make_push("p", 5), make_push("q", 2))
    gone = Unavailable(status=503, reason="ServiceUnavailable")
    await fail_all(store, make_push("r", 1), bad=gone, at=moment() + 1000)
    rows, cursor = await store.dead.page("shop", ANY, cursor="", limit=100)
    assert [row.push_id for row in rows] == ["p"] * 5 + ["q"] * 2 + ["r"]
    assert cursor is None
    assert (rows[0].platform, rows[0].reason, rows[0].status, rows[0].attempts) == ("apns", "BadTopic", 400, 1)
    assert rows[0].at == moment() + 5
    assert "p-0" not in repr(rows)

    seen = []
    cursor = ""
    while cursor is not None:
        page, cursor = await store.dead.page("shop", ANY, cursor=cursor, limit=3)
        seen += page
    assert seen == rows
    for which, expected in (
        (DeadFilter(push="q"), 2),
        (DeadFilter(platform="fcm"), 0),
        (DeadFilter(platform="apns", reason="BadTopic"), 7),
        (DeadFilter(since=moment() + 1000), 1),
        (DeadFilter(until=moment() + 1000), 7),
        (ANY, 8),
    ):
        assert await store.dead.count("shop", which) == expected
        assert len((await store.dead.page("shop", which, cursor="", limit=100))[0]) == expected
    assert await store.dead.count("other", ANY) == 0
    assert await store.dead.page("shop", ANY, cursor=f"0-{'9' * 19}-{'9' * 19}", limit=1) == ([], None)
    for wrong in ("x", "1", "0-1", "0-1-2-3", "-1-1-1", f"0-{2**64}-0", f"0-{2**64 - 1}-{2**64 - 1}"):
        with pytest.raises(InvalidRequest):
            await store.dead.page("shop", ANY, cursor=wrong, limit=1)


@pytest.mark.parametrize("total", [1, 7, 1200])
async def test_a_replay_sends_each_once_and_the_counts_balance(total: int, world: World) -> None:
    store = await world.store()
    await fail_all(store, make_push("p", total))
    assert counts(await store.pushes.status("shop", "p")) == {"failed": total}
    assert await replay(store) == (total, 0)
    status = await store.pushes.status("shop", "p")
    assert counts(status) == {"retrying": total}
    assert status is not None
    assert status.state == "sending"
    assert await store.dead.count("shop", ANY) == 0
    assert (await store.gauges({"shop": ("apns",)})).apps["shop"].total_pending == total

    taken = await take_all(store)
    assert sorted(target.index for each in taken for target in each.chunk.targets) == list(range(total))
    assert {(each.chunk.turn, each.chunk.attempt) for each in taken} == {(2, 1)}
    assert all(each.chunk.expires_at - each.chunk.starts_at == 3_600_000 for each in taken)
    for each in taken:
        await store.queue.settle("shop", *all_of(each))
    status = await store.pushes.status("shop", "p")
    assert counts(status) == {"sent": total}
    assert status is not None
    assert status.state == "done"
    page = await store.pushes.deliveries("shop", "p", outcome="failed", cursor="", limit=10)
    assert page == ([], None)
    assert (await store.gauges({"shop": ("apns",)})).apps["shop"].total_pending == 0
    assert await replay(store) == (0, 0)


async def test_what_fails_again_can_be_replayed_again_and_old_voices_are_not_heard(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", 2))
    (first,) = await take(store)
    await store.queue.settle("shop", [settlement(first.chunk, n, FAILED, BAD) for n in (0, 1)], [first.ref])
    await replay(store)
    (second,) = await take(store)
    # A process that was thought dead says once more what it had said, or something else.
    assert len(await store.queue.settle("shop", *all_of(first))) == 0
    retry = [settlement(second.chunk, 0, Retry(moment(), 2), Unavailable(status=503))]
    await store.queue.settle("shop", [*retry, settlement(second.chunk, 1, FAILED, BAD)], [second.ref])
    assert counts(await store.pushes.status("shop", "p")) == {"retrying": 1, "failed": 1}
    assert await replay(store) == (1, 0)
    assert counts(await store.pushes.status("shop", "p")) == {"retrying": 2}
    assert len(await store.queue.settle("shop", *all_of(second))) == 0
    await store.queue.promote(ROUTE, moment() + 1)
    taken = await take_all(store)
    assert sorted((each.chunk.turn, each.chunk.targets[0].index) for each in taken) == [(3, 0), (3, 1)]
    for each in taken:
        assert len(await store.queue.settle("shop", *all_of(each))) == 1
    assert counts(await store.pushes.status("shop", "p")) == {"sent": 2}


async def test_a_filter_and_a_limit_bound_a_replay(world: World) -> None:
    store = await world.store()
    await fail_all(store, make_push("p", 3), make_push("q", 10))
    assert await replay(store, DeadFilter(push="p")) == (3, 0)
    assert await replay(store, limit=4, most=3) == (4, 0)
    assert await store.dead.count("shop", ANY) == 6
    assert counts(await store.pushes.status("shop", "q")) == {"retrying": 4, "failed": 6}


async def test_a_cancelled_push_keeps_its_dead_letters(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", 2))
    (taken,) = await take(store)
    await store.queue.settle("shop", [settlement(taken.chunk, 0, FAILED, BAD)], [])
    await store.pushes.cancel("shop", "p")
    assert await replay(store) == (0, 1)
    assert await store.dead.count("shop", ANY) == 1
    assert counts(await store.pushes.status("shop", "p")) == {"failed": 1, "cancelled": 1}


async def test_what_dies_after_the_request_is_not_meant(world: World) -> None:
    store = await world.store()
    await fail_all(store, make_push("p", 2))
    job = (await store.dead.request(ReplaySpec("shop"))).job
    await fail_all(store, make_push("q", 2))
    assert (await store.dead.step("shop", job, most=500)).moved == 2
    assert (await store.dead.step("shop", job, most=500)).over
    assert await store.dead.count("shop", DeadFilter(push="q")) == 2


async def test_two_replays_side_by_side_move_each_once(world: World) -> None:
    one, two = await world.store("a"), await world.store("b")
    await fail_all(one, make_push("p", 50))
    jobs = [(store, (await store.dead.request(ReplaySpec("shop"))).job) for store in (one, two)]
    moved = 0
    for _ in range(30):
        for store, job in jobs:
            moved += (await store.dead.step("shop", job, most=3)).moved
    assert moved == 50
    taken = await take_all(one)
    assert sorted(target.index for each in taken for target in each.chunk.targets) == list(range(50))


async def test_shards_are_replayed_one_after_the_other(server: Server | None) -> None:
    async with new_world(server, StoreConfig(shards=3)) as world:
        store = await world.store()
        await fail_all(store, *(make_push(f"p{n}", 1) for n in range(12)))
        rows, cursor = await store.dead.page("shop", ANY, cursor="", limit=5)
        assert cursor is not None
        more, cursor = await store.dead.page("shop", ANY, cursor=cursor, limit=100)
        assert cursor is None
        assert len({row.push_id for row in rows + more}) == len(rows + more) == 12
        assert await replay(store, most=2) == (12, 0)
        assert len(await take_all(store)) == 12


async def test_a_replay_has_as_long_to_live_as_the_push_had_and_its_message_says_no_instant(world: World) -> None:
    store = await world.store()
    old, expires = moment() - 9_000_000, moment() - 8_000_000
    message = Message("apns", b"{}", dated="apns-expiration")
    push = Push("p", "shop", "normal", old, expires, {"apns": message}, {"apns": (Target(0, "t"),)})
    await fail_all(store, push)
    await replay(store)
    (taken,) = await take(store)
    assert taken.chunk.message == message
    assert taken.chunk.expires_at - taken.chunk.starts_at == expires - old
    assert taken.chunk.starts_at >= moment()


async def test_of_two_workers_on_one_replay_the_slower_is_refused(server: Server | None) -> None:
    if server is None:
        return  # in memory, a step cannot be interrupted
    async with new_world(server) as world:
        store = await world.store()
        await fail_all(store, make_push("p", 4))
        job = (await store.dead.request(ReplaySpec("shop"))).job
        dead = store.dead
        found = await dead._next(ReplaySpec("shop"), 0, "", "+", 2)  # type: ignore[union-attr]  # what a slow one read
        assert (await dead.step("shop", job, most=2)).moved == 2
        reopenings, _ = await dead._reopen("shop", found[0])  # type: ignore[union-attr]  # as above
        assert await dead._move("shop", 0, job, ("", found[1], 0), reopenings) == [-1]  # type: ignore[union-attr]  # as above
        assert (await dead.step("shop", job, most=2)).moved == 2
        await dead.keep("shop", job, lease=60_000)
        assert await dead.unfinished() == []
        assert await dead.unfinished(due=False) == [("shop", job)]
        await dead.keep("shop", job, lease=0)
        assert await dead.unfinished() == [("shop", job)]
        await dead.finish("shop", job)
        assert await dead.unfinished(due=False) == []


async def test_one_that_is_stopped_moves_nothing_more_and_what_it_moved_is_on_its_way(world: World) -> None:
    store = await world.store()
    push = make_push("p", 30)
    await fail_all(store, push)
    status = await store.dead.request(ReplaySpec("shop", ANY))
    assert (await store.dead.step("shop", status.job, most=10)).moved == 10
    stopped = await store.dead.stop("shop", status.job)
    assert stopped is not None
    assert (stopped.state, stopped.moved) == ("stopped", 10)
    assert await store.dead.unfinished(due=False) == []
    # A worker that was at it meanwhile finds that it is over, and does not call it done.
    await store.dead.keep("shop", status.job, lease=0)
    assert await store.dead.unfinished(due=False) == []
    assert (await store.dead.step("shop", status.job, most=10)).over
    await store.dead.finish("shop", status.job)
    again = await store.dead.stop("shop", status.job)
    assert again is not None
    assert (again.state, again.moved) == ("stopped", 10)
    assert counts(await store.pushes.status("shop", push.id)) == {"retrying": 10, "failed": 20}
    assert await store.dead.count("shop", ANY) == 20
    assert await store.dead.stop("shop", "0badc0de") is None
    # One that has ended stays as it is.
    second = await store.dead.request(ReplaySpec("shop", ANY))
    while not (await store.dead.step("shop", second.job, most=100)).over:
        pass
    await store.dead.finish("shop", second.job)
    done = await store.dead.stop("shop", second.job)
    assert done is not None
    assert done.state == "done"


async def test_a_stop_is_promised_like_the_replay_itself() -> None:
    """A failover that threw it away would let the replay go on that was answered to have stopped."""
    with backend_server("redis") as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            promised: list[tuple[Any, ...]] = []
            guarded_call = store.link.guarded_call

            async def counted_call(*command: Any) -> Any:
                promised.append(command[:3])
                return await guarded_call(*command)

            store.link.guarded_call = counted_call  # type: ignore[method-assign]  # what a link with replicas waits for
            await fail_all(store, make_push("p", 3))
            job = (await store.dead.request(ReplaySpec("shop", ANY))).job
            assert await store.dead.stop("shop", job)
            assert [command[0] for command in promised] == ["ZADD", "HSET"]
            assert promised[1] == ("HSET", keys.replay("shop", 0, job), "stop")
