"""What is counted of the providers' answers, and what is suppressed: in memory, on Valkey and on Redis alike."""

from __future__ import annotations

import msgspec
import pytest

from pushsvc.model.delivery import (
    BadNotification,
    Ended,
    Outcome,
    Retry,
    Sent,
    TokenDead,
    TokenSuspect,
    Unavailable,
)
from pushsvc.model.devices import Device
from pushsvc.model.push import Route
from pushsvc.rules.freeze import SLOT_MS, Answers, Slots
from pushsvc.store import Store, StoreConfig, open_store

from .test_store_kit import AnyStore, World, all_of, backend_server, make_push, moment, settlement, take

FAILED = Ended("failed", dead_letter=True)
INVALID = Ended("invalid")
DEAD = TokenDead(status=410, reason="Unregistered")
SUSPECT = TokenSuspect(status=400, reason="BadDeviceToken")


def slot() -> int:
    return moment() // SLOT_MS


async def counted(store: AnyStore, platform: str = "apns") -> Slots:
    return await store.answers.read("shop", platform, slot() - 100, slot() + 100)


@pytest.mark.parametrize("total", [6, 40, 1001])
async def test_answers_about_a_token_are_counted_once(total: int, world: World) -> None:
    store = await world.store()
    push = make_push("p", total)
    await store.pushes.accept(push)
    (taken, *_) = await take(store)
    at = slot() * SLOT_MS
    outcomes: list[tuple[Ended | Retry, Outcome | None]] = [
        (Ended("sent"), Sent(status=200)),
        (INVALID, DEAD),
        (FAILED, SUSPECT),
        (FAILED, BadNotification(status=400)),
        (Ended("suppressed"), None),
        (Retry(moment() + 1, 2), Unavailable(status=503)),
    ]
    reported = [
        settlement(taken.chunk, index, verdict, outcome, at=at) for index, (verdict, outcome) in enumerate(outcomes)
    ]
    await store.queue.settle("shop", reported, [])
    await store.queue.settle("shop", reported, [])  # the answer was lost: repeated, and counted once
    assert await counted(store) == {slot(): Answers(sent=1, dead=1, suspect=1)}
    assert await counted(store, "fcm") == {}
    assert await store.answers.read("shop", "apns", slot() + 1, slot() + 100) == {}


async def test_answers_lie_in_their_slots(world: World) -> None:
    store = await world.store()
    for number, at in enumerate((0, SLOT_MS - 1, SLOT_MS, 6 * SLOT_MS, -SLOT_MS)):
        await store.pushes.accept(make_push(f"p{number}"))
        (taken,) = await take(store)
        own = settlement(taken.chunk, 0, at=slot() * SLOT_MS + at)
        await store.queue.settle("shop", [own], [taken.ref])
    once = Answers(sent=1)
    assert await counted(store) == {slot() - 1: once, slot(): once + once, slot() + 1: once, slot() + 6: once}


@pytest.mark.parametrize("total", [1, 3])
async def test_a_dry_run_counts_where_the_provider_was_asked(total: int, world: World) -> None:
    store = await world.store()
    for platform, answer in (("apns", Sent(reason="dry_run")), ("fcm", Sent(status=200))):
        push = msgspec.structs.replace(make_push(platform, total, platforms=(platform,)), dry_run=True)
        await store.pushes.accept(push)
        (taken,) = await take(store, route=Route("shop", platform))
        await store.queue.settle("shop", *all_of(taken, None, answer))
    assert await counted(store) == {}
    assert await counted(store, "fcm") == {(moment() + 5) // SLOT_MS: Answers(sent=total)}


async def test_tokens_are_suppressed_and_lifted(world: World) -> None:
    store = await world.store()

    def device(name: str, registered_at: int) -> Device:
        return Device(id=name, platform="apns", token=f"p-{name}", registered_at=registered_at)

    async def skipped() -> list[int]:
        push = make_push("p", 4)
        await store.pushes.accept(msgspec.structs.replace(push, id=f"p{next(numbers)}"))
        (taken,) = await take(store)
        await store.queue.settle("shop", *all_of(taken))
        return sorted(taken.skip)

    numbers = iter(range(100))
    marks = [("apns", f"p-{number}", moment()) for number in range(3)]
    await store.suppressions.add("shop", [*marks, ("fcm", "p-3", moment())])
    await store.suppressions.add("shop", marks)
    assert await skipped() == [0, 1, 2]
    await store.suppressions.lift("shop", [device("0", moment() - 1), device("1", moment()), device("9", moment())])
    assert await skipped() == [0, 2]
    await store.suppressions.lift("shop", [device("0", moment() - 1)], always=True)
    assert await skipped() == [2]
    await store.suppressions.add("shop", [])
    await store.suppressions.lift("shop", [])


async def test_all_shards_are_added_up_and_a_count_lives_a_day() -> None:
    async def story(store: Store) -> None:
        for number in range(20):
            await store.pushes.accept(make_push(f"p{number}"))
            (taken,) = await take(store, targets=1)
            await store.queue.settle("shop", *all_of(taken))
        found = await counted(store)
        assert sum(answers.sent for answers in found.values()) == 20
        kept = await store.link.call("KEYS", "*answers*")
        assert len(kept) > 1
        for key in kept:
            assert 86_000_000 < await store.link.call("PTTL", key) <= 86_400_000

    with backend_server("redis") as server:
        assert server is not None
        async with open_store(server.url, StoreConfig(shards=4)) as store:
            await story(store)
