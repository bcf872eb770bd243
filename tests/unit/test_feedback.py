"""The feedback stage: a receipt becomes an event and a suppression in one step, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from pushsvc.errors import StoreUnavailable
from pushsvc.model.delivery import (
    Delivery,
    End,
    Outcome,
    Receipt,
    Sent,
    Settlement,
    TokenDead,
    TokenSuspect,
)
from pushsvc.model.devices import Device
from pushsvc.model.push import Message, Push, Route, Target
from pushsvc.model.status import FeedbackEvent
from pushsvc.rules.policy import SENT
from pushsvc.stages import feedback
from pushsvc.stages.feedback import FeedbackConfig, FeedbackPorts

from ..fakes import MemoryStore
from .dispatch_fakes import counts, many, memory_store, now_ms, push
from .virtual_time import VirtualLoop, until

LOOP = VirtualLoop
DEAD = TokenDead(status=410, reason="Unregistered", since=1_700_000_000_000)
SUSPECT = TokenSuspect(status=400, reason="BadDeviceToken")
DEFAULT = FeedbackConfig()


def ports_of(store: MemoryStore) -> FeedbackPorts:
    return FeedbackPorts(
        receipts=store.receipts,
        registry=store.registry,
        answers=store.answers,
        suppressions=store.suppressions,
        clock=now_ms,
    )


@asynccontextmanager
async def judging(store: MemoryStore, *apps: str, config: FeedbackConfig = DEFAULT) -> AsyncIterator[None]:
    """The running stage, which must stop at the end."""
    stop = asyncio.Event()
    task = asyncio.create_task(feedback.run(ports_of(store), apps, config, stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def answered(store: MemoryStore, name: str, outcomes: dict[str, Outcome], app: str = "shop") -> None:
    """Accept a push and settle it as dispatch does: receipts are the store's doing."""
    await store.pushes.accept(push(name, *outcomes, app=app))
    (taken,) = await store.queue.take(Route(app, "apns"), "normal", targets=1000, wait_ms=0)
    settlements = [
        Settlement(Delivery(taken.chunk, target), outcome, SENT, 7, "hash", outcome.reason)
        for target, outcome in zip(taken.chunk.targets, outcomes.values(), strict=True)
    ]
    await store.queue.settle(app, settlements, [taken.ref])


async def events(store: MemoryStore, app: str = "shop") -> list[FeedbackEvent]:
    return [event for _, event in (await store.receipts.events(app, after="", limit=10_000)).events]


def pruned(app: str) -> float:
    labels = {"app": app, "platform": "apns", "reason": "Unregistered"}
    return REGISTRY.get_sample_value("pushsvc_pruned_total", labels) or 0.0


async def test_a_dead_token_is_suppressed_and_a_suspect_one_only_reported() -> None:
    store = memory_store()
    before = pruned("shop")
    await answered(store, "p", {"good": Sent(status=200), "dead": DEAD, "suspect": SUSPECT})
    async with judging(store, "shop"):
        await until(lambda: len(store._state.events["shop"]) == 2)
    assert [(event.token, event.reason, event.action) for event in await events(store)] == [
        ("dead", "Unregistered", "suppressed"),
        ("suspect", "BadDeviceToken", "suspected"),
    ]
    assert pruned("shop") - before == 1
    # Judged once: nothing is left to be taken.
    assert await store.receipts.take("shop", limit=10, wait_ms=0) == []

    await store.pushes.accept(push("next", "good", "dead", "suspect"))
    (taken,) = await store.queue.take(Route("shop", "apns"), "normal", targets=10, wait_ms=0)
    assert taken.skip == {1: "suppressed"}
    assert await counts(store, "next") == {"total": 3, "queued": 3}


async def test_a_token_is_suppressed_in_the_environment_in_which_it_is_dead() -> None:
    store = memory_store()
    production, sandbox = Route("shop", "apns"), Route("shop", "apns_sandbox")
    config = FeedbackConfig(environments={production: "production", sandbox: "sandbox"})
    await store.registry.put("shop", Device(id="d", platform="apns", token="phone", registered_at=now_ms()))

    async def skipped(name: str) -> dict[Route, dict[int, End]]:
        at = now_ms()
        targets: dict[str, tuple[Target, ...]] = {
            "apns": (Target(0, "raw"), Target(1, "phone")),
            "apns_sandbox": (Target(2, "raw"), Target(3, "phone")),
        }
        messages = dict.fromkeys(targets, Message("apns", b"{}"))
        await store.pushes.accept(Push(name, "shop", "normal", at, at + 3_600_000, messages, targets))
        found = {}
        for route in (production, sandbox):
            (taken,) = await store.queue.take(route, "normal", targets=10, wait_ms=0)
            found[route] = dict(taken.skip)
            outcome = DEAD if route == sandbox else Sent(status=200)
            settlements = [
                Settlement(Delivery(taken.chunk, target), outcome, SENT, now_ms(), "hash", outcome.reason)
                for target in taken.chunk.targets
            ]
            await store.queue.settle("shop", settlements, [taken.ref])
        return found

    await asyncio.sleep(60)  # of the virtual clock
    assert await skipped("p") == {production: {}, sandbox: {}}
    async with judging(store, "shop", config=config):
        await until(lambda: len(store._state.events["shop"]) == 2)
    assert [(each.token, each.action) for each in await events(store)] == [
        ("raw", "suppressed"),
        ("phone", "suppressed"),
    ]
    device = await store.registry.get("shop", "d")
    assert device is not None
    assert device.state == "active", "it is in production"
    assert await skipped("q") == {production: {}, sandbox: {2: "suppressed", 3: "suppressed"}}
    assert await store.suppressions.remove("shop", [("apns", "raw")]) == 1
    await store.registry.put("shop", Device(id="e", platform="apns", token="phone", registered_at=now_ms()))
    assert await skipped("r") == {production: {}, sandbox: {}}, "who registers it says that it is good"


async def test_each_app_has_a_follower_of_its_own() -> None:
    store = memory_store()
    async with judging(store, "shop", "news"):
        await answered(store, "p", {"dead": DEAD}, app="news")
        await until(lambda: store._state.events["news"])
    assert await events(store, "shop") == []
    assert [event.token for event in await events(store, "news")] == ["dead"]


async def test_many_are_judged_in_batches() -> None:
    store = memory_store()
    total = 2 * feedback.BATCH + 1
    for number in range(3):
        names = many(f"dead-{number}", total // 3)
        await answered(store, f"p{number}", dict.fromkeys(names, DEAD))
    sizes: list[int] = []
    record = store.receipts.record

    async def noted(app: str, done: Sequence[tuple[str, Receipt, FeedbackEvent | None]]) -> None:
        sizes.append(len(done))
        await record(app, done)

    store.receipts.record = noted  # type: ignore[method-assign]  # only to watch it
    async with judging(store, "shop"):
        await until(lambda: sum(sizes) == 3 * (total // 3))
    assert max(sizes) == feedback.BATCH
    assert len({event.token for event in await events(store)}) == 3 * (total // 3)


@pytest.mark.parametrize("method", ["take", "record"])
async def test_while_redis_is_away_receipts_wait_and_are_judged_once(method: str) -> None:
    store = memory_store()
    await answered(store, "p", {"dead": DEAD})
    before = pruned("shop")
    real = getattr(store.receipts, method)
    failures = 0

    async def away(*arguments: Any, **options: Any) -> Any:
        nonlocal failures
        if failures < 10:
            failures += 1
            raise StoreUnavailable("connection refused")
        return await real(*arguments, **options)

    setattr(store.receipts, method, away)
    async with judging(store, "shop"):
        await until(lambda: store._state.events["shop"])
    assert failures == 10
    assert [event.token for event in await events(store)] == ["dead"]
    assert pruned("shop") - before == 1


async def test_what_one_process_left_is_judged_by_the_next() -> None:
    store = memory_store()
    await answered(store, "p", {"dead": DEAD})
    assert len(await store.receipts.take("shop", limit=10, wait_ms=0)) == 1
    store.kill(store.consumer)
    async with judging(store.as_consumer("heir"), "shop"):
        await until(lambda: store._state.events["shop"])
    assert [event.token for event in await events(store)] == ["dead"]


async def test_a_stop_ends_the_wait_for_receipts() -> None:
    loop = asyncio.get_running_loop()
    async with judging(memory_store(), "shop", "news"):
        await asyncio.sleep(10.0)
        stopping = loop.time()
    assert loop.time() - stopping < 0.01


async def test_a_bug_ends_the_stage_and_is_heard() -> None:
    class Faulty:
        async def take(self, app: str, *, limit: int, wait_ms: int) -> list[Any]:
            raise ZeroDivisionError

    ports = replace(ports_of(memory_store()), receipts=Faulty())  # type: ignore[arg-type]  # a part of the port
    with pytest.raises(ExceptionGroup, match="TaskGroup") as caught:
        await feedback.run(ports, ["shop"], FeedbackConfig(), asyncio.Event())
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


async def test_tokens_stay_out_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    store = memory_store()
    await answered(store, "p", {"a-very-secret-token": DEAD})
    async with judging(store, "shop"):
        await until(lambda: store._state.events["shop"])
    reported = "".join(capsys.readouterr())
    assert "token_judged" in reported
    assert "a-very-secret-token" not in reported
