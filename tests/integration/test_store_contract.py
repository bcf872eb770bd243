"""One suite over every backend: what the ports promise holds in memory, on Valkey and on Redis alike."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial

import msgspec
import pytest

from pushsvc.errors import Conflict, InvalidRequest
from pushsvc.model.delivery import (
    BadNotification,
    Ended,
    Misconfigured,
    Retry,
    Throttled,
    TokenDead,
    TokenSuspect,
    Unavailable,
)
from pushsvc.model.push import Lane, Push, Route
from pushsvc.model.status import Counts, FeedbackEvent
from pushsvc.ports.entries import Taken
from pushsvc.store import Store, StoreConfig, keys, token_hash

from .servers import Server
from .test_store_kit import (
    ROUTE,
    AnyStore,
    World,
    accept_together,
    all_of,
    counts,
    entries_of,
    make_push,
    moment,
    new_world,
    settlement,
    take,
    take_all,
)

FAILED = Ended("failed", dead_letter=True)
INVALID = Ended("invalid")
SMALL_CHUNKS = StoreConfig(chunk_size=3)


# --- accepting and sending ------------------------------------------------------------------------


async def test_a_push_travels_from_accept_to_done(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", 2, lane="urgent"))
    status = await store.pushes.status("shop", "p")
    assert status is not None
    assert (status.id, status.app, status.state, status.created_at) == ("p", "shop", "sending", moment())
    assert status.counts == Counts(total=2, queued=2)

    (taken,) = await take(store, "urgent")
    assert [target.token for target in taken.chunk.targets] == ["p-0", "p-1"]
    assert (taken.skip, taken.chunk.attempt, taken.chunk.turn, taken.chunk.total) == ({}, 1, 1, 2)
    assert taken.chunk.message == make_push("p").messages["apns"]
    assert await take(store, "urgent") == []

    assert len(await store.queue.settle("shop", *all_of(taken))) == 2
    status = await store.pushes.status("shop", "p")
    assert status is not None
    assert status.state == "done"
    assert counts(status) == {"sent": 2}
    assert await store.queue.reclaim(ROUTE) == []


async def test_lanes_platforms_and_apps_are_apart(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", 1, platforms=("apns", "fcm")))
    await store.pushes.accept(make_push("q", 1, lane="bulk"))
    await store.pushes.accept(make_push("r", 1, app="other"))
    for route, lane, expected in (
        (ROUTE, "normal", ["p"]),
        (Route("shop", "fcm"), "normal", ["p"]),
        (ROUTE, "bulk", ["q"]),
        (ROUTE, "urgent", []),
        (Route("other", "apns"), "normal", ["r"]),
    ):
        taken = await store.queue.take(route, lane, targets=10, wait_ms=0)  # type: ignore[arg-type]  # literals
        assert [each.chunk.push_id for each in taken] == expected
    assert counts(await store.pushes.status("shop", "p")) == {"queued": 2}
    assert await store.pushes.status("other", "p") is None


async def test_accepting_twice_writes_once(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", 3))
    await store.pushes.accept(make_push("p", 3))
    await asyncio.gather(*(store.pushes.accept(make_push("q", 1)) for _ in range(20)))
    taken = await take_all(store)
    assert sorted(each.chunk.push_id for each in taken) == ["p", "q"]
    assert counts(await store.pushes.status("shop", "p")) == {"queued": 3}


async def test_one_call_under_a_key_is_written_and_the_others_get_its_record(world: World) -> None:
    stores = [await world.store("a"), await world.store("b")]
    pushes = [[make_push(f"p{number}-{item}") for item in range(2)] for number in range(20)]
    found = await asyncio.gather(
        *(
            stores[number % 2].pushes.accept_once(own, key=b"key", record=own[0].id.encode())
            for number, own in enumerate(pushes)
        )
    )
    (winner,) = {record.decode() for record in found if record is not None}
    assert found.count(None) == 1
    assert found[int(winner[1:-2])] is None
    assert sorted(each.chunk.push_id for each in await take_all(stores[0])) == [winner, winner[:-1] + "1"]
    assert await stores[1].pushes.recall("shop", b"key") == winner.encode()
    assert await stores[1].pushes.recall("other", b"key") is None
    # The same call again, whose answer was lost, is no repeat, and writes nothing more.
    own = pushes[int(winner[1:-2])]
    assert await stores[0].pushes.accept_once(own, key=b"key", record=b"x") is None
    assert await stores[0].pushes.recall("shop", b"key") == winner.encode()
    assert await take_all(stores[0]) == []


async def test_many_accepts_at_once_are_all_written(world: World) -> None:
    store = await world.store()
    await asyncio.gather(*(store.pushes.accept(make_push(f"p{number}")) for number in range(2500)))
    taken = await take_all(store)
    assert sorted(each.chunk.push_id for each in taken) == sorted(f"p{number}" for number in range(2500))
    assert store.pushes.pending == 2500


async def test_what_waits_is_heard_of_in_every_process(server: Server | None) -> None:
    async with new_world(server, StoreConfig(shards=3) if server else None) as world:
        one, two = await world.store("a"), await world.store("b")
        accepting = [asyncio.ensure_future(one.pushes.accept(make_push(f"p{number}", 3))) for number in range(5)]
        await asyncio.sleep(0)
        assert one.pushes.pending == 15  # before Redis has answered
        await asyncio.gather(*accepting)
        own = next(name for name in map(str, range(1000)) if one.pushes.beside("shop", name, b"key"))
        await one.pushes.accept_once([make_push(own, 4)], key=b"key", record=b"r")
        await two.pushes.accept(make_push("n", 2, app="news"))
        assert await two.pushes.recount(["shop", "news"]) == 21 == two.pushes.pending
        for taken in await take_all(two):
            await two.queue.settle("shop", *all_of(taken))
        assert await one.pushes.recount(["shop", "news"]) == 2


async def test_many_statuses_in_one_look(world: World) -> None:
    store = await world.store()
    for name in ("p", "q", "r"):
        await store.pushes.accept(make_push(name, 2))
    await store.pushes.cancel("shop", "q")
    asked = [("shop", "p"), ("shop", "nobody"), ("news", "p"), ("shop", "q"), ("shop", "r"), ("shop", "p")]
    assert await store.pushes.statuses(asked) == [await store.pushes.status(*each) for each in asked]
    assert await store.pushes.statuses([]) == []


async def test_looks_never_hide_what_is_written_meanwhile(world: World) -> None:
    store = await world.store()
    written = 0
    hidden: list[tuple[int, int]] = []

    def compare() -> None:
        if store.pushes.pending < written:
            hidden.append((store.pushes.pending, written))

    async def write(first: int) -> None:
        nonlocal written
        for number in range(first, 300, 10):
            await store.pushes.accept(make_push(f"p{number}"))
            written += 1
            compare()

    async def look() -> None:
        while written < 300:
            await store.pushes.recount(["shop"])
            compare()
            await asyncio.sleep(0)

    await asyncio.gather(*(write(number) for number in range(10)), *(look() for _ in range(4)))
    assert (store.pushes.pending, hidden) == (300, [])


async def test_a_push_to_nobody_is_done(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", 0))
    status = await store.pushes.status("shop", "p")
    assert status is not None
    assert (status.state, status.counts) == ("done", Counts(total=0))


async def test_take_returns_about_what_was_asked_for(world: World) -> None:
    store = await world.store()
    for number in range(40):
        await store.pushes.accept(make_push(f"p{number:02}", 3))
    some = await take(store, targets=10)
    assert 3 <= sum(len(each.chunk.targets) for each in some) <= 12
    assert [each.chunk.push_id for each in some] == [f"p{number:02}" for number in range(len(some))]
    one = await take(store, targets=1)
    assert sum(len(each.chunk.targets) for each in one) == 3


async def test_what_a_read_has_left_is_known(server: Server | None) -> None:
    """Of several shards, too: a read takes some of each."""
    for shards in (1, 16) if server else (1,):
        async with new_world(server, StoreConfig(shards=shards)) as world:
            store = await world.store()
            names = (f"p{number}" for number in itertools.count())
            for name in itertools.islice((name for name in names if not keys.shard_of(name, shards)), 30):
                await store.pushes.accept(make_push(name, 1))
            taken = await take(store, targets=shards)
            assert (len(taken), store.queue.drained(ROUTE, "normal")) == (1, False)
            taken = await take(store, targets=100 * shards)
            assert (len(taken), store.queue.drained(ROUTE, "normal")) == (29, True)
            await accept_together(store, *(make_push(f"q{number}", 1) for number in range(100)))
            got = await take(store, targets=10 * shards, wait_ms=1000)
            while not store.queue.drained(ROUTE, "normal"):
                got += await take(store, targets=10 * shards, wait_ms=1000)
            assert sum(len(each.chunk.targets) for each in got) == 100


async def test_take_waits_for_the_first(world: World) -> None:
    store = await world.store()
    waiting = asyncio.create_task(take(store, wait_ms=30_000))
    nobody = asyncio.create_task(take(store, "bulk", wait_ms=20))
    assert await nobody == []
    await store.pushes.accept(make_push("p"))
    (taken,) = await waiting
    assert taken.chunk.push_id == "p"


async def test_several_consumers_share_a_lane(world: World) -> None:
    a, b = await world.store("a"), await world.store("b")
    for number in range(10):
        await a.pushes.accept(make_push(f"p{number}"))
    found = [await take(a, targets=1), await take(b, targets=1), await take(a, targets=1), await take_all(b)]
    ids = [each.chunk.push_id for some in found for each in some]
    assert sorted(ids) == [f"p{number}" for number in range(10)]


# --- settling -------------------------------------------------------------------------------------


async def test_settling_twice_counts_once(world: World) -> None:
    store = await world.store()
    for push in (make_push("one"), make_push("three", 3), make_push("large", 1001)):
        await store.pushes.accept(push)
    for taken in await take_all(store):
        assert len(await store.queue.settle("shop", *all_of(taken))) == len(taken.chunk.targets)
        assert len(await store.queue.settle("shop", *all_of(taken))) == 0
        assert len(await store.queue.settle("shop", *all_of(taken, INVALID, TokenDead(status=410)))) == 0
    for push_id, total in (("one", 1), ("three", 3), ("large", 1001)):
        assert counts(await store.pushes.status("shop", push_id)) == {"sent": total}
    gauges = (await store.gauges({"shop": ("apns",)})).apps["shop"]
    assert (gauges.total_pending, gauges.receipts, await entries_of(store)) == (0, 0, 0)


@pytest.mark.parametrize("total", [1, 2, 40, 1001])
async def test_the_same_delivery_twice_in_one_batch_counts_once(total: int, world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", total))
    taken = (await take_all(store))[0]
    settlements = [settlement(taken.chunk, 0), settlement(taken.chunk, 0)]
    assert len(await store.queue.settle("shop", settlements, [])) == 1
    assert counts(await store.pushes.status("shop", "p"))["sent"] == 1


async def test_every_end_is_counted_and_has_its_row(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", 7))
    (taken,) = await take(store)
    chunk = taken.chunk
    settlements = [
        settlement(chunk, 0),
        settlement(chunk, 1, FAILED, BadNotification(status=400, reason="PayloadTooLarge")),
        settlement(chunk, 2, INVALID, TokenDead(status=410, reason="Unregistered", since=moment() - 1)),
        settlement(chunk, 3, Ended("expired"), None, reason="ttl"),
        settlement(chunk, 4, Ended("suppressed"), None),
        settlement(chunk, 5, Ended("cancelled"), None),
    ]
    assert len(await store.queue.settle("shop", settlements, [])) == 6
    status = await store.pushes.status("shop", "p")
    assert status is not None
    assert status.state == "sending"
    assert status.counts == Counts(total=7, queued=1, sent=1, failed=1, invalid=1, expired=1, suppressed=1, cancelled=1)
    found = await store.pushes.deliveries("shop", "p", outcome=None, cursor="", limit=10)
    assert found is not None
    rows, cursor = found
    assert cursor is None
    assert [(row.outcome, row.reason, row.status, row.attempts, bool(row.provider_id)) for row in rows] == [
        ("sent", "", 200, 1, True),
        ("failed", "PayloadTooLarge", 400, 1, False),
        ("invalid", "Unregistered", 410, 1, False),
        ("expired", "ttl", 0, 0, False),
        ("suppressed", "", 0, 0, False),
        ("cancelled", "", 0, 0, False),
    ]
    assert all(row.platform == "apns" and len(row.token_hash) == 16 and row.at == moment() + 5 for row in rows)
    assert (await store.gauges({"shop": ("apns",)})).apps["shop"].dead_letters == 1


@pytest.mark.parametrize("total", [20, 300, 1200])
async def test_rows_come_page_by_page_in_order(total: int, world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", total))
    for taken in reversed(await take_all(store)):
        ends = [
            settlement(taken.chunk, target.index, INVALID, TokenDead(status=410, reason=f"r{target.index}"))
            if target.index % 3 == 0
            else settlement(taken.chunk, target.index)
            for target in reversed(taken.chunk.targets)
        ]
        assert len(await store.queue.settle("shop", ends, [taken.ref])) == len(ends)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        found = await store.pushes.deliveries("shop", "p", outcome="invalid", cursor=cursor, limit=70)
        assert found is not None
        rows, cursor = found
        assert len(rows) == 70 or cursor is None
        seen += [row.reason for row in rows]
    assert seen == [f"r{index}" for index in range(0, total, 3)]
    everything = await store.pushes.deliveries("shop", "p", outcome=None, cursor="", limit=5000)
    assert everything is not None
    # A large push keeps rows only of what was not sent.
    assert len(everything[0]) == (total if total <= 1000 else 400)
    assert everything[1] is None


async def test_unknown_pushes_and_wrong_cursors(world: World) -> None:
    store = await world.store()
    assert await store.pushes.status("shop", "nothing") is None
    assert await store.pushes.cancel("shop", "nothing") is None
    assert await store.pushes.deliveries("shop", "nothing", outcome=None, cursor="", limit=5) is None
    for cursor in ("x", "-1", "1.5", "9" * 40):
        with pytest.raises(InvalidRequest):
            await store.pushes.deliveries("shop", "nothing", outcome=None, cursor=cursor, limit=5)
        with pytest.raises(InvalidRequest):
            await store.receipts.events("shop", after=f"{cursor}:", limit=5)


# --- retries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 4, 40, 1001])
async def test_a_retry_goes_again_when_it_is_due(total: int, world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", total))
    for taken in await take_all(store):
        again = Retry(due_at=moment() + 60_000, attempt=2)
        outcome = Unavailable(status=503, reason="ServiceUnavailable")
        assert len(await store.queue.settle("shop", *all_of(taken, again, outcome))) == len(taken.chunk.targets)
    assert counts(await store.pushes.status("shop", "p")) == {"retrying": total}
    assert (await store.gauges({"shop": ("apns",)})).retry_pending == total
    assert await take_all(store) == []
    assert await store.queue.next_retry(ROUTE) == moment() + 60_000
    assert await store.queue.promote(ROUTE, moment() + 59_999) == 0
    assert await store.queue.promote(ROUTE, moment() + 60_000) == total
    assert await store.queue.promote(ROUTE, moment() + 60_000) == 0
    assert await store.queue.next_retry(ROUTE) is None
    assert (await store.gauges({"shop": ("apns",)})).retry_pending == 0
    assert counts(await store.pushes.status("shop", "p")) == {"retrying": total}
    second = await take_all(store)
    assert {(taken.chunk.attempt, taken.chunk.turn) for taken in second} == {(2, 2)}
    assert sorted(target.index for taken in second for target in taken.chunk.targets) == list(range(total))
    for taken in second:
        await store.queue.settle("shop", *all_of(taken))
    assert counts(await store.pushes.status("shop", "p")) == {"sent": total}
    if total <= 1000:
        found = await store.pushes.deliveries("shop", "p", outcome=None, cursor="", limit=5)
        assert found is not None
        assert found[0][0].attempts == 2


@pytest.mark.parametrize("lane", ["urgent", "normal"])
@pytest.mark.parametrize("apart", [0, 1])
async def test_a_retry_waits_for_none_of_a_later_lane(server: Server | None, apart: int, lane: Lane) -> None:
    """Thousands were due before it, or are due in the same instant: it is in its lane after the first step."""
    async with new_world(server, StoreConfig(chunk_size=1)) as world:
        store = await world.store()
        await store.pushes.accept(make_push("many", 3000, lane="bulk"))
        await store.pushes.accept(make_push("one", lane=lane))
        taken = await take_all(store, "bulk")
        settlements = [
            settlement(each.chunk, target.index, Retry(moment() + apart * target.index, 2), Unavailable(status=503))
            for each in taken
            for target in each.chunk.targets
        ]
        await store.queue.settle("shop", settlements, [each.ref for each in taken])
        due = moment() + apart * 3000
        for turn in range(2):
            (one,) = await take_all(store, lane)
            await store.queue.settle("shop", *all_of(one, Retry(due, 2 + turn), Unavailable(status=503)))
            if apart:
                assert await store.queue.promote(ROUTE, moment() - 1) == 0
                assert await take(store, lane) == []
            assert await store.queue.promote(ROUTE, due) > 0
        (one,) = await take(store, lane)
        assert one.chunk.push_id == "one"
        while await store.queue.promote(ROUTE, due):
            pass
        assert sum(len(each.chunk.targets) for each in await take_all(store, "bulk")) == 3000
        assert await take(store, lane) == []
        if isinstance(store, Store):
            assert await store.link.call("EXISTS", *keys.first_retries("shop", 0, "apns")) == 0


async def test_a_wait_that_costs_no_attempt(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p"))
    for turn in range(1, 5):
        (taken,) = await take(store)
        assert (taken.chunk.turn, taken.chunk.attempt) == (turn, 1)
        await store.queue.settle("shop", *all_of(taken, Retry(moment() + turn, 1), Misconfigured(status=403)))
        assert await store.queue.promote(ROUTE, moment() + turn) == 1
    assert counts(await store.pushes.status("shop", "p")) == {"retrying": 1}


@pytest.mark.parametrize("total", [1, 4, 40, 1001])
async def test_a_settlement_of_an_older_turn_changes_nothing(total: int, world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", total))
    first = await take_all(store)
    for taken in first:
        await store.queue.settle("shop", *all_of(taken, Retry(moment(), 2), Throttled(status=429)))
    for taken in first:
        assert len(await store.queue.settle("shop", *all_of(taken))) == 0
        assert len(await store.queue.settle("shop", *all_of(taken, Retry(moment(), 2), Throttled(status=429)))) == 0
    assert counts(await store.pushes.status("shop", "p")) == {"retrying": total}
    assert await store.queue.promote(ROUTE, moment()) == total
    for taken in await take_all(store):
        assert len(await store.queue.settle("shop", *all_of(taken))) == len(taken.chunk.targets)
    for taken in first:
        assert len(await store.queue.settle("shop", *all_of(taken))) == 0
    assert counts(await store.pushes.status("shop", "p")) == {"sent": total}


async def taken_twice(world: World, total: int) -> tuple[AnyStore, Taken, AnyStore, Taken]:
    """A push that a consumer which was assumed dead and its successor work on."""
    a, b = await world.store("a"), await world.store("b")
    await a.pushes.accept(make_push("p", total))
    (held, *_) = await take_all(a)
    await world.kill("a")
    (taken, *_) = await b.queue.reclaim(ROUTE)
    return a, held, b, taken


@pytest.mark.parametrize("total", [6, 40, 1001])
async def test_a_retry_of_which_some_have_ended_elsewhere(total: int, world: World) -> None:
    """The chunk that goes again must not hold the targets that somebody else has settled meanwhile."""
    a, held, b, taken = await taken_twice(world, total)
    assert len(await b.queue.settle("shop", [settlement(taken.chunk, 1), settlement(taken.chunk, 4)], [])) == 2
    indexes = [0, 1, 2, 4]
    again = [settlement(held.chunk, index, Retry(moment(), 2), Unavailable(status=503)) for index in indexes]
    assert len(await a.queue.settle("shop", [*again, settlement(held.chunk, 3)], [])) == 3
    assert len(await a.queue.settle("shop", [*again, settlement(held.chunk, 3)], [])) == 0
    assert await b.queue.promote(ROUTE, moment()) == 2
    (retried,) = await take_all(b)
    assert [target.index for target in retried.chunk.targets] == [0, 2]
    found = counts(await a.pushes.status("shop", "p"))
    assert (found["sent"], found["retrying"], found["queued"]) == (3, 2, total - 5)


@pytest.mark.parametrize("total", [6, 40, 1001])
async def test_what_was_sent_of_which_some_have_ended_elsewhere(server: Server | None, total: int) -> None:
    """Each delivery has the row of its first end, and no other, also where rows are written together."""

    def index_of(hashed: str) -> int:
        return next(index for index in range(total) if token_hash(bytes(32), f"p-{index}") == hashed)

    async with new_world(server) as world:
        a, held, b, taken = await taken_twice(world, total)
        first = [settlement(taken.chunk, 4), settlement(taken.chunk, 1, Ended("expired"), None)]
        assert len(await b.queue.settle("shop", first, [])) == 2
        late = [settlement(held.chunk, index) for index in (4, 0, 1, 2)]
        assert len(await a.queue.settle("shop", late, [])) == 2
        assert len(await a.queue.settle("shop", late, [])) == 0
        found = await a.pushes.deliveries("shop", "p", outcome=None, cursor="", limit=10)
        assert found is not None
        of_large = [("expired", 1)]
        assert [(row.outcome, index_of(row.token_hash)) for row in found[0]] == (
            [("sent", 0), *of_large, ("sent", 2), ("sent", 4)] if total <= 1000 else of_large
        )
        assert counts(await a.pushes.status("shop", "p"))["sent"] == 3


# --- cancelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [1, 5, 40, 1001])
async def test_a_cancelled_push_is_not_sent(total: int, world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", total))
    await store.pushes.accept(make_push("q", 2))
    status = await store.pushes.cancel("shop", "p")
    assert status is not None
    assert status.state == "cancelled"
    assert counts(status) == {"cancelled": total}
    assert await store.pushes.cancel("shop", "p") == status
    for taken in await take_all(store):
        expected = {target.index: "cancelled" for target in taken.chunk.targets} if taken.chunk.push_id == "p" else {}
        assert taken.skip == expected
        await store.queue.settle("shop", *all_of(taken))
    assert counts(await store.pushes.status("shop", "p")) == {"cancelled": total}
    status = await store.pushes.cancel("shop", "p")
    assert status is not None
    assert status.state == "cancelled"
    with pytest.raises(Conflict):
        await store.pushes.cancel("shop", "q")
    assert (await store.gauges({"shop": ("apns",)})).pending["normal"] == 0


@pytest.mark.parametrize("total", [3, 40, 1001])
async def test_what_was_in_flight_at_the_cancelling_moves_over(total: int, world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", total))
    (taken, *_) = await take_all(store)
    await store.queue.settle("shop", [settlement(taken.chunk, 0, Retry(moment() + 9_000, 2), Unavailable())], [])
    assert counts(await store.pushes.cancel("shop", "p")) == {"cancelled": total}
    assert await store.queue.next_retry(ROUTE) == 0
    await store.queue.settle("shop", [settlement(taken.chunk, 1)], [])
    late = [settlement(taken.chunk, 2, Retry(moment(), 2), Unavailable())]
    assert len(await store.queue.settle("shop", late, [])) == 1
    assert counts(await store.pushes.status("shop", "p")) == {"cancelled": total - 1, "sent": 1}
    # Retries of a cancelled push are not sent either.
    assert await store.queue.promote(ROUTE, moment()) == 2
    for again in await take_all(store):
        assert set(again.skip.values()) == {"cancelled"}
        assert len(await store.queue.settle("shop", *all_of(again))) == len(again.chunk.targets)
    status = await store.pushes.status("shop", "p")
    assert status is not None
    assert status.state == "cancelled"
    assert counts(status) == {"cancelled": total - 1, "sent": 1}


# --- taking over ----------------------------------------------------------------------------------


async def test_entries_of_the_dead_are_taken_over_at_their_open_targets(server: Server | None) -> None:
    async with new_world(server, SMALL_CHUNKS) as world:
        a, b = await world.store("a"), await world.store("b")
        await a.pushes.accept(make_push("p", 8))
        await a.pushes.accept(make_push("large", 1001, lane="bulk"))
        held = [*await take_all(a), *await take_all(a, "bulk")]
        first = next(taken for taken in held if taken.chunk.push_id == "p" and taken.chunk.targets[0].index == 0)
        await a.queue.settle(
            "shop", [settlement(first.chunk, 0), settlement(first.chunk, 1, Retry(moment(), 2), Unavailable())], []
        )
        assert await b.queue.reclaim(ROUTE) == []  # a lives
        await world.kill("a")
        await b.queue.beat()
        taken = []
        while more := await b.queue.reclaim(ROUTE):  # bounded a call
            taken += more
        open_p = sorted(t.index for each in taken if each.chunk.push_id == "p" for t in each.chunk.targets)
        assert open_p == [2, 3, 4, 5, 6, 7]
        open_large = sorted(t.index for each in taken if each.chunk.push_id == "large" for t in each.chunk.targets)
        assert open_large == list(range(1001))
        for each in taken:
            await b.queue.settle("shop", *all_of(each))
        # The dead one was only slow: what it says now is too late.
        for each in held:
            assert len(await a.queue.settle("shop", *all_of(each, FAILED, BadNotification(status=400)))) == 0
        assert counts(await a.pushes.status("shop", "p")) == {"sent": 7, "retrying": 1}
        assert counts(await a.pushes.status("shop", "large")) == {"sent": 1001}


@pytest.mark.parametrize("total", [1, 6, 40, 1001])
async def test_a_late_retry_of_an_entry_that_was_taken_over_is_void(total: int, world: World) -> None:
    """Its successor sends the deliveries already: a retry beside it would send them twice at a time."""
    a, held, b, taken = await taken_twice(world, total)
    settlements, refs = all_of(held, Retry(moment(), 2), Throttled(status=429))
    ended = int(total > 1)
    if ended:
        settlements[0] = settlement(held.chunk, held.chunk.targets[0].index)
    settlements = [msgspec.structs.replace(each, entry_id=held.ref.entry_id) for each in settlements]
    # In two steps, so that what the first one finds is known when the entry is finished.
    assert len(await a.queue.settle("shop", settlements[:-1], [])) == ended
    assert len(await a.queue.settle("shop", settlements[-1:], refs)) == 0
    assert counts(await a.pushes.status("shop", "p")).get("retrying", 0) == 0
    # The entry stays its successor's: another one finds it should that die, too.
    await world.kill("b")
    heir = await world.store("heir")
    left = [each for each in await heir.queue.reclaim(ROUTE) if each.ref == taken.ref]
    assert [len(each.chunk.targets) for each in left] == [len(taken.chunk.targets) - ended]
    assert len(await b.queue.settle("shop", *all_of(taken))) == len(taken.chunk.targets) - ended


async def test_an_entry_without_open_targets_is_not_handed_out(world: World) -> None:
    a, b = await world.store("a"), await world.store("b")
    await a.pushes.accept(make_push("p", 2))
    (taken,) = await take_all(a)
    await a.queue.settle("shop", all_of(taken)[0], [])  # it dies before it can acknowledge
    await world.kill("a")
    assert await b.queue.reclaim(ROUTE) == []
    assert await entries_of(b) == 0


async def test_a_consumer_that_retires_is_followed_at_once(world: World) -> None:
    a, b = await world.store("a"), await world.store("b")
    await a.pushes.accept(make_push("p", 2))
    await take_all(a)
    await a.queue.retire()
    (taken,) = await b.queue.reclaim(ROUTE)
    assert len(taken.chunk.targets) == 2


async def test_a_process_that_starts_again_goes_on_with_its_own(server: Server | None) -> None:
    async with new_world(server, SMALL_CHUNKS) as world:
        before = await world.store("a")
        await before.pushes.accept(make_push("p", 7))
        taken = await take_all(before)
        assert len(taken) == 3
        await before.queue.settle("shop", *all_of(taken[0]))
        await before.queue.settle("shop", [settlement(taken[1].chunk, 4)], [])
        await before.pushes.accept(make_push("new"))

        after = await world.store("a")
        resumed = await take(after)
        assert [t.index for each in resumed for t in each.chunk.targets] == [3, 5, 6]
        (new,) = await take(after)
        assert new.chunk.push_id == "new"
        for each in (*resumed, new):
            await after.queue.settle("shop", *all_of(each))
        assert counts(await after.pushes.status("shop", "p")) == {"sent": 7}


# --- pushes that share an entry -------------------------------------------------------------------


@pytest.mark.parametrize("heir", ["a", "b"])
async def test_pushes_that_share_an_entry_end_each_by_itself(heir: str, world: World) -> None:
    """Their dispatcher dies when some have ended, and starts again, or another one follows."""
    a = await world.store("a")
    names = [f"p{number}" for number in range(20)]
    singles = [make_push(name) for name in names]
    singles[5] = msgspec.structs.replace(singles[5], trace=bytes(range(24)))
    others = [make_push("two", 2), make_push("fcm", platforms=("fcm",)), make_push("urgent", lane="urgent")]
    await accept_together(a, *others, *singles, singles[0])
    await accept_together(a, make_push("new"), *singles)
    held = {each.chunk.push_id: each for each in await take_all(a)}
    assert held.keys() == {*names, "two", "new"}
    assert await entries_of(a) == (5 if world.real else 23)
    assert held["p5"].chunk.trace == bytes(range(24))
    for name, trace in (("p4", ""), ("p5", bytes(range(16)).hex())):
        status = await a.pushes.status("shop", name)
        assert status is not None
        assert status.trace == trace
    await a.queue.settle("shop", *all_of(held["p0"]))
    await a.queue.settle("shop", *all_of(held["p1"], Retry(moment(), 2), Unavailable()))
    await a.pushes.cancel("shop", "p2")
    await a.queue.settle("shop", *all_of(held["p16"]))
    states = [counts(await a.pushes.status("shop", name)) for name in ("p0", "p1", "p3")]
    assert states == [{"sent": 1}, {"retrying": 1}, {"queued": 1}]
    next_one = await world.store(heir)
    if heir == "b":
        await world.kill("a")
        taken = await next_one.queue.reclaim(ROUTE)
    else:
        taken = await take_all(next_one)
    taken += await take_all(next_one, "urgent")
    assert sorted(each.chunk.push_id for each in taken) == sorted(
        {*names, "two", "new", "urgent"} - {"p0", "p1", "p16"}
    )
    assert [each.chunk.push_id for each in taken if each.skip] == ["p2"]
    assert await next_one.queue.promote(ROUTE, moment()) == 1
    for each in [*taken, *await take_all(next_one)]:
        await next_one.queue.settle("shop", *all_of(each))
    assert await entries_of(next_one) == 0
    # The dead one was only slow.
    for each in held.values():
        assert len(await a.queue.settle("shop", *all_of(each, FAILED, BadNotification(status=400)))) == 0
    ended = [counts(await a.pushes.status("shop", name)) for name in names]
    assert ended == [{"cancelled": 1} if name == "p2" else {"sent": 1} for name in names]


async def test_the_ends_of_one_lane_are_recorded_one_batch_after_the_other(world: World) -> None:
    """Of two at once, each would leave the entry that they share to the other."""
    store = await world.store()
    if not isinstance(store, Store):
        return  # the store in memory awaits nothing
    await accept_together(store, make_push("p1"), make_push("p2"), make_push("apart", lane="urgent"))
    one, two, apart = *await take_all(store), *await take_all(store, "urgent")
    settle = [partial(store.queue.settle, "shop", *all_of(each)) for each in (one, two, apart)]
    first, second, third = await asyncio.gather(*(each() for each in settle), return_exceptions=True)
    assert (type(first), type(second), type(third)) == (list, AssertionError, list)
    assert await entries_of(store) == 1
    await settle[1]()
    assert await entries_of(store) == 0


async def test_what_is_given_back_of_a_shared_entry_is_taken_again(world: World) -> None:
    store = await world.store()
    await accept_together(store, *(make_push(f"p{number}") for number in range(4)))
    first, second, third, fourth = await take_all(store)
    store.queue.forget([first.ref])
    await store.queue.settle("shop", *all_of(second))
    store.queue.forget([third.ref])
    again = await take_all(store)
    await store.queue.settle("shop", *all_of(fourth))
    again += await take_all(store)
    assert [each.chunk.push_id for each in again] == ["p0", "p2"]
    store.queue.forget([each.ref for each in again])
    again = await take_all(store)
    assert [each.chunk.push_id for each in again] == ["p0", "p2"]
    await store.queue.settle("shop", *all_of(again[1]))
    assert await entries_of(store) == 1
    await store.queue.settle("shop", *all_of(again[0]))
    assert await entries_of(store) == 0
    assert [counts(await store.pushes.status("shop", f"p{number}")) for number in range(4)] == [{"sent": 1}] * 4


@pytest.mark.parametrize("days", [0.1, 28])
async def test_what_ended_in_a_shared_entry_is_over_when_its_status_is_gone(days: float, world: World) -> None:
    """The others wait for a route that is held for longer than a status is kept, and their dispatcher restarts."""
    a = await world.store("a")
    if not isinstance(a, Store):
        return  # the store in memory keeps every status
    made = [make_push(name) for name in ("ended", "waits")]
    span = round(days * 86_400_000)
    await accept_together(a, *(msgspec.structs.replace(each, expires_at=each.created_at + span) for each in made))
    ended, waits = await take_all(a)
    await a.queue.settle("shop", *all_of(ended))
    await a.link.call("DEL", keys.push("shop", 0, "ended"))
    next_one = await world.store("a")
    (again,) = await take_all(next_one)
    assert again.chunk == waits.chunk
    await next_one.queue.settle("shop", *all_of(again))
    assert await entries_of(next_one) == 0
    assert sum((await next_one.gauges({"shop": ("apns",)})).pending.values()) == 0


# --- receipts -------------------------------------------------------------------------------------


async def _bury(world: World, push: Push) -> None:
    """Let every token of the push be called dead."""
    store = await world.store()
    await store.pushes.accept(push)
    for taken in await take_all(store):
        await store.queue.settle("shop", *all_of(taken, INVALID, TokenDead(status=410, reason="Unregistered", since=7)))


async def test_receipts_become_events_and_suppression(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(make_push("p", 4))
    (taken,) = await take(store)
    chunk = taken.chunk
    ends = [
        settlement(chunk, 0, INVALID, TokenDead(status=410, reason="Unregistered", since=moment() - 9)),
        settlement(chunk, 1, FAILED, TokenSuspect(status=400, reason="DeviceTokenNotForTopic")),
        settlement(chunk, 2, INVALID, TokenDead(status=400, reason="BadDeviceToken")),
        settlement(chunk, 3),
    ]
    await store.queue.settle("shop", ends, [taken.ref])
    found = await store.receipts.take("shop", limit=10, wait_ms=0)
    receipts = [receipt for _, receipt in found]
    assert [(receipt.token, receipt.kind, receipt.reason, receipt.since) for receipt in receipts] == [
        ("p-0", "dead", "Unregistered", moment() - 9),
        ("p-1", "suspect", "DeviceTokenNotForTopic", None),
        ("p-2", "dead", "BadDeviceToken", None),
    ]
    assert {(receipt.app, receipt.platform, receipt.push_id, receipt.at) for receipt in receipts} == {
        ("shop", "apns", "p", moment() + 5)
    }
    actions = ["suppressed", "suspected", "kept"]
    events = [
        FeedbackEvent(receipt.at, receipt.platform, receipt.token, receipt.reason, action)  # type: ignore[arg-type]  # literals
        for receipt, action in zip(receipts, actions, strict=True)
    ]
    done = [(entry, receipt, event) for (entry, receipt), event in zip(found, events, strict=True)]
    await store.receipts.record("shop", done)
    await store.receipts.record("shop", done)  # the answer was lost: said again, recorded once
    assert await store.receipts.take("shop", limit=10, wait_ms=0) == []
    seen = (await store.receipts.events("shop", after="", limit=10)).events
    assert [event for _, event in seen] == events
    assert [event for _, event in (await store.receipts.events("shop", after=seen[0][0], limit=1)).events] == events[
        1:2
    ]
    assert (await store.receipts.events("shop", after=seen[-1][0], limit=10)).events == []

    again = msgspec.structs.replace(make_push("p", 4, lane="urgent", platforms=("apns", "fcm")), id="again")
    await store.pushes.accept(again)
    (marked,) = await take(store, "urgent")
    assert marked.skip == {0: "suppressed"}
    (other,) = await take(store, "urgent", route=Route("shop", "fcm"))
    assert other.skip == {}
    await store.queue.settle("shop", *all_of(marked))
    assert counts(await store.pushes.status("shop", "again")) == {"suppressed": 1, "sent": 3, "queued": 4}
    gauges = (await store.gauges({"shop": ("apns", "fcm")})).apps["shop"]
    assert (gauges.suppressed, gauges.events, gauges.receipts) == ({"apns": 1, "fcm": 0}, 3, 0)


async def test_receipts_that_were_not_recorded_come_again(world: World) -> None:
    a, b = await world.store("a"), await world.store("b")
    await _bury(world, make_push("p", 6))
    first = await a.receipts.take("shop", limit=2, wait_ms=0)
    assert await a.receipts.take("shop", limit=2, wait_ms=0) == first
    assert len(await a.receipts.take("shop", limit=100, wait_ms=0)) == 6
    assert await b.receipts.take("shop", limit=100, wait_ms=0) == []
    await a.receipts.record("shop", [(entry, receipt, None) for entry, receipt in first])
    assert len(await a.receipts.take("shop", limit=100, wait_ms=0)) == 4
    assert (await a.receipts.events("shop", after="", limit=5)).events == []


async def test_receipts_of_the_dead_are_taken_over(world: World) -> None:
    a = await world.store("a")
    await _bury(world, make_push("p", 3))
    held = await a.receipts.take("shop", limit=10, wait_ms=0)
    await world.kill("a")
    b = await world.store("b")
    taken = await b.receipts.take("shop", limit=10, wait_ms=0)
    assert taken == held
    event = FeedbackEvent(moment(), "apns", "p-0", "Unregistered", "suppressed")
    await b.receipts.record("shop", [(entry, receipt, event) for entry, receipt in taken])
    await a.receipts.record("shop", [(entry, receipt, event) for entry, receipt in held])
    assert len((await a.receipts.events("shop", after="", limit=10)).events) == 3


async def test_take_waits_for_a_receipt(world: World) -> None:
    store = await world.store("feedback")
    assert await store.receipts.take("shop", limit=10, wait_ms=20) == []
    waiting = asyncio.create_task(store.receipts.take("shop", limit=10, wait_ms=30_000))
    await asyncio.sleep(0)
    await _bury(world, make_push("p", 1))
    assert [receipt.token for _, receipt in await waiting] == ["p-0"]


async def test_ping(world: World) -> None:
    store = await world.store()
    await store.pushes.ping()
    assert len(store.hash_key) == 32
    assert (await world.store("b")).hash_key == store.hash_key


async def test_what_has_expired_is_taken_from_behind_what_is_not_read(world: World) -> None:
    one, two = await world.store("a"), await world.store("b")
    assert await one.queue.lapsed(ROUTE, "normal", moment()) == []  # nobody has ever read here
    for number in range(6):
        late = number in (0, 2, 4)
        own = make_push(f"p{number}", 2)
        await one.pushes.accept(msgspec.structs.replace(own, expires_at=moment() + 1_000) if late else own)
    (first,) = await take(two, targets=1)
    assert first.chunk.push_id == "p0"  # in another's hands
    assert await one.queue.lapsed(ROUTE, "normal", moment()) == []
    found = await one.queue.lapsed(ROUTE, "normal", moment() + 1_000)
    assert [each.chunk.push_id for each in found] == ["p2", "p4"]
    assert await one.queue.lapsed(ROUTE, "normal", moment() + 1_000) == []
    assert await two.queue.lapsed(ROUTE, "normal", moment() + 1_000) == []
    for each in found:
        assert len(await one.queue.settle("shop", *all_of(each, Ended("expired"), None))) == 2
    assert [each.chunk.push_id for each in await take_all(one)] == ["p1", "p3", "p5"]
    status = await one.pushes.status("shop", "p2")
    assert status is not None
    assert (status.state, status.counts.expired) == ("done", 2)
    await accept_together(one, *(make_push(name) for name in ("p6", "p7", "p8")))
    over = await one.queue.lapsed(ROUTE, "normal", moment() + 3_600_000)
    assert [each.chunk.push_id for each in over] == ["p6", "p7", "p8"]
