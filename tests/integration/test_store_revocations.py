"""What is taken back reaches every dispatcher that lives, and the answer says so: one suite over every backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from pushsvc.errors import StoreUnavailable
from pushsvc.model.delivery import Ended, Retry, Unavailable
from pushsvc.model.status import PushStatus
from pushsvc.ports.entries import News, Revoked, token_mark
from pushsvc.store import Store, StoreConfig, keys, open_store
from pushsvc.store.revoke import revocations
from pushsvc.store.revoke.revocations import PATIENCE, entry_order

from ..timers import EARLY
from .servers import Server, running_server
from .test_failover import CuttingProxy
from .test_registry import device
from .test_store_kit import ROUTE, AnyStore, World, backend_server, make_push, moment, new_world, settlement, take

CANCELLED = Ended("cancelled")


@pytest.fixture(scope="module")
def real() -> Iterator[Server]:
    with backend_server("valkey") as found:
        assert found is not None
        yield found


def counts(status: PushStatus | None) -> tuple[str, dict[str, int]]:
    """State, and what is not 0."""
    assert status is not None
    found = msgspec.structs.asdict(status.counts)
    assert found["total"] == sum(count for name, count in found.items() if name != "total")
    return status.state, {name: count for name, count in found.items() if count and name != "total"}


async def hear(store: AnyStore) -> News:
    """The next revocations."""
    while not (news := await store.queue.revoked({"shop"}, 1000)):
        pass
    (only,) = news
    return only


async def test_a_cancel_waits_for_every_dispatcher_and_returns_what_is_in_flight(world: World) -> None:
    caller, first, second = [await world.store(name) for name in ("caller", "first", "second")]
    await caller.pushes.accept(make_push("p", 40))
    await caller.pushes.accept(make_push("q", 1))
    for store in (first, second):
        await store.queue.enrol("shop")
    taken = {each.chunk.push_id: each for each in await take(first)}
    cancelling = asyncio.create_task(caller.pushes.cancel("shop", "p"))
    news = await hear(first)
    assert news.revoked == Revoked(pushes=frozenset({"p"}))
    assert counts(await second.pushes.status("shop", "p")) == ("sending", {"queued": 40})
    await first.queue.acknowledge(news, {"p": 12})
    await second.queue.acknowledge(await hear(second), {})
    assert counts(await cancelling) == ("sending", {"queued": 12, "cancelled": 28})
    # What is let go of ends, and what was in flight ends as its provider says; no count goes back.
    chunk = taken["p"].chunk
    await first.queue.settle("shop", [settlement(chunk, n, CANCELLED, None) for n in range(12, 40)], [])
    assert counts(await second.pushes.status("shop", "p")) == ("sending", {"queued": 12, "cancelled": 28})
    await first.queue.settle("shop", [settlement(chunk, n) for n in range(9)], [])
    assert counts(await second.pushes.status("shop", "p")) == ("sending", {"queued": 3, "sent": 9, "cancelled": 28})
    busy = Unavailable(status=503)
    await first.queue.settle("shop", [settlement(chunk, 9, Retry(moment() + 9000, 2), busy)], [])
    assert counts(await second.pushes.status("shop", "p")) == ("sending", {"queued": 2, "sent": 9, "cancelled": 29})
    last = [settlement(chunk, 10, CANCELLED, busy), settlement(chunk, 11)]
    await first.queue.settle("shop", last, [taken["p"].ref])
    assert counts(await second.pushes.status("shop", "p")) == ("cancelled", {"sent": 10, "cancelled": 30})
    assert counts(await second.pushes.status("shop", "q")) == ("sending", {"queued": 1})
    # The one that waited for a retry ends when it is taken.
    await first.queue.promote(ROUTE, moment() + 10_000)
    (again,) = await take(second)
    assert again.skip == {9: "cancelled"}
    assert counts(await caller.pushes.cancel("shop", "p")) == ("cancelled", {"sent": 10, "cancelled": 30})


@pytest.mark.parametrize("name", ["silent", "fresh"])
async def test_one_that_has_just_begun_is_waited_for_also_after_another_in_vain(
    real: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not said anything yet, and the other one never will: also where it has the name of the other one."""
    monkeypatch.setattr(revocations, "PATIENCE", 0.3)
    async with new_world(real) as world:
        loop = asyncio.get_running_loop()
        caller, silent = await world.store("caller"), await world.store("silent")
        await silent.queue.enrol("shop")
        await caller.pushes.accept(make_push("p", 1))
        await caller.pushes.accept(make_push("q", 1))
        assert counts(await caller.pushes.cancel("shop", "p")) == ("sending", {"queued": 1})
        fresh = await world.store(name)
        await fresh.queue.enrol("shop")
        began = loop.time()
        assert counts(await caller.pushes.cancel("shop", "q")) == ("sending", {"queued": 1})
        assert loop.time() - began >= 0.3 - EARLY


async def test_a_dispatcher_that_says_nothing_leaves_the_counts_as_they_stand(world: World) -> None:
    caller, deaf = await world.store("caller"), await world.store("deaf")
    await deaf.queue.enrol("shop")
    await caller.pushes.accept(make_push("p", 3))
    (taken,) = await take(deaf)
    began = asyncio.get_running_loop().time()
    assert counts(await caller.pushes.cancel("shop", "p")) == ("sending", {"queued": 3})
    assert PATIENCE - EARLY <= asyncio.get_running_loop().time() - began < PATIENCE + 2
    await deaf.queue.settle("shop", [settlement(taken.chunk, 0), settlement(taken.chunk, 1, CANCELLED, None)], [])
    assert counts(await caller.pushes.status("shop", "p")) == ("sending", {"queued": 1, "sent": 1, "cancelled": 1})
    if world.real:
        # It is not waited for again, until it says something; then it is.
        began = asyncio.get_running_loop().time()
        assert counts(await caller.pushes.cancel("shop", "p"))[0] == "sending"
        await caller.pushes.accept(make_push("q", 2))
        assert counts(await caller.pushes.cancel("shop", "q")) == ("sending", {"queued": 2})
        assert asyncio.get_running_loop().time() - began < PATIENCE
        await deaf.queue.acknowledge(await hear(deaf), {})
        await until_confirmed(caller, "q")
        await caller.pushes.accept(make_push("r", 2))
        cancelling = asyncio.create_task(caller.pushes.cancel("shop", "r"))
        await deaf.queue.acknowledge(await hear(deaf), {})
        assert counts(await cancelling) == ("cancelled", {"cancelled": 2})
    # One that has gone is not waited for.
    await deaf.queue.retire()
    assert counts(await caller.pushes.cancel("shop", "p")) == ("cancelled", {"sent": 1, "cancelled": 2})


async def until_confirmed(store: AnyStore, push_id: str) -> None:
    """Wait until the cancel of a push is confirmed by itself, after nobody waits for it any more."""
    async with asyncio.timeout(10):
        while counts(await store.pushes.status("shop", push_id))[0] != "cancelled":
            await asyncio.sleep(0.02)


async def test_who_suppresses_a_token_announces_it(world: World) -> None:
    store = await world.store()
    await store.queue.enrol("shop")
    await store.suppressions.add("shop", [("apns", "a", moment()), ("apns", "b", moment())])
    news = await hear(store)
    assert news.revoked == Revoked(tokens=frozenset({token_mark("a"), token_mark("b")}))
    assert await store.queue.revoked({"shop"}, 1) == []


async def test_many_cancels_at_once_are_heard_in_few_messages(real: Server) -> None:
    async with new_world(real) as world:
        caller, store = await world.store("caller"), await world.store("dispatcher")
        await store.queue.enrol("shop")
        names = [f"p{number}" for number in range(500)]
        await asyncio.gather(*(caller.pushes.accept(make_push(name)) for name in names))
        heard: list[News] = []

        async def follow() -> None:
            while sum(len(news.revoked.pushes) for news in heard) < len(names):
                for news in await store.queue.revoked({"shop"}, 1000):
                    heard.append(news)
                    await store.queue.acknowledge(news, {})

        following = asyncio.create_task(follow())
        await asyncio.gather(*(caller.pushes.cancel("shop", name) for name in names))
        await following
        # On a machine that is busy some callers have had their answer before; all are confirmed.
        while {counts(each)[0] for each in await caller.pushes.statuses([("shop", name) for name in names])} != {
            "cancelled"
        }:
            await asyncio.sleep(0.01)
        assert len(heard) < len(names) / 4


async def test_one_that_died_is_struck_off_and_one_that_lives_is_not(real: Server) -> None:
    async with new_world(real, StoreConfig(alive_ttl=0.3)) as world:
        store, dead = await world.store("living"), await world.store("dead")
        assert isinstance(store, Store)
        for each in (store, dead):
            await each.queue.enrol("shop")
            await each.queue.beat()
        await world.kill("dead")
        key = keys.heard("shop", 0)
        while await store.link.call("HEXISTS", key, "dead"):
            await store.queue.beat()
            await store.queue.revoked({"shop"}, 20)
        assert await store.link.call("HKEYS", key) == [b"living"]
        # Who was thought gone is heard of again.
        await store.link.call("DEL", key)
        while not await store.link.call("HEXISTS", key, "living"):
            await store.queue.revoked({"shop"}, 20)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
async def test_counts_only_grow_whatever_happens_after_a_cancel(real: Server, data: st.DataObject) -> None:
    """Two dispatchers hold parts of a push; a cancel comes, and each lets go and settles in any order."""

    size = data.draw(st.sampled_from([6, 60]))
    async with new_world(real, StoreConfig(chunk_size=size // 2)) as world:
        caller = await world.store("caller")
        stores = [await world.store(name) for name in ("a", "b")]
        await caller.pushes.accept(make_push("p", size))
        held = []
        for store in stores:
            await store.queue.enrol("shop")
            held.append((await take(store, targets=1))[0])
        flying = [[t.index for t in each.chunk.targets if data.draw(st.booleans())] for each in held]
        before = dict.fromkeys(("sent", "cancelled"), 0)

        async def look() -> None:
            status = await caller.pushes.status("shop", "p")
            _, reported = counts(status)
            for end in before:
                assert reported.get(end, 0) >= before[end], (reported, before)
                before[end] = reported.get(end, 0)

        async def settle_some(who: int, *, in_flight: bool) -> None:
            chunk = held[who].chunk
            own = flying[who] if in_flight else [t.index for t in chunk.targets if t.index not in flying[who]]
            count = data.draw(st.integers(0, len(own)))
            some = own[:count]
            busy = Unavailable(status=503)
            kinds = (
                [settlement(chunk, n) if n % 3 else settlement(chunk, n, CANCELLED, busy) for n in some]
                if in_flight
                else [settlement(chunk, n, CANCELLED, None) for n in some]
            )
            await stores[who].queue.settle("shop", kinds, [])
            if in_flight:
                flying[who] = own[count:]
            await look()

        await settle_some(data.draw(st.sampled_from([0, 1])), in_flight=True)
        cancelling = asyncio.create_task(caller.pushes.cancel("shop", "p"))
        news = [await hear(store) for store in stores]
        for who in data.draw(st.permutations([0, 1])):
            if data.draw(st.booleans()):
                await settle_some(who, in_flight=True)
            await stores[who].queue.acknowledge(news[who], {"p": len(flying[who])})
            await look()
            await settle_some(who, in_flight=data.draw(st.booleans()))
        await cancelling
        await look()
        left = sum(len(each) for each in flying)
        _, reported = counts(await caller.pushes.status("shop", "p"))
        assert reported.get("queued", 0) == left
        for who in data.draw(st.permutations([0, 0, 1, 1])):
            await settle_some(who, in_flight=data.draw(st.booleans()))
        for who in (0, 1):
            chunk = held[who].chunk
            rest = [settlement(chunk, n) for n in flying[who]]
            rest += [settlement(chunk, t.index, CANCELLED, None) for t in chunk.targets if t.index not in flying[who]]
            await stores[who].queue.settle("shop", rest, [held[who].ref])
            await look()
        assert counts(await caller.pushes.status("shop", "p"))[0] == "cancelled"


def test_places_are_in_order() -> None:
    assert entry_order(b"5-10") > entry_order("5-9") > entry_order("4-99") > entry_order("0-0")


class Failover:
    """Another primary has what the old one had at a moment before it went, and its clock may be behind."""

    def __init__(self, store: Store) -> None:
        self._link = store.link
        self._keys = [keys.heard("shop", 0), keys.revoked("shop", 0)]

    async def replicate(self) -> None:
        self._had = [await self._link.call("DUMP", key) for key in self._keys]

    async def switch(self) -> None:
        self._link.drop()
        # In one step each, because a caller that waits sees no dispatcher where the key is missing.
        for key, value in zip(self._keys, self._had, strict=True):
            await self._link.call(*(("DEL", key) if value is None else ("RESTORE", key, 0, value, "REPLACE")))


async def test_a_revocation_of_a_new_primary_whose_clock_is_behind_is_read(real: Server) -> None:
    """The old one had later ids, in what the new one did not receive."""
    async with new_world(real) as world:
        caller, store = await world.store("caller"), await world.store("dispatcher")
        assert isinstance(store, Store)
        failover = Failover(store)
        await store.queue.enrol("shop")
        await failover.replicate()
        await store.link.call("XADD", keys.revoked("shop", 0), f"{moment() + 3_600_000}-0", "p", "lost")
        lost = await hear(store)
        await failover.switch()
        await store.queue.acknowledge(lost, {})
        await caller.pushes.accept(make_push("p", 3))
        cancelling = asyncio.create_task(caller.pushes.cancel("shop", "p"))
        news = await hear(store)
        assert news.revoked == Revoked(pushes=frozenset({"p"}))
        assert counts(await caller.pushes.status("shop", "p")) == ("sending", {"queued": 3})
        await store.queue.acknowledge(news, {"p": 1})
        assert counts(await cancelling) == ("sending", {"queued": 1, "cancelled": 2})


async def test_what_another_primary_does_not_know_to_be_acknowledged_is_read_again_and_nothing_else(
    real: Server,
) -> None:
    """Twice acknowledged, what is in flight would count twice. Not acknowledged, the second would wait forever."""
    async with new_world(real, StoreConfig(shards=1)) as world:
        caller, store = await world.store("caller"), await world.store("dispatcher")
        assert isinstance(store, Store)
        failover = Failover(store)
        await store.queue.enrol("shop")
        for name in ("first", "second"):
            await caller.pushes.accept(make_push(name, 3))
        cancelling = [asyncio.create_task(caller.pushes.cancel("shop", "first"))]
        await store.queue.acknowledge(await hear(store), {"first": 1})
        assert counts(await cancelling.pop()) == ("sending", {"queued": 1, "cancelled": 2})
        cancelling = [asyncio.create_task(caller.pushes.cancel("shop", "second"))]
        news = await hear(store)
        await failover.replicate()
        await failover.switch()
        await store.queue.acknowledge(news, {"second": 1})
        again = await hear(store)
        assert again.revoked == Revoked(pushes=frozenset({"second"}))
        await store.queue.acknowledge(again, {"second": 1})
        assert counts(await cancelling.pop()) == ("sending", {"queued": 1, "cancelled": 2})
        assert counts(await caller.pushes.status("shop", "first")) == ("sending", {"queued": 1, "cancelled": 2})


async def test_a_dispatcher_unknown_to_another_primary_is_enrolled_there_before_it_takes_anything(real: Server) -> None:
    async with new_world(real) as world:
        caller, store = await world.store("caller"), await world.store("dispatcher")
        assert isinstance(store, Store)
        failover = Failover(store)
        await failover.replicate()
        await store.queue.enrol("shop")
        await failover.switch()
        await store.queue.enrol("shop")
        await caller.pushes.accept(make_push("p"))
        await take(store)
        cancelling = asyncio.create_task(caller.pushes.cancel("shop", "p"))
        news = await hear(store)
        assert counts(await caller.pushes.status("shop", "p")) == ("sending", {"queued": 1})
        await store.queue.acknowledge(news, {})
        assert counts(await cancelling) == ("cancelled", {"cancelled": 1})


async def hears_of_another_user(store: Store, change: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Check that a dispatcher learns of a phone that another user has registered, though the caller does not learn that
    this has taken place."""
    phone = device("phone", user="ann")
    await store.registry.put("shop", phone)
    await store.queue.enrol("shop")
    changing = asyncio.create_task(change())
    news = await hear(store)
    assert news.revoked == Revoked(tokens=frozenset({token_mark(phone.token)}))
    await store.queue.acknowledge(news, {})
    await asyncio.wait([changing])
    assert (await store.registry.of_user("shop", "bob"))[0].id == "phone"
    await store.registry.put("shop", device("phone", user="bob"))
    assert await store.queue.revoked({"shop"}, 1) == []


async def test_a_change_of_a_device_whose_answer_is_lost_is_heard() -> None:
    with running_server(tcp=True) as server:
        proxy = CuttingProxy(server.port)
        async with proxy.running():
            url = f"redis://127.0.0.1:{proxy.port}/0"
            async with asyncio.timeout(30), open_store(url, StoreConfig(consumer="a")) as store:

                async def change() -> None:
                    proxy.lose_the_answer_to("registry_apply")
                    await store.registry.put("shop", device("phone", user="bob"))

                await hears_of_another_user(store, change)
                assert proxy.cut == 1


async def test_a_change_of_a_device_that_replicas_do_not_confirm_is_heard(
    real: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_world(real) as world:
        store = await world.store()
        assert isinstance(store, Store)
        run = store.link.script

        async def unconfirmed(name: str, *call: Any) -> Any:
            answer = await run(name, *call)
            if name == "registry_apply":
                monkeypatch.undo()
                raise StoreUnavailable("0 of 1 replicas of Redis have it")
            return answer

        async def change() -> None:
            monkeypatch.setattr(store.link, "script", unconfirmed)
            with pytest.raises(StoreUnavailable):
                await store.registry.put("shop", device("phone", user="bob"))

        await hears_of_another_user(store, change)
