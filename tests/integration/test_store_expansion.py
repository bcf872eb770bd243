"""Pushes made from an audience, over every backend: each step once, counts that balance at each of them, one end."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from pushsvc.errors import Conflict
from pushsvc.model.codec import encode_audience, without_contents
from pushsvc.model.delivery import BadNotification, Ended, Retry, TokenDead, Unavailable
from pushsvc.model.devices import ByTopic, Device
from pushsvc.model.push import Platform, Push, Route, Target
from pushsvc.model.status import PushStatus
from pushsvc.ports.expansion import Expansion, FailingExpansion, Waiting
from pushsvc.ports.letters import DeadFilter, ReplaySpec
from pushsvc.store import StoreConfig
from pushsvc.store.pushes.expansions import LOOK

from .servers import Server
from .test_store_kit import AnyStore, World, all_of, make_push, moment, new_world, settlement, take, take_all

FAILED = Ended("failed", dead_letter=True)
BAD = BadNotification(status=400, reason="BadTopic")
LEASE = 60_000
CONFIG = StoreConfig(chunk_size=500)


def to_topic(push_id: str, *, send_at: int | None = None) -> Push:
    """Return a push to the subscribers of the news."""
    push = make_push(push_id, 0, platforms=("apns", "fcm"), send_at=send_at)
    return msgspec.structs.replace(push, targets={}, audience=encode_audience(ByTopic("news")))


async def register(store: AnyStore, count: int) -> None:
    """Register the devices of such targets: a replay looks them up."""
    devices = [Device(id=f"d-{n}", platform="apns", token=f"t-{n}", topics=("news",)) for n in range(count)]
    await store.registry.put_many("shop", devices)


def page(first: int, count: int, platform: Platform = "apns") -> dict[Platform, list[Target]]:
    return {platform: [Target(index, f"t-{index}", f"d-{index}") for index in range(first, first + count)]}


async def begun(store: AnyStore, push: Push) -> Expansion:
    await store.pushes.accept(push)
    at = await store.expansions.load("shop", push.id)
    assert at is not None
    return at


async def step(store: AnyStore, at: Expansion, count: int, cursor: str | None = "more") -> Expansion:
    """So many more for APNs."""
    further = await store.expansions.advance(at, page(at.total, count), cursor=cursor, lease=LEASE)
    assert further is not None
    return further


async def standing(store: AnyStore, push_id: str = "p") -> tuple[str, dict[str, int]]:
    """The state, and the counts that are not 0, after seeing that the sum holds."""
    status: PushStatus | None = await store.pushes.status("shop", push_id)
    assert status is not None
    found = msgspec.structs.asdict(status.counts)
    assert found["total"] == sum(found.values()) - found["total"]
    return status.state, {name: count for name, count in found.items() if count}


async def settle_all(store: AnyStore) -> list[int]:
    """Send whatever is in the lane; the indexes of it."""
    found = []
    for taken in await take_all(store):
        found += [target.index for target in taken.chunk.targets]
        await store.queue.settle("shop", *all_of(taken))
    return found


async def test_a_push_grows_page_by_page_while_it_is_sent(world: World) -> None:
    store = await world.store()
    at = await begun(store, to_topic("p"))
    assert at.push == without_contents(to_topic("p"))
    assert (at.step, at.cursor, at.total) == (0, "", 0)
    assert await standing(store) == ("expanding", {})
    at = await store.expansions.advance(  # type: ignore[assignment]  # it is compared at once
        at, {**page(0, 3), **page(3, 2, "fcm")}, cursor="5", lease=LEASE
    )
    assert (at.step, at.cursor, at.total) == (1, "5", 5)
    assert await store.expansions.load("shop", "p") == at
    (taken,) = await take(store)
    assert taken.chunk.total == 0
    assert taken.chunk.targets == tuple(page(0, 3)["apns"])
    assert len(await store.queue.settle("shop", *all_of(taken))) == 3
    assert await standing(store) == ("expanding", {"total": 5, "sent": 3, "queued": 2})
    (other,) = await take(store, route=Route("shop", "fcm"))
    assert [target.index for target in other.chunk.targets] == [3, 4]
    await store.queue.settle("shop", *all_of(other))
    # All that there is has ended, and there may be more of it.
    assert await standing(store) == ("expanding", {"total": 5, "sent": 5})
    at = await step(store, at, 1, None)
    assert await standing(store) == ("sending", {"total": 6, "sent": 5, "queued": 1})
    assert await settle_all(store) == [5]
    assert await standing(store) == ("done", {"total": 6, "sent": 6})
    assert await store.expansions.load("shop", "p") is None


async def test_a_step_from_where_nobody_stands_any_more_changes_nothing(world: World) -> None:
    stores = [await world.store("a"), await world.store("b")]
    at = await begun(stores[0], to_topic("p"))
    ends = await asyncio.gather(
        *(stores[n % 2].expansions.advance(at, page(0, 3), cursor="x", lease=LEASE) for n in range(10))
    )
    assert sum(1 for end in ends if end is not None) == 1
    assert await standing(stores[0]) == ("expanding", {"total": 3, "queued": 3})
    (first,) = [end for end in ends if end is not None]
    await step(stores[1], first, 2, None)
    for late in (at, first):
        assert await stores[0].expansions.advance(late, page(0, 3), cursor=None, lease=LEASE) is None
    assert sorted(await settle_all(stores[0])) == [0, 1, 2, 3, 4]
    assert await standing(stores[0]) == ("done", {"total": 5, "sent": 5})


async def test_an_audience_of_nobody_is_done(world: World) -> None:
    store = await world.store()
    at = await begun(store, to_topic("p"))
    at = await step(store, at, 0)  # an empty page is not the last one
    assert await standing(store) == ("expanding", {})
    await step(store, at, 0, None)
    assert await standing(store) == ("done", {})
    with pytest.raises(Conflict):
        await store.pushes.cancel("shop", "p")


async def test_the_last_page_may_be_empty_and_all_have_ended_before(world: World) -> None:
    store = await world.store()
    at = await step(store, await begun(store, to_topic("p")), 2)
    await settle_all(store)
    await step(store, at, 0, None)
    assert await standing(store) == ("done", {"total": 2, "sent": 2})


async def test_a_cancelled_push_stops_where_it_is(world: World) -> None:
    store = await world.store()
    at = await step(store, await begun(store, to_topic("p")), 4)
    (taken,) = await take(store)
    first = [settlement(taken.chunk, 0)]
    await store.queue.settle("shop", first, [])
    assert await store.pushes.cancel("shop", "p") is not None
    assert await standing(store) == ("cancelled", {"total": 4, "sent": 1, "cancelled": 3})
    assert await store.expansions.load("shop", "p") is None
    assert await store.expansions.advance(at, page(4, 3), cursor=None, lease=LEASE) is None
    assert await store.expansions.due(["shop"]) == []
    rest = [settlement(taken.chunk, index, Ended("cancelled"), None) for index in (1, 2, 3)]
    assert len(await store.queue.settle("shop", rest, [taken.ref])) == 3
    assert await standing(store) == ("cancelled", {"total": 4, "sent": 1, "cancelled": 3})
    assert await store.pushes.cancel("shop", "p") is not None


async def test_cancelled_before_its_first_step_it_has_nobody(world: World) -> None:
    store = await world.store()
    at = await begun(store, to_topic("p"))
    await store.pushes.cancel("shop", "p")
    assert await store.expansions.advance(at, page(0, 3), cursor="x", lease=LEASE) is None
    assert await standing(store) == ("cancelled", {})
    assert await take(store) == []


async def test_retries_dead_letters_and_receipts_are_as_of_any_push(world: World) -> None:
    store = await world.store()
    await register(store, 5)
    at = await step(store, await begun(store, to_topic("p")), 4)
    (taken,) = await take(store)
    chunk = taken.chunk
    gone = TokenDead(status=410, reason="Unregistered")
    ended = [
        settlement(chunk, 0, Retry(moment() + 10, 2), Unavailable(status=503)),
        settlement(chunk, 1, FAILED, BAD),
        settlement(chunk, 2, Ended("invalid"), gone),
        settlement(chunk, 3),
    ]
    assert len(await store.queue.settle("shop", ended, [taken.ref])) == 4
    assert len(await store.queue.settle("shop", ended, [taken.ref])) == 0
    whole = {"total": 4, "retrying": 1, "failed": 1, "invalid": 1, "sent": 1}
    assert await standing(store) == ("expanding", whole)
    (row,), _ = await store.dead.page("shop", DeadFilter(), cursor="", limit=10)
    assert (row.push_id, row.device_id) == ("p", "d-1")
    ((_, receipt),) = await store.receipts.take("shop", limit=10, wait_ms=0)
    assert (receipt.device_id, receipt.token) == ("d-2", "t-2")

    # The dead letter goes again, while more are being found.
    job = (await store.dead.request(ReplaySpec("shop"))).job
    assert (await store.dead.step("shop", job, most=10)).moved == 1
    assert await standing(store) == ("expanding", {"total": 4, "retrying": 2, "invalid": 1, "sent": 1})
    await step(store, at, 1, None)
    assert await store.queue.promote(Route("shop", "apns"), moment() + 60_000) == 1
    assert sorted(await settle_all(store)) == [0, 1, 4]
    assert await standing(store) == ("done", {"total": 5, "invalid": 1, "sent": 4})


async def test_a_replay_of_a_push_that_is_done_opens_it_again(world: World) -> None:
    store = await world.store()
    await register(store, 2)
    await step(store, await begun(store, to_topic("p")), 2, None)
    (taken,) = await take(store)
    await store.queue.settle("shop", [settlement(taken.chunk, n, FAILED, BAD) for n in (0, 1)], [taken.ref])
    assert await standing(store) == ("done", {"total": 2, "failed": 2})
    job = (await store.dead.request(ReplaySpec("shop"))).job
    assert (await store.dead.step("shop", job, most=10)).moved == 2
    assert await standing(store) == ("sending", {"total": 2, "retrying": 2})
    await settle_all(store)
    assert await standing(store) == ("done", {"total": 2, "sent": 2})


async def test_rows_of_up_to_a_thousand_are_all_there_and_of_more_only_those_not_sent(server: Server | None) -> None:
    async with new_world(server, CONFIG) as world:
        store = await world.store()
        at = await step(store, await begun(store, to_topic("p")), 1000)
        for taken in await take_all(store):
            ends = [
                settlement(taken.chunk, target.index, *((FAILED, BAD) if target.index % 100 == 7 else ()))
                for target in taken.chunk.targets
            ]
            await store.queue.settle("shop", ends, [taken.ref])

        async def rows(outcome: str | None = None) -> list[str]:
            found, cursor = [], ""
            while True:
                page = await store.pushes.deliveries(
                    "shop", "p", outcome=outcome, cursor=cursor, limit=300  # type: ignore[arg-type]  # literals
                )  # fmt: skip
                assert page is not None
                found += [str(row.device_id) for row in page[0]]
                if page[1] is None:
                    return found
                cursor = page[1]

        failed = [f"d-{index}" for index in range(7, 1000, 100)]
        assert await rows() == [f"d-{index}" for index in range(1000)]
        assert await rows("failed") == failed
        at = await step(store, at, 1, None)
        assert await rows() == failed
        await settle_all(store)
        assert await standing(store) == ("done", {"total": 1001, "sent": 991, "failed": 10})
        assert await rows() == failed
        assert await rows("sent") == []


async def test_chunks_of_a_dead_consumer_are_resumed_at_what_is_open(world: World) -> None:
    one = await world.store("a")
    await step(one, await begun(one, to_topic("p")), 4, None)
    (taken,) = await take(one)
    await one.queue.settle("shop", [settlement(taken.chunk, index) for index in (0, 2)], [])
    await world.kill("a")
    two = await world.store("b")
    (resumed,) = await two.queue.reclaim(Route("shop", "apns"))
    assert [target.index for target in resumed.chunk.targets] == [1, 3]
    await two.queue.settle("shop", *all_of(resumed))
    assert await standing(two) == ("done", {"total": 4, "sent": 4})


async def test_who_works_on_it_keeps_it_from_others(world: World) -> None:
    store = await world.store()
    at = await begun(store, to_topic("p"))
    await store.pushes.accept(msgspec.structs.replace(to_topic("q"), app="other"))
    p = Waiting("shop", "p", "normal", moment())
    assert await store.expansions.due(["shop", "nobody"]) == [p]
    found = await store.expansions.due(["shop", "other"])
    assert sorted(each.push_id for each in found) == ["p", "q"]
    assert await store.expansions.take_up(p, lease=LEASE)
    assert not await store.expansions.take_up(p, lease=LEASE)
    assert await store.expansions.due(["shop"]) == []
    await store.expansions.release(at)
    assert await store.expansions.due(["shop"]) == [p]
    at = await step(store, at, 1)
    assert await store.expansions.due(["shop"]) == []
    await store.expansions.release(at)
    assert await store.expansions.failing(["shop"]) == []
    before = int(time.time() * 1000)
    waits = [await store.expansions.put_off(p, why) for why in ("KeyError", "OSError", "TypeError")]
    assert waits == [5_000, 10_000, 20_000]
    assert await store.expansions.due(["shop"]) == []
    (failing,) = await store.expansions.failing(["shop"])
    assert failing == FailingExpansion("shop", "p", "TypeError", failing.since)
    assert before - 1000 <= failing.since <= int(time.time() * 1000) + 1000  # the store's clock
    assert await store.expansions.failing(["other"]) == []
    await store.expansions.release(at)
    at = await step(store, at, 1)
    assert await store.expansions.failing(["shop"]) == [], "it goes on"
    assert await store.expansions.put_off(p, "KeyError") == 5_000
    assert len(await store.expansions.failing(["shop"])) == 1
    await store.expansions.release(at)
    await step(store, at, 1, None)
    assert await store.expansions.failing(["shop"]) == []
    assert await store.expansions.due(["shop"]) == []
    await store.expansions.release(at)
    assert not await store.expansions.take_up(p, lease=LEASE)
    assert await store.expansions.due(["shop"]) == []


async def test_what_has_not_expired_hides_nothing_that_has(world: World) -> None:
    """In the order in which they are due, the expired push is behind more than are read at once."""
    store = await world.store()
    now = moment()
    for number in range(LOOK + 10):
        await store.pushes.accept(msgspec.structs.replace(to_topic(f"p{number}"), created_at=now - 1000))
    assert await store.expansions.lapsed(["shop"]) == []
    await store.pushes.accept(msgspec.structs.replace(to_topic("expired"), created_at=now - 10, expires_at=now - 1))
    for _ in range(2):
        (which,) = await store.expansions.lapsed(["shop", "news"])
        assert (which.app, which.push_id) == ("shop", "expired")


async def test_a_scheduled_push_is_looked_up_when_it_is_due(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(to_topic("p", send_at=moment() + 3_600_000))
    await store.pushes.accept(to_topic("q", send_at=moment() - 1))
    assert [each.push_id for each in await store.expansions.due(["shop"])] == ["q"]
    assert await store.expansions.lapsed(["shop"]) == []
    assert await standing(store) == ("scheduled", {})
    assert await store.queue.launch("shop", moment() + 7_200_000) == 0
    at = await store.expansions.load("shop", "q")
    assert at is not None
    await step(store, at, 1)
    assert await standing(store, "q") == ("expanding", {"total": 1, "queued": 1})
    await store.pushes.cancel("shop", "p")
    assert await standing(store) == ("cancelled", {})
    assert await store.expansions.load("shop", "p") is None


async def test_of_one_call_under_a_key_it_is_accepted_once(world: World) -> None:
    store = await world.store()
    assert await store.pushes.accept_once([to_topic("p"), make_push("q", 2)], key=b"key", record=b"r") is None
    assert await store.pushes.accept_once([to_topic("r")], key=b"key", record=b"s") == b"r"
    assert [each.push_id for each in await store.expansions.due(["shop"])] == ["p"]
    await store.pushes.accept(to_topic("p"))
    at = await store.expansions.load("shop", "p")
    assert at is not None
    at = await step(store, at, 3)
    await store.pushes.accept(to_topic("p"))
    assert await store.expansions.load("shop", "p") == at
    assert await standing(store) == ("expanding", {"total": 3, "queued": 3})
    assert await standing(store, "q") == ("sending", {"total": 2, "queued": 2})


async def test_pending_is_what_has_been_made_and_not_ended(world: World) -> None:
    store = await world.store()
    at = await step(store, await begun(store, to_topic("p")), 5)
    gauges = await store.gauges({"shop": ["apns"]})
    assert gauges.pending["normal"] == store.pushes.pending == 5
    await step(store, at, 5, None)
    await settle_all(store)
    gauges = await store.gauges({"shop": ["apns"]})
    assert gauges.pending["normal"] == store.pushes.pending == 0
