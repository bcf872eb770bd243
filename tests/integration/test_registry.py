"""The registry over real servers: what the port promises, in memory, on Valkey and on Redis alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from pushsvc.devices import ByDevices, ByTopic, ByUsers, Device, ToAll
from pushsvc.ports.registry import Prune, PrunedFilter, Registry

from .servers import Server
from .test_store_kit import NOW, Backend, World, backend_server, play

BACKENDS: tuple[Backend, ...] = ("memory", "valkey", "redis")


@pytest.fixture(scope="module", params=BACKENDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server | None]:
    with backend_server(request.param) as found:
        yield found


def device(name: str, **fields: Any) -> Device:
    """A device whose token is its own."""
    known: dict[str, Any] = {
        "platform": "apns",
        "token": name.encode().hex().ljust(64, "0"),
        "registered_at": NOW,
        "last_seen_at": NOW,
    }
    return Device(id=name, **{**known, **fields})


async def everyone(registry: Registry, audience: Any, limit: int = 1000) -> list[str]:
    """The ids of an audience, page by page."""
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await registry.members("shop", audience, after=after, limit=limit)
        found += [each.id for each in page.devices]
        after = page.cursor
    return found


def test_a_device_is_registered_read_and_removed(server: Server | None) -> None:
    async def story(world: World) -> None:
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
        assert await registry.by_token("shop", "apns", phone.token) == phone
        assert await registry.by_token("shop", "fcm", phone.token) is None
        assert await registry.of_user("shop", "u1") == [phone]
        assert await registry.get("other", "phone") is None
        later = replace(phone, user="u2", tags={}, registered_at=NOW + 5, last_seen_at=NOW + 7)
        assert await registry.put("shop", later) == (later, False)
        assert await registry.of_user("shop", "u1") == []
        assert await registry.of_user("shop", "u2") == [later]
        assert await registry.count("shop") == 1
        assert await registry.remove("shop", "phone")
        assert not await registry.remove("shop", "phone")
        assert await registry.get("shop", "phone") is None
        assert await registry.by_token("shop", "apns", phone.token) is None
        assert await registry.of_user("shop", "u2") == []
        assert await registry.count("shop") == 0

    play(server, story)


def test_a_token_belongs_to_one_device(server: Server | None) -> None:
    async def story(world: World) -> None:
        registry = (await world.store()).registry
        old, new = device("old", user="u"), device("new", user="u", token=device("old").token)
        await registry.put("shop", old)
        await registry.subscribe("shop", "news", "old")
        assert await registry.put("shop", new) == (new, True)
        assert await registry.get("shop", "old") is None
        assert await registry.of_user("shop", "u") == [new]
        assert await registry.by_token("shop", "apns", old.token) == new
        assert await registry.topic_size("shop", "news") is None
        assert await registry.count("shop") == 1
        fresh = replace(new, token="ab" * 32)
        await registry.put("shop", fresh)
        assert await registry.by_token("shop", "apns", old.token) is None
        assert await registry.by_token("shop", "apns", fresh.token) == fresh

    play(server, story)


def test_topics(server: Server | None) -> None:
    async def story(world: World) -> None:
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

    play(server, story)


def test_audiences(server: Server | None) -> None:
    async def story(world: World) -> None:
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
        assert len(await registry.remove_user("shop", "u7")) == 7
        assert await registry.count("shop") == 693
        assert len(await everyone(registry, ToAll())) == 693

    play(server, story)


def test_tombstones(server: Server | None) -> None:
    async def story(world: World) -> None:
        registry = (await world.store()).registry
        await registry.put_many("shop", [device(f"d{n}", user="u", topics=("news",)) for n in range(6)])
        prunes = [
            Prune("d0", device("d0").token, "Unregistered", NOW + 1),
            Prune("d1", device("d1").token, "stale", NOW + 2),
            Prune("d2", device("d3").token, "Unregistered", NOW + 3),
            Prune("d4", device("d4").token, "Unregistered", NOW - 1),
            Prune("nobody", "00", "Unregistered", NOW + 1),
        ]
        assert await registry.prune("shop", prunes) == [True, True, False, False, False]
        assert await registry.prune("shop", prunes) == [False] * 5
        assert (await registry.count("shop"), await registry.topic_size("shop", "news")) == (4, 4)
        for audience in (ToAll(), ByTopic("news"), ByUsers(("u",)), ByDevices(tuple(f"d{n}" for n in range(6)))):
            assert await everyone(registry, audience) == ["d2", "d3", "d4", "d5"]
        gone = await registry.get("shop", "d1")
        assert gone is not None
        assert (gone.state, gone.pruned_at, gone.pruned_for) == ("pruned", NOW + 2, "stale")
        assert len((await registry.scan("shop", after="", limit=100)).devices) == 6
        assert await registry.bury("shop", NOW + 2, limit=10, dry_run=True) == 1
        assert await registry.restore("shop", PrunedFilter(reason="stale", since=NOW + 3), limit=10) == 0
        assert await registry.restore("shop", PrunedFilter(reason="stale"), limit=10) == 1
        assert (await registry.count("shop"), await registry.topic_size("shop", "news")) == (5, 5)
        assert await registry.get("shop", "d1") == device("d1", user="u", topics=("news",))
        assert await registry.bury("shop", NOW + 1, limit=10) == 0
        assert await registry.bury("shop", NOW + 2, limit=10) == 1
        assert await registry.get("shop", "d0") is None
        assert len(await registry.of_user("shop", "u")) == 5

    play(server, story)


def test_strikes(server: Server | None) -> None:
    async def story(world: World) -> None:
        registry = (await world.store()).registry
        await registry.put("shop", device("d"))
        assert await registry.strike("shop", "d", device("d").token, NOW + 1) == 1
        assert await registry.strike("shop", "d", device("d").token, NOW + 9) == 2
        assert await registry.strike("shop", "d", "00", NOW + 9) == 0
        assert await registry.strike("shop", "nobody", "00", NOW + 9) == 0
        assert await registry.get("shop", "d") == device("d", strikes=2, struck_at=NOW + 9)
        await registry.put("shop", device("d"))
        assert await registry.get("shop", "d") == device("d")

    play(server, story)
