"""What came from the registry follows it: at a take, at a retry and at a replay, however a phone moves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest
from msgspec.structs import replace

from pushsvc.model.codec import encode_audience
from pushsvc.model.delivery import Delivery, Ended, Expired, Retry, Settlement
from pushsvc.model.devices import ByTopic, Device
from pushsvc.model.push import LANES, Chunk, Platform, Push, Route, Target
from pushsvc.ports.letters import DeadFilter, ReplaySpec
from pushsvc.ports.registry import Prune, Registry
from pushsvc.rules.audience import targets_of
from pushsvc.store import Store, keys
from pushsvc.store.revoke.presence import SLACK

from .test_registry import device
from .test_store_kit import AnyStore, Backend, World, backend_server, make_push, moment, new_world

BACKENDS: tuple[Backend, ...] = ("memory", "redis")
PLATFORMS: tuple[Platform, ...] = ("apns", "fcm")


ANN = device("phone", user="ann", topics=("news",))
RENEWED = "ff" * 32


async def another_login(registry: Registry, phone: Device) -> None:
    await registry.put("shop", replace(phone, user="bob"))


async def logout(registry: Registry, phone: Device) -> None:
    await registry.put("shop", replace(phone, user=None))


async def delete(registry: Registry, phone: Device) -> None:
    await registry.remove("shop", phone.id)


async def prune(registry: Registry, phone: Device) -> None:
    await registry.prune("shop", [Prune(phone.id, phone.token, phone.registered_at, "Unregistered", moment() + 1)])


async def another_device(registry: Registry, phone: Device) -> None:
    await registry.put("shop", replace(phone, id="reinstalled", user="bob"))


async def leave(registry: Registry, phone: Device) -> None:
    await registry.unsubscribe("shop", "news", phone.id)


async def new_token(registry: Registry, phone: Device) -> None:
    await registry.put("shop", replace(phone, token=RENEWED))


async def out_and_in_again(registry: Registry, phone: Device) -> None:
    await logout(registry, phone)
    await registry.put("shop", phone)


async def refresh(registry: Registry, phone: Device) -> None:
    await registry.put("shop", replace(phone, registered_at=moment() + 5, locale="de"))


Move = Callable[[Registry, Device], Awaitable[None]]
STORIES: list[tuple[Move, str]] = [
    (another_login, "moved"),
    (logout, "moved"),
    (delete, "moved"),
    (another_device, "moved"),
    (prune, "pruned"),
    (leave, "unsubscribed"),
    (new_token, RENEWED),
    (out_and_in_again, "same"),
    (refresh, "same"),
]


def addressed(platform: Platform, devices: Sequence[Device], *, now: int, name: str = "p") -> Push:
    """A push to what the registry has found."""
    targets = {route: tuple(found) for route, found in targets_of(devices, 0).items()}
    made = make_push(name, platforms=[platform], created_at=now)
    return msgspec.structs.replace(made, targets=targets, lane="normal")


async def take_all(store: AnyStore, platform: Platform) -> list[tuple[Chunk, dict[int, str]]]:
    found = []
    for lane in LANES:
        for taken in await store.queue.take(Route("shop", platform), lane, targets=1000, wait_ms=0):
            assert set(taken.why) <= set(taken.skip)
            found.append((taken.chunk, {index: taken.why.get(index, end) for index, end in taken.skip.items()}))
            settlements = [
                Settlement(Delivery(taken.chunk, target), None, Ended("suppressed"), moment(), "", "test")
                for target in taken.chunk.targets
            ]
            await store.queue.settle("shop", settlements, [taken.ref])
    return found


def check(found: Sequence[tuple[Chunk, dict[int, str]]], phone: Device, expected: str) -> None:
    (chunk, skip), *more = found
    assert not more
    (target,) = chunk.targets
    if expected in ("moved", "pruned", "unsubscribed"):
        assert skip == {0: expected} or (expected == "pruned" and skip == {0: "suppressed"})
    else:
        assert not skip
        assert target.token == (RENEWED if expected == RENEWED else phone.token)
        assert target.device_id == phone.id


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(("move", "expected"), STORIES, ids=[move.__name__ for move, _ in STORIES])
async def test_what_waits_in_a_lane_follows_the_registry(
    platform: Platform, move: Move, expected: str, world: World
) -> None:
    store = await world.store()
    phone = replace(ANN, platform=platform)
    await store.registry.put_many("shop", [phone])
    push = addressed(platform, [phone], now=store_now(store))
    if expected == "unsubscribed":
        push = msgspec.structs.replace(push, audience=encode_audience(ByTopic("news")), targets={})
        await store.pushes.accept(push)
        at = await store.expansions.load("shop", push.id)
        assert at is not None
        await store.expansions.advance(at, targets_of([phone], 0), cursor=None, lease=0)
    else:
        await store.pushes.accept(push)
    await move(store.registry, phone)
    check(await take_all(store, platform), phone, expected)


@pytest.mark.parametrize("total", [1, 40])
async def test_what_waits_gets_the_environment_of_its_device_and_goes_on_by_another_account(
    total: int, world: World
) -> None:
    """It may change again, and the same message goes by either."""
    store = await world.store()
    phones = [device(f"phone{number}", user="ann") for number in range(total)]
    await store.registry.put_many("shop", phones)
    await store.pushes.accept(addressed("apns", phones, now=store_now(store)))
    message = None
    for turn, (channel, there) in enumerate([("apns", "sandbox"), ("apns_sandbox", "production")], 1):
        await store.registry.put("shop", replace(phones[0], environment=there))
        (taken,) = await store.queue.take(Route("shop", channel), "normal", targets=100, wait_ms=0)
        message = message or taken.chunk.message
        assert (taken.chunk.channel, taken.chunk.turn, taken.chunk.message) == (channel, turn, message)
        assert (taken.environments.get(0), taken.skip) == (there, {})
        on = Retry(moment(), 1, channel="apns_sandbox" if channel == "apns" else "apns")
        kinds = [on if target.index == 0 else Ended("suppressed") for target in taken.chunk.targets]
        settlements = [
            Settlement(Delivery(taken.chunk, target), None, verdict, moment(), "", "test")
            for target, verdict in zip(taken.chunk.targets, kinds, strict=True)
        ]
        await store.queue.settle("shop", settlements, [taken.ref])
    ((chunk, skip),) = await take_all(store, "apns")
    assert (chunk.turn, chunk.message, skip) == (3, message, {})
    status = await store.pushes.status("shop", "p")
    assert status is not None
    assert status.counts.suppressed == total


@pytest.mark.parametrize(("move", "expected"), [each for each in STORIES if each[0] is not leave])
async def test_what_waits_for_a_retry_or_is_replayed_does_too(move: Move, expected: str) -> None:
    with backend_server("redis") as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            await store.registry.put_many("shop", [ANN])
            now = store_now(store)
            pushes = [addressed("apns", [ANN], now=now, name=name) for name in ("retried", "dead")]
            for push in pushes:
                await store.pushes.accept(push)
            for lane in LANES:
                for taken in await store.queue.take(Route("shop", "apns"), lane, targets=1000, wait_ms=0):
                    retried = taken.chunk.push_id == pushes[0].id
                    verdict = Retry(now, 2) if retried else Ended("failed", dead_letter=True)
                    settlement = Settlement(
                        Delivery(taken.chunk, taken.chunk.targets[0]), Expired(reason="x"), verdict, now, "", "x"
                    )
                    await store.queue.settle("shop", [settlement], [taken.ref])
            await move(store.registry, ANN)
            await store.queue.promote(Route("shop", "apns"), now + 1000)
            check(await take_all(store, "apns"), ANN, expected)
            # As if the change lay as long back as no mark is kept.
            await store.link.call("DEL", keys.moved("shop", 0, "apns"))
            job = await store.dead.request(ReplaySpec("shop", DeadFilter()))
            await store.dead.step("shop", job.job, most=10)
            check(await take_all(store, "apns"), ANN, expected)


async def test_a_phone_that_its_user_registers_under_a_new_id_gets_what_waits(world: World) -> None:
    store = await world.store()
    alone = device("guest", token="ee" * 32)
    await store.registry.put_many("shop", [ANN, alone])
    now = store_now(store)
    push = addressed("apns", [ANN, alone], now=now)
    news = msgspec.structs.replace(
        addressed("apns", [], now=now, name="news"), audience=encode_audience(ByTopic("news")), targets={}
    )
    for each in (push, news):
        await store.pushes.accept(each)
    at = await store.expansions.load("shop", news.id)
    assert at is not None
    await store.expansions.advance(at, targets_of([ANN], 0), cursor=None, lease=0)
    for phone in (ANN, alone):
        await store.registry.put("shop", replace(phone, id=f"{phone.id}-again"))
    found = {chunk.push_id: (chunk, skip) for chunk, skip in await take_all(store, "apns")}
    chunk, skip = found[push.id]
    assert [target.token for target in chunk.targets] == [ANN.token, alone.token]
    # Of a phone without a user nothing says whose it is. The new device has not subscribed to the topic.
    assert skip == {1: "moved"}
    assert found[news.id][1] == {0: "unsubscribed"}


async def test_a_new_id_that_gets_another_user_gets_nothing_of_the_first(world: World) -> None:
    store = await world.store()
    await store.registry.put_many("shop", [ANN])
    await store.pushes.accept(addressed("apns", [ANN], now=store_now(store)))
    await store.registry.put("shop", replace(ANN, id="again"))
    await store.registry.put("shop", replace(ANN, id="again", user="bob"))
    check(await take_all(store, "apns"), ANN, "moved")


@pytest.mark.parametrize("deleted", [False, True], ids=["taken", "deleted first"])
@pytest.mark.parametrize("together", [True, False])
async def test_a_push_to_both_devices_of_a_user_reaches_once_a_phone_that_one_takes_from_the_other(
    together: bool, deleted: bool, world: World
) -> None:
    """Also where the deliveries are in different entries, so that none knows of the other."""
    store = await world.store()
    old, kept = ANN, device("tablet", token="ee" * 32, user="ann")
    await store.registry.put_many("shop", [old, kept])
    now = store_now(store)
    if together:
        pushes = [addressed("apns", [old, kept], now=now)]
    else:
        pushes = [addressed("apns", [each], now=now, name=each.id) for each in (old, kept)]
    for push in pushes:
        await store.pushes.accept(push)
    if deleted:
        await store.registry.remove("shop", old.id)
    await store.registry.put("shop", replace(kept, token=old.token))
    found = await take_all(store, "apns")
    sent = [
        (target.device_id, target.token)
        for chunk, skip in found
        for target in chunk.targets
        if target.index not in skip
    ]
    assert sent == [("tablet", old.token)]
    assert [why for _, skip in found for why in skip.values()] == ["moved"]


async def test_bare_tokens_are_the_callers_own(world: World) -> None:
    store = await world.store()
    await store.registry.put_many("shop", [ANN])
    push = addressed("apns", [ANN], now=store_now(store))
    bare = msgspec.structs.replace(push, targets={"apns": (Target(0, ANN.token),)})
    await store.pushes.accept(bare)
    await another_login(store.registry, ANN)
    (chunk, skip), *_ = await take_all(store, "apns")
    assert (chunk.targets, skip) == (bare.targets["apns"], {})


async def test_nothing_is_asked_where_nothing_changed_since_the_push_began() -> None:
    with backend_server("redis") as server:
        async with new_world(server) as world:
            store = await world.store()
            assert isinstance(store, Store)
            await store.registry.put_many("shop", [ANN])
            await another_login(store.registry, ANN)  # leaves a mark
            ((_, made),) = [(0, float(pair[1])) for pair in [await store.link.call(*marks_of())]]
            chunk = Chunk(
                "p", "shop", "apns", "normal", 1, int(made) + SLACK + 1, int(made) * 2,
                message=make_push("p").messages["apns"], targets=tuple(targets_of([ANN], 0)["apns"]),
            )  # fmt: skip
            before = await asked(store)
            assert await store.presence.of("shop", "apns", [chunk], [made]) == {}
            assert await asked(store) == before
            early = msgspec.structs.replace(chunk, starts_at=int(made))
            assert (await store.presence.of("shop", "apns", [early], [made]))[id(early)].gone == {0: "moved"}


def marks_of() -> tuple[object, ...]:
    return ("ZRANGE", keys.moved("shop", 0, "apns"), -1, -1, "WITHSCORES")


async def asked(store: Store) -> int:
    """Commands of sorted sets that the server has run."""
    stats = await store.link.call("INFO", "commandstats")
    return int(stats.get("cmdstat_zmscore", {}).get("calls", 0)) if isinstance(stats, dict) else stats.count(b"zmscore")


def store_now(store: AnyStore) -> int:
    return store.clock() if isinstance(store, Store) else moment()
