"""The registry over real servers: what the port promises, in memory, on Valkey and on Redis alike."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from pushsvc.model.delivery import Ended, TokenDead
from pushsvc.model.devices import ByDevices, ByTopic, ByUsers, Device, ToAll
from pushsvc.model.status import FeedbackEvent
from pushsvc.ports.registry import (
    MOST_OF_USER,
    MOST_TOPICS,
    Holding,
    Prune,
    PrunedFilter,
    Registry,
    Strike,
    TopicsFull,
    UserFull,
)
from pushsvc.store import Store, StoreConfig

from .registry_audit import audit
from .servers import Server, running_server
from .test_store_kit import AnyStore, World, backend_server, make_push, moment, new_world, settlement, take


def device(name: str, **fields: Any) -> Device:
    """A device whose token is its own."""
    known: dict[str, Any] = {
        "platform": "apns",
        "token": name.encode().hex().ljust(64, "0"),
        "registered_at": moment(),
        "last_seen_at": moment(),
    }
    return Device(id=name, **{**known, **fields})


async def owner(registry: Registry, token: str) -> Device | None:
    """Return the device that has a token of APNs."""
    return (await registry.holders("shop", [Holding(None, "apns", token)]))[0]


async def remove_user(registry: Registry, user: str) -> list[Device]:
    """Remove a user's devices as an erasure does, and return them."""
    ids = [each.id for each in await registry.of_user("shop", user)]
    return [before for before, _ in await registry.revise("shop", ids, lambda device: None)]


async def everyone(registry: Registry, audience: Any, limit: int = 1000) -> list[str]:
    """The ids of an audience, page by page."""
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await registry.members("shop", audience, after=after, limit=limit)
        found += [each.id for each in page.devices]
        after = page.cursor
    return found


async def test_a_device_is_registered_read_and_removed(world: World) -> None:
    registry = (await world.store()).registry
    phone = device(
        "phone",
        user="u1",
        tags={"plan": "pro", "beta": True, "age": 41, "score": 1.5, "likes": ("a", "b")},
        locale="de-AT",
        timezone="Europe/Vienna",
        app_version="3.2.0",
        environment="sandbox",
    )
    assert await registry.get("shop", "phone") is None
    assert await registry.put("shop", phone) == (phone, True)
    assert await registry.get("shop", "phone") == phone
    wanted = [
        Holding("phone", "apns", "any"),
        Holding(None, "apns", phone.token),
        Holding("nobody", "apns", phone.token),
        Holding(None, "fcm", phone.token),
    ]
    assert await registry.holders("shop", wanted) == [phone, phone, None, None]
    assert await registry.of_user("shop", "u1") == [phone]
    assert await registry.get("other", "phone") is None
    later = replace(phone, user="u2", tags={}, registered_at=moment() + 5, last_seen_at=moment() + 7)
    assert await registry.put("shop", later) == (later, False)
    assert await registry.of_user("shop", "u1") == []
    assert await registry.of_user("shop", "u2") == [later]
    assert await registry.count("shop") == 1
    assert await registry.remove("shop", "phone")
    assert not await registry.remove("shop", "phone")
    assert await registry.get("shop", "phone") is None
    assert await owner(registry, phone.token) is None
    assert await registry.of_user("shop", "u2") == []
    assert await registry.count("shop") == 0


async def test_a_token_belongs_to_one_device(world: World) -> None:
    registry = (await world.store()).registry
    old, new = device("old", user="u"), device("new", user="u", token=device("old").token)
    await registry.put("shop", old)
    await registry.subscribe("shop", "news", "old")
    assert await registry.put("shop", new) == (new, True)
    assert await registry.get("shop", "old") is None
    assert await registry.of_user("shop", "u") == [new]
    assert await owner(registry, old.token) == new
    assert await registry.topic_size("shop", "news") is None
    assert await registry.count("shop") == 1
    fresh = replace(new, token="ab" * 32)
    await registry.put("shop", fresh)
    assert await owner(registry, old.token) is None
    assert await owner(registry, fresh.token) == fresh


async def test_topics(world: World) -> None:
    registry = (await world.store()).registry
    for name in ("a", "b", "c"):
        await registry.put("shop", device(name))
    assert await registry.topic_size("shop", "news") is None
    assert not await registry.subscribe("shop", "news", "nobody")
    for name in ("c", "a", "a"):
        assert await registry.subscribe("shop", "news", name)
    assert await registry.topic_size("shop", "news") == 2
    assert await everyone(registry, ByTopic("news")) == ["a", "c"]
    assert await everyone(registry, ByTopic("news"), 1) == ["a", "c"]
    kept, _ = await registry.put("shop", device("a", locale="de"))
    assert kept.topics == ("news",)
    assert await registry.unsubscribe("shop", "news", "c")
    assert not await registry.unsubscribe("shop", "news", "c")
    assert not await registry.unsubscribe("shop", "news", "nobody")
    assert await registry.topic_size("shop", "news") == 1
    await registry.remove("shop", "a")
    assert await registry.topic_size("shop", "news") is None
    assert await everyone(registry, ByTopic("news")) == []


@pytest.mark.parametrize("audience", [ToAll(), ByTopic("all"), ByUsers(tuple(f"u{n}" for n in range(40)))])
async def test_who_comes_while_an_audience_is_read_is_not_in_it(audience: Any, world: World) -> None:
    """Each that stays is met once; one that is deleted and comes again has no second place; newcomers have none. Some
    users have more devices than a page."""
    registry = (await world.store()).registry
    many = [device(f"d{n}", user=f"u{n % 2 and n % 40}", topics=("all",)) for n in range(900)]
    await registry.put_many("shop", many)
    found: list[str] = []
    after: str | None = ""
    gone: set[str] = set()
    pages = 0
    while after is not None:
        page = await registry.members("shop", audience, after=after, limit=128)
        found += [each.id for each in page.devices]
        after = page.cursor
        pages += 1
        come_again = [each for each in many[pages * 7 :: 90] if each.id not in gone]
        for each in come_again:
            assert await registry.remove("shop", each.id)
        await registry.put_many("shop", [*come_again, device(f"new-{pages}", user="u39", topics=("all",))])
        gone |= {each.id for each in come_again}
    assert pages > 2
    assert len(found) == len(set(found))
    assert {each.id for each in many} - gone <= set(found) <= {each.id for each in many}


async def test_audiences(world: World) -> None:
    registry = (await world.store()).registry
    many = [device(f"d{n}", user=f"u{n % 100}", topics=("all", f"t{n % 3}")) for n in range(700)]
    assert await registry.put_many("shop", many) == [True] * 700
    assert await registry.put_many("shop", many[:3]) == [False] * 3
    names = [each.id for each in many]
    assert await everyone(registry, ToAll(), 200) == names
    assert await everyone(registry, ByTopic("all"), 90) == names
    assert await everyone(registry, ByTopic("t1"), 90) == names[1::3]
    assert await registry.topic_size("shop", "all") == 700
    assert await everyone(registry, ByDevices(("d5", "nobody", "d5", "d1")), 1) == ["d5", "d1"]
    assert sorted(await everyone(registry, ByUsers(("u7", "u8", "nobody", "u7")), 2)) == sorted(
        [*names[7::100], *names[8::100]]
    )
    assert len(await remove_user(registry, "u7")) == 7
    assert await registry.count("shop") == 693
    assert len(await everyone(registry, ToAll())) == 693


async def test_tombstones(world: World) -> None:
    registry = (await world.store()).registry
    await registry.put_many("shop", [device(f"d{n}", user="u", topics=("news",)) for n in range(6)])
    prunes = [
        Prune("d0", device("d0").token, moment(), "Unregistered", moment() + 1),
        Prune("d1", device("d1").token, moment(), "stale", moment() + 2),
        Prune("d2", device("d3").token, moment(), "Unregistered", moment() + 3),
        Prune("d4", device("d4").token, moment() - 1, "Unregistered", moment() + 4),  # it was registered again
        Prune("nobody", "00", moment(), "Unregistered", moment() + 1),
    ]
    assert await registry.prune("shop", prunes) == [True, True, False, False, False]
    assert await registry.prune("shop", prunes) == [False] * 5
    assert (await registry.count("shop"), await registry.topic_size("shop", "news")) == (4, 4)
    for audience in (ToAll(), ByTopic("news"), ByUsers(("u",)), ByDevices(tuple(f"d{n}" for n in range(6)))):
        assert await everyone(registry, audience) == ["d2", "d3", "d4", "d5"]
    gone = await registry.get("shop", "d1")
    assert gone is not None
    assert (gone.state, gone.pruned_at, gone.pruned_for) == ("pruned", moment() + 2, "stale")
    assert len((await registry.scan("shop", after="", limit=100)).devices) == 6
    assert await registry.pruned("shop", PrunedFilter()) == 2
    assert await registry.pruned("shop", PrunedFilter("apns", "stale", moment() + 2, moment() + 3)) == 1
    assert await registry.restore("shop", PrunedFilter(reason="stale", since=moment() + 3), limit=10) == 0
    assert await registry.restore("shop", PrunedFilter(reason="stale"), limit=10) == 1
    assert (await registry.count("shop"), await registry.topic_size("shop", "news")) == (5, 5)
    assert await registry.get("shop", "d1") == device("d1", user="u", topics=("news",))
    assert len(await registry.of_user("shop", "u")) == 6


async def test_strikes(world: World) -> None:
    registry = (await world.store()).registry
    await registry.put("shop", device("d"))
    token = device("d").token
    strikes = [
        Strike("d", token, moment(), moment() + 1, 1, after=0),
        Strike("d", token, moment(), moment() + 5, 1, after=0),  # another came first
        Strike("d", token, moment(), moment() + 9, 2, after=moment() + 1),
        Strike("d", "00", moment(), moment() + 10, 3, after=moment() + 9),
        Strike("nobody", "00", moment(), moment() + 9, 1, after=0),
        Strike("d", token, moment() - 1, moment() + 11, 3, after=moment() + 9),  # it was registered again
    ]
    assert await registry.strike("shop", strikes) == [True, False, True, False, False, False]
    assert await registry.strike("shop", strikes) == [False] * 6
    assert await registry.get("shop", "d") == device("d", strikes=2, struck_at=moment() + 9)
    await registry.put("shop", device("d"))
    assert await registry.get("shop", "d") == device("d")


# --- bounds ---------------------------------------------------------------------------------------


async def test_a_user_is_a_person(world: World) -> None:
    registry = (await world.store()).registry
    await registry.put_many("shop", [device(f"d{n}", user="u") for n in range(MOST_OF_USER)])
    with pytest.raises(UserFull) as refused:
        await registry.put("shop", device("x", user="u"))
    assert refused.value.device_ids == ("x",)
    with pytest.raises(UserFull) as refused:
        await registry.put_many("shop", [device("y"), device("x", user="u"), device("d0", user="u")])
    assert refused.value.device_ids == ("x",)
    assert await registry.get("shop", "y") is None
    await registry.put("shop", device("d0", user="u", locale="de"))
    await registry.put("shop", device("moved", user="u", token=device("d1").token))
    await registry.put("shop", device("d0", user="v"))
    await registry.put("shop", device("x", user="u"))
    assert len(await registry.of_user("shop", "u")) == MOST_OF_USER
    assert len(await remove_user(registry, "u")) == MOST_OF_USER
    assert await registry.count("shop") == 1


async def test_a_device_has_only_so_many_topics(world: World) -> None:
    registry = (await world.store()).registry
    topics = tuple(f"t{n}" for n in range(MOST_TOPICS))
    await registry.put_many("shop", [device("d", topics=topics)])
    assert await registry.subscribe("shop", "t0", "d")
    with pytest.raises(TopicsFull):
        await registry.subscribe("shop", "one-more", "d")
    assert await registry.topic_size("shop", "one-more") is None


async def test_tokens_change_hands_within_one_call(world: World) -> None:
    registry = (await world.store()).registry
    a, b = device("a", user="u"), device("b", user="u")
    await registry.put_many("shop", [a, b])
    swapped = [device("a", user="u", token=b.token), device("b", user="u", token=a.token)]
    assert await registry.put_many("shop", swapped) == [False, True]
    assert [await registry.get("shop", name) for name in "ab"] == swapped
    assert await owner(registry, a.token) == swapped[1]
    assert await registry.put_many("shop", [a, device("c", token=a.token), a]) == [False, True, True]
    assert await registry.get("shop", "c") is None
    assert {each.id for each in await registry.of_user("shop", "u")} == {"a"}


async def test_large_and_far_apart_topics(world: World) -> None:
    registry = (await world.store()).registry
    names = [f"d{n}" for n in range(9000)]
    for first in range(0, len(names), 500):
        many = [
            device(
                name,
                topics=("all", *(["ends"] if n in (0, 8999) else []), *(["some"] if n % 20 == 3 else [])),
            )
            for n, name in enumerate(names[first : first + 500], first)
        ]
        await registry.put_many("shop", many)
    assert await everyone(registry, ByTopic("all"), 777) == names
    assert await everyone(registry, ByTopic("some"), 10) == names[3::20]
    assert await everyone(registry, ByTopic("ends"), 1) == ["d0", "d8999"]
    for name in names[5::90]:
        assert await registry.unsubscribe("shop", "all", name)
    assert await everyone(registry, ByTopic("all")) == [name for n, name in enumerate(names) if n % 90 != 5]
    assert await registry.topic_size("shop", "all") == 8900


# --- in company -----------------------------------------------------------------------------------


async def test_many_at_once_leave_all_indexes_in_agreement(world: World) -> None:
    stores = [await world.store(name) for name in "abcd"]

    async def work(number: int) -> None:
        registry = stores[number % 4].registry
        for turn in range(8):
            name, token = f"d{(number + turn) % 5}", f"{(number * turn) % 7:064d}"
            match (number + turn) % 6:
                case 0:
                    await registry.remove("shop", name)
                case 1:
                    await registry.subscribe("shop", "news", name)
                case 2:
                    await registry.prune("shop", [Prune(name, token, moment(), "Unregistered", moment() + 1)])
                case 3:
                    await registry.put_many(
                        "shop", [device(f"d{n}", token=f"{n:064d}", topics=("news",)) for n in range(3)]
                    )
                case _:
                    await registry.put("shop", device(name, token=token, user=f"u{turn % 2}"))

    await asyncio.gather(*map(work, range(24)))
    await stores[0].registry.put("shop", device("last"))
    if isinstance(stores[0], Store):
        found = await audit(stores[0])
        assert "last" in {each.id for each in found.values()}


async def test_look_ups_that_come_together_share_a_step_and_each_has_its_own_answer(world: World) -> None:
    store = await world.store()
    registry = store.registry
    phones = [device(f"d{number}", user=f"u{number % 9}") for number in range(90)]
    await registry.put_many("shop", phones)
    steps: list[str] = []
    if isinstance(store, Store):
        script = store.link.script

        async def counting(name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
            steps.append(args[0])
            return await script(name, keys, args)

        store.link.script = counting  # type: ignore[method-assign]  # counts them
    found = await asyncio.gather(
        *(registry.get("shop", each.id) for each in phones),
        registry.get("shop", "nobody"),
        registry.get("mart", "d1"),
        registry.holders("shop", [Holding(None, "apns", phones[5].token), Holding(None, "apns", "ff")]),
        registry.of_user("shop", "u4"),
        everyone(registry, ByDevices(tuple(f"d{number}" for number in range(80)))),
        everyone(registry, ByUsers(("u1",)), 1),
    )
    assert found[:92] == [*phones, None, None]
    assert found[92:] == [
        [phones[5], None],
        [each for each in phones if each.user == "u4"],
        [f"d{number}" for number in range(80)],
        [each.id for each in phones if each.user == "u1"],
    ]
    assert sorted(steps) == (["ps:{mart.devices}:"] + ["ps:{shop.devices}:"] * 2 if steps else [])


async def test_look_ups_of_many_devices_take_several_steps(world: World) -> None:
    """Each step keeps all others from the server."""
    store = await world.store()
    registry = store.registry
    users = {user: [device(f"{user}-{number}", user=user) for number in range(400)] for user in ("a", "b", "c", "d")}
    for phones in users.values():
        await registry.put_many("shop", phones)
    sizes: list[int] = []
    if isinstance(store, Store):
        script = store.link.script

        async def sizing(name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
            answers = await script(name, keys, args)
            sizes.append(sum(len(flat) // 2 for _, _, _, *flat in answers))
            return answers

        store.link.script = sizing  # type: ignore[method-assign]  # adds up what it returns
    assert await asyncio.gather(*(registry.of_user("shop", user) for user in users)) == list(users.values())
    assert sizes in ([], [800, 800])


async def test_a_lost_step_is_taken_again(world: World) -> None:
    """All register one new device at once, then all subscribe one: it is new once, and no subscription is lost."""
    stores = [await world.store(name) for name in "abcd"]
    new = await asyncio.gather(
        *(stores[n % 4].registry.put("shop", device("new", token=f"{n:064d}")) for n in range(40))
    )
    assert [is_new for _, is_new in new].count(True) == 1
    if isinstance(stores[0], Store):
        assert len(await audit(stores[0])) == 1
    await stores[0].registry.put("shop", device("d"))
    topics = [f"t{n}" for n in range(40)]
    found = await asyncio.gather(
        *(stores[n % 4].registry.subscribe("shop", topic, "d") for n, topic in enumerate(topics))
    )
    assert found == [True] * 40
    kept = await stores[0].registry.get("shop", "d")
    assert kept is not None
    assert set(kept.topics) == set(topics)


async def test_of_strikes_that_follow_the_same_one_counts_the_first(world: World) -> None:
    stores = [await world.store(name) for name in "abcd"]
    await stores[0].registry.put("shop", device("d"))
    strikes = [Strike("d", device("d").token, moment(), moment() + n, 1, after=0) for n in range(1, 41)]
    found = await asyncio.gather(*(stores[n % 4].registry.strike("shop", [strike]) for n, strike in enumerate(strikes)))
    (won,) = [strike for strike, took in zip(strikes, found, strict=True) if took == [True]]
    assert await stores[0].registry.get("shop", "d") == device("d", strikes=1, struck_at=won.at)


# --- suppression ----------------------------------------------------------------------------------


async def suppressed_at(store: AnyStore, name: str, at: int) -> str:
    """A token that the provider called dead at that instant, by the whole way that this takes."""
    await store.pushes.accept(make_push(name))
    (taken,) = await take(store)
    settled = settlement(taken.chunk, 0, Ended("invalid"), TokenDead(status=410), at=at)
    await store.queue.settle("shop", [settled], [taken.ref])
    ((entry, receipt),) = await store.receipts.take("shop", limit=10, wait_ms=0)
    event = FeedbackEvent(at, "apns", receipt.token, "Unregistered", "suppressed")
    await store.receipts.record("shop", [(entry, receipt, event)])
    assert await suppressed(store) == 1
    return receipt.token


async def suppressed(store: AnyStore) -> int:
    return (await store.gauges({"shop": ("apns",)})).apps["shop"].suppressed["apns"]


async def test_a_later_registration_takes_a_token_off_the_suppression_list(server: Server | None) -> None:
    async with new_world(server, StoreConfig(shards=3)) as world:
        store = await world.store()
        token = await suppressed_at(store, "p", moment())
        await store.registry.put_many("shop", [device("d", token=token, registered_at=moment() - 1)])
        await store.registry.put_many("shop", [device("d", token=token, registered_at=moment() + 1, state="pruned")])
        assert await suppressed(store) == 1
        await store.registry.put_many("shop", [device("d", token=token, registered_at=moment() + 1)])
        assert await suppressed(store) == 0
        token = await suppressed_at(store, "q", moment())
        await store.registry.put("shop", device("e"))
        assert await suppressed(store) == 1
        await store.registry.put("shop", device("e", token=token, registered_at=moment()))
        assert await suppressed(store) == 0


async def test_a_restored_token_is_off_the_suppression_list(server: Server | None) -> None:
    async with new_world(server, StoreConfig(shards=3)) as world:
        store = await world.store()
        await store.registry.put("shop", device("d", token="p-0"))
        await suppressed_at(store, "p", moment() + 1)
        assert await store.registry.prune("shop", [Prune("d", "p-0", moment(), "Unregistered", moment() + 1)]) == [True]
        assert await store.registry.restore("shop", PrunedFilter(), limit=10) == 1
        assert await suppressed(store) == 0


# --- Redis alone ----------------------------------------------------------------------------------


async def test_blocks_of_removed_devices_are_given_back() -> None:
    with backend_server("redis") as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            await store.registry.put_many("shop", [device(f"d{n}") for n in range(300)])
            for n in range(256):
                await store.registry.remove("shop", f"d{n}")
            found = await audit(store)
            assert sorted(found) == list(range(256, 300))
            assert await store.link.call("KEYS", "*:d:*") == [b"ps:{shop.devices}:d:2"]
            await store.registry.put("shop", device("d0"))
            assert max(await audit(store)) == 300
            assert await everyone(store.registry, ToAll(), 1) == [*(f"d{n}" for n in range(256, 300)), "d0"]


async def test_a_cluster_takes_every_step_in_one_slot() -> None:
    with running_server("valkey", tcp=True, cluster=True) as server:
        async with new_world(dataclasses.replace(server, url=f"redis+cluster://127.0.0.1:{server.port}")) as world:
            store = await world.store()
            assert isinstance(store, Store)
            assert store.link.cluster
            registry = store.registry
            many = [device(f"d{n}", user="u", topics=("news",)) for n in range(200)]
            await registry.put_many("shop", many)
            assert await everyone(registry, ToAll(), 130) == [each.id for each in many]
            assert await everyone(registry, ByTopic("news"), 130) == [each.id for each in many]
            prunes = [Prune(each.id, each.token, each.registered_at, "stale", moment() + 1) for each in many[:50]]
            assert await registry.prune("shop", prunes) == [True] * 50
            assert await registry.restore("shop", PrunedFilter(), limit=30) == 30
            assert len(await remove_user(registry, "u")) == 200
