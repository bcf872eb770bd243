"""The live channel over every backend: what `ports.live` promises holds in memory, on Valkey and on Redis alike."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from pushsvc.model.devices import ByDevices, Device
from pushsvc.model.push import Platform, Route
from pushsvc.ports.live import (
    Acked,
    Append,
    Appended,
    Connected,
    Cut,
    Live,
    LiveContent,
    LivePush,
    LiveRoute,
    Page,
    Poke,
    Position,
    Publication,
    Read,
    Receiver,
    Recipient,
    Refused,
    Unread,
    pokes_of,
)
from pushsvc.rules.audience import owner_of
from pushsvc.store import Store, StoreConfig, wall_clock

from .servers import Server
from .test_store_kit import AnyStore, World, make_push, moment, new_world

HOUR = 3_600_000
LASTING = StoreConfig(alive_ttl=3600.0)
"""Signs of life that a slow machine does not outlast."""
A, B = LiveRoute("gate-a", 1), LiveRoute("gate-b", 1)


def push_of(
    name: str, *, at: int | None = None, expires_at: int | None = None, collapse: str = "", total: int = 1
) -> LivePush:
    """A push of this moment that lives for a day."""
    at = moment() if at is None else at
    return LivePush(name, at, moment() + 24 * HOUR if expires_at is None else expires_at, "normal", total, collapse)


def phone(name: str, user: str | None = "ann") -> Device:
    return Device(
        id=name, platform="fcm", token=f"token of {name}", user=user, registered_at=moment(), last_seen_at=moment()
    )


async def opened(world: World, *names: str, user: str | None = "ann") -> AnyStore:
    """A store with these devices, and two gateways that live."""
    store = await world.store()
    await store.registry.put_many("shop", [phone(name, user) for name in names])
    for gateway in ("gate-a", "gate-b"):
        assert await store.live.beat(gateway, {"shop": 0}) == {"shop"}
    return store


async def append(live: Live, push: LivePush, *names: str) -> list[Appended]:
    receivers = [Receiver(name, index) for index, name in enumerate(names)]
    return await live.append("shop", push, receivers, platform="fcm")


async def keep(live: Live, push: LivePush, body: bytes, *names: str) -> None:
    await live.keep_all("shop", [LiveContent(push, body, names)])


async def connected(
    live: Live,
    name: str,
    route: LiveRoute = A,
    position: Position | None = None,
    *,
    limit: int = 100,
    unacked: bool = False,
) -> Connected:
    found = await live.connect("shop", name, route, issued_at=moment(), position=position, limit=limit, unacked=unacked)
    assert isinstance(found, Connected)
    return found


async def ack(live: Live, name: str, offset: int, epoch: str = "") -> Acked:
    (found,) = await live.ack("shop", [(name, Position(epoch, offset))])
    return found


def offsets(page: Page | None) -> list[tuple[int, int]]:
    assert page is not None
    return [(each.offset, each.prev) for each in page.publications]


def chain_is_whole(publications: Sequence[Publication], since: int) -> bool:
    """Whether somebody who has everything up to `since` misses nothing of these."""
    for each in publications:
        if each.prev > since:
            return False
        since = each.offset
    return True


# --- appending ------------------------------------------------------------------------------------


async def test_a_stream_holds_what_was_appended_to_it(world: World) -> None:
    live = (await opened(world, "x", "y", "z")).live
    for name in ("p1", "p2", "p3"):
        await append(live, push_of(name), *(("x", "y") if name == "p2" else ("x",)))
    held = [await live.holds("shop", device, push) for device in ("x", "y", "z") for push in ("p1", "p2", "p3")]
    assert held == [True] * 3 + [False, True, False] + [False] * 3
    assert not await live.holds("shop", "nobody", "p1")
    assert not await live.holds("shop", "x", "")


async def test_several_pushes_are_appended_in_their_order_and_now_or_never_where_a_device_is(
    server: Server | None,
) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x", "y", "z")).live
        await connected(live, "x")
        await append(live, push_of("p0"), "z")
        everyone = [Receiver(name, index) for index, name in enumerate(("x", "y", "z", "nobody"))]
        first = Append(push_of("p1"), everyone[:2], "fcm")
        found = await live.append_all(
            "shop", [first, Append(push_of("p2"), [], "fcm"), Append(push_of("p3"), everyone, "fcm", True), first]
        )
        assert [[(each.status, each.offset) for each in results] for results in found] == [
            [("new", 1), ("new", 1)],
            [],
            [("new", 2), ("away", 0), ("away", 0), ("absent", 0)],
            [("known", 1), ("known", 1)],
        ]
        assert [each.route for each in found[2]] == [A, None, None, None]
        assert [offsets(await live.history("shop", name)) for name in "xyz"] == [[(1, 0), (2, 1)], [(1, 0)], [(1, 0)]]
        bodies = [LiveContent(push_of(name), name.encode()) for name in ("p1", "p3")]
        await live.keep_all("shop", [*bodies, LiveContent(push_of("p1"), b"other")])
        assert await live.contents("shop", ["p1", "p2", "p3"]) == {"p1": b"p1", "p3": b"p3"}


async def test_what_is_withdrawn_is_shown_to_no_device_any_more(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x", "y", "z")).live
        for name in ("p1", "p2", "p3"):
            await append(live, push_of(name), "x", "y")
        await append(live, push_of("over", expires_at=moment()), "x", "y")
        for name in ("p2", "p9", "p2"):
            await live.withdraw("shop", name, push_of(name).at)
        assert offsets(await live.history("shop", "x", since=0)) == [(1, 0), (3, 1)]
        assert [await live.holds("shop", "x", name) for name in ("p1", "p2", "p3", "over")] == [
            True,
            False,
            True,
            False,
        ]
        (row,) = await live.presence("shop", ["x"])
        assert row is not None
        assert (row.unacked, row.unread) == (2, 2)
        # What was on its way to the streams, also for the first time, or comes again.
        for name in ("p2", "p9"):
            assert await append(live, push_of(name), "x", "z", "nobody") == [Appended("withdrawn")] * 3
        assert await live.history("shop", "z") is None
        back = await connected(live, "y")
        assert [(each.push.id, each.prev) for each in back.page.publications] == [("p1", 0), ("p3", 1)]
        assert (await ack(live, "y", 3)).fault == ""
        assert [each.push.id for each in (await ack(live, "x", 3)).newly] == ["p1", "p2", "p3"]
        # Another one of its hour is not concerned.
        assert [each.status for each in await append(live, push_of("p4"), "x", "z")] == ["new", "new"]


async def test_a_cancelled_push_is_in_no_stream_and_comes_into_none(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        store = await opened(world, "x", "y")
        live, pushes = store.live, store.pushes
        if isinstance(store, Store):
            await store.workers.report("dispatch", [], [Route("shop", "live")])
        await pushes.accept(make_push("p1", 2))
        await pushes.accept(make_push("p2", 2))
        await pushes.accept(make_push("later", send_at=moment() + HOUR))
        await append(live, push_of("p1"), "x")
        for name in ("p1", "p2", "later"):
            status = await pushes.cancel("shop", name)
            assert status is not None
            assert status.live is None
        for name in ("p1", "p2"):
            assert await append(live, push_of(name), "x", "y") == [Appended("withdrawn")] * 2
        assert [(await connected(live, name)).page.publications for name in ("x", "y")] == [[], []]
        # What was cancelled before its time was never on its way, and costs nothing.
        assert [each.status for each in await append(live, push_of("later", at=moment() + HOUR), "x")] == ["new"]


async def test_a_push_stands_in_each_stream_and_a_repeat_appends_nothing(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x", "y")).live
        first = await append(live, push_of("p1"), "x", "nobody", "y")
        assert [(each.status, each.offset, each.prev, each.unread) for each in first] == [
            ("new", 1, 0, 1),
            ("absent", 0, 0, 0),
            ("new", 1, 0, 1),
        ]
        assert first[0].route is None
        assert first[0].epoch != ""
        (second,) = await append(live, push_of("p2"), "x")
        assert (second.status, second.offset, second.prev, second.unread) == ("new", 2, 1, 2)
        again = await append(live, push_of("p1"), "x", "nobody", "y")
        assert [(each.status, each.offset, each.prev) for each in again] == [
            ("known", 1, 0),
            ("absent", 0, 0),
            ("known", 1, 0),
        ]
        assert (await append(live, push_of("p3"), "x"))[0].offset == 3
        assert await append(live, push_of("p4")) == []


async def test_what_was_for_the_user_before_is_not_appended(server: Server | None) -> None:
    """A device has another user, by a change or by another registration, while a push is on its way to the stream."""
    async with new_world(server, LASTING) as world:
        store = await opened(world, "x", "y", "z")
        live, ann, bob = store.live, owner_of(phone("x", "ann")), owner_of(phone("x", "bob"))
        await connected(live, "x")
        await append(live, push_of("p0"), "x")

        async def send(name: str, *owners: bytes | None) -> list[str]:
            receivers = [
                Receiver(device, place, owner) for place, (device, owner) in enumerate(zip("xyz", owners, strict=True))
            ]
            return [each.status for each in await live.append("shop", push_of(name), receivers, platform="fcm")]

        assert await send("before", ann, ann, ann) == ["new", "new", "new"]
        await store.registry.put("shop", phone("x", "bob"))
        assert await store.registry.remove("shop", "y")
        await store.registry.put("shop", phone("y", "bob"))
        assert await send("p1", ann, ann, ann) == ["moved", "moved", "new"]
        assert await send("p2", bob, bob, b"") == ["new", "new", "moved"]
        assert await send("p3", None, None, None) == ["new", "new", "new"]
        assert await store.registry.remove("shop", "z")
        assert (await send("p4", bob, bob, ann))[:2] == ["new", "new"]
        for name in "xy":
            page = await live.history("shop", name)
            assert page is not None
            assert [each.push.id for each in page.publications] == ["p2", "p3", "p4"]


async def test_many_devices_in_one_call(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        names = [f"d{number}" for number in range(1300)]
        store = await world.store()
        for at in range(0, len(names), 400):
            await store.registry.put_many("shop", [phone(name, None) for name in names[at : at + 400]])
        known = await store.registry.members("shop", ByDevices(tuple(reversed(names))), after="", limit=1000)
        assert [device.id for device in known.devices] == names[:-1001:-1]
        found = await append(store.live, push_of("p1"), *names)
        assert [(each.status, each.offset) for each in found] == [("new", 1)] * 1300
        last = (await store.live.history("shop", "d1299")) or pytest.fail("no stream")
        assert [(each.index, each.push) for each in last.publications] == [(1299, push_of("p1"))]


async def test_many_devices_of_one_list_in_one_step(server: Server | None) -> None:
    names = [f"d{number}" for number in range(40)]
    async with new_world(server, LASTING) as world:
        live = (await opened(world, *names)).live
        await connected(live, "d1")
        everyone = [Receiver(name, index) for index, name in enumerate(names)]
        first, second, third = push_of("p1"), push_of("p2", collapse="c"), push_of("p3", at=moment() + 1, collapse="c")
        found = await live.append_all(
            "shop",
            [
                Append(first, everyone, "fcm"),
                Append(second, everyone[::2], "fcm"),
                Append(first, everyone[:5], "fcm"),
                Append(third, [*everyone[:2], Receiver("nobody", 3)], "fcm"),
            ],
        )
        assert [[(each.status, each.offset, each.prev) for each in results] for results in found] == [
            [("new", 1, 0)] * 40,
            [("new", 2, 1)] * 20,
            [("known", 1, 0)] * 5,
            [("new", 3, 1), ("new", 2, 1), ("absent", 0, 0)],
        ]
        assert [each.replaced and each.replaced.push.id for each in found[3]] == ["p2", None, None]
        assert [each.route for each in found[0][:3]] == [None, A, None]
        tops = [3, 2, *([2, 1] * 19)]
        positions = [(name, Position("", top)) for name, top in zip(names, tops, strict=True)]
        await live.ack("shop", positions[:2])
        assert [each.acked for each in await live.ack("shop", positions)] == tops
        latest = (await live.append_all("shop", [Append(push_of("p4"), everyone, "fcm")]))[0]
        assert [each.offset for each in latest] == [top + 1 for top in tops]
        ends = [[each.offset] for each in latest]
        ends[4] = []
        asked = [(name, Position(each.epoch, each.offset)) for name, each in zip(names, latest, strict=True)]
        asked[5], asked[6] = ("d5", Position("", 9)), ("nobody", Position("", 1))
        ended = await live.ack("shop", asked, ends)
        assert [each.fault for each in ended[4:7]] == ["open", "offset", "unknown"]
        assert ended[7:] == [Acked("", [], top + 1, 0, before=top) for top in tops[7:]]
        open_still = {"d4", "d5", "d6"}
        for name, top, presence in zip(names, tops, await live.presence("shop", names), strict=True):
            assert presence is not None
            unacked = int(name in open_still)
            assert (presence.top, presence.acked, presence.unacked) == (top + 1, top + 1 - unacked, unacked)


async def test_all_fields_of_a_push_come_back(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x")).live
        push = LivePush("019a-ü", moment() - 5, moment() + 2**33, "urgent", 4_000_000_000, "Bestellung 17 grün")
        await live.append("shop", push, [Receiver("x", 2**28 - 1)], platform="web")
        page = await live.history("shop", "x")
        assert page is not None
        assert page.publications == [Publication(1, 0, 2**28 - 1, push)]
        (acked,) = await live.ack("shop", [("x", Position("", 1))])
        assert [(each.offset, each.index, each.platform, each.push) for each in acked.newly] == [
            (1, 2**28 - 1, "web", push)
        ]


async def test_a_connected_device_is_found_with_its_gateway(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x", "y", "z")).live
        await connected(live, "x", A)
        await connected(live, "y", LiveRoute("gate-b", 7))
        found = await append(live, push_of("p1"), "x", "y", "z")
        assert [each.route for each in found] == [A, LiveRoute("gate-b", 7), None]
        receivers = [Receiver(name, index) for index, name in enumerate("xyz")]
        pokes = pokes_of("shop", push_of("p1"), receivers, found, b"body")
        await live.poke(pokes)
        expected = Poke("shop", push_of("p1"), [Recipient(7, found[1].epoch, 1, 0, 1, 1)], b"body")
        received = await live.inbox("gate-b").receive(0)
        assert (received.items, received.lost) == ([expected], False)


async def test_a_later_push_with_the_same_collapse_replaces_what_waits(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x")).live
        await append(live, push_of("before"), "x")
        await append(live, push_of("old", collapse="order"), "x")
        await append(live, push_of("other", collapse="offer"), "x")
        (found,) = await append(live, push_of("new", at=moment() + 1, collapse="order"), "x")
        assert (found.status, found.offset, found.prev, found.unread) == ("new", 4, 3, 3)
        assert found.replaced is not None
        assert (found.replaced.offset, found.replaced.push.id, found.replaced.platform) == (2, "old", "fcm")
        page = await live.history("shop", "x")
        assert offsets(page) == [(1, 0), (3, 1), (4, 3)]
        # The older one comes again, or late: the newer one stays.
        (late,) = await append(live, push_of("old", collapse="order"), "x")
        assert (late.status, late.offset, late.replaced) == ("superseded", 0, None)
        # What was acknowledged is replaced no more, and an older push still does not follow it.
        await ack(live, "x", 4)
        (third,) = await append(live, push_of("third", at=moment() + 2, collapse="order"), "x")
        assert (third.offset, third.replaced) == (5, None)
        assert offsets(await live.history("shop", "x")) == [(1, 0), (3, 1), (4, 3), (5, 4)]
        assert (await append(live, push_of("older", at=moment() + 1, collapse="order"), "x"))[0].status == "superseded"


async def test_of_one_instant_the_later_id_replaces_the_earlier_one_in_every_order(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x")).live
        found = []
        for _ in range(2):  # a batch, and its repeat
            found += await append(live, push_of("p1", collapse="order"), "x")
            found += await append(live, push_of("p2", collapse="order"), "x")
        assert [(each.status, each.replaced is not None) for each in found] == [
            *(("new", False), ("new", True)),
            *(("superseded", False), ("known", True)),
        ]
        assert offsets(await live.history("shop", "x")) == [(2, 0)]


async def test_a_full_stream_says_how_many_are_missing(server: Server | None) -> None:
    async with new_world(server, StoreConfig(history=5, alive_ttl=3600.0)) as world:
        live = (await opened(world, "x")).live
        start = await connected(live, "x")
        assert await live.disconnect("shop", "x", A)
        for number in range(8):
            await append(live, push_of(f"p{number}"), "x")
        found = await connected(live, "x", B, Position(start.page.epoch, 1))
        assert (found.recovered, found.since, found.page.missing, found.missing_ahead) == (False, 1, 2, 2)
        assert offsets(found.page) == [(4, 3), (5, 4), (6, 5), (7, 6), (8, 7)]
        found = await connected(live, "x", B, Position(start.page.epoch, 3))
        assert (found.recovered, found.page.missing, len(found.page.publications)) == (True, 0, 5)
        # What it does not acknowledge comes again. What is missing before its position was announced already.
        for offset in (3, 8):
            found = await connected(live, "x", B, Position(start.page.epoch, offset), unacked=True)
            assert (found.recovered, found.since, found.page.missing, found.missing_ahead) == (True, 3, 0, 0)
            assert offsets(found.page) == [(4, 3), (5, 4), (6, 5), (7, 6), (8, 7)]
        for position, missing, ahead in ((2, 3, 1), (99, 3, 0), (None, 3, 0)):
            place = None if position is None else Position(start.page.epoch, position)
            found = await connected(live, "x", B, place, unacked=True)
            assert (found.recovered, found.page.missing, found.missing_ahead) == (False, missing, ahead)
        (row,) = await live.presence("shop", ["x"])
        assert row is not None
        assert (row.top, row.unacked, row.unread) == (8, 5, 5)


async def test_a_full_stream_keeps_what_is_on_its_way_to_a_connected_device(server: Server | None) -> None:
    async with new_world(server, StoreConfig(history=7, window=2, alive_ttl=3600.0)) as world:
        live = (await opened(world, "x")).live
        start = await connected(live, "x")
        carried = []
        for number in range(10):
            (appended,) = await append(live, push_of(f"p{number}"), "x")
            carried += [(number, each.offset) for each in appended.carried]
        assert carried == [(7, 5), (8, 6), (9, 7)], "another channel carries these on at once"
        page = await live.history("shop", "x", since=4, epoch=start.page.epoch)
        assert page is not None
        # The first two are its window, and the next two are while it acknowledges these: it acknowledges all of them,
        # and learns of the hole behind them.
        assert (offsets(page), page.missing) == ([(8, 7), (9, 8), (10, 9)], 3)
        # A device that acknowledges nothing has its position behind the hole, which shows in the chain.
        found = await connected(live, "x", A, Position(start.page.epoch, 9), unacked=True)
        assert (found.recovered, found.since, found.missing_ahead) == (True, 0, 0)
        assert offsets(found.page) == [(1, 0), (2, 1), (3, 2), (4, 3), (8, 7), (9, 8), (10, 9)]
        assert [each.push.id for each in (await ack(live, "x", 4)).newly] == ["p0", "p1", "p2", "p3"]
        # What is acknowledged leaves first, and the hole stays where it was.
        assert (await append(live, push_of("p10"), "x"))[0].carried == ()
        assert offsets(await live.history("shop", "x")) == [(2, 0), (3, 2), (4, 3), (8, 7), (9, 8), (10, 9), (11, 10)]
        found = await connected(live, "x", B, Position(start.page.epoch, 4))
        assert (found.recovered, found.page.missing, len(found.page.publications)) == (False, 3, 4)
        found = await connected(live, "x", B, Position(start.page.epoch, 7))
        assert (found.recovered, found.page.missing, len(found.page.publications)) == (True, 0, 4)


async def test_what_a_full_stream_has_no_room_for_is_named_where_it_waits_for_the_device_alone(
    server: Server | None,
) -> None:
    async with new_world(server, StoreConfig(history=5, alive_ttl=3600.0)) as world:
        live = (await opened(world, "x", "y")).live

        async def overrun(
            name: str, *, alone: bool, of: Platform = "fcm", **push: Any
        ) -> list[list[tuple[str, int, str]]]:
            receivers = [Receiver(device, index) for index, device in enumerate(("x", "y"), 3)]
            (found,) = await live.append_all("shop", [Append(push_of(name, **push), receivers, of, alone=alone)])
            return [[(each.push.id, each.index, each.platform) for each in one.overrun] for one in found]

        nothing: list[list[tuple[str, int, str]]] = [[], []]
        assert await overrun("alone", alone=True) == nothing
        assert await overrun("of live", alone=True, of="live") == nothing
        assert await overrun("carried on", alone=False) == nothing
        assert await overrun("has expired", alone=True, expires_at=moment() - 1) == nothing
        assert await overrun("alone at last", alone=False) == nothing
        assert (await ack(live, "y", 1)).fault == ""
        assert await overrun("alone at last", alone=True) == nothing  # no new one
        assert await overrun("p0", alone=False) == [[("alone", 3, "fcm")], []]
        for _ in range(2):  # a repeat, as after an answer that was lost, names them again
            assert await overrun("p1", alone=False) == [[("of live", 3, "live")], [("of live", 4, "live")]]
        assert await overrun("p2", alone=False) == nothing
        assert await overrun("p3", alone=False) == nothing
        assert await overrun("p4", alone=False) == [[("alone at last", 3, "fcm")], [("alone at last", 4, "fcm")]]


async def test_a_connection_may_begin_with_what_is_not_acknowledged(world: World) -> None:
    live = (await opened(world, "x")).live
    for number in range(4):
        await append(live, push_of(f"p{number}"), "x")
    await ack(live, "x", 1)
    epoch = (await connected(live, "x")).page.epoch
    for offset, since, unacked in ((3, 3, False), (3, 1, True), (0, 0, True), (9, 1, True)):
        found = await live.connect(
            *("shop", "x", A), issued_at=moment(), position=Position(epoch, offset), unacked=unacked
        )
        assert isinstance(found, Connected)
        assert (found.since, found.recovered, found.acked) == (since, offset < 9, 1)
        assert [each.offset for each in found.page.publications] == list(range(since + 1, 5))


async def test_what_is_too_old_is_missing_and_what_has_expired_is_not(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x")).live
        start = await connected(live, "x")
        epoch = start.page.epoch
        await append(live, push_of("old", at=moment() - 9 * 24 * HOUR), "x")
        await append(live, push_of("over", expires_at=moment() - 1), "x")
        await append(live, push_of("good"), "x")
        await append(live, push_of("also over", expires_at=moment() - 1), "x")
        await append(live, push_of("last"), "x")
        page = await live.history("shop", "x", since=1)
        assert (offsets(page), page and page.missing) == ([(3, 1), (5, 3)], 0)
        page = await live.history("shop", "x", since=0)
        assert (offsets(page), page and page.missing) == ([(3, 1), (5, 3)], 1)
        found = await connected(live, "x", B, Position(epoch, 0))
        assert (found.recovered, found.page.missing) == (False, 1)
        found = await connected(live, "x", B, Position(epoch, 1))
        assert (found.recovered, found.page.missing, offsets(found.page)) == (True, 0, [(3, 1), (5, 3)])
        assert (found.unread, found.acked) == (2, 0)


# --- connections ----------------------------------------------------------------------------------


async def test_a_stream_has_its_epoch_from_the_first_connect(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x", "y")).live
        found = await connected(live, "x")
        assert found.page.epoch != ""
        assert (found.page.top, found.since, found.recovered, found.replaced) == (0, 0, False, None)
        again = await connected(live, "x", LiveRoute("gate-a", 2), Position(found.page.epoch, 0))
        assert (again.recovered, again.page.epoch, again.replaced) == (True, found.page.epoch, A)
        assert (await append(live, push_of("p1"), "x"))[0].epoch == found.page.epoch
        assert (await connected(live, "y")).page.epoch != found.page.epoch


async def test_a_device_that_returns_gets_what_it_missed(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x")).live
        epoch = (await connected(live, "x")).page.epoch
        for number in range(7):
            await append(live, push_of(f"p{number}"), "x")
        found = await connected(live, "x", B, Position(epoch, 3), limit=2)
        assert (found.recovered, found.since, found.page.top, found.page.more) == (True, 3, 7, True)
        assert [each.push.id for each in found.page.publications] == ["p3", "p4"]
        page = await live.history("shop", "x", since=5, epoch=epoch)
        assert page is not None
        assert (offsets(page), page.more) == ([(6, 5), (7, 6)], False)
        # Without a valid position: what is not acknowledged.
        await ack(live, "x", 6)
        for position in (None, Position("ffffffff", 2), Position("", 2), Position("what", 2), Position(epoch, 8)):
            found = await connected(live, "x", A, position)
            assert (found.recovered, found.since, found.acked) == (False, 6, 6), position
            assert offsets(found.page) == [(7, 6)]


async def test_the_connection_of_a_device_that_goes_is_closed(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        store = await opened(world, "removed", "stale", "taken", "taker", "mover", "moved")
        live, registry = store.live, store.registry
        inbox = live.inbox("gate-a")
        numbers = {name: number for number, name in enumerate(("removed", "stale", "taken", "taker", "mover"), 1)}
        for name, number in numbers.items():
            await connected(live, name, LiveRoute("gate-a", number))

        async def cut() -> list[tuple[int, str]]:
            items = (await inbox.receive(0)).items
            return [(item.connection, item.why) for item in items if isinstance(item, Cut)]

        assert await registry.remove("shop", "removed")
        await registry.revise("shop", ["stale"], lambda device: None)
        assert await cut() == [(1, "revoked"), (2, "revoked")]
        # A token goes to a new device, which takes the place of the one that had it.
        await registry.put("shop", replace(phone("new"), token=phone("taken").token))
        assert await cut() == [(3, "revoked")]
        # The devices that get the token of another one stay registered: they come back by themselves.
        await registry.put_many("shop", [replace(phone("mover"), token=phone("moved").token)])
        assert await cut() == [(5, "moved")]
        assert await registry.remove("shop", "moved") is False
        assert await registry.remove("shop", "new")
        await live.disconnect("shop", "taker", LiveRoute("gate-a", 4))
        assert await registry.remove("shop", "taker")
        assert await cut() == []


async def test_unknown_devices_and_revoked_tokens_are_refused(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x", "y")).live
        assert await live.connect("shop", "nobody", A, issued_at=moment()) == Refused("unknown")
        await connected(live, "x", A)
        instant = await live.revoke("shop", "x")
        assert await live.connect("shop", "x", A, issued_at=instant - 1) == Refused("revoked")
        assert (await live.inbox("gate-a").receive(0)).items == [Cut("shop", 1, "revoked")]
        (presence,) = await live.presence("shop", ["x"])
        assert presence is not None
        assert presence.route is None, "a gateway that misses the message finds it out"
        assert await live.admits("shop", "x", issued_at=instant - 1) == Refused("revoked")
        assert await live.admits("shop", "x", issued_at=instant) is None
        assert await live.admits("shop", "nobody", issued_at=instant) == Refused("unknown")
        assert isinstance(await live.connect("shop", "x", B, issued_at=instant), Connected)
        assert isinstance(await live.connect("shop", "y", B, issued_at=moment()), Connected)
        await live.revoke("shop", "nobody")


async def test_a_revoked_connection_is_found_until_its_end_is_confirmed(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x")).live
        await connected(live, "x", A)
        inbox = live.inbox("gate-a")
        for _ in range(2):
            await live.revoke("shop", "x")
            assert (await inbox.receive(0)).items == [Cut("shop", 1, "revoked")]
            assert (await append(live, push_of("p1"), "x"))[0].route is None, "nothing is sent there any more"
            for gateway in ("", "gate-a"):
                (presence,) = await live.presence("shop", ["x"], gateway=gateway)
                assert presence is not None
                assert (presence.route, presence.connected_at) == (None, 0)
        assert await live.disconnect("shop", "x", A) is True
        instant = await live.revoke("shop", "x")
        assert (await inbox.receive(0)).items == []
        assert isinstance(await live.connect("shop", "x", A, issued_at=instant), Connected)
        instant = await live.revoke("shop", "x")
        newer = await live.connect("shop", "x", B, issued_at=instant)
        assert isinstance(newer, Connected)
        assert newer.replaced == A
        assert (await append(live, push_of("p2"), "x"))[0].route == B


async def test_a_gateway_sees_its_own_routes_though_its_sign_of_life_is_over(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x")).live
        await connected(live, "x", LiveRoute("silent", 7))
        routes = []
        for gateway in ("", "gate-a", "silent"):
            (presence,) = await live.presence("shop", ["x"], gateway=gateway)
            assert presence is not None
            routes.append(presence.route)
        assert routes == [None, None, LiveRoute("silent", 7)]


async def test_a_second_connection_ends_the_first_and_only_its_own_end_counts(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x")).live
        await connected(live, "x", A)
        assert (await connected(live, "x", B)).replaced == A
        assert await live.disconnect("shop", "x", A) is False
        assert (await append(live, push_of("p1"), "x"))[0].route == B
        for other in (B.connection - 1, B.connection + 1):
            assert await live.disconnect("shop", "x", LiveRoute("gate-b", other)) is False, "it may have failed"
        assert await live.disconnect("shop", "x", B) is True
        assert await live.disconnect("shop", "x", B) is False
        assert await live.disconnect("shop", "nobody", B) is False
        assert (await append(live, push_of("p2"), "x"))[0].route is None


async def test_connects_and_ends_at_once_keep_the_last_connection(server: Server | None) -> None:
    """Devices that come back by another gateway while the first one ends; test_live_redis.py has 10,000 orders."""
    async with new_world(server, LASTING) as world:
        names = [f"d{number}" for number in range(100)]
        live = (await opened(world, *names, user=None)).live

        async def once(name: str) -> None:
            await connected(live, name, A)
            second, _ = await asyncio.gather(
                live.connect("shop", name, B, issued_at=moment()), live.disconnect("shop", name, A)
            )
            assert isinstance(second, Connected)
            assert second.replaced in (None, A)
            await live.disconnect("shop", name, A)

        await asyncio.gather(*map(once, names))
        rows = await live.presence("shop", names)
        assert [row and row.route for row in rows] == [B] * len(names)


async def test_what_has_expired_or_was_withdrawn_is_not_unread(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "phone", "tablet")).live
        for name in ("p1", "p2", "p3", "p4"):
            await append(live, push_of(name, expires_at=moment() if name == "p2" else None), "phone", "tablet")
        await live.withdraw("shop", "p3", push_of("p3").at)
        await ack(live, "tablet", 4)  # so that nothing of it is looked at, nor removed
        assert [(await connected(live, name)).unread for name in ("phone", "tablet")] == [2, 2]
        assert (await live.read("shop", "phone", Position("", 1))).unread == {"phone": 1, "tablet": 1}
        assert [row and row.unread for row in await live.presence("shop", ["phone", "tablet"])] == [1, 1]


async def test_routes_of_a_gateway_that_died_are_none(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live, before = (await opened(world, "x", "y")).live, wall_clock()
        await connected(live, "x", LiveRoute("silent", 1))
        await connected(live, "y", A)
        assert [each.route for each in await append(live, push_of("p1"), "x", "y")] == [None, A]
        assert await live.beat("silent", {"shop": 1, "news": 0}) == {"shop", "news"}
        assert await live.beat("silent", {"shop": 1}) == set()
        assert await live.gateways("shop") == {"gate-a": 0, "gate-b": 0, "silent": 1}
        assert await live.gateways("news") == {"silent": 0}
        assert (await live.last_signs("shop")).keys() == {"gate-a", "gate-b", "silent"}
        rows = await live.presence("shop", ["x", "y", "nobody"])
        assert [row and row.route for row in rows] == [LiveRoute("silent", 1), A, None]
        assert rows[2] is None
        assert rows[0] is not None
        assert before - 2000 < rows[0].connected_at < wall_clock() + 2000
        await live.leave("silent", ["shop"])
        (row,) = await live.presence("shop", ["x"])
        assert row is not None
        assert (row.route, row.connected_at) == (None, 0)
        assert (await connected(live, "x", B)).replaced is None


# --- acknowledging, reading, history --------------------------------------------------------------


async def test_each_reference_is_acknowledged_once(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x", "y")).live
        epoch = (await append(live, push_of("p0"), "x"))[0].epoch
        for number in range(1, 5):
            await append(live, push_of(f"p{number}"), "y", "x")
        look = await live.acking("shop", [("x", Position(epoch, 3)), ("y", Position("", 1))])
        found = await live.ack("shop", [("x", Position(epoch, 3)), ("y", Position("", 1)), ("nobody", Position("", 1))])
        assert found[:2] == look
        assert [[(each.offset, each.index, each.push.id) for each in one.newly] for one in found] == [
            [(1, 0, "p0"), (2, 1, "p1"), (3, 1, "p2")],
            [(1, 0, "p1")],
            [],
        ]
        assert [(one.fault, one.acked, one.unacked) for one in found] == [("", 3, 2), ("", 1, 3), ("unknown", 0, 0)]
        for offset in (1, 3):
            assert await ack(live, "x", offset, epoch) == Acked("", [], 3, 2, before=3)
        assert [each.offset for each in (await ack(live, "x", 5)).newly] == [4, 5]
        assert await ack(live, "x", 6) == Acked("offset", [], 5, 0, before=5)
        for other in ("ffffffff", "nonsense"):
            assert await ack(live, "x", 5, other) == Acked("epoch", [], 5, 0, before=5)
        assert await live.ack("shop", []) == []


async def test_no_other_delivery_is_acknowledged_than_those_that_have_ended(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x", "y")).live
        for number in range(1, 6):
            await append(live, push_of(f"p{number}", collapse="c" if number in (2, 4) else ""), "x")
        await ack(live, "x", 1)

        async def acked(offset: int, *ended: int) -> Acked:
            found = await live.ack("shop", [("x", Position("", offset)), ("y", Position("", 1))], [ended, ()])
            assert found[1].fault == "unknown"
            return found[0]

        for others in ((), (4,), (5,), (2, 5), (1, 2, 4)):
            assert await acked(5, *others) == Acked("open", [], 1, 3, before=1)
        assert await acked(4, 2, 4) == Acked("open", [], 1, 3, before=1), "3 is not named"
        # What was replaced, or was acknowledged already, may be named as well.
        assert await acked(3, 1, 2, 3) == Acked("", [], 3, 2, before=1)
        assert await acked(3) == Acked("", [], 3, 2, before=3)
        assert await acked(5, 2, 3, 4, 5) == Acked("", [], 5, 0, before=3)
        assert await acked(6) == Acked("offset", [], 5, 0, before=5)


async def test_what_has_expired_is_acknowledged_only_where_it_was_given(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x")).live
        for number in (1, 2, 3, 4):
            await append(live, push_of(f"p{number}", expires_at=moment() if number in (2, 3) else None), "x")

        async def named(*given: int, known: bool = True) -> list[int]:
            (found,) = await live.acking("shop", [("x", Position("", 4))], [given if known else None])
            return [each.offset for each in found.newly]

        assert await named(known=False) == [1, 2, 3, 4], "whatever was given"
        assert [await named(), await named(3), await named(1, 2, 4)] == [[1, 4], [1, 3, 4], [1, 2, 4]]
        (found,) = await live.ack("shop", [("x", Position("", 4))], [(4,)])
        assert found == Acked("open", [], 0, 4, before=0)
        (found,) = await live.ack("shop", [("x", Position("", 4))], [(1, 4)])
        assert found == Acked("", [], 4, 0, before=0)


async def test_acknowledgements_at_once_name_each_reference_once(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x")).live
        for number in range(60):
            await append(live, push_of(f"p{number}"), "x")
        found = await asyncio.gather(*(ack(live, "x", offset) for offset in range(1, 61)))
        named = [each.offset for one in found for each in one.newly]
        assert sorted(named) == list(range(1, 61))


async def test_what_a_user_has_read_counts_on_all_devices(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        store = await opened(world, "phone", "tablet", "new")
        live = store.live
        await store.registry.put_many("shop", [phone("stranger", "bob")])
        await append(live, push_of("only tablet"), "tablet")
        await append(live, push_of("p1"), "phone", "tablet", "stranger")
        await append(live, push_of("p2"), "phone", "tablet")
        await append(live, push_of("p3"), "tablet", "phone")
        await connected(live, "tablet", B)
        found = await live.read("shop", "phone", Position("", 2))
        # The tablet's own push stands before what was read.
        assert found == Read("", {"phone": 1, "tablet": 1}, {"tablet": B})
        assert (await live.inbox("gate-b").receive(0)).items == [Unread("shop", 1, 1)]
        rows = await live.presence("shop", ["phone", "tablet", "stranger"])
        assert [row and row.unread for row in rows] == [1, 1, 1]
        assert (await live.read("shop", "phone", Position("", 1))).unread == {"phone": 1, "tablet": 1}
        assert (await append(live, push_of("p4"), "phone"))[0].unread == 2
        assert (await live.read("shop", "tablet", Position("", 4))).unread == {"phone": 1, "tablet": 0}
        assert (await live.read("shop", "phone", Position("", 9))).fault == "offset"
        assert (await live.read("shop", "phone", Position("ffffffff", 1))).fault == "epoch"
        assert (await live.read("shop", "nobody", Position("", 1))).fault == "unknown"
        assert (await live.read("shop", "stranger", Position("", 1))).unread == {"stranger": 0}


async def test_a_page_that_ends_before_a_hole_names_nothing_missing(server: Server | None) -> None:
    config = StoreConfig(history=6, window=1)
    async with new_world(server, config) as world:
        live = (await opened(world, "x")).live
        await connected(live, "x", A)
        for number in range(1, 13):
            await append(live, push_of(f"p{number}"), "x")
        pages = [await live.history("shop", "x", since=since, limit=limit) for since, limit in ((0, 2), (0, 3), (2, 2))]
        found = [(offsets(page), page.missing, page.floor) for page in pages if page is not None]
        assert found == [([(1, 0), (2, 1)], 0, 8), ([(1, 0), (2, 1), (9, 8)], 6, 8), ([(9, 8), (10, 9)], 6, 8)]


async def test_history_pages_both_ways(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        live = (await opened(world, "x", "y")).live
        assert await live.history("shop", "x") is None
        assert await live.history("shop", "nobody") is None
        for number in range(1, 8):
            await append(live, push_of(f"p{number}"), "x")
        forwards: list[int] = []
        since = None
        while True:
            page = await live.history("shop", "x", since=since, limit=3)
            assert page is not None
            assert chain_is_whole(page.publications, since or 0)
            forwards += [each.offset for each in page.publications]
            since = forwards[-1]
            if not page.more:
                break
        assert forwards == [1, 2, 3, 4, 5, 6, 7]
        backwards = await live.history("shop", "x", limit=3, reverse=True)
        assert (offsets(backwards), backwards and backwards.more) == ([(7, 6), (6, 5), (5, 4)], True)
        backwards = await live.history("shop", "x", since=5, limit=4, reverse=True)
        assert (offsets(backwards), backwards and backwards.more) == ([(4, 3), (3, 2), (2, 1), (1, 0)], False)
        assert offsets(await live.history("shop", "x", since=1, reverse=True)) == []
        assert offsets(await live.history("shop", "x", since=7)) == []
        other = await live.history("shop", "x", epoch="ffffffff")
        assert other is not None
        assert (other.publications, other.top) == ([], 7)
        assert offsets(await live.history("shop", "x", epoch=other.epoch, limit=1)) == [(1, 0)]


# --- registry, contents, inboxes, events ----------------------------------------------------------


async def test_a_stream_ends_with_its_device_and_another_user_gets_another_one(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        store = await opened(world, "x", "y")
        live, registry = store.live, store.registry
        epoch = (await connected(live, "x", A)).page.epoch
        await append(live, push_of("for ann"), "x", "y")
        await registry.put("shop", replace(phone("x"), locale="de"))
        assert (await connected(live, "x", A, Position(epoch, 0))).recovered
        # Another user on the same phone, who is connected: nothing of the first one is left, and the route is.
        await registry.put("shop", phone("x", "bob"))
        (row,) = await live.presence("shop", ["x"])
        assert row is not None
        assert (row.unread, row.unacked, row.route) == (0, 0, A)
        assert row.epoch != epoch
        assert offsets(await live.history("shop", "x")) == []
        assert not (await connected(live, "x", A, Position(epoch, 1))).recovered
        (found,) = await append(live, push_of("for bob"), "x")
        assert (found.status, found.route, found.epoch, found.unread) == ("new", A, row.epoch, 1)
        # Another phone under another id takes the token, and with it the place, of the device.
        await registry.put("shop", replace(phone("z"), token="token of y"))
        assert await live.history("shop", "z") is None
        await registry.remove("shop", "x")
        assert (await append(live, push_of("late"), "x", "y"))[0].status == "absent"
        await registry.put("shop", phone("x"))
        again = await connected(live, "x", A, Position(row.epoch, 1))
        assert (again.recovered, again.page.top) == (False, 0)
        assert again.page.epoch not in (epoch, row.epoch)


async def test_content_is_kept_once_a_push(server: Server | None) -> None:
    async with new_world(server, StoreConfig(shards=3, alive_ttl=3600.0) if server else None) as world:
        live = (await opened(world)).live
        await keep(live, push_of("p1"), b"body")
        await keep(live, push_of("p1"), b"another")
        await keep(live, push_of("p2"), b"\0" * 65_536)
        assert await live.contents("shop", ["p1", "gone", "p2", "p1"]) == {"p1": b"body", "p2": b"\0" * 65_536}
        assert await live.contents("other", ["p1"]) == {}
        assert await live.contents("shop", []) == {}


async def test_an_inbox_hands_out_everything_in_order_and_waits_for_the_next(server: Server | None) -> None:
    async with new_world(server, LASTING) as world:
        store = await opened(world)
        inbox = store.live.inbox("gate-a")
        assert (await inbox.receive(0)).items == []
        cuts = [Cut("shop", number, "replaced") for number in range(250)]
        for each in cuts[:240]:
            await store.live.poke({"gate-a": [each], "gate-b": []})
        found: list[object] = []
        while more := (await inbox.receive(0)).items:
            found += more
        assert found == cuts[:240]
        waiting = asyncio.ensure_future(inbox.receive(20_000))
        await asyncio.sleep(0)
        await store.live.poke({"gate-a": cuts[240:]})
        received = await waiting
        assert (received.items, received.lost) == (cuts[240:], False)
