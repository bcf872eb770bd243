"""All routes of a process: started together, drained within their bound, and never half alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest
from structlog.testing import capture_logs

from pushsvc.errors import StoreUnavailable
from pushsvc.model.delivery import Misconfigured, Sent, Settlement, Unavailable
from pushsvc.model.push import Lane, Route
from pushsvc.model.rates import Rate
from pushsvc.ports.entries import EntryRef, Taken
from pushsvc.ports.limits import Bucket, Grant, Question
from pushsvc.ports.queue import DeliveryQueue
from pushsvc.rules.policy import RetryPolicy
from pushsvc.runtime.state.conditions import parts_of
from pushsvc.stages.dispatch.config import DispatchConfig
from pushsvc.stages.dispatch.dispatcher import Dispatcher
from pushsvc.stages.dispatch.evidence import UNANSWERED
from pushsvc.stages.dispatch.limits import RouteLimits
from pushsvc.stages.dispatch.settling import BATCH, BOUND
from pushsvc.stages.dispatch.watch import SILENT, SLOW

from .dispatch_fakes import (
    FakeProvider,
    FakeQueue,
    chunk,
    counts,
    judged,
    many,
    memory_store,
    push,
    taken,
    wall_clock,
)
from .virtual_time import VirtualLoop, until

LOOP = VirtualLoop
CONFIG = DispatchConfig(retry=RetryPolicy(), drain_timeout=25.0)


def dispatcher(queue: DeliveryQueue, *providers: FakeProvider, config: DispatchConfig = CONFIG) -> Dispatcher:
    return Dispatcher(
        queue, providers, config, hash_token=lambda route: lambda token: "", wall_clock=wall_clock, jitter=lambda: 0.5
    )


@asynccontextmanager
async def running(own: Dispatcher) -> AsyncIterator[asyncio.Event]:
    """A running dispatcher, which must stop at the end."""
    stop, before = asyncio.Event(), asyncio.all_tasks()
    task = asyncio.create_task(own.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        await task
    assert asyncio.all_tasks() <= before, "a task outlives the dispatcher"


async def test_every_route_is_served() -> None:
    store = memory_store()
    routes = [Route("shop", "apns"), Route("shop", "fcm"), Route("news", "apns")]
    providers = [FakeProvider(route) for route in routes]
    for provider in providers:
        provider.says = lambda delivery: Sent(status=200)
    async with running(dispatcher(store.queue, *providers)):
        for route in routes:
            await store.pushes.accept(push("p" + route.platform, "t", platform=route.platform, app=route.app))
        for route in routes:
            record = store._state.pushes[route.app, "p" + route.platform]
            await until(lambda record=record: record.state == "done")  # type: ignore[misc]  # bound for the loop
    assert [provider.tokens for provider in providers] == [["t"], ["t"], ["t"]]


async def test_what_was_read_for_a_route_that_goes_is_sent_by_a_dispatcher_that_still_serves_it() -> None:
    store, going, heir = memory_store(), FakeProvider(room=20), FakeProvider()
    heir.says = lambda delivery: Sent(status=200)
    own = dispatcher(store.queue, going)
    async with running(own):
        await store.pushes.accept(push("p", *many("t", 50)))
        await until(lambda: len(going.open) == 19)
        removing = asyncio.create_task(own.remove(going.route))
        await until(going.closed.is_set)
        going.answer()
        await removing
        assert not store._state.lanes["shop", "apns", "normal"].owner
    async with running(dispatcher(store.as_consumer("heir").queue, heir)):
        await until(lambda: store._state.pushes["shop", "p"].state == "done")
    assert sorted(going.tokens + heir.tokens) == sorted(many("t", 50))
    assert await counts(store, "p") == {"total": 50, "sent": 50}


async def test_what_expires_behind_more_than_fits_into_memory_ends_while_its_route_is_held() -> None:
    store, provider = memory_store(), FakeProvider(room=0)
    provider.trouble = "removed: the app has no account `apns` any more"
    config = DispatchConfig(retry=RetryPolicy(), prefetch=100)
    async with running(dispatcher(store.queue, provider, config=config)):
        for name in ("a", "b", "c"):
            await store.pushes.accept(push(name, *many(name, 100)))
        await store.pushes.accept(push("short", *many("s", 10), ttl=5.0))
        await until(lambda: store._state.pushes["shop", "short"].state == "done", 10.0)
        assert await counts(store, "short") == {"total": 10, "expired": 10}
        assert await counts(store, "c") == {"total": 100, "queued": 100}
        provider.trouble, provider.window = "", 1000
        provider.says = lambda delivery: Sent(status=200)
        provider.widen(1000)
        await until(lambda: store._state.pushes["shop", "c"].state == "done", 60.0)
    assert provider.tokens == many("a", 100) + many("b", 100) + many("c", 100)


# --- draining ---------------------------------------------------------------------------------------


async def test_a_drain_lets_what_is_in_flight_end_and_leaves_the_rest_to_others() -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), FakeProvider(room=20)
    async with running(dispatcher(store.queue, provider)) as stop:
        await store.pushes.accept(push("p", *many("t", 50)))
        await until(lambda: len(provider.open) == 19)
        stop.set()
        await until(provider.closed.is_set)
        await asyncio.sleep(10.0)
        stopping = loop.time()
        provider.answer()
    assert loop.time() - stopping < 1.0
    assert await counts(store, "p") == {"total": 50, "sent": 19, "queued": 31}

    # It has retired: nobody waits until its sign of life runs out.
    heir = FakeProvider()
    heir.says = lambda delivery: Sent(status=200)
    async with running(dispatcher(store.as_consumer("heir").queue, heir)):
        await until(lambda: len(heir.submitted) == 31, 10.0)
    assert await counts(store, "p") == {"total": 50, "sent": 50}
    assert sorted(provider.tokens + heir.tokens) == sorted(many("t", 50))


@pytest.mark.parametrize("change", ["replaced", "removed"])
async def test_a_drain_lets_what_is_in_flight_at_a_provider_that_was_replaced_or_removed_end(change: str) -> None:
    store, earlier = memory_store(), FakeProvider()
    own = dispatcher(store.queue, earlier)
    async with running(own) as stop:
        await store.pushes.accept(push("p", *many("t", 10)))
        await until(lambda: len(earlier.open) == 10)
        removing = asyncio.create_task(own.remove(earlier.route)) if change == "removed" else None
        if removing is None:
            own.replace(FakeProvider())
        await until(earlier.closed.is_set)
        stop.set()
        await asyncio.sleep(10.0)
        earlier.answer()
        if removing is not None:
            await removing
    assert await counts(store, "p") == {"total": 10, "sent": 10}


async def test_a_route_that_comes_during_the_drain_sends_nothing() -> None:
    store, earlier, later = memory_store(), FakeProvider(), FakeProvider(Route("news", "apns"))
    own = dispatcher(store.queue, earlier)
    async with running(own) as stop:
        await store.pushes.accept(push("p", *many("t", 10)))
        await until(lambda: len(earlier.open) == 10)
        await store.pushes.accept(push("q", "t", app="news"))
        stop.set()
        await until(earlier.closed.is_set)
        own.add(later)
        own.replace(FakeProvider(later.route))
        await own.remove(later.route)
        own.add(later)
        await asyncio.sleep(1.0)
        earlier.answer()
    assert (later.submitted, await counts(store, "p")) == ([], {"total": 10, "sent": 10})
    assert store._state.pushes["news", "q"].state == "sending"


async def test_a_drain_has_a_bound_and_loses_nothing() -> None:
    loop = asyncio.get_running_loop()
    store, silent = memory_store(), FakeProvider()
    async with running(dispatcher(store.queue, silent)):
        await store.pushes.accept(push("p", *many("t", 10)))
        await until(lambda: len(silent.open) == 10)
        silent.answer(count=4)
        await until(lambda: store._state.pushes["shop", "p"].ended)
        stopping = loop.time()
    assert loop.time() - stopping == pytest.approx(25.0, abs=0.1)
    assert await counts(store, "p") == {"total": 10, "sent": 4, "queued": 6}

    store.kill(store.consumer)
    heir = FakeProvider()
    heir.says = lambda delivery: Sent(status=200)
    async with running(dispatcher(store.as_consumer("heir").queue, heir)):
        await until(lambda: store._state.pushes["shop", "p"].state == "done")
    assert heir.tokens == [f"t-{n}" for n in range(4, 10)]


async def test_a_drain_is_bounded_while_redis_is_away_too() -> None:
    loop = asyncio.get_running_loop()
    queue, provider = FakeQueue(entries=[taken(chunk("a", "b"))]), FakeProvider()
    async with running(dispatcher(queue, provider)):
        await until(lambda: len(provider.open) == 2)
        queue.away = 1_000_000
        provider.answer()
        await asyncio.sleep(1.0)
        stopping = loop.time()
    assert loop.time() - stopping == pytest.approx(25.0, abs=2.1)
    assert queue.settled == []


async def test_with_nothing_to_do_a_drain_is_quick() -> None:
    loop = asyncio.get_running_loop()
    queue = FakeQueue()
    async with running(dispatcher(queue, FakeProvider())):
        await asyncio.sleep(1.0)
        stopping = loop.time()
    assert loop.time() - stopping < 0.1
    assert queue.retired == 1


# --- faults -----------------------------------------------------------------------------------------


class FaultyQueue(FakeQueue):
    """Fails at one method with what is no StoreUnavailable: a bug."""

    def __init__(self, method: str) -> None:
        super().__init__(entries=[taken(chunk("a"))])
        self._method = method

    def _bug(self, method: str) -> None:
        if method == self._method:
            raise ZeroDivisionError(method)

    async def take(self, route: Route, lane: Lane, *, targets: int, wait_ms: int) -> list[Taken]:
        self._bug("take")
        return await super().take(route, lane, targets=targets, wait_ms=wait_ms)

    async def next_retry(self, route: Route) -> int | None:
        self._bug("next_retry")
        return await super().next_retry(route)

    async def next_launch(self, app: str) -> int | None:
        self._bug("next_launch")
        return await super().next_launch(app)

    async def beat(self, held: Mapping[str, str] | None = None, worked: Mapping[str, float] | None = None) -> None:
        self._bug("beat")
        await super().beat(held, worked)

    async def settle(
        self, app: str, settlements: Sequence[Settlement], finished: Sequence[EntryRef]
    ) -> Sequence[Settlement]:
        self._bug("settle")
        return settlements


@pytest.mark.parametrize("method", ["take", "next_retry", "next_launch", "beat", "settle"])
async def test_a_part_that_ends_by_a_fault_ends_the_whole(method: str) -> None:
    """A process that takes pushes and records none, or shows no sign of life, is worse than none."""
    provider = FakeProvider()
    provider.says = lambda delivery: Sent(status=200)
    own, before = dispatcher(FaultyQueue(method), provider), asyncio.all_tasks()
    with pytest.raises((ZeroDivisionError, ExceptionGroup)) as caught:
        await asyncio.wait_for(own.run(asyncio.Event()), 60.0)
    error = caught.value
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]  # three lanes may fail in the same way
    assert str(error) == method
    assert asyncio.all_tasks() == before


async def test_redis_away_ends_nothing() -> None:
    queue, provider = FakeQueue(away=200, entries=[taken(chunk("a"))]), FakeProvider()
    provider.says = lambda delivery: Sent(status=200)
    async with running(dispatcher(queue, provider)):
        await until(lambda: queue.settled)
        await until(lambda: queue.beats > 3)


async def test_it_shows_signs_of_life_also_while_it_drains() -> None:
    queue, silent = FakeQueue(entries=[taken(chunk("a"))]), FakeProvider()
    async with running(dispatcher(queue, silent)):
        await until(lambda: silent.open)
        before = queue.beats
    # 25 seconds long: others would take over what is in flight.
    assert queue.beats - before >= 4


async def test_it_shows_no_sign_of_life_once_it_retires() -> None:
    class SlowQueue(FakeQueue):
        async def retire(self) -> None:
            await asyncio.sleep(10.0)
            self.beats -= beats
            await super().retire()

    queue = SlowQueue()
    async with running(dispatcher(queue, FakeProvider())):
        await asyncio.sleep(10.0)
        beats = queue.beats
    assert (queue.retired, queue.beats) == (1, 0)


@pytest.mark.parametrize("takeover", [3.0, 5.0, 15.0])
async def test_it_shows_more_than_three_signs_of_life_in_the_time_of_a_takeover(takeover: float) -> None:
    queue = FakeQueue()
    config = DispatchConfig(takeover=takeover, beat_every=takeover / 4)
    async with running(dispatcher(queue, FakeProvider(), config=config)):
        await asyncio.sleep(10 * takeover)
        assert queue.beats > 3 * 10


# --- pressure ---------------------------------------------------------------------------------------


async def test_sending_stops_while_too_much_is_unrecorded_and_goes_on_by_itself() -> None:
    total, size = BOUND + 15_000, 500

    own = [chunk(*many(f"e{n}", size), name=f"e{n}") for n in range(total // size)]
    queue = FakeQueue(seconds=100.0)
    provider = FakeProvider(room=1000)
    provider.says = lambda delivery: Sent(status=200)
    rest = [taken(each, f"{n}-0") for n, each in enumerate(own)]

    async def take(route: Route, lane: Lane, *, targets: int, wait_ms: int) -> list[Taken]:
        given: list[Taken] = []
        while lane == "normal" and rest and len(given) * size < targets:
            given.append(rest.pop(0))
        await asyncio.sleep(0.001 if given else wait_ms / 1000)
        return given

    queue.take = take  # type: ignore[method-assign]  # by demand, as Redis gives
    async with running(dispatcher(queue, provider)):
        await asyncio.sleep(30.0)
        # What was in flight at the bound comes back on top of it.
        assert BOUND <= len(provider.submitted) <= BOUND + BATCH + 1000 + size
        queue.seconds = 0.0
        await asyncio.sleep(100.0)
        await until(lambda: sum(len(settlements) for settlements, _ in queue.settled) == total)
    assert len(set(provider.tokens)) == len(provider.tokens) == total


async def test_it_says_which_routes_are_held() -> None:
    store = memory_store()
    refused, cut_off = FakeProvider(), FakeProvider(Route("shop", "fcm"))
    cut_off.trouble = "connection refused"
    own = dispatcher(store.queue, refused, cut_off)
    assert own.held() == {}
    async with running(own):
        await store.pushes.accept(push("p", "t"))
        await until(lambda: refused.open)
        assert own.held() == {}, "connections may be replaced"
        assert own.worked() == {}, "nothing was answered yet"
        await until(own.held)
        away = (
            "unreachable: connections to the provider break (connection refused): "
            "look at network, firewall, proxy and `endpoint`"
        )
        assert own.held() == {"shop/fcm": away}
        cut_off.trouble, cut_off.refused = "the token endpoint refuses", "invalid_grant"
        assert own.held() == {"shop/fcm": "the token endpoint refuses: look after invalid_grant"}
        cut_off.trouble, cut_off.refused = "connection refused", ""
        refused.answer(Misconfigured(status=403, reason="InvalidProviderToken"))
        await judged()
        assert own.held() == {
            "shop/apns": "InvalidProviderToken: look after InvalidProviderToken",
            "shop/fcm": away,
        }


async def test_a_provider_that_says_nothing_is_named_while_its_requests_wait() -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), FakeProvider()
    own = dispatcher(store.queue, provider)
    async with running(own):
        await store.pushes.accept(push("p", "t"))
        await until(lambda: provider.open)
        provider.silence = SILENT / 2
        await asyncio.sleep(1.0)
        assert own.held() == {}, "it may be slow"
        provider.silence, began = SILENT, loop.time()
        await until(own.held)
        assert loop.time() - began < 1.0
        (said,) = own.held().items()
        assert (said[0], *parts_of(said[1])[:2]) == (
            "shop/apns",
            "timeout",
            "timeout: nothing at all comes from the provider, not even the answer to a PING",
        )
        await store.pushes.accept(push("q", "u"))
        await until(lambda: provider.tokens == ["t", "u"])
        provider.silence, provider.trouble = 0.0, "the connection ended"
        await asyncio.sleep(0.5)
        assert dict([said]) == own.held(), "a connection that is replaced ends no silence"
        provider.trouble = ""
        await until(lambda: not own.held())
        provider.answer()


async def test_a_provider_that_answers_no_request_is_named_until_it_answers_one() -> None:
    loop = asyncio.get_running_loop()
    store, provider = memory_store(), FakeProvider()
    own = dispatcher(store.queue, provider)
    async with running(own):
        await store.pushes.accept(push("p", "t"))
        await until(lambda: provider.open)
        began = loop.time()
        await asyncio.sleep(SLOW - 1.0)
        assert own.held() == {}, "it may be slow"
        await until(own.held)
        assert loop.time() - began < SLOW + 1.0
        assert own.held() == {"shop/apns": f"timeout: {UNANSWERED}"}
        provider.answer(Unavailable(reason="timeout", maybe_sent=True))
        await asyncio.sleep(1.0)
        assert own.held(), "a time-out is no answer"
        await until(lambda: provider.open)
        provider.answer()
        await until(lambda: not own.held())
        await asyncio.sleep(2 * SLOW)
        assert own.held() == {}, "nothing waits for an answer"


async def test_a_provider_that_answered_in_a_pause_of_the_process_is_not_named() -> None:
    loop = cast(VirtualLoop, asyncio.get_running_loop())
    store, provider = memory_store(), FakeProvider()
    own = dispatcher(store.queue, provider)
    async with running(own):
        await store.pushes.accept(push("p", "t"))
        await until(lambda: provider.open)
        with capture_logs() as logs:
            loop.pause(2 * SLOW)
            assert own.held() == {}
            loop.call_later(0.01, provider.answer)
            await until(lambda: not provider.open)
            await asyncio.sleep(1.0)
        assert [line for line in logs if line["event"] == "route_held"] == []


async def test_it_says_since_when_which_routes_work() -> None:
    store, provider = memory_store(), FakeProvider()
    provider.says = lambda delivery: Sent(status=200)
    own = dispatcher(store.queue, provider)
    async with running(own):
        await store.pushes.accept(push("p", "t"))
        await until(own.worked)
        assert own.worked().keys() == {"shop/apns"}
        assert 0.0 <= own.worked()["shop/apns"] < 1.0
        provider.says = lambda delivery: Misconfigured(status=403, reason="InvalidProviderToken")
        await store.pushes.accept(push("q", "t"))
        await until(own.held)
        assert own.worked() == {}, "it does not work now"


async def test_a_store_that_is_away_at_the_end_is_said_and_not_raised() -> None:
    class Away(FakeQueue):
        async def retire(self) -> None:
            raise StoreUnavailable("gone")

    async with running(dispatcher(Away(), FakeProvider())):
        await asyncio.sleep(1.0)


# --- limits that change -----------------------------------------------------------------------------


class Counting:
    """A limiter that grants everything until it is switched, and counts its questions."""

    def __init__(self) -> None:
        self.asked: list[tuple[Rate, int]] = []
        self.wait_ms = 0
        self.leases = 0

    async def admit(
        self, route: Route, rate: Rate, tokens: Sequence[str], *, family: str = "all", question: Question | None = None
    ) -> Sequence[tuple[int, int]]:
        await asyncio.sleep(0.001)
        self.asked.append((rate, len(tokens)))
        return [(place, self.wait_ms) for place in range(len(tokens))] if self.wait_ms else []

    async def lease(self, bucket: Bucket, wanted: int, *, least: int = 1, question: Question | None = None) -> Grant:
        await asyncio.sleep(0.001)
        self.leases += 1
        return Grant(0, self.wait_ms) if self.wait_ms else Grant(wanted)


APNS = Route("shop", "apns")
HOURLY = Rate(1, 3600)


def limited(queue: DeliveryQueue, limiter: Counting, limits: RouteLimits, provider: FakeProvider) -> Dispatcher:
    return Dispatcher(
        queue,
        [provider],
        CONFIG,
        hash_token=lambda route: lambda token: "",
        limiter=limiter,
        limits={APNS: limits},
        wall_clock=wall_clock,
        jitter=lambda: 0.5,
    )


async def test_what_waits_for_the_apps_rate_goes_when_the_rate_is_lifted() -> None:
    store, provider, limiter = memory_store(), FakeProvider(APNS), Counting()
    provider.says = lambda delivery: Sent(status=200)
    limiter.wait_ms = 3_600_000
    own = limited(store.queue, limiter, RouteLimits(per_app=HOURLY), provider)
    async with running(own):
        await store.pushes.accept(push("p", *many("t", 700)))
        await asyncio.sleep(10.0)
        assert provider.submitted == []
        own.limit({APNS: RouteLimits()})
        await until(lambda: len(provider.submitted) == 700, 2.0)
        asked = limiter.leases
        own.limit({Route("shop", "fcm"): RouteLimits(per_app=HOURLY)})  # not about this one
        await store.pushes.accept(push("q", *many("u", 10)))
        await until(lambda: len(provider.submitted) == 710, 2.0)
    assert limiter.leases == asked
    assert await counts(store, "p") == {"total": 700, "sent": 700}


async def test_other_limits_hold_for_a_running_route_at_once() -> None:
    store, provider, limiter = memory_store(), FakeProvider(APNS), Counting()
    provider.says = lambda delivery: Sent(status=200)
    own = limited(store.queue, limiter, RouteLimits(), provider)
    async with running(own):
        await store.pushes.accept(push("free", "t"))
        await until(lambda: provider.tokens == ["t"])
        assert limiter.asked == []
        limiter.wait_ms = 3_600_000
        own.limit({APNS: RouteLimits(per_token=HOURLY, on_exceed="drop")})
        await store.pushes.accept(push("dropped", "t"))
        await until(lambda: store._state.pushes["shop", "dropped"].state == "done")
        own.limit({APNS: RouteLimits(per_token=Rate(2, 1))})
        await store.pushes.accept(push("delayed", "t", ttl=7200.0))
        await until(lambda: len(limiter.asked) == 2)
        await asyncio.sleep(1.0)
    assert limiter.asked == [(HOURLY, 1), (Rate(2, 1), 1)]
    assert await counts(store, "dropped") == {"total": 1, "suppressed": 1}
    assert await counts(store, "delayed") == {"total": 1, "retrying": 1}


async def test_limits_that_change_all_the_time_lose_nothing_and_send_nothing_twice() -> None:
    ways = [
        RouteLimits(per_token=Rate(240, 60)),
        RouteLimits(),
        RouteLimits(per_app=Rate(1000, 1)),
        RouteLimits(per_app=Rate(1000, 1), on_exceed="drop"),
        RouteLimits(per_token=HOURLY, per_app=Rate(5, 1)),
    ]

    store, provider, limiter = memory_store(), FakeProvider(APNS, room=50), Counting()
    provider.says = lambda delivery: Sent(status=200)
    own = limited(store.queue, limiter, ways[0], provider)
    async with running(own):
        for number in range(40):
            await store.pushes.accept(push(f"p{number}", *many(f"p{number}", 100)))
            own.limit({APNS: ways[number % len(ways)]})
            await asyncio.sleep(0.003)
        await until(lambda: len(provider.submitted) == 4000)
        await until(lambda: all(record.state == "done" for record in store._state.pushes.values()))
    assert len(set(provider.tokens)) == 4000
    assert {rate for rate, _ in limiter.asked} == {Rate(240, 60), HOURLY}


async def test_what_the_limits_were_not_asked_for_yet_expires_while_its_route_is_held_and_goes_when_it_is_open() -> (
    None
):
    store, provider = memory_store(), FakeProvider(room=0)
    provider.trouble = "removed: the app has no account `apns` any more"
    own = limited(store.queue, Counting(), RouteLimits(per_token=HOURLY), provider)
    async with running(own):
        await store.pushes.accept(push("first", *many("f", 600), ttl=5.0))
        await store.pushes.accept(push("second", *many("s", 10), ttl=5.0))
        await store.pushes.accept(push("kept", *many("k", 10)))
        await until(lambda: store._state.pushes["shop", "second"].state == "done", 10.0)
        assert await counts(store, "second") == {"total": 10, "expired": 10}
        assert await counts(store, "first") == {"total": 600, "expired": 600}
        provider.trouble, provider.says = "", lambda delivery: Sent(status=200)
        provider.widen(1000)
        await until(lambda: store._state.pushes["shop", "kept"].state == "done", 60.0)
    assert provider.tokens == many("k", 10)
