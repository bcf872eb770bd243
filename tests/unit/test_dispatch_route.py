"""One route's worker: what it sends, in which order, how much at once, and what it must not send."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from pushsvc.model.delivery import (
    BadNotification,
    Delivery,
    Misconfigured,
    Outcome,
    Sent,
    Throttled,
    TokenDead,
    TokenSuspect,
    Unavailable,
)
from pushsvc.model.devices import Environment
from pushsvc.model.push import LANES, Lane, Platform, Push, Route
from pushsvc.ports.entries import Taken
from pushsvc.ports.provider import Provider
from pushsvc.ports.queue import DeliveryQueue
from pushsvc.rules.policy import RetryPolicy
from pushsvc.stages.dispatch.config import DispatchConfig
from pushsvc.stages.dispatch.context import DispatchContext
from pushsvc.stages.dispatch.health import FEW, FIRST_PROBE
from pushsvc.stages.dispatch.lease import Lease
from pushsvc.stages.dispatch.limits import RouteLimits
from pushsvc.stages.dispatch.preemption import Preemption
from pushsvc.stages.dispatch.reader import GATHER, LANDING, LANDING_LOOK, MANY, flows
from pushsvc.stages.dispatch.revoking import RevocationLog
from pushsvc.stages.dispatch.route import BURST, RESERVE, RouteWorker
from pushsvc.stages.dispatch.settling import Settler
from pushsvc.store import StoreConfig

from ..fakes import MemoryStore
from .dispatch_fakes import (
    ROUTE,
    FakeProvider,
    FakeQueue,
    chunk,
    counts,
    judged,
    many,
    memory_store,
    now_ms,
    push,
    taken,
    wall_clock,
)
from .virtual_time import VirtualLoop, pace, run, until

LOOP = VirtualLoop
REFUSED = Misconfigured(status=403, reason="InvalidProviderToken")
PATIENT = RetryPolicy(attempts=3, base=1.0, server_error={}, throttled={})


@asynccontextmanager
async def working(
    queue: DeliveryQueue,
    provider: Provider,
    config: DispatchConfig | None = None,
    *,
    spread: bool = False,
    accounts: Mapping[Platform, Environment] | None = None,
) -> AsyncIterator[RouteWorker]:
    """A worker at work, with a settler of its own. Every jitter is a half, unless they are to `spread`."""
    settler = Settler("shop", queue, lambda: worker.wake(), lambda route, due_at: worker.retries.expect(due_at))
    lease = Lease(math.inf, lambda: 0.0, lambda: None)
    lease.renew(0.0)
    context = DispatchContext(
        queue,
        config or DispatchConfig(retry=PATIENT),
        lambda platform: lambda token: f"hash of {token}",
        None,
        lambda app: accounts or {},
        wall_clock,
        random.Random(7).random if spread else lambda: 0.5,
        lease,
        Preemption(),
        RevocationLog(),
    )
    worker = RouteWorker(context, provider, settler, RouteLimits())
    tasks = [asyncio.create_task(settler.run()), asyncio.create_task(worker.run())]
    try:
        yield worker
        await settler.drain()
    finally:
        worker.stop()
        settler.close()
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert ended is None or isinstance(ended, asyncio.CancelledError), ended


async def until_ended(store: MemoryStore, name: str, seconds: float = 600.0) -> dict[str, int]:
    """Wait until nothing of a push is under way; its counts, without the zeros."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (reported := await counts(store, name)).keys() & {"queued", "retrying"}:
        assert loop.time() < began + seconds, reported
        await asyncio.sleep(pace(began))
    return reported


async def rows(store: MemoryStore, name: str) -> dict[int, tuple[str, str, int, str]]:
    """By index: outcome, reason, attempts, token hash."""
    page = await store.pushes.deliveries("shop", name, outcome=None, cursor="", limit=1000)
    assert page is not None
    return {number: (row.outcome, row.reason, row.attempts, row.token_hash) for number, row in enumerate(page[0])}


# --- what an answer becomes -------------------------------------------------------------------------


async def test_an_answer_that_cannot_be_judged_keeps_no_other_from_being_recorded() -> None:
    loop, faults = asyncio.get_running_loop(), list[BaseException]()
    loop.set_exception_handler(lambda _, context: faults.append(context["exception"]))
    unknown: Any = object()
    store, provider = memory_store(), FakeProvider()
    async with working(store.queue, provider):
        await store.pushes.accept(push("p", *many("t", 10)))
        await until(lambda: len(provider.open) == 10)
        # All in one turn of the loop, as the answers of one read.
        assert [provider.answer(None, 4), provider.answer(unknown, 1), provider.answer(None, 5)] == [4, 1, 5]
        await until(lambda: faults)
    assert await counts(store, "p") == {"total": 10, "sent": 9, "queued": 1}
    assert len(faults) == 1


async def test_each_target_has_an_outcome_of_its_own() -> None:
    answers: dict[str, Outcome] = {
        "good": Sent(status=200),
        "dead": TokenDead(status=410, reason="Unregistered"),
        "suspect": TokenSuspect(status=400, reason="BadDeviceToken"),
        "bad": BadNotification(status=400, reason="BadPriority"),
    }

    store, provider = memory_store(), FakeProvider()
    provider.says = lambda delivery: answers[delivery.target.token]
    async with working(store.queue, provider):
        await store.pushes.accept(push("p", *answers))
        assert await until_ended(store, "p") == {"total": 4, "sent": 1, "invalid": 1, "failed": 2}
    assert await rows(store, "p") == {
        0: ("sent", "", 1, "hash of good"),
        1: ("invalid", "Unregistered", 1, "hash of dead"),
        2: ("failed", "BadDeviceToken", 1, "hash of suspect"),
        3: ("failed", "BadPriority", 1, "hash of bad"),
    }
    assert {letter.reason for letter in store.dead_letters("shop")} == {"BadDeviceToken", "BadPriority"}


async def test_what_failed_for_now_goes_again_when_it_is_due() -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), FakeProvider()
    sent: list[tuple[float, int, int]] = []

    def says(delivery: Delivery) -> Outcome:
        sent.append((loop.time(), delivery.chunk.attempt, delivery.chunk.turn))
        return Unavailable(status=500, reason="InternalServerError") if len(sent) < 3 else Sent(status=200)

    provider.says = says
    async with working(store.queue, provider):
        await store.pushes.accept(push("p", "token"))
        assert await until_ended(store, "p") == {"total": 1, "sent": 1}
    assert [each[1:] for each in sent] == [(1, 1), (2, 2), (3, 3)]
    # Half of 1 s and of 2 s, on steps of 0.1 s, and up to 0.2 s until somebody looks.
    assert 0.49 <= sent[1][0] - sent[0][0] <= 0.9
    assert 0.99 <= sent[2][0] - sent[1][0] <= 1.4
    assert (await rows(store, "p"))[0][2] == 3


async def test_attempts_have_an_end_and_throttling_costs_none() -> None:
    store, provider = memory_store(), FakeProvider()
    seen: Counter[str] = Counter()

    def says(delivery: Delivery) -> Outcome:
        token = delivery.target.token
        seen[token] += 1
        if token == "throttled" and seen[token] > 10:
            return Sent(status=200)
        return Throttled(status=429) if token == "throttled" else Unavailable(status=500, reason="down")

    provider.says = says
    async with working(store.queue, provider):
        await store.pushes.accept(push("p", "throttled", "down", ttl=1e6))
        assert await until_ended(store, "p") == {"total": 2, "sent": 1, "failed": 1}
    assert seen == {"throttled": 11, "down": 3}
    assert [letter.reason for letter in store.dead_letters("shop")] == ["down"]


# --- what must not be sent --------------------------------------------------------------------------


async def test_cancelled_and_suppressed_targets_are_settled_and_not_sent() -> None:
    store, provider = memory_store(), FakeProvider()
    provider.says = lambda delivery: Sent(status=200)
    await store.pushes.accept(push("cancelled", *many("c", 5)))
    await store.pushes.cancel("shop", "cancelled")
    store._state.suppressed["shop", "apns", "dead"] = 0
    await store.pushes.accept(push("mixed", "alive-1", "dead", "alive-2"))
    await store.pushes.accept(push("all dead", "dead"))
    async with working(store.queue, provider):
        assert await until_ended(store, "mixed") == {"total": 3, "sent": 2, "suppressed": 1}
        assert await until_ended(store, "all dead") == {"total": 1, "suppressed": 1}
        assert await until_ended(store, "cancelled") == {"total": 5, "cancelled": 5}
        await until(lambda: not any(stream.entries for stream in store._state.lanes.values()))
    assert provider.tokens == ["alive-1", "alive-2"]


def of_order(name: str, *tokens: str, lane: Lane = "normal") -> Push:
    """A push with a `collapse`, accepted now."""
    plain = push(name, *tokens, lane=lane)
    message = msgspec.structs.replace(plain.messages["apns"], collapse="order 7", since=plain.created_at)
    return msgspec.structs.replace(plain, messages={"apns": message})


@pytest.mark.parametrize("why", ["busy", "held"])
async def test_what_an_urgent_push_has_overtaken_does_not_replace_it(why: str) -> None:
    """An older push with the same `collapse` waits in its lane until the later one has been sent: it ends, whether the
    route had no room or is held by then."""
    store, provider = memory_store(), FakeProvider(room=0)
    refused = ["first"] if why == "held" else []

    def says(delivery: Delivery) -> Outcome:
        if delivery.chunk.push_id in refused:
            refused.clear()
            return REFUSED
        return Sent(status=200)

    provider.says = says
    async with working(store.queue, provider) as worker:
        await store.pushes.accept(of_order("old", "phone", "tablet", lane="bulk"))
        await store.pushes.accept(push("first", "other"))
        await asyncio.sleep(0.5)
        await store.pushes.accept(of_order("new", "phone", lane="urgent"))
        await asyncio.sleep(0.5)
        provider.window = 1
        worker.use(provider)
        assert await until_ended(store, "new") == {"total": 1, "sent": 1}
        assert await until_ended(store, "old") == {"total": 2, "sent": 1, "suppressed": 1}
        assert await until_ended(store, "first") == {"total": 1, "sent": 1}
    ended = await rows(store, "old")
    assert ended[0][:3] == ("suppressed", "superseded", 0)
    assert provider.tokens == ["phone", "other", "tablet", *(["other"] if why == "held" else [])]


async def test_an_overtaken_push_is_sent_where_the_other_was_refused_or_is_older() -> None:
    store, provider = memory_store(), FakeProvider(room=0)
    provider.says = lambda delivery: (
        BadNotification(status=400, reason="BadTopic") if delivery.chunk.push_id == "new" else Sent(status=200)
    )
    async with working(store.queue, provider) as worker:
        await store.pushes.accept(of_order("old", "phone", lane="bulk"))
        await asyncio.sleep(0.5)
        await store.pushes.accept(of_order("new", "phone", lane="urgent"))
        await asyncio.sleep(0.5)
        provider.window = 1
        worker.use(provider)
        assert await until_ended(store, "old") == {"total": 1, "sent": 1}
        await store.pushes.accept(of_order("newest", "phone", lane="bulk"))
        assert await until_ended(store, "newest") == {"total": 1, "sent": 1}


async def test_what_has_expired_is_never_submitted() -> None:
    store, provider = memory_store(), FakeProvider(room=0)
    provider.says = lambda delivery: Sent(status=200)
    async with working(store.queue, provider):
        await store.pushes.accept(push("late", *many("late", 700), ttl=5.0))
        await store.pushes.accept(push("in time", "in time", ttl=50.0))
        await asyncio.sleep(5.0)
        provider.widen(100)
        assert await until_ended(store, "late") == {"total": 700, "expired": 700}
        assert await until_ended(store, "in time") == {"total": 1, "sent": 1}
        # One whose lifetime ends while it waits in Redis.
        provider.widen(0)
        await store.pushes.accept(push("over", "over", ttl=0.0))
        provider.widen(100)
        assert await until_ended(store, "over") == {"total": 1, "expired": 1}
    assert provider.tokens == ["in time"]
    assert (await rows(store, "over"))[0][:2] == ("expired", "ttl")


async def test_a_retry_that_would_come_too_late_expires_at_once() -> None:
    store, provider = memory_store(), FakeProvider()
    provider.says = lambda delivery: Unavailable(status=503, retry_after=100.0)
    async with working(store.queue, provider):
        await store.pushes.accept(push("p", "token", ttl=60.0))
        assert await until_ended(store, "p") == {"total": 1, "expired": 1}
    assert asyncio.get_running_loop().time() < 1.0


# --- how much at once -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lane", "every", "waits"),
    [("normal", 0.0002, GATHER), ("bulk", 0.0002, GATHER), ("urgent", 0.0002, 0.0), ("normal", 0.002, 0.0)],
)
async def test_pushes_that_come_fast_are_read_together_unless_they_are_urgent(
    lane: Lane, every: float, waits: float
) -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), FakeProvider()
    delays: list[float] = []
    accepted: dict[str, float] = {}

    def says(delivery: Delivery) -> Outcome:
        delays.append(loop.time() - accepted[delivery.chunk.push_id])
        return Sent(status=200)

    provider.says = says
    reads = 0
    take = store.queue.take

    async def counted(route: Route, lane: Lane, *, targets: int, wait_ms: int) -> list[Taken]:
        nonlocal reads
        found = await take(route, lane, targets=targets, wait_ms=wait_ms)
        reads += bool(found)
        return found

    store.queue.take = counted  # type: ignore[method-assign]  # counts what it passes on
    async with working(store.queue, provider):
        await asyncio.sleep(1.0)  # of virtual time: what comes right after the start counts as fast
        for number in range(500):
            accepted[f"p{number}"] = loop.time()
            await store.pushes.accept(push(f"p{number}", "token", lane=lane))
            await asyncio.sleep(every)
        await until(lambda: len(delays) == 500)
    assert max(delays) <= waits + 1e-6
    assert reads <= 500 * every / waits + 2 if waits else reads == 500


async def test_what_waits_in_the_lane_is_read_without_a_pause() -> None:
    """A read may bring little of it, as where all of it is in one shard of many."""
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), FakeProvider()
    sent: list[float] = []

    def says(delivery: Delivery) -> Outcome:
        sent.append(loop.time())
        return Sent(status=200)

    provider.says = says
    take = store.queue.take

    async def some(route: Route, lane: Lane, *, targets: int, wait_ms: int) -> list[Taken]:
        return await take(route, lane, targets=10, wait_ms=wait_ms)

    store.queue.take = some  # type: ignore[method-assign]  # asks for less
    for number in range(500):
        await store.pushes.accept(push(f"p{number}", "token"))
    async with working(store.queue, provider):
        await until(lambda: len(sent) == 500)
    assert sent[-1] - sent[0] < GATHER


@given(entries=st.integers(1, 3000), seconds=st.floats(0, 10))
def test_a_read_that_brings_much_or_comes_late_is_followed_by_the_next_at_once(entries: int, seconds: float) -> None:
    assert not flows(0, seconds)
    assert flows(entries, seconds) == (entries < MANY and entries / 1000 >= seconds)


async def test_without_room_nothing_is_submitted_until_there_is_some() -> None:
    store, provider = memory_store(), FakeProvider(room=0)
    async with working(store.queue, provider):
        await store.pushes.accept(push("p", *many("t", 30)))
        await asyncio.sleep(30.0)
        assert provider.tokens == []
        provider.widen(1)
        await until(lambda: provider.open, 1.0)
        assert len(provider.tokens) == 1
        provider.widen(20)
        await until(lambda: len(provider.open) > 1, 1.0)
        # The reserve of a small window is nothing, or it would never be full.
        assert len(provider.tokens) == 19
        while provider.open:
            provider.answer()
            await asyncio.sleep(0.01)
        assert await until_ended(store, "p") == {"total": 30, "sent": 30}


async def test_the_last_of_the_window_is_kept_for_urgent_pushes() -> None:
    store, provider = memory_store(), FakeProvider(room=100)
    reserve = int(100 * RESERVE)
    async with working(store.queue, provider):
        await store.pushes.accept(push("bulk", *many("bulk", 300), lane="bulk"))
        await store.pushes.accept(push("normal", *many("normal", 300), lane="normal"))
        await until(lambda: len(provider.open) >= 100 - reserve)
        await asyncio.sleep(1.0)
        assert provider.room == reserve
        await store.pushes.accept(push("urgent", *many("urgent", 20), lane="urgent"))
        await until(lambda: provider.room == 0, 1.0)
        assert provider.tokens[-reserve:] == many("urgent", reserve)
        # What becomes free goes to urgent first, down to the last.
        provider.answer(count=15)
        await until(lambda: provider.room == 0, 1.0)
        assert provider.tokens[-15:] == [f"urgent-{n}" for n in range(reserve, 20)]
        provider.says = lambda delivery: Sent(status=200)
        provider.answer()
        for name, total in (("bulk", 300), ("normal", 300), ("urgent", 20)):
            assert await until_ended(store, name) == {"total": total, "sent": total}


async def test_a_full_burst_lets_others_have_the_loop() -> None:
    store, provider = memory_store(), FakeProvider(room=10_000)
    seen: list[int] = []

    async with working(store.queue, provider):
        await store.pushes.accept(push("p", *many("t", 2000), lane="urgent"))
        while not seen or seen[-1] < 2000:
            await asyncio.sleep(0)
            seen.append(len(provider.tokens))
    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= BURST
    provider.answer()


async def test_no_more_is_read_than_can_be_held() -> None:
    config = DispatchConfig(retry=PATIENT, prefetch=100)

    store = MemoryStore(StoreConfig(chunk_size=30), clock=now_ms)
    provider = FakeProvider(room=0)
    async with working(store.queue, provider, config):
        for lane in LANES:
            await store.pushes.accept(push(lane, *many(lane, 1000), lane=lane))
        await asyncio.sleep(60.0)
        for lane in LANES:
            read = [owner for owner in store.lane(ROUTE, lane).owner.values() if owner is not None]
            assert 75 < len(read) * 30 <= 100 + 30  # give or take one entry of 30
        provider.says = lambda delivery: Sent(status=200)
        provider.widen(50)
        for lane in LANES:
            assert await until_ended(store, lane) == {"total": 1000, "sent": 1000}
    assert len(provider.tokens) == len(set(provider.tokens)) == 3000


# --- a held route -----------------------------------------------------------------------------------


async def test_a_refused_route_waits_sends_one_probe_and_resumes_by_itself() -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), FakeProvider()
    async with working(store.queue, provider) as worker:
        await store.pushes.accept(push("first", *many("first", 10)))
        await until(lambda: len(provider.open) == 10)
        # The route is held at the first refusal; stragglers that were accepted do not open it.
        provider.answer(REFUSED, 1)
        provider.answer(None, 8)
        provider.answer(REFUSED, 1)
        held_at = loop.time()
        await judged()
        assert worker.held == {"shop/apns": "InvalidProviderToken: look after InvalidProviderToken"}

        await store.pushes.accept(push("second", *many("second", 20)))
        await until(lambda: provider.open)
        # The refusal may be the first push's own: one of the other is sent at once, and no more.
        assert loop.time() - held_at < FIRST_PROBE
        assert len(provider.open) == 1
        provider.answer(REFUSED)
        refused_at = loop.time()
        await until(lambda: provider.open)
        assert loop.time() - refused_at >= 2 * FIRST_PROBE
        assert len(provider.open) == 1
        # A probe that is not answered is not overtaken by another one.
        await asyncio.sleep(60.0)
        assert len(provider.open) == 1

        provider.says = lambda delivery: Sent(status=200)
        provider.answer()
        await judged()
        assert worker.held == {}
        for name, total in (("first", 10), ("second", 20)):
            assert await until_ended(store, name) == {"total": total, "sent": total}
    # Waits that were not the deliveries' fault cost no attempt.
    assert {row[2] for row in (await rows(store, "first")).values()} == {1}


async def test_a_held_route_reads_on_when_all_that_it_has_in_memory_expires_by_its_probes() -> None:
    loop, config = asyncio.get_running_loop(), DispatchConfig(retry=PATIENT, prefetch=8)
    store, provider = memory_store(), FakeProvider()
    async with working(store.queue, provider, config) as worker:
        for number in range(FEW + 1):
            await store.pushes.accept(push(f"refused-{number}", f"refused-{number}"))
        await until(lambda: len(provider.open) > FEW)
        provider.answer(REFUSED)
        await judged()
        # It fills the memory of its lane, and has expired when the next probe is due.
        ttl = worker.health.probe_at - loop.time() - 0.002
        await store.pushes.accept(push("short", *many("short", 12), ttl=ttl))
        provider.says = lambda delivery: Sent(status=200)
        assert await until_ended(store, "short") == {"total": 12, "expired": 12}
        await store.pushes.accept(push("later", "later"))
        assert await until_ended(store, "later", 60.0) == {"total": 1, "sent": 1}
        assert worker.held == {}


async def test_an_outage_of_a_part_with_connections_of_its_own_costs_no_attempt() -> None:
    store, provider = memory_store(), FakeProvider()
    provider.says = lambda delivery: Unavailable(reason="connection_lost", maybe_sent=True, part="broadcasts")
    async with working(store.queue, provider) as worker:
        await store.pushes.accept(push("p", *many("t", 20), ttl=86_400.0))
        await asyncio.sleep(3600.0)
        assert (await counts(store, "p"), worker.held) == ({"total": 20, "retrying": 20}, {})
        assert len(provider.submitted) < 20 * 20  # the waits grow
        provider.says = lambda delivery: Sent(status=200)
        assert await until_ended(store, "p", 7200.0) == {"total": 20, "sent": 20}


async def test_a_corrected_credential_is_probed_at_once() -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), FakeProvider()
    async with working(store.queue, provider) as worker:
        await store.pushes.accept(push("p", *many("t", 3)))
        await until(lambda: len(provider.open) == 3)
        provider.answer(REFUSED)
        for _ in range(5):
            await until(lambda: provider.open)
            provider.answer(REFUSED)
        worker.health.probe_now()
        provider.says = lambda delivery: Sent(status=200)
        corrected = loop.time()
        assert await until_ended(store, "p") == {"total": 3, "sent": 3}
        assert loop.time() - corrected < 10.0


# --- crashes and stops ------------------------------------------------------------------------------


async def test_what_a_dead_worker_held_is_taken_over_at_the_targets_without_an_outcome() -> None:
    store, provider = memory_store(), FakeProvider()
    await store.pushes.accept(push("p", *many("t", 10)))
    async with working(store.queue, provider):
        await until(lambda: len(provider.open) == 10)
        provider.answer(count=4)
        await judged()
    store.kill(store.consumer)

    heir = FakeProvider()
    heir.says = lambda delivery: Sent(status=200)
    async with working(store.as_consumer("heir").queue, heir):
        assert await until_ended(store, "p") == {"total": 10, "sent": 10}
    assert heir.tokens == [f"t-{n}" for n in range(4, 10)]
    # The dead one's late answers change nothing.
    assert await counts(store, "p") == {"total": 10, "sent": 10}


class Heritage(FakeQueue):
    """A queue with entries of a dispatcher that has died, a hundred for each call."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = [taken(chunk(f"t-{number}", name=f"p-{number}"), f"{number + 1}-0") for number in range(count)]

    async def reclaim(self, route: Route) -> list[Taken]:
        own, self.left = self.left[:100], self.left[100:]
        return own


async def test_many_entries_of_a_dead_worker_are_taken_over_at_once_as_far_as_memory_holds_them() -> None:
    queue, provider = Heritage(700), FakeProvider(room=0)
    config = DispatchConfig(retry=PATIENT, prefetch=300)
    async with working(queue, provider, config):
        await asyncio.sleep(config.reclaim_every / 2)
        assert len(queue.left) == 400
        provider.says = lambda delivery: Sent(status=200)
        provider.widen(1000)
        await until(lambda: len(provider.submitted) == 700)
        assert asyncio.get_running_loop().time() <= 3 * config.reclaim_every


async def test_a_stopped_worker_submits_nothing_and_records_what_comes_back() -> None:
    store, provider = memory_store(), FakeProvider(room=20)
    await store.pushes.accept(push("p", *many("t", 50)))
    async with working(store.queue, provider) as worker:
        await until(lambda: len(provider.open) == 19)
        worker.stop()
        provider.answer()
        provider.widen(1000)
        await asyncio.sleep(10.0)
        assert provider.open == []
        assert await counts(store, "p") == {"total": 50, "sent": 19, "queued": 31}


async def test_reading_goes_on_when_redis_is_back() -> None:
    own = chunk("a", "b")
    queue = FakeQueue(away=50, entries=[taken(own)])
    provider = FakeProvider()
    async with working(queue, provider):
        await until(lambda: provider.open)
        assert queue.away == 0
        provider.answer()
        await until(lambda: queue.settled)
    assert [ref for _, finished in queue.settled for ref in finished] == [taken(own).ref]


# --- all of it at once ------------------------------------------------------------------------------

ANSWERS: list[Outcome] = [
    Sent(status=200),
    Sent(status=200),
    TokenDead(status=410, reason="Unregistered"),
    TokenSuspect(status=400, reason="BadDeviceToken"),
    BadNotification(status=400, reason="PayloadEmpty"),
    Unavailable(status=500, reason="InternalServerError"),
    Unavailable(reason="connection lost", maybe_sent=True),
    Throttled(status=429, retry_after=2.0),
    REFUSED,
]


@settings(max_examples=25)
@given(
    sizes=st.lists(st.tuples(st.sampled_from(LANES), st.integers(1, 60)), min_size=1, max_size=4),
    window=st.integers(1, 60),
    seed=st.integers(0, 2**32),
)
def test_whatever_is_answered_every_delivery_ends_once(sizes: list[tuple[str, int]], window: int, seed: int) -> None:
    rng = random.Random(seed)

    async def main() -> None:
        store = MemoryStore(StoreConfig(chunk_size=25), clock=now_ms)
        provider = FakeProvider(room=window)
        final: Counter[str] = Counter()
        async with working(store.queue, provider):
            for number, (lane, size) in enumerate(sizes):
                await store.pushes.accept(push(f"p{number}", *many(f"p{number}", size), lane=lane, ttl=1e7))  # type: ignore[arg-type]  # drawn from LANES
            for _ in range(20_000):
                flying = [delivery.target.token for delivery, _ in provider.open]
                assert len(flying) == len(set(flying)), "one delivery is under way twice"
                while provider.open and rng.random() < 0.9:
                    outcome = rng.choice(ANSWERS)
                    final[provider.open[0][0].target.token] += isinstance(outcome, Sent)
                    provider.answer(outcome, 1)
                reported = [await counts(store, f"p{number}") for number in range(len(sizes))]
                if not any(each.keys() & {"queued", "retrying"} for each in reported):
                    break
                await asyncio.sleep(0.1)
        assert not any(each.keys() & {"queued", "retrying"} for each in reported), reported
        assert [each["total"] for each in reported] == [size for _, size in sizes]
        assert set(provider.tokens) == {token for n, (_, size) in enumerate(sizes) for token in many(f"p{n}", size)}
        assert max(final.values()) <= 1
        assert final.total() == sum(each.get("sent", 0) for each in reported)
        assert not any(stream.entries for stream in store._state.lanes.values())

    run(main())


async def test_what_was_read_from_the_old_primary_is_not_sent_from_memory() -> None:
    """Its entry ids may be those of others on the new one, which hands out again what is open."""
    queue, provider = FakeQueue(), FakeProvider(room=0)
    async with working(queue, provider) as route:
        route._holdings.admit([taken(chunk("before"))], route._holdings.mark())
        queue.history = 1
        again = taken(chunk("after"))
        route._holdings.admit(
            [msgspec.structs.replace(again, ref=msgspec.structs.replace(again.ref, history=1))],
            route._holdings.mark(),
        )
        provider.widen(10)
        await until(lambda: bool(provider.tokens), 1.0)
        assert provider.tokens == ["after"]


async def test_after_a_failover_nothing_is_read_until_what_was_sent_is_recorded() -> None:
    """What is in flight would be sent again otherwise: the new primary has not heard of it."""
    queue, provider = FakeQueue(), FakeProvider(room=2)
    async with working(queue, provider) as route:
        old = taken(chunk("sent", "in-flight", "waits"))
        route._holdings.admit([old], route._holdings.mark())
        await until(lambda: len(provider.tokens) == 2, 1.0)
        provider.answer(count=1)
        queue.history, queue.away = 1, 3
        again = taken(chunk("waits"))
        queue.entries = [msgspec.structs.replace(again, ref=msgspec.structs.replace(again.ref, history=1))]
        await asyncio.sleep(LANDING / 2)
        assert len(queue.entries) == 1, "read while something was in flight"
        queue.seconds = 0.5
        provider.answer()
        await until(lambda: not queue.entries, 2.0)
        assert [s.delivery.target.token for settled, _ in queue.settled for s in settled] == ["sent", "in-flight"]
        assert [finished for _, finished in queue.settled] == [[], []]
        await until(lambda: provider.tokens[2:] == ["waits"], 1.0)
        provider.answer()


async def test_what_came_in_a_pause_of_the_process_is_recorded_before_the_new_primary_is_read() -> None:
    loop = cast(VirtualLoop, asyncio.get_running_loop())
    queue, provider = FakeQueue(), FakeProvider(room=2)
    async with working(queue, provider) as route:
        route._holdings.admit([taken(chunk("in-flight"))], route._holdings.mark())
        await until(lambda: bool(provider.tokens), 1.0)
        queue.history = 1
        again = taken(chunk("waits"))
        queue.entries = [msgspec.structs.replace(again, ref=msgspec.structs.replace(again.ref, history=1))]
        await asyncio.sleep(LANDING / 2)
        unread: list[int] = []

        def answer() -> None:
            unread.append(len(queue.entries))
            provider.answer()

        loop.pause(LANDING)
        loop.call_later(LANDING_LOOK / 2, answer)
        await until(lambda: not queue.entries, 2.0)
        assert unread == [1]
        assert [s.delivery.target.token for settled, _ in queue.settled for s in settled] == ["in-flight"]
        await until(lambda: provider.tokens[1:] == ["waits"], 1.0)
        provider.answer()


async def test_a_read_that_the_new_primary_answers_by_itself_counts_for_nothing() -> None:
    """It was asked for before the failover, so that nothing has waited for what was sent to be recorded."""
    queue, provider = FakeQueue(), FakeProvider(room=10)
    async with working(queue, provider) as route:
        mark = route._holdings.mark()
        queue.history = 1
        again = taken(chunk("sent"))
        again = msgspec.structs.replace(again, ref=msgspec.structs.replace(again.ref, history=1))
        route._holdings.admit([again], mark)
        assert queue.forgotten == [again.ref]
        await asyncio.sleep(0.1)
        assert provider.tokens == []
        route._holdings.admit([again], route._holdings.mark())
        await until(lambda: provider.tokens == ["sent"], 1.0)
        provider.answer()


async def test_an_answer_that_does_not_come_holds_reading_up_for_some_seconds_only() -> None:
    queue, provider = FakeQueue(), FakeProvider(room=2)
    async with working(queue, provider) as route:
        route._holdings.admit([taken(chunk("silent"))], route._holdings.mark())
        await until(lambda: bool(provider.tokens), 1.0)
        queue.history = 1
        again = taken(chunk("next"))
        queue.entries = [msgspec.structs.replace(again, ref=msgspec.structs.replace(again.ref, history=1))]
        await until(lambda: provider.tokens == ["silent", "next"], LANDING + 3.0)
        provider.answer()
