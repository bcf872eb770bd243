"""Scheduled pushes under a dispatcher, in virtual time: not before their time, soon after it, once, or not at all."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from pushsvc.errors import StoreUnavailable
from pushsvc.model.delivery import Sent
from pushsvc.model.push import Route
from pushsvc.stages.dispatch.config import DispatchConfig

from .dispatch_fakes import FakeProvider, FakeQueue, counts, many, memory_store, push
from .test_dispatch_dispatcher import dispatcher, running
from .virtual_time import VirtualLoop, until

LOOP = VirtualLoop
DAY = 86_400.0
EVERY = DispatchConfig().launch_every


def willing(route: Route | None = None) -> FakeProvider:
    """A provider that takes everything."""
    provider = FakeProvider(route) if route else FakeProvider()
    provider.says = lambda delivery: Sent(status=200)
    return provider


def latencies(lane: str = "normal") -> tuple[float, float]:
    """How many deliveries `pushsvc_delivery_duration_seconds` has counted, and the sum of their seconds."""
    labels = {"app": "shop", "platform": "apns", "lane": lane}
    found = [
        REGISTRY.get_sample_value(f"pushsvc_delivery_duration_seconds_{name}", labels) or 0.0
        for name in ("count", "sum")
    ]
    return found[0], found[1]


async def test_it_is_sent_at_its_time_and_not_before() -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), willing()
    async with running(dispatcher(store.queue, provider)):
        before = latencies()
        started = loop.time()
        await store.pushes.accept(push("p", *many("t", 50), wait=600.0))
        await store.pushes.accept(push("now", "n"))
        await until(lambda: "n" in provider.tokens)
        await asyncio.sleep(599.0)
        assert provider.tokens == ["n"]
        assert await counts(store, "p") == {"total": 50, "queued": 50}
        await until(lambda: len(provider.tokens) == 51, 10.0)
        assert 600.0 <= loop.time() - started <= 600.0 + EVERY + 0.05
        await until(lambda: store._state.pushes["shop", "p"].state == "done")
        await asyncio.sleep(1.0)
        count, seconds = (now - then for now, then in zip(latencies(), before, strict=True))
    # Reckoned from its time, not from its acceptance ten minutes before.
    assert count == 51
    assert seconds <= 51 * (EVERY + 0.05)


async def test_a_cancelled_one_is_never_sent() -> None:
    store, provider = memory_store(), willing()
    async with running(dispatcher(store.queue, provider)):
        for number in range(20):
            await store.pushes.accept(push(f"p{number}", f"t{number}", wait=60.0))
        await asyncio.sleep(59.9)
        for number in range(0, 20, 2):
            await store.pushes.cancel("shop", f"p{number}")
        await asyncio.sleep(60.0)
    assert provider.tokens == [f"t{number}" for number in range(1, 20, 2)]
    assert await counts(store, "p0") == {"total": 1, "cancelled": 1}


async def test_two_dispatchers_send_it_once() -> None:
    store = memory_store()
    one, two = willing(), willing()
    stop = asyncio.Event()
    own = [dispatcher(store.queue, one), dispatcher(store.as_consumer("two").queue, two)]
    tasks = [asyncio.create_task(each.run(stop)) for each in own]
    for number in range(200):
        await store.pushes.accept(push(f"p{number}", f"t{number}", wait=1.0 + number / 100))
    await until(lambda: len(one.tokens) + len(two.tokens) >= 200)
    await asyncio.sleep(10.0)
    stop.set()
    await asyncio.gather(*tasks)
    assert sorted(one.tokens + two.tokens) == sorted(f"t{number}" for number in range(200))


async def test_what_came_due_while_nothing_ran_goes_at_once_unless_its_time_is_over() -> None:
    store, provider = memory_store(), willing()
    await store.pushes.accept(push("late", "l", wait=60.0, ttl=2 * DAY))
    await store.pushes.accept(push("over", "o", wait=60.0, ttl=3600.0))
    await asyncio.sleep(DAY)
    assert (await counts(store, "over"))["queued"] == 1
    async with running(dispatcher(store.queue, provider)):
        await until(lambda: store._state.pushes["shop", "over"].state == "done", 5.0)
        await until(lambda: store._state.pushes["shop", "late"].state == "done", 5.0)
    assert provider.tokens == ["l"]
    assert await counts(store, "over") == {"total": 1, "expired": 1}


async def test_the_schedule_of_an_app_that_nobody_serves_is_left_alone() -> None:
    store, provider = memory_store(), willing()
    async with running(dispatcher(store.queue, provider)):
        await store.pushes.accept(push("p", "t", wait=1.0, app="gone"))
        await asyncio.sleep(100.0)
    status = await store.pushes.status("gone", "p")
    assert status is not None
    assert status.state == "scheduled"


class Busy(FakeQueue):
    """Has due pushes for a number of calls by app, and records the calls."""

    SECONDS = 0.01

    def __init__(self, **due: int) -> None:
        super().__init__()
        self.due = Counter(due)
        self.asked: list[str] = []

    async def next_launch(self, app: str) -> int | None:
        return 0 if self.due[app] > 0 else None

    async def launch(self, app: str, now: int) -> int:
        self._come()
        self.asked.append(app)
        await asyncio.sleep(self.SECONDS)
        self.due[app] -= 1
        return 200 if self.due[app] >= 0 else 0


async def test_apps_take_turns_and_a_crowd_is_launched_in_one_go() -> None:
    loop = asyncio.get_running_loop()
    queue = Busy(shop=500, news=3)
    async with running(dispatcher(queue, FakeProvider(), FakeProvider(Route("news", "apns")))):
        await until(lambda: queue.due["shop"] == 0)
        # One call after the other, without a pause between them.
        assert loop.time() == pytest.approx(503 * Busy.SECONDS, abs=0.02)
    assert Counter(queue.asked[:6]) == {"shop": 3, "news": 3}
    assert set(queue.asked[6:503]) == {"shop"}


async def test_what_becomes_due_during_a_crowd_is_launched_beside_it() -> None:
    queue = Busy(shop=500)
    async with running(dispatcher(queue, FakeProvider(), FakeProvider(Route("news", "apns")))):
        await until(lambda: len(queue.asked) == 100)
        queue.due["news"] = 1
        await until(lambda: queue.due["news"] == 0)
        assert queue.due["shop"] > 390


async def test_launching_waits_for_redis() -> None:
    store, provider = memory_store(), willing()
    launch, calls = store.queue.launch, 0

    async def away(app: str, now: int) -> int:
        nonlocal calls
        calls += 1
        if calls <= 15:
            raise StoreUnavailable("connection refused")
        return await launch(app, now)

    store.queue.launch = away  # type: ignore[method-assign]  # Redis is away for three seconds
    await store.pushes.accept(push("p", "t", wait=1.0))
    with capture_logs() as logs:
        async with running(dispatcher(store.queue, provider)):
            await until(lambda: provider.tokens == ["t"], 5.0)
    assert [line["event"] for line in logs if line["event"].startswith("redis_")] == ["redis_away", "redis_back"]


async def test_nothing_is_launched_while_it_drains() -> None:
    """Who is about to end leaves the schedule to others; and until they come, it can still be cancelled whole."""
    store, slow = memory_store(), FakeProvider()
    async with running(dispatcher(store.queue, slow)) as stop:
        await store.pushes.accept(push("now", "n"))
        await store.pushes.accept(push("p", "t", wait=5.0))
        await until(lambda: slow.open)
        stop.set()
        await asyncio.sleep(20.0)
        slow.answer()
    status = await store.pushes.status("shop", "p")
    assert status is not None
    assert status.state == "scheduled"
