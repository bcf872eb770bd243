"""Deliveries that several channels carry, one after another: one delivery with one end, whichever brings it about.

The device is first looked for at `live`, and an account of `apns` carries on what nobody has acknowledged in time. An
acknowledgement ends a delivery as sent in any turn: before the retry is recorded, while it waits, or after it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from unittest.mock import AsyncMock

import pytest
from msgspec.structs import replace

from pushsvc.errors import StoreUnavailable
from pushsvc.model.delivery import Arrival, BadNotification, Ended, Retry, TokenDead, Unavailable, Unconfirmed
from pushsvc.model.devices import ByDevices, ByUsers, Device, ToAll
from pushsvc.model.push import Chunk, Lane, Message, Push, Route, Target
from pushsvc.model.routing import path_name
from pushsvc.model.status import DeliveryRow
from pushsvc.ports.entries import Taken, token_mark
from pushsvc.ports.letters import DeadFilter, ReplaySpec
from pushsvc.ports.live import LivePush, LiveRoute, Position, Receiver
from pushsvc.ports.registry import Prune
from pushsvc.rules.audience import owner_of
from pushsvc.rules.life import lives_on
from pushsvc.store import Store, StoreConfig, keys
from pushsvc.store.queue import moving, settling
from pushsvc.store.queue.settling import retry_chunk

from ..fakes.store import MemoryStore
from .servers import Server
from .test_store_kit import (
    ROUTE,
    AnyStore,
    Backend,
    World,
    all_of,
    backend_server,
    counts,
    entries_of,
    moment,
    new_world,
    settlement,
    take_all,
)
from .test_store_revocations import hear

LIVE = Route("shop", "live")
WITHIN = 10_000
FIRST_LIVE = path_name("apns", ("live", "apns"))
ONLY_LIVE = path_name("apns", ("live",))
WRITTEN = Unconfirmed(reason="written", within=WITHIN / 1000)
ABSENT = Unconfirmed(reason="absent")
FAILED = Ended("failed", dead_letter=True)
CONNECTED = StoreConfig(alive_ttl=3600.0)
"""Signs of life that a slow machine does not outlast."""
TOTALS = [1, 3, 40, 1001]
"""A push of one, a small one, a large one, and one that keeps no rows of what was sent."""


def due_at() -> int:
    return moment() + 5 + WITHIN


def retry_later() -> Retry:
    return Retry(due_at(), 1, counted=False, channel="apns")


def retry_at_once() -> Retry:
    return Retry(moment() + 5, 1, counted=False, channel="apns")


@pytest.fixture(scope="module", params=("memory", "valkey", "redis"))
def server(request: pytest.FixtureRequest) -> Iterator[Server | None]:
    backend: Backend = request.param
    with backend_server(backend) as found:
        yield found


def push_of(
    push_id: str,
    total: int,
    *,
    path: str = FIRST_LIVE,
    plain: int = 0,
    device: str = "device",
    lane: Lane = "normal",
) -> Push:
    """A push to devices that `live` is tried for first, and to some tokens that only `apns` reaches."""
    devices = [f"{device}-{index}" if device else None for index in range(total)]
    targets = {path: tuple(Target(index, f"{index:064x}", devices[index]) for index in range(total))}
    if plain:
        targets["apns"] = tuple(Target(total + index, f"{push_id}-{index}") for index in range(plain))
    return Push(
        id=push_id,
        app="shop",
        lane=lane,
        created_at=moment(),
        expires_at=moment() + 3_600_000,
        messages={"live": Message("live", b'{"live":1}'), "apns": Message("apns", b'{"aps":{}}')},
        targets=targets,
    )


def ack(chunk: Chunk, *indexes: int) -> list[Arrival]:
    """What the devices of these targets say."""
    devices = {target.index: target.device_id for target in chunk.targets}
    return [
        Arrival(chunk.push_id, index, chunk.total, chunk.lane, chunk.platform, devices.get(index), moment() + 7)
        for index in indexes
    ]


async def take_live(store: AnyStore) -> list[Taken]:
    return await take_all(store, route=LIVE)


async def sent_on(store: AnyStore, now: int) -> list[Taken]:
    """What goes to the provider by then."""
    while await store.queue.promote(ROUTE, now):
        pass
    return await take_all(store)


def indexes_of(taken: Sequence[Taken]) -> list[int]:
    return sorted(target.index for each in taken for target in each.chunk.targets if target.index not in each.skip)


async def rows_of(store: AnyStore, push_id: str) -> list[DeliveryRow]:
    found = await store.pushes.deliveries("shop", push_id, outcome=None, cursor="", limit=2000)
    assert found is not None
    return found[0]


async def live(store: AnyStore, push_id: str = "p") -> tuple[int, int, int] | None:
    """What the live channel has carried: acknowledged, carried on by a provider, waiting."""
    status = await store.pushes.status("shop", push_id)
    assert status is not None
    found = status.live
    return None if found is None else (found.acked, found.fallback, found.waiting)


async def pending(store: AnyStore) -> dict[str, int]:
    """By channel what has not ended, what waits in retry sets, and for a device; what is 0 is left out."""
    figures = (await store.gauges({"shop": ("apns", "live")})).apps["shop"]
    found = {channel: sum(lanes.values()) for channel, lanes in figures.pending.items()}
    found |= {f"{channel}:retry": count for channel, count in figures.retry_pending.items()}
    found |= {f"{channel}:ack": count for channel, count in figures.ack_pending.items()}
    assert figures.total_pending == found["apns"] + found["live"]
    return {name: count for name, count in found.items() if count}


@pytest.mark.parametrize("total", TOTALS)
async def test_nobody_is_there_and_the_provider_is_asked_at_once(total: int, world: World) -> None:
    store = await world.store()
    await store.pushes.accept(push_of("p", total))
    assert await pending(store) == {"live": total}
    assert await take_all(store) == []
    for taken in await take_live(store):
        chunk = taken.chunk
        assert (chunk.channel, chunk.platform, chunk.message.body) == ("live", "apns", b'{"live":1}')
        assert [following.channel for following in chunk.fallbacks] == ["apns"]
        assert len(await store.queue.settle("shop", *all_of(taken, retry_at_once(), ABSENT))) == len(chunk.targets)
        assert len(await store.queue.settle("shop", *all_of(taken, retry_at_once(), ABSENT))) == 0
    assert counts(await store.pushes.status("shop", "p")) == {"retrying": total}
    assert await live(store) == (0, total, 0)
    assert await pending(store) == {"apns": total}
    found = await take_all(store)  # nothing had to be promoted
    assert indexes_of(found) == list(range(total))
    for taken in found:
        chunk = taken.chunk
        assert (chunk.channel, chunk.platform, chunk.message.body) == ("apns", "apns", b'{"aps":{}}')
        assert (chunk.attempt, chunk.turn, chunk.counted, chunk.fallbacks) == (1, 2, False, ())
        assert [target.token for target in chunk.targets] == [f"{target.index:064x}" for target in chunk.targets]
        await store.queue.settle("shop", *all_of(taken))
    assert counts(await store.pushes.status("shop", "p")) == {"sent": total}
    assert await pending(store) == {}
    rows = await rows_of(store, "p")
    assert {(row.platform, row.channel, row.outcome) for row in rows} == (
        {("apns", "apns", "sent")} if total <= 1000 else set()
    )


@pytest.mark.parametrize("total", TOTALS)
@pytest.mark.parametrize("when", ["before", "waiting", "promoted", "taken"])
async def test_an_acknowledgement_ends_it_whenever_it_comes(total: int, when: str, world: World) -> None:
    store = await world.store()
    await store.pushes.accept(push_of("p", total))
    taken = await take_live(store)
    arrivals = [arrival for each in taken for arrival in ack(each.chunk, *indexes_of([each]))]
    if when == "before":
        assert await store.queue.arrived("shop", arrivals) == total
    for each in taken:
        assert len(await store.queue.settle("shop", *all_of(each, retry_later(), WRITTEN))) == (
            0 if when == "before" else len(each.chunk.targets)
        )
    assert await live(store) == ((total, 0, 0) if when == "before" else (0, 0, total))
    if when == "waiting":
        assert await pending(store) == {"apns": total, "apns:ack": total}
        assert await store.queue.arrived("shop", arrivals[1:]) == total - 1
        assert await pending(store) == {"apns": 1, "apns:ack": 1}  # at once, though the entry has others
        assert await store.queue.arrived("shop", arrivals[:1]) == 1
        assert await pending(store) == {}
    assert await sent_on(store, due_at() - 1) == []
    if when in ("promoted", "taken"):
        while await store.queue.promote(ROUTE, due_at()):
            pass
        assert await live(store) == (0, total, 0)
    held = await take_all(store) if when == "taken" else []
    chunks = [each.chunk for each in held]
    assert await store.queue.outstanding("shop", chunks) == [indexes_of([each]) for each in held]
    if when in ("promoted", "taken"):
        assert await store.queue.arrived("shop", arrivals[1:]) == total - 1
        first = await store.queue.outstanding("shop", chunks)
        assert [index for indexes in first for index in indexes] == [arrivals[0].index for _ in chunks[:1]]
        assert await store.queue.arrived("shop", arrivals[:1]) == 1
        assert await store.queue.outstanding("shop", chunks) == [[] for _ in chunks]
    assert await store.queue.arrived("shop", arrivals) == 0  # said twice
    assert await sent_on(store, due_at()) == []
    for each in held:  # the provider was asked before: counted once
        assert len(await store.queue.settle("shop", *all_of(each))) == 0
    status = await store.pushes.status("shop", "p")
    assert status is not None
    assert (status.state, counts(status)) == ("done", {"sent": total})
    assert await live(store) == (total, 0, 0)
    assert await pending(store) == {}
    rows = await rows_of(store, "p")
    expected = DeliveryRow("apns", "device-0", "", "sent", "", 0, 1, "", moment() + 7, channel="live")
    assert rows[:1] == ([expected] if total <= 1000 else [])
    assert len(rows) == (total if total <= 1000 else 0)
    if isinstance(store, Store):
        names = await store.link.call("KEYS", "ps:{shop.0}:*")
        kinds = {name.split(b":")[2] for name in names}
        assert not kinds & {b"t", b"retry", b"v"}, kinds
        assert [await entries_of(store, Route("shop", name)) for name in ("apns", "live")] == [0, 0]


@pytest.mark.parametrize("total", [3, 40, 1001])
async def test_an_acknowledgement_ends_its_own_delivery_and_the_others_go_on(total: int, world: World) -> None:
    store = await world.store()
    await store.pushes.accept(push_of("p", total, plain=2))
    taken = await take_live(store)
    early, late = ([index for index in range(total) if index % 3 == rest] for rest in (0, 1))
    left = [index for index in range(total) if index % 3 == 2]
    assert await store.queue.arrived("shop", ack(taken[0].chunk, *early)) == len(early)
    for each in taken:
        await store.queue.settle("shop", *all_of(each, retry_later(), WRITTEN))
    assert counts(await store.pushes.status("shop", "p")) == {
        "sent": len(early),
        "retrying": total - len(early),
        "queued": 2,
    }
    assert await store.queue.arrived("shop", ack(taken[0].chunk, *late)) == len(late)
    assert (await pending(store))["apns"] == len(left) + 2
    found = await sent_on(store, due_at())
    assert indexes_of(found) == [*left, total, total + 1]
    assert await live(store) == (total - len(left), len(left), 0)
    for each in found:
        await store.queue.settle("shop", *all_of(each))
    assert counts(await store.pushes.status("shop", "p")) == {"sent": total + 2}
    assert await live(store) == (total - len(left), len(left), 0)
    assert await pending(store) == {}
    channels = Counter(row.channel for row in await rows_of(store, "p"))
    if total <= 1000:
        assert channels == {"live": len(early) + len(late), "apns": len(left), "": 2}


async def test_what_only_live_reaches_waits_until_it_expires(world: World) -> None:
    store = await world.store()
    for name, path in (("p", ONLY_LIVE), ("q", "live")):
        await store.pushes.accept(push_of(name, 2, path=path))
    for each in await take_live(store):
        waits = Retry(each.chunk.expires_at, 1)
        await store.queue.settle("shop", *all_of(each, waits, WRITTEN))
        assert await live(store, each.chunk.push_id) == (0, 0, 2)
        assert await store.queue.arrived("shop", ack(each.chunk, 1)) == 1
    for now in (moment(), moment() + 60_006, moment() + 3_599_999):
        assert await store.queue.promote(LIVE, now) == 0
        assert await take_live(store) == []
    assert await store.queue.promote(LIVE, moment() + 3_600_000) == 2
    found = await take_live(store)
    assert [(indexes_of([each]), each.chunk.channel) for each in found] == [([0], "live")] * 2
    for each in found:
        await store.queue.settle("shop", *all_of(each, Ended("expired"), None))
    for name in ("p", "q"):
        assert counts(await store.pushes.status("shop", name)) == {"sent": 1, "expired": 1}
        assert await live(store, name) == (1, 0, 0)
    assert await pending(store) == {}
    assert {row.platform for row in await rows_of(store, "q")} == {"live"}


async def test_what_is_acknowledged_leaves_the_retries_long_before_it_expires(world: World) -> None:
    store = await world.store()
    await asyncio.gather(*(store.pushes.accept(push_of(f"p{each}", 1, path=ONLY_LIVE)) for each in range(700)))
    taken = await take_live(store)
    settlements = [settlement(each.chunk, 0, Retry(each.chunk.expires_at, 1), WRITTEN) for each in taken]
    await store.queue.settle("shop", settlements, [each.ref for each in taken])
    arrivals = [arrival for each in taken[1:] for arrival in ack(each.chunk, 0)]
    assert await store.queue.arrived("shop", arrivals) == 699
    assert await store.queue.promote(LIVE, int(time.time() * 1000) + 61_000) == 0
    assert await pending(store) == {"live": 1, "live:ack": 1}


async def test_what_is_urgent_and_not_acknowledged_waits_for_no_others(
    server: Server | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at on the way, and then goes on in the first step in which it is due."""
    monkeypatch.setattr(moving, "_PROMOTE", 5)
    due = int(time.time() * 1000) + 120_000
    async with new_world(server, StoreConfig(chunk_size=1)) as world:
        store = await world.store()
        await store.pushes.accept(push_of("many", 20))
        await store.pushes.accept(push_of("some", 3, lane="urgent"))
        for lane in ("normal", "urgent"):
            for each in await take_all(store, lane, LIVE):
                at = due if lane == "urgent" else due - 1
                await store.queue.settle("shop", *all_of(each, Retry(at, 1, counted=False, channel="apns"), WRITTEN))
                if lane == "urgent" and each.chunk.targets[0].index == 1:
                    assert await store.queue.arrived("shop", ack(each.chunk, 1)) == 1
        assert await store.queue.promote(ROUTE, due - 59_000) == 0  # only looked at
        assert await store.queue.promote(ROUTE, due) > 0
        assert indexes_of(await take_all(store, "urgent")) == [0, 2]
        while await store.queue.promote(ROUTE, due):
            pass
        assert indexes_of(await take_all(store)) == list(range(20))
        if isinstance(store, Store):
            assert await store.link.call("EXISTS", *keys.first_retries("shop", 0, "apns")) == 0


async def test_a_step_looks_at_a_bounded_number_of_targets(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Promotion goes on with the next step; counters are set right once few enough wait."""
    store = await world.store()
    if not isinstance(store, Store):
        return
    monkeypatch.setattr(moving, "_STEP_TARGETS", 9)
    waiting = [f"p{number}" for number in range(7)]
    for name in waiting:
        await store.pushes.accept(push_of(name, 4))
    taken = await take_live(store)
    for each in taken:
        await store.queue.settle("shop", *all_of(each, retry_later(), WRITTEN))
    await store.link.call("HSET", keys.pending("shop", 0), "apns:normal", 1)
    await take_all(store)  # both lanes are this consumer's
    for limit, counted in ((9, 1), (28, 28)):
        monkeypatch.setattr(moving, "_STEP_TARGETS", limit)
        store.queue.recheck_all()
        await store.queue.beat()
        assert await store.link.call("HGET", keys.pending("shop", 0), "apns:normal") == b"%d" % counted
    monkeypatch.setattr(moving, "_STEP_TARGETS", 9)
    # The first step finds what was acknowledged, so that a second one follows in the same call.
    for each in sorted(taken, key=lambda each: each.chunk.push_id)[:3]:
        assert await store.queue.arrived("shop", ack(each.chunk, 0, 1, 2, 3)) == 4
    assert [await store.queue.promote(ROUTE, due_at()) for _ in range(3)] == [12, 4, 0]
    assert await pending(store) == {"apns": 16}


async def test_a_cancelled_push_has_no_arrivals_any_more(world: World) -> None:
    store = await world.store()
    for name, total in (("one", 1), ("small", 3), ("large", 40)):
        await store.pushes.accept(push_of(name, total))
    taken = await take_live(store)
    for each in taken:
        await store.queue.settle("shop", *all_of(each, retry_later(), WRITTEN))
    for each in taken:
        await store.queue.arrived("shop", ack(each.chunk, 0)[: each.chunk.total - 1])
        await store.pushes.cancel("shop", each.chunk.push_id)
        assert await store.queue.arrived("shop", ack(each.chunk, *indexes_of([each]))) == 0
    for each in await sent_on(store, due_at()):
        assert each.skip == {target.index: "cancelled" for target in each.chunk.targets}
        await store.queue.settle("shop", *all_of(each))
    for name, expected in (
        ("one", {"cancelled": 1}),
        ("small", {"sent": 1, "cancelled": 2}),
        ("large", {"sent": 1, "cancelled": 39}),
    ):
        status = await store.pushes.status("shop", name)
        assert status is not None
        assert (status.state, counts(status)) == ("cancelled", expected)
        assert await live(store, name) == (expected.get("sent", 0), 0, 0)
    assert await pending(store) == {}


async def test_a_provider_that_fails_hands_on_and_the_last_channel_keeps_a_dead_letter(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(push_of("p", 2, path=path_name("apns", ("apns", "live")), device=""))
    (taken,) = await take_all(store)
    dead = TokenDead(status=410, reason="Unregistered")
    going_on = Retry(moment() + 5, 1, counted=False, channel="live")
    await store.queue.settle("shop", *all_of(taken, going_on, dead))
    assert await pending(store) == {"live": 2}
    assert (await store.gauges({"shop": ("apns",)})).apps["shop"].receipts == 2
    (taken,) = await take_live(store)
    settlements = [
        settlement(taken.chunk, 0, Retry(taken.chunk.expires_at, 1), WRITTEN),
        settlement(taken.chunk, 1, FAILED, BadNotification(status=400)),
    ]
    await store.queue.settle("shop", settlements, [taken.ref])
    assert counts(await store.pushes.status("shop", "p")) == {"retrying": 1, "failed": 1}
    spec = ReplaySpec("shop", DeadFilter())
    status = await store.dead.request(spec)
    assert (await store.dead.step("shop", status.job, most=10)).moved == 1
    assert await pending(store) == {"live": 2, "live:ack": 1}
    (again,) = await take_live(store)
    assert (indexes_of([again]), again.chunk.channel, again.chunk.platform) == ([1], "live", "apns")
    assert await store.queue.arrived("shop", ack(taken.chunk, 0, 1)) == 2
    assert len(await store.queue.settle("shop", *all_of(again, FAILED, BadNotification(status=400)))) == 0
    assert counts(await store.pushes.status("shop", "p")) == {"sent": 2}
    assert await store.queue.promote(LIVE, int(time.time() * 1000) + 61_000) == 0
    assert await pending(store) == {}


@pytest.mark.parametrize("total", [2, 40])
async def test_a_replay_keeps_apart_what_a_device_may_acknowledge(total: int, world: World) -> None:
    """Deliveries of one push fail in the same turn at the same channel; only some of them have been at `live`."""
    store = await world.store()
    await store.pushes.accept(push_of("p", total, plain=2, device=""))
    for taken in await take_live(store):
        await store.queue.settle("shop", *all_of(taken, retry_at_once(), ABSENT))
    for taken in await take_all(store):
        if not taken.chunk.home:
            await store.queue.settle("shop", *all_of(taken, Retry(moment() + 6, 2), None))
        else:
            await store.queue.settle("shop", *all_of(taken, FAILED, BadNotification(status=400)))
    for taken in await sent_on(store, moment() + 6):
        await store.queue.settle("shop", *all_of(taken, FAILED, BadNotification(status=400)))
    assert counts(await store.pushes.status("shop", "p")) == {"failed": total + 2}
    status = await store.dead.request(ReplaySpec("shop", DeadFilter()))
    assert (await store.dead.step("shop", status.job, most=total + 2)).moved == total + 2
    assert await pending(store) == {"apns": total + 2}
    again = await take_all(store)
    assert {(each.chunk.home, *indexes_of([each])) for each in again} == {
        ("apns", *range(total)),
        ("", total, total + 1),
    }
    arrivals = [arrival for each in again if each.chunk.home for arrival in ack(each.chunk, *range(total))]
    assert await live(store) == (0, total, 0)
    assert await store.queue.arrived("shop", arrivals) == total
    assert await live(store) == (total, 0, 0)
    assert await pending(store) == {"apns": 2}
    for each in again:
        await store.queue.settle("shop", *all_of(each))
    assert counts(await store.pushes.status("shop", "p")) == {"sent": total + 2}
    assert await pending(store) == {}


@pytest.mark.parametrize("total", [1, 40])
async def test_what_devices_have_acknowledged_is_not_recorded_as_waiting(
    server: Server | None, total: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten pushes all is acknowledged, and of the last nothing, before it is recorded that they wait."""
    recorded: list[Sequence[Chunk]] = []

    def retry(chunk: Chunk, targets: Sequence[Target], verdict: Retry) -> Chunk:
        recorded.append([replace(chunk, targets=tuple(targets))])
        return retry_chunk(chunk, targets, verdict)

    async with new_world(server) as world:
        store = await world.store()
        names = [f"p{number}" for number in range(10)]
        for name in (*names, "last"):
            await store.pushes.accept(push_of(name, total))
        taken = await take_live(store)
        for each in taken:
            if each.chunk.push_id != "last":
                await store.queue.arrived("shop", ack(each.chunk, *indexes_of([each])))
        monkeypatch.setattr(settling, "retry_chunk", retry)
        settlements = [one for each in taken for one in all_of(each, retry_later(), WRITTEN)[0]]
        took = await store.queue.settle("shop", settlements, [each.ref for each in taken])
        assert {each.delivery.chunk.push_id for each in took} == {"last"}
        assert len(took) == total
        assert {chunk.push_id for chunks in recorded for chunk in chunks} <= {"last"}, "no chunk is encoded in vain"
        for name in names:
            assert await live(store, name) == (total, 0, 0)
        assert await live(store, "last") == (0, 0, total)
        assert await pending(store) == {"apns": total, "apns:ack": total}
        assert await take_live(store) == []
        assert indexes_of(await sent_on(store, due_at())) == list(range(total))


@pytest.mark.parametrize("total", [3, 40, 1001])
@pytest.mark.parametrize("recorded", [False, True])
async def test_what_is_acknowledged_beside_what_had_ended_ends_once(total: int, recorded: bool, world: World) -> None:
    """The first and the last of a push are acknowledged, which are far apart in a large one, then all of it."""
    store = await world.store()
    await store.pushes.accept(push_of("p", total))
    taken = await take_live(store)
    arrivals = {each.index: each for one in taken for each in ack(one.chunk, *indexes_of([one]))}
    if recorded:
        for each in taken:
            await store.queue.settle("shop", *all_of(each, retry_later(), WRITTEN))
    assert await store.queue.arrived("shop", [arrivals[0], arrivals[total - 1]]) == 2
    assert await live(store) == (2, 0, total - 2 if recorded else 0)
    assert await store.queue.arrived("shop", list(arrivals.values())) == total - 2
    assert await store.queue.arrived("shop", list(arrivals.values())) == 0
    assert await live(store) == (total, 0, 0)
    assert counts(await store.pushes.status("shop", "p")) == {"sent": total}
    assert await pending(store) == {}
    rows = await rows_of(store, "p")
    assert [row.device_id for row in rows] == [f"device-{index}" for index in range(total if total <= 1000 else 0)]
    if isinstance(store, Store) and total == 40:
        assert await store.link.call("ZCARD", keys.rows("shop", 0, "p")) == 2, "the rows of a step are together"


@pytest.mark.parametrize("total", [1, 3, 40, 1001])
async def test_what_a_later_push_has_replaced_ends_unless_a_provider_is_asked(total: int, world: World) -> None:
    store = await world.store()
    for name, path in (("new", FIRST_LIVE), ("waits", FIRST_LIVE), ("only", ONLY_LIVE), ("asked", FIRST_LIVE)):
        await store.pushes.accept(push_of(name, total, path=path))
    taken = await take_live(store)
    for each in taken:
        chunk = each.chunk
        later = Retry(chunk.expires_at, 1) if chunk.push_id == "only" else retry_later()
        verdict, outcome = (retry_at_once(), ABSENT) if chunk.push_id == "asked" else (later, WRITTEN)
        if chunk.push_id != "new":
            await store.queue.settle("shop", *all_of(each, verdict, outcome))
    gone = {
        name: [a for each in taken if each.chunk.push_id == name for a in ack(each.chunk, *indexes_of([each]))]
        for name in ("new", "waits", "only", "asked")
    }
    for name, ended in (("new", total), ("waits", total), ("only", total), ("asked", 0)):
        assert await store.queue.suppress("shop", gone[name], "superseded") == ended, name
        assert await store.queue.suppress("shop", gone[name], "superseded") == 0
        expected = {"suppressed": total} if ended else {"retrying": total}
        assert counts(await store.pushes.status("shop", name)) == expected
        rows = await rows_of(store, name)
        assert {(row.outcome, row.reason, row.channel) for row in rows} == (
            {("suppressed", "superseded", "live")} if ended else set()
        )
        assert len(rows) == ended
        assert await live(store, name) == ({"new": None, "asked": (0, total, 0)}.get(name, (0, 0, 0)))
    assert (await pending(store))["apns"] == total
    for each in taken:
        if each.chunk.push_id == "new":  # what was thought of it before
            assert len(await store.queue.settle("shop", *all_of(each, retry_later(), WRITTEN))) == 0
    assert indexes_of(await sent_on(store, due_at())) == list(range(total))


@pytest.mark.parametrize("total", [1, 3, 40, 1001])
async def test_what_no_device_can_acknowledge_any_more_goes_on_at_once(total: int, world: World) -> None:
    """Of a push of several, the first is acknowledged, and the second and the last lose their places."""
    store = await world.store()
    for name in ("p", "other"):
        await store.pushes.accept(push_of(name, total))
    by_index: dict[int, Arrival] = {}
    for each in await take_live(store):
        if each.chunk.push_id == "p":
            by_index |= {arrival.index: arrival for arrival in ack(each.chunk, *indexes_of([each]))}
        await store.queue.settle("shop", *all_of(each, retry_later(), WRITTEN))
    acked = [0] if total > 1 else []
    gone = sorted({min(1, total - 1), total - 1})
    left = [index for index in range(total) if index not in (*acked, *gone)]
    assert await store.queue.arrived("shop", [by_index[index] for index in acked]) == len(acked)
    displaced = [by_index[index] for index in (*acked, *gone)]
    assert await store.queue.fall_back("shop", displaced) == len(gone)
    assert await store.queue.fall_back("shop", displaced) == 0, "each goes on once"
    assert await live(store) == (len(acked), len(gone), len(left))
    waiting = {"apns:ack": len(left) + total}
    assert await pending(store) == {"apns": 2 * total - len(acked)} | waiting
    sent = await take_all(store)
    assert indexes_of(sent) == gone
    assert {(each.chunk.push_id, each.chunk.channel, each.chunk.turn) for each in sent} == {("p", "apns", 3)}
    for each in sent:
        await store.queue.settle("shop", *all_of(each))
    later = [each for each in await sent_on(store, due_at()) if each.chunk.push_id == "p"]
    assert indexes_of(later) == left
    for each in later:
        await store.queue.settle("shop", *all_of(each))
    assert counts(await store.pushes.status("shop", "p")) == {"sent": total}
    assert await pending(store) == {"apns": total}


@pytest.mark.parametrize("total", [1, 3, 40])
@pytest.mark.parametrize("path", ["live", "provider", "carried on"])
@pytest.mark.parametrize("order", ["waits", "is on its way"])
async def test_what_waits_of_a_cancelled_push_ends_at_once(total: int, path: str, order: str, world: World) -> None:
    """It waits for its devices, or for a provider's retry: cancelled before that is recorded, or after."""
    store = await world.store()
    route = LIVE if path == "live" else ROUTE
    names = {"live": ONLY_LIVE, "provider": "apns", "carried on": FIRST_LIVE}
    for push_id in ("other", "p"):
        await store.pushes.accept(push_of(push_id, total, path=names[path]))
    if path == "carried on":
        for each in await take_live(store):
            await store.queue.settle("shop", *all_of(each, retry_at_once(), ABSENT))
    taken = await take_all(store, route=route)
    verdict = Retry(moment() + 3_600_000, 2)
    outcome = WRITTEN if path == "live" else Unavailable(status=503)
    kind = "live:ack" if path == "live" else "apns:retry"
    for each in taken:
        if order == "is on its way" and each.chunk.push_id == "p":
            await store.pushes.cancel("shop", "p")
        await store.queue.settle("shop", *all_of(each, verdict, outcome))
    if order == "waits":
        assert await pending(store) == {route.platform: 2 * total, kind: 2 * total}
        await store.pushes.cancel("shop", "p")
    now = int(time.time() * 1000)
    assert await store.queue.promote(route, now) == total
    assert await pending(store) == {route.platform: 2 * total, kind: total}
    for each in await take_all(store, route=route):
        assert each.skip == {target.index: "cancelled" for target in each.chunk.targets}
        await store.queue.settle("shop", *all_of(each))
    assert counts(await store.pushes.status("shop", "p")) == {"cancelled": total}
    assert await pending(store) == {route.platform: total, kind: total}
    assert await store.queue.promote(route, now) == 0


async def test_many_retries_of_a_cancelled_push_are_recalled_step_by_step(world: World) -> None:
    store = await world.store()
    await store.pushes.accept(push_of("p", 3000, path="apns"))
    for each in await take_all(store):
        settlements = [
            settlement(each.chunk, target.index, Retry(moment() + 3_600_000 + 100 * target.index, 2), Unavailable(503))
            for target in each.chunk.targets
        ]
        await store.queue.settle("shop", settlements, [each.ref])
    await store.pushes.cancel("shop", "p")
    ended = 0
    while await store.queue.promote(ROUTE, int(time.time() * 1000)):
        for each in await take_all(store):
            ended += len(await store.queue.settle("shop", *all_of(each)))
    assert ended == 3000
    assert await pending(store) == {}
    if isinstance(store, Store):
        names = await store.link.call("KEYS", "ps:{shop.0}:*")
        assert not {name.split(b":")[2] for name in names} & {b"t", b"retry", b"recalled"}


async def test_what_is_known_of_a_token_holds_where_it_is_used(world: World) -> None:
    store = await world.store()
    await store.suppressions.add("shop", [("apns", f"{0:064x}", moment() + 1)])
    await store.pushes.accept(push_of("p", 2))
    await store.pushes.accept(push_of("q", 1, path="live"))
    (one, other) = sorted(await take_live(store), key=lambda each: each.chunk.push_id)
    assert (one.skip, other.skip) == ({}, {})  # the live channel needs no token
    await store.queue.settle("shop", *all_of(one, retry_at_once(), ABSENT))
    (again,) = await take_all(store)
    assert again.skip == {0: "suppressed"}


async def test_a_successor_finds_what_was_acknowledged(world: World) -> None:
    one, two = await world.store("a"), await world.store("b")
    await one.pushes.accept(push_of("p", 4))
    (taken,) = await take_live(one)
    await one.queue.arrived("shop", ack(taken.chunk, 1, 3))
    await world.kill("a")
    (left,) = await two.queue.reclaim(LIVE)
    assert indexes_of([left]) == [0, 2]
    assert len(await two.queue.settle("shop", *all_of(left, retry_later(), WRITTEN))) == 2
    # The first one was thought dead, and speaks now.
    assert len(await one.queue.settle("shop", *all_of(taken, retry_at_once(), ABSENT))) == 0
    assert await two.queue.arrived("shop", ack(taken.chunk, 0)) == 1
    assert indexes_of(await sent_on(two, due_at())) == [2]
    assert counts(await two.pushes.status("shop", "p")) == {"sent": 3, "retrying": 1}


@pytest.mark.parametrize("total", [1, 3])
async def test_a_wait_is_recorded_of_what_is_open_by_the_holder_of_its_entry(total: int, world: World) -> None:
    one, two = await world.store("a"), await world.store("b")
    for name in ("recorded", "acknowledged", "taken-over"):
        await one.pushes.accept(push_of(name, total))
    taken = {each.chunk.push_id: each for each in await take_live(one)}

    async def record(store: AnyStore, each: Taken) -> int:
        settlements, finished = all_of(each, retry_later(), WRITTEN)
        own = [replace(settled, entry_id=each.ref.entry_id) for settled in settlements]
        return len(await store.queue.settle("shop", own, finished))

    assert await one.queue.arrived("shop", ack(taken["acknowledged"].chunk, *range(total))) == total
    assert await record(one, taken["acknowledged"]) == 0
    assert await record(one, taken["recorded"]) == total
    assert await record(one, taken["recorded"]) == 0, "a repeat changes nothing"
    await world.kill("a")
    (left,) = await two.queue.reclaim(LIVE)
    assert left.chunk.push_id == "taken-over"
    assert await record(one, taken["taken-over"]) == 0, "the first one was thought dead, and speaks now"
    assert await pending(two) == {"live": total, "apns": total, "apns:ack": total}
    assert await record(two, left) == total
    assert await pending(two) == {"apns": 2 * total, "apns:ack": 2 * total}
    found = await sent_on(two, due_at())
    assert Counter(each.chunk.push_id for each in found) == {"recorded": 1, "taken-over": 1}
    assert indexes_of(found) == sorted(2 * list(range(total)))


async def test_retries_of_several_hands_never_send_twice(world: World) -> None:
    """Two processes have parts of the same chunk, and settle it with others in between."""
    store = await world.store()
    for name in ("p", "q"):
        await store.pushes.accept(push_of(name, 6 if name == "p" else 60))
    for taken in await take_live(store):
        chunk = taken.chunk
        total = chunk.total
        part = [settlement(chunk, index, retry_later(), WRITTEN) for index in range(0, total, 2)]
        assert len(await store.queue.settle("shop", part, [])) == len(part)
        await store.queue.arrived("shop", ack(chunk, 0, 1))
        took = await store.queue.settle("shop", *all_of(taken, retry_later(), WRITTEN))
        assert [each.delivery.target.index for each in took] == list(range(3, total, 2))
    found = await sent_on(store, due_at())
    for name, total in (("p", 6), ("q", 60)):
        own = [each for each in found if each.chunk.push_id == name]
        assert indexes_of(own) == list(range(2, total))
    for each in found:
        await store.queue.settle("shop", *all_of(each))
    assert await pending(store) == {}


@pytest.mark.parametrize("seed", range(2))
async def test_ten_thousand_deliveries_are_acknowledged_or_sent_and_never_both(seed: int, world: World) -> None:
    """In any order: acknowledged before, between and after the records, by one push or many."""
    store, luck = await world.store(), random.Random(seed)
    sizes = [1] * 300 + [7] * 100 + [50] * 60 + [3000, 3000]
    pushes = [push_of(f"p{number}", size) for number, size in enumerate(sizes)]
    await asyncio.gather(*(store.pushes.accept(push) for push in pushes))
    taken = await take_live(store)
    acks = [arrival for each in taken for arrival in ack(each.chunk, *indexes_of([each]))]
    assert len(acks) == sum(sizes)
    luck.shuffle(acks)
    luck.shuffle(taken)
    in_time = set[tuple[str, int]]()
    ended = 0
    steps = len(taken)
    for each in taken:
        share, acks = acks[: len(acks) // steps], acks[len(acks) // steps :]
        ended += await store.queue.arrived("shop", share)
        in_time |= {(arrival.push_id, arrival.index) for arrival in share}
        verdicts = {False: (retry_later(), WRITTEN), True: (retry_at_once(), ABSENT)}
        chunk = each.chunk
        absent = luck.random() < 0.3
        settlements = [settlement(chunk, target.index, *verdicts[absent]) for target in chunk.targets]
        await store.queue.settle("shop", settlements, [each.ref])
    late, acks = acks[: len(acks) // 2], acks[len(acks) // 2 :]
    at_once = await take_all(store)
    asked = [(each.chunk.push_id, index) for each in at_once for index in indexes_of([each])]
    ended += await store.queue.arrived("shop", late)
    in_time |= {(arrival.push_id, arrival.index) for arrival in late} - set(asked)
    found = await sent_on(store, due_at())
    asked += [(each.chunk.push_id, index) for each in found for index in indexes_of([each])]
    assert len(asked) == len(set(asked))  # one request a delivery
    assert not in_time & set(asked) - {(arrival.push_id, arrival.index) for arrival in late}
    ended += await store.queue.arrived("shop", acks[: len(acks) // 2])  # just after the provider was asked
    for each in (*at_once, *found):
        ended += len(await store.queue.settle("shop", *all_of(each)))
    ended += await store.queue.arrived("shop", acks)
    assert ended == sum(sizes)
    everything = {(push.id, index) for push, size in zip(pushes, sizes, strict=True) for index in range(size)}
    assert in_time | set(asked) == everything
    for push, size in zip(pushes, sizes, strict=True):
        status = await store.pushes.status("shop", push.id)
        assert status is not None
        assert (status.state, counts(status)) == ("done", {"sent": size})
    assert await pending(store) == {}


PHONE = Device(id="phone", platform="apns", token=f"{0:064x}", registered_at=1, last_seen_at=1, user="ann", topics=())
DESK = replace(PHONE, id="desk", platform="live", token="desk")
CHANGES: dict[str, tuple[Callable[[Store | MemoryStore, Device], Awaitable[object]], str]] = {
    "removed": (lambda store, device: store.registry.remove("shop", device.id), "moved"),
    "another user": (lambda store, device: store.registry.put("shop", replace(device, user="bob")), "moved"),
    "another platform": (
        lambda store, device: store.registry.put("shop", replace(device, platform="fcm", token="fresh")),
        "moved",
    ),
    "replaced": (lambda store, device: store.registry.put("shop", replace(device, id="other")), "moved"),
    "pruned": (
        lambda store, device: store.registry.prune(
            "shop", [Prune(device.id, device.token, device.registered_at, "Unregistered", moment() - 1)]
        ),
        "pruned",
    ),
}


async def written(store: AnyStore, push: Push, device: Device) -> Taken:
    """Let a push wait in the stream of a device, unacknowledged."""
    await store.pushes.accept(push)
    (taken,) = [each for each in await take_live(store) if each.chunk.push_id == push.id]
    chunk = taken.chunk
    at = LivePush(chunk.push_id, chunk.starts_at, chunk.expires_at, chunk.lane, chunk.total)
    receivers = [Receiver(device.id, target.index) for target in chunk.targets if target.device_id == device.id]
    await store.live.append("shop", at, receivers, platform=device.platform)
    verdict = retry_later() if chunk.fallbacks else Retry(chunk.expires_at, 1)
    await store.queue.settle("shop", *all_of(taken, verdict, WRITTEN))
    return taken


def to_device(push_id: str, device: Device, total: int) -> Push:
    """A push to this device and others."""
    push = push_of(push_id, total, path="live" if device.platform == "live" else FIRST_LIVE)
    ((path, targets),) = push.targets.items()
    first = Target(0, device.token, device.id, owner=owner_of(device))
    return replace(push, targets={path: (first, *targets[1:])})


@pytest.mark.parametrize("total", [1, 3, 40])
@pytest.mark.parametrize("device", [PHONE, DESK], ids=["apns", "live"])
@pytest.mark.parametrize("change", CHANGES)
async def test_what_waits_in_the_stream_of_a_device_ends_as_soon_as_that_has_changed(
    server: Server | None, change: str, device: Device, total: int
) -> None:
    async with new_world(server, CONNECTED if server else None) as world:
        store = await world.store()
        await store.registry.put("shop", device)
        waiting = "live" if device.platform == "live" else "apns"
        acked = await written(store, to_device("acked", device, total), device)
        await written(store, to_device("p", device, total), device)
        await store.queue.arrived("shop", ack(acked.chunk, 0))
        await store.live.ack("shop", [(device.id, Position("", 1))])
        left = {waiting: 2 * total - 1, f"{waiting}:ack": 2 * total - 1}
        assert await pending(store) == left
        # What changes nothing for a push changes nothing here.
        await store.registry.put("shop", replace(device, app_version="2"))
        assert await pending(store) == left
        act, why = CHANGES[change]
        await act(store, device)
        found = counts(await store.pushes.status("shop", "p"))
        assert found == {"suppressed": 1, "retrying": total - 1} if total > 1 else {"suppressed": 1}
        (row,) = await rows_of(store, "p")
        assert (row.outcome, row.reason, row.channel, row.device_id) == ("suppressed", why, "live", device.id)
        assert await live(store, "p") == (0, 0, total - 1)
        assert counts(await store.pushes.status("shop", "acked")).get("sent") == 1
        expected = {waiting: 2 * total - 2, f"{waiting}:ack": 2 * total - 2}
        assert await pending(store) == {name: count for name, count in expected.items() if count}
        page = await store.live.history("shop", device.id, since=0)
        assert page is None or page.publications == []


async def test_dispatchers_hear_of_a_change_also_where_what_waits_cannot_be_ended(world: World) -> None:
    store, holder = await world.store(), await world.store("holder")
    if not isinstance(store, Store):
        return  # the twin is never away
    await store.registry.put("shop", PHONE)
    await written(store, to_device("p", PHONE, 1), PHONE)
    await holder.queue.enrol("shop")
    store.arrivals = AsyncMock(moved=AsyncMock(side_effect=StoreUnavailable("It is away.")))
    removing = asyncio.create_task(store.registry.remove("shop", PHONE.id))
    news = await hear(holder)
    assert token_mark(PHONE.token) in news.revoked.tokens
    await holder.queue.acknowledge(news, {})
    assert await removing
    # What is left ends when its turn comes.
    (taken,) = await sent_on(store, due_at())
    assert (taken.skip, taken.why) == ({0: "suppressed"}, {0: "moved"})


async def test_a_connected_device_whose_token_is_dead_keeps_what_waits(server: Server | None) -> None:
    async with new_world(server, CONNECTED if server else None) as world:
        store = await world.store()
        await store.registry.put("shop", PHONE)
        await store.live.beat("gate", {"shop": 0})
        await store.live.connect("shop", PHONE.id, LiveRoute("gate", 1), issued_at=moment())
        await written(store, to_device("p", PHONE, 1), PHONE)
        await CHANGES["pruned"][0](store, PHONE)
        device = await store.registry.get("shop", PHONE.id)
        assert device is not None
        assert (device.state, device.pruned_for, lives_on(device)) == ("pruned", "Unregistered", True)
        assert await pending(store) == {"apns": 1, "apns:ack": 1}
        # It is in audiences, and no other tombstone is.
        await store.registry.put("shop", replace(PHONE, id="away", token=f"{1:064x}"))
        await store.registry.prune(
            "shop", [Prune("away", f"{1:064x}", PHONE.registered_at, "Unregistered", moment() - 1)]
        )
        for audience in (ByDevices((PHONE.id, "away")), ByUsers(("ann",)), ToAll()):
            page = await store.registry.members("shop", audience, after="", limit=500)
            assert [each.id for each in page.devices] == [PHONE.id]
        # The next push is for the live channel, and its provider leaves it out.
        await store.suppressions.add("shop", [("apns", PHONE.token, moment() + 9)])
        again = await written(store, to_device("q", PHONE, 1), PHONE)
        assert again.skip == {}
        for taken in await sent_on(store, due_at()):
            assert taken.skip == {0: "suppressed"}
        # Signs of life leave it what it is.
        await store.live.disconnect("shop", PHONE.id, LiveRoute("gate", 1))
        device = await store.registry.get("shop", PHONE.id)
        assert device is not None
        assert lives_on(device)
