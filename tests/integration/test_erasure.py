"""Erasure of a user over real servers: everything that is kept of the devices goes, everybody else's stays.

What is left is found by a scan of every key and every value of the server, which knows nothing of the layout.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from pushsvc import telemetry
from pushsvc.api.pushes.ids import new_push_id, now_ms
from pushsvc.errors import StoreUnavailable
from pushsvc.model.codec import decode_audience, decode_entry, encode_audience, encode_chunk, encode_event
from pushsvc.model.delivery import BadNotification, Ended, Retry, Settlement, TokenDead, Unavailable, Verdict
from pushsvc.model.devices import Audience, ByDevices, ByTopic, ByUsers, ByWhere, Device, ToAll
from pushsvc.model.push import LANES, Message, Push, Route, Target
from pushsvc.model.status import DeliveryRow, FeedbackEvent
from pushsvc.ports.entries import Revoked, token_mark
from pushsvc.ports.erasure import WHAT, Erasure
from pushsvc.ports.letters import DeadFilter, ReplaySpec
from pushsvc.rules.audience import owner_of, targets_of
from pushsvc.runtime.providers import addresses
from pushsvc.stages.erase import ORDER, Eraser
from pushsvc.stages.expand.fanout import expand
from pushsvc.store import Store, StoreConfig, keys, token_hash
from pushsvc.store.config import OPEN_MOST
from pushsvc.store.erase.passes import keepers
from pushsvc.store.erase.subjects import Subjects
from pushsvc.store.part import StoreContext
from pushsvc.store.revoke.suppression import ERASED_AT, ERASING_AT, outlived

from .registry_audit import audit
from .servers import KINDS, Server
from .test_registry import device
from .test_store_kit import (
    SENT,
    World,
    accept_together,
    all_of,
    counts,
    entries_of,
    eraser,
    moment,
    names_of_keys,
    new_world,
    settlement,
    take,
    take_all,
)

SHARDED = StoreConfig(shards=3)
DAYS = 28 * 24 * 3_600_000


BACKENDS = KINDS


ANNA = [
    device("anna-iphone-0815", user="anna@example.com", topics=("news",), tags={"who": "anna@example.com"}),
    device("anna-pixel-4711", user="anna@example.com", platform="fcm", token="fcm-token-of-annas-pixel:APA91b"),
]
BERT = [
    device("bert-iphone-0816", user="bert@example.com", topics=("news",)),
    device("bert-pixel-4712", user="bert@example.com", platform="fcm", token="fcm-token-of-berts-pixel:APA91b"),
]


def to(name: str, *devices: Device, raw: bool = False, lane: Any = "normal", send_at: int | None = None) -> Push:
    """A push to these devices, or to their tokens alone."""
    targets: dict[str, tuple[Target, ...]] = {}
    for index, each in enumerate(devices):
        own = Target(index, each.token) if raw else Target(index, each.token, each.id, owner=owner_of(each))
        targets[each.platform] = (*targets.get(each.platform, ()), own)
    return Push(
        id=name,
        app="shop",
        lane=lane,
        created_at=moment(),
        expires_at=moment() + 3_600_000,
        messages={platform: Message(platform, b'{"hello":"you"}') for platform in targets},
        targets=targets,
        send_at=send_at,
    )


ROUTES = [Route("shop", "apns"), Route("shop", "fcm")]


async def open_store_of(world: World, consumer: str = "a") -> Store:
    store = await world.store(consumer)
    assert isinstance(store, Store)
    return store


async def settle_all(store: Store, verdict: Any, outcome: Any, lane: Any = "normal") -> None:
    """What waits in a lane ends, or is to be retried."""
    for route in ROUTES:
        for taken in await take_all(store, lane, route):
            settlements = [reported(store, each) for each in all_of(taken, verdict, outcome)[0]]
            await store.queue.settle("shop", settlements, [taken.ref])


def reported(store: Store, each: Settlement) -> Settlement:
    """With the store's own hash of the token, as a dispatcher would give it."""
    return replace(each, token_hash=hash_of(store.hash_key, each.delivery.chunk.platform, each.delivery.target.token))


def hash_of(key: bytes, platform: str, token: str) -> str:
    return token_hash(key, token, addresses().same_of(platform))


async def scan(store: Store) -> dict[bytes, bytes]:
    """Every key, with all that is in it as bytes."""
    names: list[bytes] = []
    cursor: str | None = ""
    while cursor is not None:
        found, cursor = await store.link.scan("*", cursor, 1000)
        names += found
    everything = {}
    for name in sorted(set(names)):
        kind = (await store.link.call("TYPE", name)).decode()
        if kind == "none":
            continue  # it has run out since
        value = await store.link.call(
            *{
                "string": ("GET", name),
                "hash": ("HGETALL", name),
                "list": ("LRANGE", name, 0, -1),
                "zset": ("ZRANGE", name, 0, -1),
                "stream": ("XRANGE", name, "-", "+"),
                "set": ("SMEMBERS", name),
            }[kind]
        )
        everything[name] = b"\n".join(flatten(value))
    return everything


def flatten(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
        return
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    for each in value if isinstance(value, list | tuple | set) else ():
        yield from flatten(each)


def traces(devices: list[Device], hash_key: bytes) -> list[bytes]:
    """Everything by which these devices could be known again, as it may be written."""
    found: list[bytes] = []
    for each in devices:
        texts = (each.id, each.token, hash_of(hash_key, each.platform, each.token), *([each.user] if each.user else []))
        found += [text.encode() for text in texts]
        if re.fullmatch("([0-9a-f]{2})+", each.token):
            found.append(bytes.fromhex(each.token))
    return found


async def nothing_left(store: Store, devices: list[Device]) -> None:
    for key, value in (await scan(store)).items():
        for trace in traces(devices, store.hash_key):
            assert trace not in key + value, (key, trace)


async def fill(store: Store) -> None:
    """Pushes of every fate to the four devices; each fate has its own push."""
    both = [*ANNA, *BERT]
    await store.registry.put_many("shop", both)
    await store.pushes.accept(to("sent", *both))
    await settle_all(store, Ended("sent"), None)
    await store.pushes.accept(to("sent-to-tokens", *both, raw=True))
    await settle_all(store, Ended("sent"), None)
    await store.pushes.accept(to("failed", *both))
    await store.pushes.accept(to("failed-alone", ANNA[0]))
    await settle_all(store, Ended("failed", dead_letter=True), BadNotification(status=400, reason="BadTopic"))
    await store.pushes.accept(to("retried", *both))
    await settle_all(store, Retry(moment() + 60_000, 2), Unavailable(status=503))
    await store.pushes.accept(to("dead", *both))
    await settle_all(store, Ended("invalid"), TokenDead(status=410, reason="Unregistered"))
    found = await store.receipts.take("shop", limit=100, wait_ms=0)
    assert len(found) == 4
    for entry, receipt in found[:2]:  # one of each; the others are left to be recorded
        event = FeedbackEvent(
            moment(), receipt.platform, receipt.token, "Unregistered", "suppressed", receipt.device_id
        )
        await store.receipts.record("shop", [(entry, receipt, event)])
    await store.suppressions.lift("shop", BERT, always=True)
    await store.pushes.accept(to("queued", *both, lane="bulk"))
    await store.pushes.accept(to("queued-alone", ANNA[0], lane="bulk"))
    await store.pushes.accept(to("queued-tokens", *both, raw=True, lane="urgent"))
    await store.pushes.accept(to("scheduled", *both, send_at=moment() + 3_000_000))
    await store.pushes.accept(to("scheduled-alone", *ANNA, send_at=moment() + 3_000_000))


async def balance(store: Store, name: str) -> dict[str, int]:
    status = await store.pushes.status("shop", name)
    found = counts(status)
    assert status is not None
    return {**found, "state": status.state} if status.state != "sending" else found  # type: ignore[dict-item]  # read by people


@pytest.mark.parametrize("config", [StoreConfig(), SHARDED], ids=["one shard", "three"])
async def test_nothing_is_left_of_one_and_everything_of_the_other(server: Server, config: StoreConfig) -> None:
    async with new_world(server, config) as world:
        store = await open_store_of(world)
        await fill(store)
        erased = await eraser(store).erase("shop", "anna@example.com", wait=30.0)
        assert (erased.devices, erased.done) == (2, True)
        assert erased.removed == {
            "deliveries": 2 + 2 + 1 + 2 + 2 + 2,  # retried, queued, queued alone, to tokens, scheduled, scheduled alone
            "dead_letters": 3,
            "receipts": 1,
            "events": 1,
            # Of each push that has ended rows, and of those that ended here none: their rows never said whose they are.
            "statuses": 2 + 2 + 2 + 1 + 2,
            "suppressions": 1,
        }
        await nothing_left(store, ANNA)
        assert await balance(store, "sent") == {"sent": 4, "state": "done"}
        assert await balance(store, "failed") == {"failed": 4, "state": "done"}
        assert await balance(store, "dead") == {"invalid": 4, "state": "done"}
        assert await balance(store, "retried") == {"retrying": 2, "cancelled": 2}
        assert await balance(store, "queued") == {"queued": 2, "cancelled": 2}
        assert await balance(store, "queued-alone") == {"cancelled": 1, "state": "done"}
        assert await balance(store, "queued-tokens") == {"queued": 2, "cancelled": 2}
        assert await balance(store, "scheduled") == {"queued": 2, "cancelled": 2, "state": "scheduled"}
        assert await balance(store, "scheduled-alone") == {"cancelled": 2, "state": "done"}

        # Bert's is whole: his devices, his letters, his events, and what waits for him.
        assert await store.registry.count("shop") == 2
        assert await store.registry.topic_size("shop", "news") == 1
        assert await store.dead.count("shop", DeadFilter()) == 2
        rows = await store.pushes.deliveries("shop", "failed", outcome=None, cursor="", limit=10)
        assert rows is not None
        assert [row.device_id for row in rows[0]] == [None, None, *(each.id for each in BERT)]
        gauges = await store.gauges({"shop": ("apns", "fcm")})
        assert (gauges.apps["shop"].events, gauges.apps["shop"].receipts) == (1, 1)
        assert gauges.retry_pending == 2
        assert gauges.apps["shop"].scheduled == 2
        assert gauges.pending == {"urgent": 2, "normal": 2, "bulk": 2}
        for route in ROUTES:
            await store.queue.promote(route, moment() + 120_000)
        await store.queue.launch("shop", moment() + 4_000_000)
        sent = []
        for lane in LANES:
            for route in ROUTES:
                for taken in await take_all(store, lane, route):
                    sent += [target.token for target in taken.chunk.targets if target.index not in taken.skip]
                    await store.queue.settle("shop", *all_of(taken))
        assert sorted(sent) == sorted([each.token for each in BERT] * 4)
        for name in ("retried", "queued", "queued-tokens", "scheduled"):
            assert await balance(store, name) == {"sent": 2, "cancelled": 2, "state": "done"}
        assert (await store.gauges({"shop": ("apns", "fcm")})).pending == {"urgent": 0, "normal": 0, "bulk": 0}

        assert await eraser(store).erase("shop", "anna@example.com", wait=1.0) == erased  # kept for an hour
        await audit(store)


async def test_who_was_erased_may_come_again(world: World) -> None:
    store = await open_store_of(world)
    await fill(store)
    assert (await eraser(store).erase("shop", "anna@example.com", wait=30.0)).done
    await store.registry.put_many("shop", ANNA)
    later = replace(to("again", *ANNA, lane="urgent"), created_at=now_ms() + 1000)
    await store.pushes.accept(later)
    (taken,) = [each for each in await take_all(store, "urgent") if each.chunk.push_id == "again"]
    assert taken.skip == {}  # her token is suppressed no more


async def test_a_user_that_nobody_knows(world: World) -> None:
    store = await open_store_of(world)
    assert await eraser(store).erase("shop", "nobody", wait=1.0) == Erasure(0, True)
    assert await eraser(store).unfinished(["shop", "other"]) == []


async def test_what_was_read_of_one_primary_is_not_ended_on_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id may be that of another entry there: the step is refused, and made again."""
    store = await open_store_of(world)
    await fill(store)
    call, read, refused = store.link.call, [""], set()

    async def call_and_change(*command: Any, **more: Any) -> Any:
        answer = await call(*command, **more)
        if command[0] == "XRANGE" and answer and command[1] not in refused:
            read.append(command[1])
            store.link.drop()
        return answer

    monkeypatch.setattr(store.link, "call", call_and_change)
    while True:
        try:
            if (await eraser(store).erase("shop", "anna@example.com", wait=30.0)).done:
                break
        except StoreUnavailable:
            refused.add(read[-1])
    ended = {keys.dead("shop", 0), keys.receipts("shop", 0), keys.events("shop", 0)}
    assert ended | {keys.lane("shop", 0, "apns", "urgent")} <= refused
    await audit(store)


# --- step by step -----------------------------------------------------------------------------------


async def test_it_goes_on_where_it_was_left_step_by_step(world: World) -> None:
    """Each call has time for one step; another process carries on each time."""
    store = await open_store_of(world)
    await fill(store)
    first = await eraser(store).erase("shop", "anna@example.com", wait=0.0)
    assert (first.devices, first.done) == (2, False)
    assert await store.registry.of_user("shop", "anna@example.com") == []
    steps = 0
    while await eraser(store).unfinished(["shop"]):
        asked = 0

        def once() -> bool:
            nonlocal asked
            asked += 1
            return asked > 1

        await eraser(await open_store_of(world, f"worker-{steps % 3}")).work("shop", stopping=once)
        steps += 1
    assert steps > len(ORDER)
    await nothing_left(store, ANNA)
    again = await eraser(store).erase("shop", "anna@example.com", wait=1.0)
    assert (again.devices, again.done) == (2, True)
    assert again.removed["deliveries"] == 11


@pytest.mark.parametrize("reached", ["letters", "receipts", "rows"])
async def test_who_comes_again_while_a_pass_is_under_way_is_erased_of_what_came_between(
    reached: str, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    """She is asked for, comes again with her old token, is sent a push, and is asked for once more: the pass that was
    under way has gone by the queue, and does not speak for the second call."""
    store = await open_store_of(world)
    await fill(store)
    assert not (await eraser(store).erase("shop", "anna@example.com", wait=0.0)).done

    keeper = store.erasures.keepers[reached]  # where the pass stands
    began, step = asyncio.Event(), keeper.step

    async def begin(*args: Any) -> Any:
        began.set()
        return await step(*args)

    monkeypatch.setattr(keeper, "step", begin)
    await eraser(store).work("shop", stopping=began.is_set)
    assert began.is_set()
    later = [replace(each, registered_at=moment() + 1) for each in ANNA]
    await store.registry.put_many("shop", later)
    await store.pushes.accept(to("between", *ANNA, *BERT, raw=True, send_at=moment() + 3_000_000))
    assert (await eraser(store).erase("shop", "anna@example.com", wait=30.0)).done
    assert await balance(store, "between") == {"queued": 2, "cancelled": 2, "state": "scheduled"}
    await nothing_left(store, ANNA)


# --- what comes while an erasure goes on -----------------------------------------------------------


def accepted_now(name: str, *devices: Device, **how: Any) -> Push:
    """A push with an id of this instant, which says when it was accepted. `name` is its lane."""
    now = now_ms()
    return replace(
        to(name, *devices, lane=name, **how), id=new_push_id(now), created_at=now, expires_at=now + 3_600_000
    )


@pytest.mark.parametrize("wait", [None, 60_000], ids=["at once", "scheduled"])
async def test_what_is_accepted_behind_the_last_look_is_not_sent_after_the_answer(
    wait: int | None, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    store = await open_store_of(world)
    await store.registry.put_many("shop", [*ANNA, *BERT])
    before: list[Push] = []
    late = store.erasures.keepers["late"]
    step = late.step

    async def last(*args: Any) -> Any:
        found = await step(*args)
        if found.cursor is None and not before:
            before.append(push(ANNA[0], BERT[0]))
            await store.pushes.accept(before[0])
        return found

    def push(*devices: Device) -> Push:
        return accepted_now("urgent", *devices, raw=True, send_at=None if wait is None else now_ms() + wait)

    monkeypatch.setattr(late, "step", last)
    assert (await eraser(store).erase("shop", "anna@example.com", wait=30.0)).done
    await asyncio.sleep(0.01)  # for an id of a later instant
    after = push(ANNA[0], BERT[0])
    await store.pushes.accept(after)
    await store.queue.launch("shop", now_ms() + 120_000)
    sent = []
    for taken in await take_all(store, "urgent"):
        assert taken.skip == ({0: "cancelled"} if taken.chunk.push_id == before[0].id else {})
        assert taken.why == dict.fromkeys(taken.skip, "erased")
        sent += [taken.chunk.push_id for target in taken.chunk.targets if target.index not in taken.skip]
    assert sorted(sent) == sorted([before[0].id, after.id, after.id])


async def test_who_keeps_posting_to_the_token_does_not_keep_it_from_its_end(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    """After every step of every look another push waits, in each place that is looked at."""
    store = await open_store_of(world)
    await store.registry.put_many("shop", [*ANNA, *BERT])
    posted = steps = 0

    async def post() -> None:
        nonlocal posted
        for later in (None, now_ms() + 600_000):
            await store.pushes.accept(accepted_now("bulk", ANNA[0], raw=True, send_at=later))
            posted += 1

    for name in ("queue", "late"):
        keeper = store.erasures.keepers[name]

        async def watched(*args: Any, step: Any = keeper.step) -> Any:
            nonlocal steps
            steps += 1
            await post()
            return await step(*args)

        monkeypatch.setattr(keeper, "step", watched)
    erased = await eraser(store).erase("shop", "anna@example.com", wait=30.0)
    assert erased.done
    assert posted == 2 * steps
    assert 0 < erased.removed["deliveries"] < posted
    await store.queue.launch("shop", now_ms() + 700_000)
    left = await take_all(store, "bulk")
    assert all(taken.skip == {0: "cancelled"} and taken.why == {0: "erased"} for taken in left)
    assert len(left) == posted - erased.removed["deliveries"]


async def test_what_a_dispatcher_ends_for_an_erasure_is_cancelled_and_counted(world: World) -> None:
    """What names her devices and what names their bare tokens, taken between the beginning and the passes."""
    store = await open_store_of(world)
    await store.registry.put_many("shop", [*ANNA, *BERT])
    device_push, token_push = accepted_now("urgent", *ANNA, *BERT), accepted_now("urgent", *ANNA, *BERT, raw=True)
    for push in (device_push, token_push):
        await store.pushes.accept(push)
    assert not (await eraser(store).erase("shop", "anna@example.com", wait=0.0)).done
    for route in ROUTES:
        for taken in await take_all(store, "urgent", route):
            hers = [target.index for target in taken.chunk.targets if target.index < 2]
            assert taken.skip == dict.fromkeys(hers, "cancelled")
            assert taken.why == dict.fromkeys(hers, "erased")
            ended = [
                reported(store, each)
                if each.delivery.target.index not in taken.skip
                else reported(store, replace(each, verdict=Ended("cancelled"), outcome=None, reason="erased"))
                for each in all_of(taken)[0]
            ]
            await store.queue.settle("shop", ended, [taken.ref])
    erased = await eraser(store).erase("shop", "anna@example.com", wait=30.0)
    assert (erased.done, erased.removed) == (True, {"deliveries": 4})
    await nothing_left(store, ANNA)
    for push in (device_push, token_push):
        assert await balance(store, push.id) == {"sent": 2, "cancelled": 2, "state": "done"}


async def test_a_token_that_is_registered_while_its_erasure_goes_on_is_sent_what_comes_then(world: World) -> None:
    store = await open_store_of(world)
    await store.registry.put_many("shop", [*ANNA, *BERT])
    before = accepted_now("urgent", ANNA[0], raw=True)
    await store.pushes.accept(before)
    assert not (await eraser(store).erase("shop", "anna@example.com", wait=0.0)).done
    await asyncio.sleep(0.01)  # for an instant after that
    again = replace(ANNA[0], id="berts-new-phone", user="bert@example.com", registered_at=now_ms())
    await store.registry.put_many("shop", [again])
    await asyncio.sleep(0.01)
    after = accepted_now("urgent", again)
    await store.pushes.accept(after)
    found = {taken.chunk.push_id: taken.skip for taken in await take_all(store, "urgent")}
    assert found == {before.id: {0: "cancelled"}, after.id: {}}


async def test_what_an_erasure_has_marked_is_no_suppression(world: World) -> None:
    """No call lifts it, no figure counts it, and it has its time."""
    store = await open_store_of(world)
    tokens = [(each.platform, each.token) for each in ANNA]
    await store.registry.put_many("shop", ANNA)
    assert (await eraser(store).erase("shop", "anna@example.com", wait=30.0)).done
    assert await store.suppressions.remove("shop", tokens) == 0
    gauges = await store.gauges({"shop": ("apns", "fcm")})
    assert gauges.apps["shop"].suppressed == {"apns": 0, "fcm": 0}
    names = [keys.suppressed("shop", 0, platform) for platform, _ in tokens]
    assert [await store.link.call("ZCARD", name) for name in names] == [1, 1]
    for name in names:
        await store.link.call(*outlived(name, now_ms() + OPEN_MOST - 60_000))
    assert [await store.link.call("ZCARD", name) for name in names] == [1, 1]
    for name in names:
        await store.link.call(*outlived(name, now_ms() + OPEN_MOST + 60_000))
    assert [await store.link.call("ZCARD", name) for name in names] == [0, 0]


async def test_a_dispatcher_that_says_nothing_is_named_in_the_answer(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    monkeypatch.setattr("pushsvc.store.revoke.revocations.PATIENCE", 0.2)
    store, silent = await open_store_of(world), await open_store_of(world, "silent")
    await silent.queue.enrol("shop")
    await store.registry.put_many("shop", [*ANNA, *BERT])
    erased = await eraser(store).erase("shop", "anna@example.com", wait=30.0)
    assert (erased.done, erased.confirmed) == (True, False)
    assert not (await eraser(store).erase("shop", "bert@example.com", wait=30.0)).confirmed  # nobody waits again


async def test_several_at_once_are_erased_by_few_passes(world: World) -> None:
    store = await open_store_of(world)
    await fill(store)
    more = [device(f"user-{n}-phone", user=f"user-{n}") for n in range(20)]
    await store.registry.put_many("shop", more)
    await store.pushes.accept(to("to-all", *more, lane="bulk"))
    others = [await open_store_of(world, f"api-{n}") for n in range(4)]
    users = [*(f"user-{n}" for n in range(20)), "anna@example.com"]
    found = await asyncio.gather(
        *(eraser(others[n % 4]).erase("shop", user, wait=40.0) for n, user in enumerate(users))
    )
    assert all(each.done for each in found)
    assert [each.devices for each in found] == [1] * 20 + [2]
    assert [each.removed for each in found[:20]] == [{"deliveries": 1}] * 20
    await nothing_left(store, [*more, *ANNA])
    assert await balance(store, "to-all") == {"cancelled": 20, "state": "done"}


async def test_a_scheduled_push_that_is_cancelled_after_an_erasure_is_counted_once(server: Server) -> None:
    def counted(reason: str) -> float:
        return float(telemetry.DELIVERIES.labels("shop", "apns", "cancelled", reason)._value.get())

    async with new_world(server) as world:
        store = await open_store_of(world)
        await store.registry.put_many("shop", [*ANNA, *BERT])
        await store.pushes.accept(to("later", ANNA[0], BERT[0], device("other"), send_at=moment() + 3_000_000))
        erased, cancelled = counted("erased"), counted("cancelled")
        assert (await eraser(store).erase("shop", "anna@example.com", wait=30.0)).done
        assert counted("erased") - erased == 1
        assert await store.pushes.cancel("shop", "later") is not None
        assert counted("cancelled") - cancelled == 2
        assert await balance(store, "later") == {"cancelled": 3, "state": "cancelled"}
        assert (await store.gauges({"shop": ("apns",)})).apps["shop"].scheduled == 0
        await store.pushes.cancel("shop", "later")
        assert counted("cancelled") - cancelled == 2


async def test_what_a_dispatcher_holds_is_asked_back(world: World) -> None:
    store, dispatcher = await open_store_of(world), await open_store_of(world, "dispatcher")
    await store.registry.put_many("shop", [*ANNA, *BERT])
    await store.pushes.accept(to("held", *ANNA, *BERT))
    await dispatcher.queue.enrol("shop")
    (taken,) = await take(dispatcher)
    erasing = asyncio.create_task(eraser(store).erase("shop", "anna@example.com", wait=0.5))
    asked = Revoked()
    while not asked.entries:
        for news in await dispatcher.queue.revoked({"shop"}, 1000):
            asked |= news.revoked
            await dispatcher.queue.acknowledge(news, {})
    assert not (await erasing).done
    assert asked.entries == {taken.ref}
    assert asked.tokens >= {token_mark(device.token) for device in ANNA}
    # It lets go: what was in flight ended, what was not waits.
    hers, his = taken.chunk.targets
    ended = [
        reported(store, settlement(taken.chunk, hers.index)),
        settlement(taken.chunk, his.index, Retry(moment(), 1), None),
    ]
    await dispatcher.queue.settle("shop", ended, [taken.ref])
    assert (await eraser(store).erase("shop", "anna@example.com", wait=20.0)).done
    await nothing_left(store, ANNA)
    assert await balance(store, "held") == {"retrying": 1, "queued": 1, "sent": 1, "cancelled": 1}


async def test_pushes_that_share_an_entry_with_hers_stay(world: World) -> None:
    store = await open_store_of(world)
    await store.registry.put_many("shop", [*ANNA, *BERT])
    await accept_together(store, to("his", BERT[0]), to("hers", ANNA[0]), to("other", device("other")))
    assert await entries_of(store) == 1
    assert (await eraser(store).erase("shop", "anna@example.com", wait=40.0)).removed == {"deliveries": 1}
    await nothing_left(store, ANNA)
    assert await balance(store, "hers") == {"cancelled": 1, "state": "done"}
    left = await take_all(store)
    assert [each.chunk.push_id for each in left] == ["his", "other"]
    for each in left:
        await store.queue.settle("shop", *all_of(each))
    assert await entries_of(store) == 0


async def test_what_cannot_be_read_of_a_shared_entry_hides_nothing_of_hers_and_stays(world: World) -> None:
    store = await open_store_of(world)
    await store.registry.put_many("shop", [*ANNA, *BERT])
    await accept_together(store, to("his", BERT[0]), to("hers", ANNA[0]), to("newer", device("other")))
    lane = keys.lane("shop", 0, "apns", "normal")
    ((name, fields),) = await store.link.call("XRANGE", lane, "-", "+")
    blob = encode_chunk(decode_entry(fields[b"c"])[0][2])
    newer = b"\x7f" + blob[1:]
    await store.link.call("XDEL", lane, name)
    await store.link.call("XADD", lane, "*", "c", fields[b"c"].replace(blob, newer), "n", 3)
    assert (await eraser(store).erase("shop", "anna@example.com", wait=40.0)).removed == {"deliveries": 1}
    await nothing_left(store, ANNA)
    ((_, fields),) = await store.link.call("XRANGE", lane, "-", "+")
    chunks, unreadable = decode_entry(fields[b"c"])
    assert ([chunk.push_id for chunk in chunks], [each.blob for each in unreadable]) == (["his"], [newer])
    assert fields[b"n"] == b"2"


async def test_what_has_ended_in_a_shared_entry_is_counted_once_though_its_status_is_gone(world: World) -> None:
    store, dispatcher = await open_store_of(world), await open_store_of(world, "dispatcher")
    await store.registry.put_many("shop", [*ANNA, *BERT])
    made = [to("hers", ANNA[0]), to("open", ANNA[0]), to("his", BERT[0])]
    await accept_together(store, *(replace(each, expires_at=each.created_at + DAYS) for each in made))
    ended, *_ = await take_all(dispatcher)
    await dispatcher.queue.settle("shop", *all_of(ended))
    await world.kill("dispatcher")
    await store.link.call("DEL", keys.push("shop", 0, "hers"))
    assert (await eraser(store).erase("shop", "anna@example.com", wait=40.0)).removed == {"deliveries": 1}
    await nothing_left(store, ANNA)
    assert await store.link.call("HGET", keys.pending("shop", 0), "apns:normal") == b"1"
    assert [each.chunk.push_id for each in await take_all(store)] == ["his"]


@pytest.mark.parametrize("waits", [False, True])
async def test_what_a_dead_dispatcher_held_goes_on_without_her(waits: bool, world: World) -> None:
    """`waits`: the next dispatcher waits for entries meanwhile. What has ended, before or after, is not sent again."""
    store, dispatcher = await open_store_of(world), await open_store_of(world, "dispatcher")
    await store.registry.put_many("shop", [*ANNA, *BERT])
    more = [device(f"more-{n}") for n in range(3)]
    await store.pushes.accept(to("held", ANNA[0], BERT[0], *more))
    (taken,) = await take(dispatcher)
    await dispatcher.queue.settle("shop", [settlement(taken.chunk, 3)], [])
    await world.kill("dispatcher")
    reading = asyncio.create_task(take(store, wait_ms=20_000)) if waits else None
    assert (await eraser(store).erase("shop", "anna@example.com", wait=40.0)).done
    await nothing_left(store, ANNA)
    assert await balance(store, "held") == {"queued": 3, "sent": 1, "cancelled": 1}
    # The dead one was only slow.
    assert len(await dispatcher.queue.settle("shop", [settlement(taken.chunk, 2)], [])) == 1
    (again,) = await (reading or take(store))
    assert [target.index for target in again.chunk.targets] == ([1, 2, 4] if waits else [1, 4])


async def test_a_delivery_that_moves_while_it_is_looked_for(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """It was in flight when the erasure began, and goes to the retries just after these were looked at."""
    store, dispatcher = await open_store_of(world), await open_store_of(world, "dispatcher")
    await store.registry.put_many("shop", [*ANNA, *BERT])
    await store.pushes.accept(to("moving", ANNA[0], BERT[0]))
    (taken,) = await take(dispatcher)
    moved = False
    call = store.link.call

    async def late(*command: Any, **more: Any) -> Any:
        nonlocal moved
        if not moved and command[0] == "XRANGE" and ":q:apns:urgent" in command[1]:
            moved = True
            settlements, refs = all_of(taken, Retry(moment(), 2), Unavailable())
            await dispatcher.queue.settle("shop", settlements, refs)
        return await call(*command, **more)

    monkeypatch.setattr(store.link, "call", late)
    assert (await eraser(store).erase("shop", "anna@example.com", wait=40.0)).removed == {"deliveries": 1}
    assert moved
    await nothing_left(store, ANNA)
    assert await balance(store, "moving") == {"retrying": 1, "cancelled": 1}


async def test_tokens_of_earlier_registrations_are_found_by_the_device(world: World) -> None:
    store = await open_store_of(world)
    old = replace(ANNA[0], token="0ld0" * 16)
    await store.registry.put_many("shop", [*ANNA, *BERT])
    # By its id and the old token, and by the old token alone: the second is only known when the first was found.
    await store.pushes.accept(to("queued", old, BERT[0], raw=True, lane="urgent"))
    await store.pushes.accept(to("failed", old))
    await settle_all(store, Ended("failed", dead_letter=True), BadNotification(status=400))
    assert (await eraser(store).erase("shop", "anna@example.com", wait=40.0)).done
    await nothing_left(store, [*ANNA, old])
    assert await balance(store, "queued") == {"queued": 1, "cancelled": 1}


@pytest.mark.parametrize("died", ["events", "rows"])
async def test_tokens_that_were_found_are_not_forgotten_when_a_pass_is_interrupted(
    died: str, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    """An event names the old token and the id. The letters, which the pass has been at before, name the token alone."""
    store, other = await open_store_of(world), await open_store_of(world, "b")
    old = replace(ANNA[0], token="0ld0" * 16)
    await store.registry.put_many("shop", [*ANNA, *BERT])
    await store.pushes.accept(to("failed", old, raw=True))
    await settle_all(store, Ended("failed", dead_letter=True), BadNotification(status=400))
    event = FeedbackEvent(moment(), "apns", old.token, "Unregistered", "suppressed", old.id)
    await store.link.call("XADD", keys.events("shop", 0), "*", "e", encode_event(event))
    keeper = store.erasures.keepers[died]
    step = keeper.step

    async def dies(*args: Any) -> Any:
        found = await step(*args)
        raise StoreUnavailable(f"after {found}")

    monkeypatch.setattr(keeper, "step", dies)
    with pytest.raises(StoreUnavailable, match="after"):
        await eraser(store).erase("shop", "anna@example.com", wait=40.0)
    assert await store.link.call("XLEN", keys.events("shop", 0)) == 0
    assert await store.dead.count("shop", DeadFilter()) == 1
    erased = await eraser(other).erase("shop", "anna@example.com", wait=40.0)
    assert (erased.done, erased.removed["dead_letters"]) == (True, 1)
    await nothing_left(store, [*ANNA, old])
    assert await mark_of(store, old) == "erased"


async def mark_of(store: Store, of: Device) -> str:
    """What the list has of a token."""
    shard, digest = store.suppressions.locate("shop", of.token)
    score = await store.link.call("ZSCORE", keys.suppressed("shop", shard, of.platform), digest)
    if score is None or float(score) < ERASED_AT:
        return "none"
    return "erased" if float(score) < ERASING_AT else "erasing"


async def test_an_erasure_counts_and_ends_once_although_answers_are_lost(
    monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    """The connection sends a script again whose answer was lost."""
    store = await open_store_of(world)
    await store.registry.put_many("shop", ANNA)
    await store.pushes.accept(to("queued", *ANNA))
    script = store.link.script

    async def twice(name: str, *args: Any) -> Any:
        if name == "swap":
            await script(name, *args)
        return await script(name, *args)

    monkeypatch.setattr(store.link, "script", twice)
    erased = await eraser(store).erase("shop", "anna@example.com", wait=30.0)
    assert (erased.done, erased.removed) == (True, {"deliveries": 2})
    assert await store.erasures.waiting(["shop"]) == []
    assert await mark_of(store, ANNA[0]) == "erased"


@pytest.mark.parametrize("again", [False, True])
async def test_a_process_that_stood_still_at_the_end_marks_no_token_for_ever(
    again: bool, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    """Another process has ended the erasure meanwhile; `again`: one that was requested once more."""
    store, other = await open_store_of(world), await open_store_of(world, "b")
    await store.registry.put_many("shop", ANNA)
    suppression = store.erasures.suppression
    erased, erasing = suppression.erased, suppression.erasing
    stood_still = False

    async def taken_over() -> None:
        await store.link.call("DEL", keys.lock("erasure-shop"))
        assert await eraser(other).work("shop", stopping=lambda: False)

    async def slow_end(*args: Any) -> None:
        nonlocal stood_still
        if not stood_still:
            stood_still = True
            await (other.erasures.record("shop", "anna@example.com", ANNA) if again else taken_over())
        await erased(*args)

    async def slow_mark(*args: Any, wait: bool = False) -> bool:
        if stood_still:
            await taken_over()
        return await erasing(*args, wait=wait)

    monkeypatch.setattr(suppression, "erased", slow_end)
    monkeypatch.setattr(suppression, "erasing", slow_mark)
    assert (await eraser(store).erase("shop", "anna@example.com", wait=30.0)).done
    assert stood_still
    assert await store.erasures.waiting(["shop"]) == []
    assert await mark_of(store, ANNA[0]) == "erased"


async def test_a_process_that_has_lost_the_lock_ends_nothing(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    store = await open_store_of(world)
    await store.registry.put_many("shop", ANNA)
    keeper, lost = store.erasures.keepers["late"], False
    step = keeper.step

    async def last(*args: Any) -> Any:
        nonlocal lost
        found = await step(*args)
        lost = found.cursor is None
        return found

    class Locks:
        @asynccontextmanager
        async def held(self, name: str, *, lease: float) -> AsyncIterator[Callable[[], bool]]:
            yield lambda: lost

    monkeypatch.setattr(keeper, "step", last)
    locks: Any = Locks()
    assert not (await Eraser(store.registry, store.erasures, locks).erase("shop", "anna@example.com", wait=0.5)).done
    assert lost
    present = await store.erasures.open_pass("shop")
    assert present is not None
    assert present.place.startswith("late")
    assert await mark_of(store, ANNA[0]) == "erasing"
    monkeypatch.undo()
    assert (await eraser(store).erase("shop", "anna@example.com", wait=30.0)).done


async def test_a_large_push_and_what_nobody_can_read(world: World) -> None:
    store = await open_store_of(world)
    await store.registry.put_many("shop", [*ANNA, *BERT])
    crowd = [device(f"crowd-{n}") for n in range(1500)]
    await store.pushes.accept(to("large", *crowd[:700], ANNA[0], *crowd[700:]))
    await settle_all(store, Ended("failed", dead_letter=True), BadNotification(status=400))
    await store.pushes.accept(to("large-queued", *crowd[:700], ANNA[0], *crowd[700:], lane="bulk"))
    await store.link.call("XADD", keys.quarantine("shop", 0), "*", "b", b"\xff" + ANNA[0].token.encode())
    await store.link.call("XADD", keys.quarantine("shop", 0), "*", "b", b"\xff" + BERT[0].token.encode())
    await store.link.call("HSET", f"{keys.limits('shop', 0, 'apns', 'all')}:s:1", b"12345678", 1)
    erased = await eraser(store).erase("shop", "anna@example.com", wait=60.0)
    assert erased.done
    assert erased.removed == {"deliveries": 1, "dead_letters": 1, "statuses": 1, "quarantined": 1}
    await nothing_left(store, ANNA)
    assert await balance(store, "large") == {"failed": 1501, "state": "done"}
    assert await balance(store, "large-queued") == {"queued": 1500, "cancelled": 1}
    left = [taken.chunk.targets for taken in await take_all(store, "bulk")]
    assert sum(map(len, left)) == 1500
    assert await store.link.call("XLEN", keys.quarantine("shop", 0)) == 1
    assert await store.dead.count("shop", DeadFilter()) == 1500


async def test_a_replay_hides_no_row_of_a_large_push(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Between two pages of its rows, a hundred before hers are opened again."""
    store = await open_store_of(world)
    await store.registry.put_many("shop", ANNA)
    crowd = [device(f"crowd-{n}") for n in range(1500)]
    await store.registry.put_many("shop", crowd)
    await store.pushes.accept(to("large", *crowd[:510], ANNA[0], *crowd[510:]))
    await settle_all(store, Ended("failed", dead_letter=True), BadNotification(status=400))
    keeper, moved = store.erasures.keepers["rows"], 0
    step = keeper.step

    async def disturbed(app: str, who: Any, cursor: str) -> Any:
        nonlocal moved
        found = await step(app, who, cursor)
        if not moved and found.cursor is not None and found.cursor.endswith(",500]"):
            job = (await store.dead.request(ReplaySpec("shop", limit=100))).job
            moved = (await store.dead.step("shop", job, most=100)).moved
        return found

    monkeypatch.setattr(keeper, "step", disturbed)
    assert (await eraser(store).erase("shop", "anna@example.com", wait=60.0)).done
    assert moved == 100
    await nothing_left(store, ANNA)


async def test_rows_that_stand_together_keep_the_others(server: Server) -> None:

    async def rows(store: Store, name: str) -> list[DeliveryRow]:
        found = await store.pushes.deliveries("shop", name, outcome=None, cursor="", limit=100)
        assert found is not None
        assert len(found[0]) == 40 + len(ANNA) + len(BERT)
        return found[0]

    async with new_world(server) as world:
        store = await open_store_of(world)
        await store.registry.put_many("shop", [*ANNA, *BERT])
        await store.pushes.accept(to("sent", *(device(f"crowd-{n}") for n in range(40)), *ANNA, *BERT))
        await settle_all(store, Ended("sent"), None)
        before = await rows(store, "sent")
        erased = await eraser(store).erase("shop", "anna@example.com", wait=60.0)
        assert (erased.done, erased.removed) == (True, {"statuses": 2})
        await nothing_left(store, ANNA)
        assert await rows(store, "sent") == [
            row
            if row.device_id not in {each.id for each in ANNA}
            else replace(row, device_id=None, token_hash="", provider_id="")
            for row in before
        ]


async def test_content_goes_with_its_last_letter(world: World) -> None:
    store = await open_store_of(world)
    await store.registry.put_many("shop", [*ANNA, *BERT])
    crowd = [device(f"crowd-{n}") for n in range(40)]
    await store.pushes.accept(to("hers", *ANNA, *crowd))
    await store.pushes.accept(to("theirs", *ANNA, *BERT, *crowd))
    await store.pushes.accept(to("open", *ANNA, *crowd))
    ids = {each.id for each in (*ANNA, *BERT)}
    for route in ROUTES:
        for taken in await take_all(store, "normal", route):
            rest: Verdict = Retry(moment(), 2) if taken.chunk.push_id == "open" else Ended("sent")
            ends = [
                replace(each, verdict=Ended("failed", dead_letter=True), outcome=BadNotification(status=400))
                if each.delivery.target.device_id in ids
                else replace(each, verdict=rest)
                for each in all_of(taken, Ended("sent"), SENT)[0]
            ]
            await store.queue.settle("shop", ends, [taken.ref])
    assert (await eraser(store).erase("shop", "anna@example.com", wait=40.0)).done
    kept = {name: await store.link.call("HLEN", keys.content("shop", 0, name)) for name in ("hers", "theirs", "open")}
    assert kept == {"hers": 0, "theirs": 3, "open": 3}
    # Her letters are counted off, so the content of the open push goes with its last delivery.
    for route in ROUTES:
        await store.queue.promote(route, moment() + 1000)
        for taken in await take_all(store, "normal", route):
            await store.queue.settle("shop", all_of(taken, Ended("sent"), SENT)[0], [taken.ref])
    assert await store.link.call("HLEN", keys.content("shop", 0, "open")) == 0


async def test_the_limiters_digests_go_too(server: Server) -> None:
    from pushsvc.model.rates import Rate

    async def fields_of_limits(store: Store) -> list[bytes]:
        names = [key for key in await scan(store) if b":lim:" in key]
        return [field for name in names for field in await store.link.call("HKEYS", name)]

    async with new_world(server) as world:
        store = await open_store_of(world)
        await store.registry.put_many("shop", [*ANNA, *BERT])
        for _ in range(3):
            await store.limiter.admit(ROUTES[0], Rate(1, 3600), [ANNA[0].token, BERT[0].token])
        before = await fields_of_limits(store)
        assert (await eraser(store).erase("shop", "anna@example.com", wait=40.0)).done
        after = await fields_of_limits(store)
        assert len(after) == len(before) / 2 > 0


# --- the table --------------------------------------------------------------------------------------


KEEPERS: dict[str, tuple[str, ...]] = {
    # the keeper that removes the data of a device, or in brackets why there is none: the keys
    "queue": ("ps:T:q:<platform>:<lane>", "ps:T:retry:<platform>", "ps:T:s:<id>"),
    "rows": ("ps:T:p:<id>", "ps:T:r:<id>", "ps:T:lim:<platform>:<family>:<kind>:<number>", "ps:T:live:<id>"),
    "letters": ("ps:T:v:<id>", "ps:T:dead"),
    "audiences": ("ps:T:x:<id>",),
    "receipts": ("ps:T:receipts",),
    "events": ("ps:T:events",),
    "reported": ("ps:T:reported",),
    "quarantine": ("ps:T:quarantine",),
    "erasures": (
        *("ps:D:d:<n / 128>", "ps:D:i:<b>", "ps:D:k:<b>", "ps:D:u:<b>", "ps:D:t:<topic>", "ps:D:x:<platform>:<why>"),
        *("ps:D:x", "ps:D:streams:<n / 32>", "ps:T:erase"),
    ),
    "(counts, and other numbers)": (
        *("ps:T:pending", "ps:T:urgent:<platform>", "ps:T:b:<id>", "ps:T:t:<id>", "ps:T:flow:<minute>", "ps:T:epoch"),
        *("ps:T:normal:<platform>",),
        *("ps:T:mark", "ps:T:answers:<platform>:<minute>", "ps:{owner}:bucket:<name>", "ps:{owner}:asked:<who>"),
        *("ps:D:mark", "ps:D:count", "ps:D:displaced:<h>:<k>:<b>", "ps:D:moved", "ps:T:seen:<id>", "ps:cleanup"),
        *("ps:bell", "ps:probe", "ps:format", "ps:emptied", "ps:full"),
    ),
    "(ids of pushes, events and replays)": (
        *("ps:T:scheduled", "ps:T:urgent", "ps:T:normal", "ps:T:expansions:<lane>", "ps:T:cancelled", "ps:T:recalled"),
        *("ps:T:hook:calls", "ps:T:replay:<job>", "ps:T:gone", "ps:T:gone:reported", "ps:T:hook", "ps:T:hook:dead"),
        *("ps:T:hook:asked", "ps:T:hook:reported", "ps:D:pushes:<hour>:<b>", "ps:replays"),
    ),
    "(keyed digests)": (
        "ps:T:latest",
        "ps:T:latest:before",
        "ps:T:w:<digest>",
        "ps:T:i:<digest>",
        "ps:T:erased:<digest>",
    ),
    "(names of processes, apps, platforms and topics)": (
        *("ps:T:released", "ps:T:heard", "ps:D:heard", "ps:D:topics", "ps:D:gateways", "ps:D:live", "ps:lock:<name>"),
        *("ps:alive:<consumer>", "ps:held", "ps:workers", "ps:routes"),
    ),
    "(ids of pushes, names of keys, 32 bits of a `collapse`)": ("ps:T:recent",),
    "(ids, and 32 bits of a token's CRC)": ("ps:T:revoked", "ps:D:revoked"),
    "(keyed digests for 29 to 400 days)": ("ps:T:sup:<platform>", "ps:T:moved:<platform>", "ps:D:refused"),
    "(contents of pushes, and numbers of connections, for a minute)": ("ps:{gateway}:inbox",),
    "(API keys, and the key of all digests)": ("ps:keys", "ps:keys:used", "ps:hash_key"),
}
"""`erasures` is the erasure itself, which uses the registry."""


def test_every_key_of_the_table_has_a_keeper_or_a_reason() -> None:
    """A change that adds a key decides here whether data of a device may stand in it."""
    assert sorted(name for names in KEEPERS.values() for name in names) == sorted(names_of_keys())
    named = {keeper for keeper in KEEPERS if not re.fullmatch(r"\(.+\)", keeper)}
    assert named == {*ORDER, "erasures"} - {"late", "later letters"}  # which are looked through once more


async def test_every_name_has_its_keeper(world: World) -> None:
    store = await open_store_of(world)
    own = keepers(StoreContext(store.link, store.config, bytes(32), lambda: 0), store.queue, None, None)  # type: ignore[arg-type]  # is not asked
    assert set(own) == set(ORDER)
    for name in ORDER:
        step = await own[name].step("shop", Subjects({}, bytes(32), addresses()), "")
        assert step.removed == {}
    assert len(set(WHAT)) == len(WHAT)


# --- pushes to an audience --------------------------------------------------------------------------


def to_audience(name: str, audience: Audience, send_at: int | None = None) -> Push:
    messages = {platform: Message(platform, b"{}") for platform in ("apns", "fcm")}
    return Push(
        name, "shop", "bulk", moment(), moment() + 3_600_000, messages, {}, False, send_at, encode_audience(audience)
    )


async def test_an_audience_names_her_no_more_and_everybody_else(server: Server) -> None:

    async def has_room(made: int) -> bool:
        return True

    async with new_world(server) as world:
        store = await open_store_of(world)
        more = [device(f"more-{n}", user=f"more-{n}") for n in range(3)]
        await store.registry.put_many("shop", [*ANNA, *BERT, *more])
        both = ("anna@example.com", "bert@example.com")
        audiences: dict[str, Audience] = {
            "users": ByUsers((*both, "more-0", "anna@example.com", "more-1")),
            "devices": ByDevices(tuple(each.id for each in (*ANNA, *BERT, *more))),
            "where": ByWhere("user in ('anna@example.com', \"bert@example.com\") or not user != 'anna@example.com'"),
            "all": ToAll(),
        }
        for name, audience in audiences.items():
            await store.pushes.accept(to_audience(name, audience))
            await store.pushes.accept(to_audience(f"{name}-later", audience, moment() + 30 * 86_400_000))
        assert (await eraser(store).erase("shop", "anna@example.com", wait=30.0)).done
        await nothing_left(store, ANNA)
        expected = {"users": 4, "devices": 5, "where": 2, "all": 5}
        for name, size in expected.items():
            run = await expand(
                "shop",
                name,
                now=lambda: moment(),
                expansions=store.expansions,
                registry=store.registry,
                routes={},
                lease=1000,
                may_continue=lambda: True,
                has_room=has_room,
            )
            assert (run.made, run.end) == (size, "done"), name
            assert (await store.expansions.load("shop", f"{name}-later")) is not None


async def test_what_named_nobody_else_goes_with_its_text(server: Server) -> None:
    """However far its time is, and also where she has no device any more. Everybody else's text stays."""
    anna, bert, month = "anna@example.com", "bert@example.com", moment() + 30 * 86_400_000
    hers: dict[str, Audience] = {
        "users": ByUsers((anna,)),
        "devices": ByDevices(tuple(each.id for each in ANNA)),
        "where": ByWhere(f"user == '{anna}'"),
        "where-and": ByWhere(f"platform == 'fcm' and (user in ('{anna}') or '{anna}' == user)"),
    }
    others: dict[str, Audience] = {
        "all": ToAll(),
        "topic": ByTopic("news"),
        "both": ByUsers((anna, bert)),
        "where-or": ByWhere(f"user == '{anna}' or tags.plan == 'pro'"),
        "where-not": ByWhere(f"not user == '{anna}'"),
    }
    by_name = {"users", "where", "where-and"}

    async def accept(store: Store, name: str, audience: Audience) -> None:
        push = to_audience(name, audience, month)
        messages = {platform: Message(platform, f"text of {name}.".encode()) for platform in ("apns", "fcm")}
        await store.pushes.accept(replace(push, messages=messages))

    async def holds(store: Store, gone: set[str]) -> None:
        for name in [*hers, *others]:
            status = await store.pushes.status("shop", name)
            assert status is not None
            assert (status.state, status.counts.total) == ("done" if name in gone else status.state, 0)
            assert (await store.expansions.load("shop", name) is None) == (name in gone), name
        assert {each.push_id for each in await store.expansions.due(["shop"])} == set()
        everything = b"".join((await scan(store)).values())
        for name in [*hers, *others]:
            assert (f"text of {name}.".encode() in everything) == (name not in gone), name

    async with new_world(server) as world:
        store = await open_store_of(world)
        for name, audience in {**hers, **others}.items():
            await accept(store, name, audience)
        erased = await eraser(store).erase("shop", anna, wait=30.0)
        assert (erased.devices, erased.done, dict(erased.removed)) == (0, True, {"pushes": 3})
        await holds(store, by_name)
        assert await eraser(store).unfinished(["shop"]) == []
        await store.registry.put_many("shop", [*ANNA, *BERT])
        erased = await eraser(store).erase("shop", anna, wait=30.0)
        assert (erased.devices, erased.done, dict(erased.removed)) == (2, True, {"pushes": 1})
        await holds(store, set(hers))
        assert await eraser(store).erase("shop", anna, wait=30.0) == erased


async def test_an_expansion_under_way_goes_on_at_its_place(world: World) -> None:
    """It has passed some of its users when one of them, and one that is to come, are erased."""
    store = await open_store_of(world)
    many = [device(f"user-{n}-phone", user=f"user-{n}") for n in range(8)]
    await store.registry.put_many("shop", many)
    audience = ByUsers(tuple(f"user-{n}" for n in range(8)))
    await store.pushes.accept(to_audience("users", audience))
    at = await store.expansions.load("shop", "users")
    assert at is not None
    page = await store.registry.members("shop", audience, after="", limit=3)
    at = await store.expansions.advance(at, targets_of(page.devices, 0), cursor=page.cursor, lease=0)
    for user in ("user-1", "user-5"):
        assert (await eraser(store).erase("shop", user, wait=30.0)).done
    await nothing_left(store, [many[1], many[5]])
    at = await store.expansions.load("shop", "users")
    assert at is not None
    found = []
    cursor: str | None = at.cursor
    while cursor is not None:
        page = await store.registry.members("shop", decode_audience(at.push.audience), after=cursor, limit=3)  # type: ignore[arg-type]  # of users
        found += page.devices
        cursor = page.cursor
    met = {each.id for each in found} | {"user-0-phone", "user-2-phone"}
    assert met == {each.id for each in many} - {"user-1-phone", "user-5-phone"}
