"""The record of a webhook over real servers: one owner at a time, pinned batches, nothing passed over or twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pushsvc import telemetry
from pushsvc.errors import Gone
from pushsvc.model.codec import encode_event, encode_receipt
from pushsvc.model.delivery import Receipt
from pushsvc.model.devices import Device
from pushsvc.model.status import DeviceEvent, FeedbackEvent
from pushsvc.ports.live import EVENTS, EventReport
from pushsvc.ports.webhooks import Batch, DeadBatch
from pushsvc.store import Store, StoreConfig, keys
from pushsvc.store.webhooks.claim import RedisWebhookClaim, batch_id

from .servers import KINDS, Server, running_server
from .test_store_kit import eraser, make_push, new_store

PLACE = "somewhere"
APP = "shop"


@pytest.fixture(scope="module", params=[*KINDS, "cluster"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "cluster":
        with running_server("valkey", tcp=True, cluster=True) as found:
            found.url = found.url.replace("redis://", "redis+cluster://").removesuffix("/0")
            yield found
    else:
        with running_server(request.param) as found:
            yield found


async def record(store: Store, *numbers: int, shard: int = 0) -> list[str]:
    """Events as feedback records them; their ids."""
    key = keys.events(APP, shard)
    blobs = [encode_event(FeedbackEvent(n, "apns", f"t{n}", "Unregistered", "suppressed")) for n in numbers]
    return [(await store.link.call("XADD", key, "*", "e", blob)).decode() for blob in blobs]


def numbers(batch: Batch | None) -> list[int]:
    assert batch is not None
    return [event.at for _, event in batch.events]


def mine(claim: RedisWebhookClaim | None) -> RedisWebhookClaim:
    assert claim is not None
    return claim


async def all_of(claim: RedisWebhookClaim, most: int) -> list[list[int]]:
    """Deliver everything: the numbers of each batch."""
    found = []
    while batch := await claim.next(most):
        found.append(numbers(batch))
        assert await claim.delivered(batch)
    return found


async def test_batches_follow_one_another_to_the_end(store: Store) -> None:
    hooks = store.webhooks
    assert not await hooks.due(APP, PLACE)
    ids = await record(store, *range(7))
    assert await hooks.due(APP, PLACE)
    async with hooks.claimed(APP, PLACE, lease=30) as claim:
        assert not await hooks.due(APP, PLACE)  # somebody is at it
        first = await mine(claim).next(3)
        assert first is not None
        assert (first.id, first.attempts, first.failures) == (batch_id("shop", ids[2]), 0, 0)
        assert first.oldest == int(ids[0].partition("-")[0])
        assert await mine(claim).delivered(first)
        assert await all_of(mine(claim), 3) == [[3, 4, 5], [6]]
    assert not await hooks.due(APP, PLACE)
    await record(store, 7)
    assert await hooks.due(APP, PLACE)
    assert (await hooks.standing(APP, PLACE)).cursor == ids[6]


async def test_a_batch_stays_what_it_was_when_it_is_repeated(store: Store) -> None:
    hooks = store.webhooks
    await record(store, 1, 2)
    async with hooks.claimed(APP, PLACE, lease=30) as claim:
        first = await mine(claim).next(50)
        assert first is not None
        assert await mine(claim).failed(first, "http_500", wait=0.0)
    await record(store, 3, 4)
    standing = await hooks.standing(APP, PLACE)
    assert (standing.attempts, standing.failures, standing.reason) == (1, 1, "http_500")
    assert standing.cursor < first.events[0][0]
    async with hooks.claimed(APP, PLACE, lease=30) as claim:
        again = await mine(claim).next(50)
        assert again is not None
        assert (again.id, again.events, again.attempts, again.failures) == (first.id, first.events, 1, 1)
        assert await mine(claim).delivered(again)
        assert await all_of(mine(claim), 50) == [[3, 4]]
    standing = await hooks.standing(APP, PLACE)
    assert (standing.attempts, standing.failures, standing.reason, standing.waiting_since) == (0, 0, "", None)


async def test_it_rests_after_a_failure(store: Store) -> None:
    hooks = store.webhooks
    await record(store, 1)
    async with hooks.claimed(APP, PLACE, lease=30) as claim:
        batch = await mine(claim).next(1)
        assert batch is not None
        await mine(claim).failed(batch, "timeout", wait=600.0)
    assert not await hooks.due(APP, PLACE)
    assert 590_000 < (await hooks.standing(APP, PLACE)).due_in <= 600_000
    async with hooks.claimed(APP, PLACE, lease=30) as claim:
        assert claim is None
    await hooks.resume(APP)
    assert await hooks.due(APP, PLACE)
    assert (await hooks.standing(APP, PLACE)).failures == 0


async def test_one_owner_at_a_time_and_the_slower_is_not_heard(store: Store) -> None:
    hooks = store.webhooks
    await record(store, 1, 2)
    async with hooks.claimed(APP, PLACE, lease=1.5) as alive:
        assert await mine(alive).next(1) is not None
        until = await store.link.call("HGET", keys.hook(APP), "until")
        while await store.link.call("HGET", keys.hook(APP), "until") == until:
            await asyncio.sleep(0.01)  # a living owner renews its lease
        async with hooks.claimed(APP, PLACE, lease=30) as other:
            assert other is None
    # This one renews its lease after ten seconds at the earliest, so that nothing comes between two lines below.
    async with hooks.claimed(APP, PLACE, lease=30) as dead:
        batch = await mine(dead).next(1)
        assert batch is not None
        async with hooks.claimed(APP, PLACE, lease=30) as other:
            assert other is None
        # One that stands still does not; what it says later is heard as long as nobody has missed it.
        await store.link.call("HSET", keys.hook(APP), "until", 1)
        assert await mine(dead).delivered(batch)
        second = await mine(dead).next(1)
        assert second is not None
        await store.link.call("HSET", keys.hook(APP), "until", 1)
        async with hooks.claimed(APP, PLACE, lease=30) as living:
            repeated = await mine(living).next(1)
            assert repeated is not None
            assert (repeated.id, repeated.events) == (second.id, second.events)
            assert not await mine(dead).delivered(second)
            assert not await mine(dead).failed(second, "timeout", wait=600.0)
            assert not await mine(dead).give_up(second, "timeout")
            assert not await mine(dead).switch_off("http_410")
            assert await mine(living).delivered(repeated)
            assert await mine(living).next(1) is None
    assert await hooks.dead(APP) == []
    assert not (await hooks.standing(APP, PLACE)).off


async def test_a_place_that_is_off_is_left_alone_until_it_is_another(store: Store) -> None:
    hooks = store.webhooks
    await record(store, 1)
    async with hooks.claimed(APP, PLACE, lease=30) as claim:
        assert await mine(claim).next(1)
        assert await mine(claim).switch_off("http_410")
    assert not await hooks.due(APP, PLACE)
    assert (await hooks.standing(APP, PLACE)).off
    async with hooks.claimed(APP, PLACE, lease=30) as claim:
        assert await mine(claim).next(1) is None
    assert await hooks.due(APP, "another")
    assert not (await hooks.standing(APP, "another")).off
    await hooks.resume(APP)
    assert await hooks.due(APP, PLACE)


async def test_another_place_does_not_wait_for_what_the_old_one_has_asked_for(store: Store) -> None:
    hooks = store.webhooks
    await record(store, 1, 2)
    async with hooks.claimed(APP, PLACE, lease=30) as claim:
        batch = await mine(claim).next(2)
        assert batch is not None
        async with hooks.claimed(APP, "another", lease=30) as other:
            assert other is None  # a call is under way there
        assert await mine(claim).failed(batch, "http_429", wait=3600.0)
    assert not await hooks.due(APP, PLACE)
    assert await hooks.due(APP, "another")
    other_standing = await hooks.standing(APP, "another")
    assert (other_standing.failures, other_standing.reason, other_standing.due_in) == (0, "", 0)
    async with hooks.claimed(APP, "another", lease=30) as claim:
        again = await mine(claim).next(2)
        assert again is not None
        assert (again.id, again.events, again.attempts, again.failures) == (batch.id, batch.events, 0, 0)


async def test_failures_in_a_row_count_from_the_first(store: Store) -> None:
    hooks = store.webhooks

    async def fail(place: str = PLACE) -> int | None:
        async with hooks.claimed(APP, place, lease=30) as claim:
            batch = await mine(claim).next(1)
            assert batch is not None
            assert await mine(claim).failed(batch, "http_503", wait=0.0)
        return (await hooks.standing(APP, place)).failing_since

    await record(store, 1, 2)
    first = await fail()
    assert first is not None
    assert abs(first - store.clock()) < 60_000
    await store.link.call("HSET", keys.hook(APP), "since", 1)  # long ago
    assert await fail() == 1
    assert (await hooks.standing(APP, "another")).failing_since is None
    assert (await fail("another") or 0) >= first, "another place has not failed before"
    async with hooks.claimed(APP, "another", lease=30) as claim:
        batch = await mine(claim).next(1)
        assert batch is not None
        assert await mine(claim).delivered(batch)
    assert (await hooks.standing(APP, "another")).failing_since is None
    assert (await fail("another") or 0) >= first
    await hooks.resume(APP)
    resumed = await hooks.standing(APP, "another")
    assert (resumed.failing_since, resumed.reason) == (None, "")


async def test_all_webhooks_are_read_at_once(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async with new_store(server, StoreConfig(consumer="a", shards={APP: 3})) as store:
        places = dict.fromkeys((APP, "b", "c", "d"), PLACE)
        await record(store, 1)
        async with store.webhooks.claimed("c", PLACE, lease=30) as claim:
            assert await mine(claim).switch_off("http_410")
        trips = 0
        many = store.link.many

        async def counted(*args: Any, **more: Any) -> list[Any]:
            nonlocal trips
            trips += 1
            return await many(*args, **more)

        with monkeypatch.context() as patch:
            patch.setattr(store.link, "many", counted)
            standings = await store.webhooks.standings(places)
        assert trips == 2
        assert [app for app, each in standings.items() if each.off] == ["c"]
        assert [app for app, each in standings.items() if each.waiting_since is not None] == [APP]
        assert await store.webhooks.standings({}) == {}


async def test_what_is_too_large_is_halved_and_grows_again(store: Store) -> None:
    ids = await record(store, *range(12))
    sizes = []
    async with store.webhooks.claimed(APP, PLACE, lease=30) as claim:
        while batch := await mine(claim).next(6):
            sizes.append(len(batch.events))
            assert batch.id == batch_id(APP, batch.events[-1][0])
            if len(batch.events) > 2:
                assert await mine(claim).halve(batch, "http_413")
            else:
                assert await mine(claim).delivered(batch)
    assert sizes == [6, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2]
    assert (await store.webhooks.standing(APP, PLACE)).cursor == ids[-1]
    # What one receiver does not take says nothing of another, nor for good.
    await record(store, *range(20))
    async with store.webhooks.claimed(APP, "another", lease=30) as claim:
        assert [len(batch) for batch in await all_of(mine(claim), 6)] == [6, 6, 6, 2]


async def test_a_smaller_batch_of_the_configuration_cuts_the_one_under_way(store: Store) -> None:
    ids = await record(store, *range(8))
    async with store.webhooks.claimed(APP, PLACE, lease=30) as claim:
        assert numbers(await mine(claim).next(6)) == [*range(6)]
        cut = await mine(claim).next(2)
        assert cut is not None
        assert (numbers(cut), cut.id) == ([0, 1], batch_id(APP, ids[1]))
        assert (await mine(claim).next(6)) == cut  # its repetition
        assert await mine(claim).delivered(cut)
        assert await all_of(mine(claim), 4) == [[2, 3, 4, 5], [6, 7]]


async def test_a_dead_batch_that_is_too_large_is_halved(store: Store) -> None:
    hooks = store.webhooks
    ids = await record(store, *range(5))
    (dead,) = await bury_all(store, 5)
    whole_after = dead.after
    await hooks.ask_again(APP, [dead])
    async with hooks.claimed(APP, PLACE, lease=30) as claim:
        whole = await mine(claim).next(5)
        assert whole is not None
        assert await mine(claim).halve(whole, "http_413")
        assert [(each.id, each.after, each.last, each.events) for each in await hooks.dead(APP)] == [
            (batch_id(APP, ids[1]), whole_after, ids[1], 2),
            (whole.id, ids[1], ids[4], 3),
        ]
        first = await mine(claim).next(5)
        assert first is not None
        assert (numbers(first), first.again) == ([0, 1], True)
        assert await mine(claim).delivered(first)
        assert await all_of(mine(claim), 5) == [[2, 3, 4]]
    assert await hooks.dead(APP) == []
    assert await hooks.asked(APP) == []


async def bury_all(store: Store, most: int) -> list[DeadBatch]:
    async with store.webhooks.claimed(APP, PLACE, lease=30) as claim:
        while batch := await mine(claim).next(most):
            assert await mine(claim).give_up(batch, "http_400")
    return await store.webhooks.dead(APP)


async def test_what_is_given_up_is_kept_and_redelivered_when_asked_for(store: Store) -> None:
    hooks = store.webhooks
    ids = await record(store, 1, 2, 3)
    dead = await bury_all(store, 2)
    assert [(each.id, each.after, each.last, each.events, each.attempts, each.reason) for each in dead] == [
        (batch_id("shop", ids[1]), dead[0].after, ids[1], 2, 1, "http_400"),
        (batch_id("shop", ids[2]), ids[1], ids[2], 1, 1, "http_400"),
    ]
    assert not await hooks.due(APP, PLACE)
    assert (await hooks.standing(APP, PLACE)).dead == 2
    await record(store, 4)
    stranger = DeadBatch("feedback_shop_0-1", "", "0-1", 1, 1, "http_400", 0)
    assert await hooks.ask_again(APP, [*reversed(dead), stranger]) == 2
    assert await hooks.asked(APP) == [each.id for each in dead]
    async with hooks.claimed(APP, PLACE, lease=30) as claim:
        first = await mine(claim).next(50)
        assert (numbers(first), first and first.again, first and first.id) == ([1, 2], True, dead[0].id)
        assert first is not None
        assert await mine(claim).delivered(first)
        second = await mine(claim).next(50)
        assert numbers(second) == [3]
        assert second is not None
        assert await mine(claim).give_up(second, "http_422")
        assert await all_of(mine(claim), 50) == [[4]]
    (left,) = await hooks.dead(APP)
    assert (left.id, left.attempts, left.reason) == (dead[1].id, 2, "http_422")
    assert await hooks.asked(APP) == []
    await hooks.ask_again(APP, [left])
    async with hooks.claimed(APP, PLACE, lease=30) as claim:
        assert await mine(claim).next(50)
        assert await mine(claim).drop_asked()
        assert await mine(claim).next(50) is None
    assert len(await hooks.dead(APP)) == 1


@asynccontextmanager
async def three_buried(server: Server, config: StoreConfig) -> AsyncIterator[Store]:
    """A store that has given up events of the instants 1000, 2000 and 3000 when it is 5000."""
    async with new_store(server, config, clock=lambda: 5000) as store:
        for at in (1000, 2000, 3000):
            event = encode_event(FeedbackEvent(at, "apns", "t", "Unregistered", "suppressed"))
            await store.link.call("XADD", keys.events(APP, 0), f"{at}-0", "e", event)
        assert len(await bury_all(store, 1)) in (1, 3)
        yield store


async def test_dead_batches_are_found_by_the_time_of_their_last_event(server: Server) -> None:
    async with three_buried(server, StoreConfig(consumer="a")) as store:
        assert [each.last for each in await store.webhooks.dead(APP, since=2000)] == ["2000-0", "3000-0"]
        assert [each.last for each in await store.webhooks.dead(APP, until=3000)] == ["1000-0", "2000-0"]
        assert [each.last for each in await store.webhooks.dead(APP, since=2000, until=3000)] == ["2000-0"]


async def test_dead_batches_go_when_their_events_are_too_old(server: Server) -> None:
    async with three_buried(server, StoreConfig(consumer="a", events_ttl=2)) as store:
        assert [each.last for each in await store.webhooks.dead(APP)] == ["3000-0"]


async def test_what_is_erased_or_too_old_holds_nothing_up(store: Store) -> None:
    ids = await record(store, 1, 2, 3, 4)
    key = keys.events(APP, 0)
    async with store.webhooks.claimed(APP, PLACE, lease=30) as claim:
        first = await mine(claim).next(2)
        assert numbers(first) == [1, 2]
        assert first is not None
        await mine(claim).give_up(first, "http_400")
        assert numbers(await mine(claim).next(2)) == [3, 4]
        await store.link.call("XDEL", key, ids[3])
        partly = await mine(claim).next(2)
        assert numbers(partly) == [3]
        await store.link.call("XDEL", key, ids[2])
        await record(store, 5)
        assert numbers(await mine(claim).next(2)) == [5]
        await store.webhooks.ask_again(APP, await store.webhooks.dead(APP))
        await store.link.call("XTRIM", key, "MINID", ids[2])
        assert numbers(await mine(claim).next(2)) == [5]
    assert await store.webhooks.dead(APP) == []
    assert await store.webhooks.asked(APP) == []


OLD = 3600
"""Seconds that events are kept in the tests of retention."""


async def record_at(store: Store, at: int, *numbers: int, shard: int = 0) -> list[str]:
    """Events of an instant, Unix ms."""
    ids = [f"{at}-{n}" for n in numbers]
    for n, event_id in zip(numbers, ids, strict=True):
        blob = encode_event(FeedbackEvent(n, "apns", f"t{n}", "Unregistered", "suppressed"))
        await store.link.call("XADD", keys.events(APP, shard), event_id, "e", blob)
    return ids


async def retention(store: Store, shard: int = 0) -> None:
    """As feedback records a receipt, which no event follows."""
    receipt = Receipt(APP, "apns", "t", "h", "suspect", "x", store.clock())
    await store.link.call("XADD", keys.receipts(APP, shard), "*", "r", encode_receipt(receipt))
    found = await store.receipts.take(APP, limit=10, wait_ms=0)
    await store.receipts.record(APP, [(*each, None) for each in found])


def gaps() -> float:
    return float(telemetry.FEEDBACK_GAPS.labels(APP, "webhook")._value.get())


async def test_what_retention_has_taken_is_said_once(server: Server) -> None:
    async with new_store(server, StoreConfig(consumer="a", events_ttl=OLD)) as store:
        hooks, now = store.webhooks, store.clock()
        old = now - OLD * 1000
        ids = await record_at(store, old - 500, 0, 1, 2, 3, 4)
        async with hooks.claimed(APP, PLACE, lease=30) as claim:
            first = await mine(claim).next(2)
            assert first is not None
            assert await mine(claim).delivered(first)
            under_way = await mine(claim).next(2)
            assert numbers(under_way) == [2, 3]
            await record_at(store, now, 5, 6)
            before = gaps()
            await retention(store)
            # The batch under way and what followed it are gone; then all is as ever.
            assert await all_of(mine(claim), 9) == [[5, 6]]
            assert gaps() == before + 1
        page = await store.receipts.events(APP, after=ids[1], limit=9)
        assert ([event.at for _, event in page.events], page.missing_to) == ([5, 6], ids[4])
        for after in (ids[4], f"{now}-5", ""):  # nothing that follows these is missing
            assert (await store.receipts.events(APP, after=after, limit=9)).missing_to == ""


async def test_a_webhook_that_never_delivered_anything_misses_its_first_batch_only(server: Server) -> None:
    async with new_store(server, StoreConfig(consumer="a", events_ttl=OLD)) as store:
        old, before = store.clock() - OLD * 1000, gaps()
        await record_at(store, old - 500, 0)
        await retention(store)
        await record_at(store, old - 400, 1, 2)
        async with store.webhooks.claimed(APP, PLACE, lease=30) as claim:
            assert numbers(await mine(claim).next(9)) == [1, 2]  # a new one begins with what there is
            assert gaps() == before
            await retention(store)
            assert await mine(claim).next(9) is None
            assert gaps() == before + 1


async def test_more_events_than_are_kept_leave_their_last_id(server: Server) -> None:
    async with new_store(server, StoreConfig(consumer="a", events_max=50)) as store:
        now = store.clock()
        ids = await record_at(store, now, *range(250))
        await retention(store)
        page = await store.receipts.events(APP, after=ids[3], limit=1)
        assert (page.events[0][0], page.missing_to) == (ids[200], ids[199])
        await retention(store)
        assert (await store.receipts.events(APP, after=ids[3], limit=1)) == page


async def test_of_several_shards_the_last_that_is_missing_is_reported(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pushsvc.store.feedback.log.SETTLED", 2)
    async with new_store(server, StoreConfig(consumer="a", events_ttl=OLD, shards=3)) as store:
        old = store.clock() - OLD * 1000
        for shard in range(3):
            await record_at(store, old - 500 - 10 * shard, 1, shard=shard)
            await record_at(store, old + 300_000 + shard, 2, shard=shard)
            await retention(store, shard)
        page = await store.receipts.events(APP, after=f"{old - 510}-1.1", limit=9)
        assert page.missing_to == f"{old - 500}-1.0"
        assert [event_id for event_id, _ in page.events] == [f"{old + 300_000 + n}-2.{n}" for n in range(3)]
        assert (await store.receipts.events(APP, after=page.missing_to, limit=9)).missing_to == ""


@pytest.mark.parametrize("pinned", [0, 2])
async def test_a_gap_in_one_shard_hides_no_event_of_another(
    server: Server, monkeypatch: pytest.MonkeyPatch, pinned: int
) -> None:
    """Shard 0 loses events that are newer than those that shard 1 keeps, before or after they are in a batch."""
    monkeypatch.setattr("pushsvc.store.feedback.log.SETTLED", 2)
    async with new_store(server, StoreConfig(consumer="a", events_max=1, shards=2)) as store:
        hooks, past = store.webhooks, store.clock() - 60_000
        await record_at(store, past, 0)
        async with hooks.claimed(APP, PLACE, lease=30) as claim:
            assert await all_of(mine(claim), 9) == [[0]]
            await record_at(store, past + 10, 1, shard=1)
            await record_at(store, past + 20, *range(2, 202))
            await record_at(store, past + 30, 202, shard=1)
            if pinned:
                assert numbers(await mine(claim).next(pinned)) == [1, 2]
            before = gaps()
            await retention(store)
            kept = await store.link.call("XLEN", keys.events(APP, 0))
            assert 0 < kept < 200
            found = await all_of(mine(claim), 50)
            assert [each for batch in found for each in batch] == [1, *range(202 - kept, 203)]
            assert gaps() == before + 1
            assert not await hooks.due(APP, PLACE)


async def test_a_gap_that_is_newer_than_settled_events_hides_none(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_store(server, StoreConfig(consumer="a", events_max=1, shards=2)) as store:
        now = store.clock()
        await record_at(store, now - 60_000, 0)
        async with store.webhooks.claimed(APP, PLACE, lease=30) as claim:
            assert await all_of(mine(claim), 9) == [[0]]
            monkeypatch.setattr("pushsvc.store.feedback.log.SETTLED", 600_000)
            await record_at(store, now - 20, 1, shard=1)
            await record_at(store, now - 10, *range(2, 202))
            await retention(store)
            assert await mine(claim).next(999) is None
            cursor = (await store.receipts.events(APP, after=f"{now - 900_000}-0.0", limit=9)).missing_to
            monkeypatch.setattr("pushsvc.store.feedback.log.SETTLED", 2)
            assert numbers(await mine(claim).next(999))[0] == 1
            page = await store.receipts.events(APP, after=cursor, limit=999)
            assert page.events[0][1].at == 1


async def test_a_cursor_of_the_future_was_never_given(store: Store) -> None:
    ahead = store.clock() + 400 * 86_400_000
    with pytest.raises(Gone, match="future"):
        await store.receipts.events(APP, after=f"{ahead}-0", limit=9)
    await record(store, 1)
    with pytest.raises(Gone, match="future"):
        await store.receipts.events(APP, after=f"{ahead}-0", limit=9)
    # Unless an event has it: the clock of Redis has gone back since.
    (last,) = await record_at(store, ahead, 7)
    assert (await store.receipts.events(APP, after=last, limit=9)).events == []


async def test_the_last_event_of_a_batch_may_be_erased_while_it_is_delivered(store: Store) -> None:
    ids = await record(store, 1, 2, 3)
    async with store.webhooks.claimed(APP, PLACE, lease=30) as claim:
        first = await mine(claim).next(2)
        assert first is not None
        await store.link.call("XDEL", keys.events(APP, 0), ids[1])
        again = await mine(claim).next(2)
        assert again is not None
        assert (numbers(again), again.id) == ([1], first.id)
        assert await mine(claim).delivered(again)
        assert await all_of(mine(claim), 2) == [[3]]


async def test_events_of_several_shards_keep_one_order(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushsvc.store.feedback.log.SETTLED", 2)
    monkeypatch.setattr("pushsvc.store.webhooks.webhooks.SETTLED", 2)
    async with new_store(server, StoreConfig(consumer="a", shards=3)) as store:
        for number in range(12):
            await record(store, number, shard=number % 3)
            await asyncio.sleep(0.003)  # in one millisecond, the shard decides

        while not await store.webhooks.due(APP, PLACE):
            await asyncio.sleep(0.005)
        async with store.webhooks.claimed(APP, PLACE, lease=30) as claim:
            found: list[int] = []
            while len(found) < 12:
                batch = await mine(claim).next(5)
                if batch is None:
                    await asyncio.sleep(0.005)
                    continue
                assert "." not in batch.id
                found += numbers(batch)
                assert await mine(claim).delivered(batch)
        assert found == list(range(12))
        assert not await store.webhooks.due(APP, PLACE)


async def test_an_event_that_cannot_be_read_does_not_stop_a_reader(store: Store) -> None:
    await store.link.call("XADD", keys.events(APP, 0), "*", "e", b"\xff")
    assert await store.webhooks.due(APP, PLACE)
    assert (await store.webhooks.standing(APP, PLACE)).waiting_since is not None


async def test_events_of_devices_have_a_log_and_a_webhook_of_their_own(server: Server) -> None:
    """However many there are, no feedback event is removed or waits for them; the reader of their log learns of what
    went before it had it."""
    async with new_store(server, StoreConfig(consumer="a", events_max=100)) as store:
        names = [f"d{number}" for number in range(8)]
        devices = [Device(id=name, platform="fcm", token=f"token of {name}", user=name) for name in names]
        await store.registry.put_many(APP, devices)
        pushes = [f"p{number}" for number in range(40)]
        for push in pushes:
            await store.pushes.accept(make_push(push))
        feedback = await record(store, 0, 1, 2)

        async def report(*ids: str) -> None:
            for push in ids:
                reports = [EventReport(push, name, "shown") for name in names]
                assert await store.live.report(APP, [*reports, *reports], log=True) == ["fcm"] * 8 + [None] * 8

        await report(pushes[0])
        events = store.event_webhooks
        async with events.claimed(APP, PLACE, lease=30) as claim, store.webhooks.claimed(APP, PLACE, lease=30) as other:
            first = await mine(claim).next(6)
            assert first is not None
            shown = [(event.push_id, event.device_id) for _, event in first.events if isinstance(event, DeviceEvent)]
            assert shown == [("p0", name) for name in names[:6]]
            assert first.id == batch_id(APP, first.events[-1][0], "event")
            assert await mine(claim).delivered(first)
            await report(*pushes[1:])
            kept = (await store.reported.events(APP, after="", limit=1000)).events
            assert 100 <= len(kept) < 200
            rest = await mine(claim).next(1000)
            assert rest is not None
            assert list(rest.events) == kept
            assert kept[0][1].push_id != "p0"
            assert kept[-1][1].push_id == "p39"
            assert await mine(claim).give_up(rest, "http_400")
            assert await all_of(mine(other), 50) == [[0, 1, 2]]
        assert (await store.webhooks.standing(APP, PLACE)).cursor == feedback[-1]
        (dead,) = await events.dead(APP)
        assert (dead.id, await store.webhooks.dead(APP)) == (rest.id, [])
        assert await events.ask_again(APP, [dead]) == 1
        async with events.claimed(APP, PLACE, lease=30) as claim:
            again = await mine(claim).next(1000)
            assert again is not None
            assert (again.id, list(again.events)) == (rest.id, kept)


async def test_nothing_is_left_of_an_erased_user_among_events_of_devices(store: Store) -> None:
    for name in ("his", "hers"):
        await store.registry.put(APP, Device(id=name, platform="fcm", token=f"token of {name}", user=name))
    await store.pushes.accept(make_push("p"))
    reports = [EventReport("p", name, event) for name in ("his", "hers") for event in EVENTS]
    assert await store.live.report(APP, reports, log=True) == ["fcm"] * 8
    found = await eraser(store).erase(APP, "hers", wait=30.0)
    assert (found.done, found.removed["events"]) == (True, 4)
    left = (await store.reported.events(APP, after="", limit=10)).events
    assert [(event.device_id, event.event) for _, event in left] == [("his", event) for event in EVENTS]
