"""What is taken back does not leave any more, wherever a dispatcher holds it; and nobody sends on an old lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest

from pushsvc.background import boot_clock
from pushsvc.model.delivery import Delivery, Ended, Misconfigured, Outcome, Retry, Sent, Unavailable
from pushsvc.model.push import Lane, Message, Route
from pushsvc.model.rates import AccountLimits, Rate
from pushsvc.ports.entries import News, Revoked, Taken, token_mark
from pushsvc.ports.limits import Bucket, Grant, Question
from pushsvc.ports.queue import DeliveryQueue
from pushsvc.providers.reasons import RENEWED
from pushsvc.rules.policy import EXPIRED, RetryPolicy
from pushsvc.stages.dispatch.config import DispatchConfig
from pushsvc.stages.dispatch.dispatcher import Dispatcher
from pushsvc.stages.dispatch.lease import Lease
from pushsvc.stages.dispatch.limits import RouteLimits
from pushsvc.stages.dispatch.revoking import KEPT, RevocationLog

from ..fakes import MemoryStore
from .dispatch_fakes import (
    ROUTE,
    FakeProvider,
    FakeQueue,
    chunk,
    counts,
    many,
    memory_store,
    now_ms,
    push,
    taken,
    wall_clock as clock,
)
from .virtual_time import VirtualLoop, until

LOOP = VirtualLoop
CONFIG = DispatchConfig(retry=RetryPolicy(base=1.0, server_error={}, throttled={}))
RATE = Rate(1, 60)


class Limits:
    """A limiter that answers when it is let, and says who is over."""

    def __init__(self, over: str = "", permits: int = 1_000_000) -> None:
        self.over = over
        self.permits = permits
        self.asked: list[str] = []
        self.answers = asyncio.Event()
        self.answers.set()

    async def admit(
        self, route: Route, rate: Rate, tokens: Sequence[str], *, family: str = "all", question: Question | None = None
    ) -> Sequence[tuple[int, int]]:
        self.asked += tokens
        await self.answers.wait()
        return [(place, 1000) for place, token in enumerate(tokens) if token in self.over]

    async def lease(self, bucket: Bucket, wanted: int, *, least: int = 1, question: Question | None = None) -> Grant:
        granted = min(wanted, self.permits)
        self.permits -= granted
        return Grant(granted, 0 if granted else 1000)


def dispatcher(
    queue: DeliveryQueue,
    *providers: FakeProvider,
    limiter: Limits | None = None,
    limits: RouteLimits | None = None,
    lease_clock: Callable[[], float] = boot_clock,
) -> Dispatcher:
    return Dispatcher(
        queue,
        providers,
        CONFIG,
        hash_token=lambda route: lambda token: "",
        limiter=limiter,
        limits={ROUTE: limits} if limits else None,
        wall_clock=clock,
        jitter=lambda: 0.5,
        lease_clock=lease_clock,
    )


@asynccontextmanager
async def running(own: Dispatcher) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(own.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def reported(store: MemoryStore, name: str = "p") -> tuple[str, dict[str, int]]:
    """State and counts."""
    status = await store.pushes.status("shop", name)
    assert status is not None
    return status.state, await counts(store, name)


# --- cancelled --------------------------------------------------------------------------------------


async def test_after_the_answer_of_a_cancel_only_what_was_in_flight_goes_out() -> None:
    store, provider = memory_store(), FakeProvider(room=20)
    async with running(dispatcher(store.queue, provider)):
        await store.pushes.accept(push("p", *many("t", 3000)))
        await store.pushes.accept(push("other", "x"))
        await until(lambda: len(provider.open) == 19)
        assert not any(delivery.cancelled for delivery in provider.submitted)
        status = await store.pushes.cancel("shop", "p")
        assert status is not None
        assert (status.state, status.counts.queued, status.counts.cancelled) == ("sending", 19, 2981)
        assert all(delivery.cancelled for delivery in provider.submitted)  # so that their provider knows
        provider.answer(Unavailable(status=503), 3)  # what would be tried again ends
        provider.answer(RENEWED, 1)
        provider.answer(count=15)
        await until(lambda: provider.tokens[19:] == ["x"])
        provider.answer()
        await until(lambda: store._state.pushes["shop", "other"].state == "done")
        assert await reported(store) == ("cancelled", {"total": 3000, "sent": 15, "cancelled": 2985})
    assert len(provider.submitted) == 20
    assert not any(stream.entries for stream in store._state.lanes.values())


async def test_counts_of_a_cancelled_push_never_go_back() -> None:
    store, provider = memory_store(), FakeProvider(room=20)
    seen: list[dict[str, int]] = []

    async def look() -> None:
        while True:
            seen.append((await reported(store))[1])
            await asyncio.sleep(0.001)

    async with running(dispatcher(store.queue, provider)):
        await store.pushes.accept(push("p", *many("t", 500)))
        looking = asyncio.create_task(look())
        for _ in range(5):
            await until(lambda: len(provider.open) == 19)
            provider.answer()
        cancelling = asyncio.create_task(store.pushes.cancel("shop", "p"))
        await asyncio.sleep(0.02)
        provider.answer()
        await cancelling
        provider.answer()
        while (await reported(store))[0] != "cancelled":
            await asyncio.sleep(0.01)
        looking.cancel()
    for end in ("sent", "cancelled", "failed"):
        numbers = [each.get(end, 0) for each in seen]
        assert numbers == sorted(numbers), end


@pytest.mark.parametrize("place", ["held route", "paced", "being asked for", "not yet asked for", "retrying"])
async def test_a_cancel_reaches_what_waits(place: str) -> None:
    store, provider, limiter = memory_store(), FakeProvider(room=40), Limits()
    limits = RouteLimits()
    if place == "paced":
        limits, limiter.permits = RouteLimits(per_app=Rate(60, 60)), 5
    elif place in ("being asked for", "not yet asked for"):
        limits = RouteLimits(per_token=RATE)
        limiter.answers.clear()
    async with running(dispatcher(store.queue, provider, limiter=limiter, limits=limits)):
        size = 1200 if place == "not yet asked for" else 300
        await store.pushes.accept(push("p", *many("t", size)))
        if place == "held route":
            await until(lambda: len(provider.open) > 0)
            provider.answer(Misconfigured(status=403, reason="InvalidProviderToken"))
            await asyncio.sleep(0.1)
            provider.window = 0
        elif place == "retrying":
            provider.says = lambda delivery: Unavailable(status=400, reason="IdleTimeout", retry_after=30.0)
            await until(lambda: len(provider.submitted) == size)
            await asyncio.sleep(1.0)
        elif place == "paced":
            await until(lambda: len(provider.open) == 5)
        else:
            await until(lambda: len(limiter.asked) > 0)
        sent = len(provider.submitted)
        in_flight = len(provider.open)
        status = await store.pushes.cancel("shop", "p")
        assert status is not None
        if place == "being asked for":
            # It says so when the limiter has answered: until then nobody may claim it.
            assert status.counts.cancelled in (0, size)
        else:
            assert (status.counts.queued, status.counts.cancelled) == (in_flight, size - in_flight)
        limiter.answers.set()
        limiter.permits = 1_000_000
        provider.window, provider.says = 1000, lambda delivery: Sent(status=200)
        provider.answer()
        await asyncio.sleep(60.0)
        assert len(provider.submitted) == sent
        assert await reported(store) == (
            "cancelled",
            {name: count for name, count in (("total", size), ("sent", in_flight)) if count}
            | {"cancelled": size - in_flight},
        )


class Late(FakeQueue):
    """Its answers to `take` come when they are let through."""

    def __init__(self) -> None:
        super().__init__()
        self.through = asyncio.Event()

    async def take(self, route: Route, lane: Lane, *, targets: int, wait_ms: int) -> list[Taken]:
        found = await super().take(route, lane, targets=targets, wait_ms=wait_ms)
        if found:
            await self.through.wait()
        return found


async def test_what_was_read_before_a_cancel_and_comes_after_it_is_not_sent() -> None:
    queue, provider = Late(), FakeProvider()
    mine, other = taken(chunk("a", "b", name="p")), taken(chunk("c", name="q"), "2-0")
    queue.entries = [mine, other]
    async with running(dispatcher(queue, provider)):
        await until(lambda: not queue.entries)
        queue.news = [News("shop", 0, "7-0", Revoked(pushes=frozenset("p")))]
        await until(lambda: bool(queue.acknowledged))
        assert queue.acknowledged[0][1] == {}
        queue.through.set()
        await until(lambda: any(mine.ref in finished for _, finished in queue.settled))
        assert provider.tokens == ["c"]
        provider.answer()
    ended = {each.delivery.target.token: each.verdict for some, _ in queue.settled for each in some}
    assert [ended[token].end for token in "abc"] == ["cancelled", "cancelled", "sent"]  # type: ignore[union-attr]  # all ended


async def test_what_the_limits_refuse_after_a_cancel_ends_as_cancelled() -> None:
    store, provider, limiter = memory_store(), FakeProvider(), Limits()
    limits = RouteLimits(per_token=RATE, on_exceed="drop")
    limiter.answers.clear()
    async with running(dispatcher(store.queue, provider, limiter=limiter, limits=limits)):
        await store.pushes.accept(push("p", *"abcdef"))
        await until(lambda: len(limiter.asked) == 6)
        await store.pushes.cancel("shop", "p")
        limiter.over = "abc"
        limiter.answers.set()
        await asyncio.sleep(5.0)
        assert await reported(store) == ("cancelled", {"total": 6, "cancelled": 6})
    assert provider.tokens == []


@pytest.mark.parametrize("otherwise", ["no_route", "part_held"])
async def test_what_would_end_otherwise_when_it_comes_after_a_cancel_ends_as_cancelled(otherwise: str) -> None:
    queue, provider = Late(), FakeProvider()
    own = chunk("a", "b", "c", name="p")
    if otherwise == "no_route":
        own = msgspec.structs.replace(own, message=Message("apns", b""))
    else:
        own = msgspec.structs.replace(own, part="broadcasts", expires_at=now_ms() + 3000)
    queue.entries = [taken(own)]
    async with running(dispatcher(queue, provider)):
        await until(lambda: not queue.entries)
        queue.news = [News("shop", 0, "7-0", Revoked(pushes=frozenset("p")))]
        await until(lambda: bool(queue.acknowledged))
        queue.through.set()
        await until(lambda: sum(len(some) for some, _ in queue.settled) == 3)
    assert provider.tokens == []
    assert {each.verdict for some, _ in queue.settled for each in some} == {Ended("cancelled")}


async def test_an_acknowledgement_counts_what_is_answered_and_not_recorded() -> None:
    queue, provider = FakeQueue(seconds=0.5), FakeProvider(room=10)
    queue.entries = [taken(chunk(*many("t", 30), name="p"))]
    async with running(dispatcher(queue, provider)):
        await until(lambda: len(provider.open) == 10)
        queue.news = [News("shop", 0, "7-0", Revoked(pushes=frozenset("p")))]
        await until(lambda: not queue.news)
        provider.answer(count=2)  # begins a settlement, of half a second
        await until(lambda: bool(queue.attempts))
        provider.answer(count=3)
        await until(lambda: bool(queue.acknowledged))
        recorded = sum(each.outcome is not None for some, _ in queue.settled for each in some)
        assert queue.acknowledged[0][1] == {"p": len(provider.submitted) - recorded}
        assert len(provider.submitted) > len(provider.open) + recorded
        provider.answer()
    assert sum(len(some) for some, _ in queue.settled) == 30


# --- given back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["entry", "entry of several", "token"])
async def test_what_is_asked_back_is_let_go_at_what_is_not_sent(by: str) -> None:
    queue, provider = FakeQueue(), FakeProvider(room=2)
    asked, other = taken(chunk(*many("t", 5))), taken(chunk("x", name="q"), "2-0")
    if by == "entry of several":
        asked = msgspec.structs.replace(asked, ref=msgspec.structs.replace(asked.ref, part=2))
    queue.entries = [asked, other]
    async with running(dispatcher(queue, provider)):
        await until(lambda: len(provider.open) == 2)
        marks = frozenset(token_mark(token) for token in ("t-0", "t-3"))
        revoked = Revoked(tokens=marks) if by == "token" else Revoked(entries=frozenset((asked.ref.whole,)))
        queue.news = [News("shop", 0, "7-0", revoked)]
        back = ["t-3"] if by == "token" else ["t-2", "t-3", "t-4"]
        await until(lambda: sum(len(each) for each, _ in queue.settled) == len(back))
        given_back = [each for settlements, _ in queue.settled for each in settlements]
        assert [each.delivery.target.token for each in given_back] == back
        for each in given_back:
            assert isinstance(each.verdict, Retry)
            assert (each.verdict.attempt, each.verdict.counted) == (1, True)  # it cost none
            assert each.verdict.due_at - now_ms() <= 200
        assert not any(finished for _, finished in queue.settled)  # two are on their way
        provider.says = lambda delivery: Sent(status=200)
        provider.answer()
        await until(lambda: any(asked.ref in finished for _, finished in queue.settled))
        await until(lambda: any(other.ref in finished for _, finished in queue.settled))
    assert provider.tokens == [token for token in (*many("t", 5), "x") if token not in back]


async def test_what_has_no_time_left_when_it_is_asked_back_expires() -> None:
    queue, provider = FakeQueue(), FakeProvider(room=0)
    own = taken(msgspec.structs.replace(chunk("t"), expires_at=now_ms() + 1050))
    queue.entries = [own]
    async with running(dispatcher(queue, provider)):
        await until(lambda: not queue.entries)
        queue.news = [News("shop", 0, "7-0", Revoked(entries=frozenset((own.ref,))))]
        await until(lambda: bool(queue.settled))
        ((settlement,), finished) = queue.settled[0]
        assert (settlement.verdict, list(finished)) == (EXPIRED, [own.ref])


async def test_a_token_that_is_suppressed_meanwhile_is_not_sent_to() -> None:
    store, provider = memory_store(), FakeProvider(room=0)
    async with running(dispatcher(store.queue, provider)):
        await store.pushes.accept(push("p", *many("t", 40)))
        await asyncio.sleep(0.5)
        await store.suppressions.add("shop", [("apns", "t-7", now_ms())])
        await asyncio.sleep(0.1)
        provider.says = lambda delivery: Sent(status=200)
        provider.widen(100)
        await until(lambda: store._state.pushes["shop", "p"].state == "done")
        assert await counts(store, "p") == {"total": 40, "sent": 39, "suppressed": 1}
    assert "t-7" not in provider.tokens


def test_what_was_heard_is_known_by_its_number_and_forgotten_in_time() -> None:
    log = RevocationLog()
    assert log.since(0) is None
    for number, name in enumerate("abc"):
        log.add(Revoked(pushes=frozenset(name)), float(number))
    assert log.since(0) == Revoked(frozenset("abc"))
    assert log.since(2) == Revoked(frozenset("c"))
    assert log.since(3) is None
    assert log.knows(0)
    log.add(Revoked(tokens=frozenset((5,))), KEPT + 1.5)
    assert log.since(0) == Revoked(frozenset("c"), frozenset((5,)))
    assert (log.knows(1), log.knows(2)) == (False, True)


async def test_what_the_limits_let_pass_after_very_long_is_checked_anew() -> None:
    """Limits that are away answer when what was taken back meanwhile is remembered no more."""
    store, provider, limiter = memory_store(), FakeProvider(), Limits()
    provider.says = lambda delivery: Sent(status=200)
    limiter.answers.clear()
    async with running(dispatcher(store.queue, provider, limiter=limiter, limits=RouteLimits(per_token=RATE))):
        await store.pushes.accept(push("p", *many("t", 40)))
        await store.pushes.accept(push("q", "x"))
        await until(lambda: "x" in limiter.asked or len(limiter.asked) == 40)
        await store.suppressions.add("shop", [("apns", "t-7", now_ms())])
        await store.pushes.cancel("shop", "q")
        await asyncio.sleep(KEPT + 1.0)
        await store.suppressions.add("shop", [("apns", "another", now_ms())])
        await asyncio.sleep(2.0)
        limiter.answers.set()
        await until(lambda: store._state.pushes["shop", "p"].state == "done")
        assert await counts(store, "p") == {"total": 40, "sent": 39, "suppressed": 1}
        assert await counts(store, "q") == {"total": 1, "cancelled": 1}
    assert not {"t-7", "x"} & set(provider.tokens)


# --- an old lease -----------------------------------------------------------------------------------


def test_who_waits_for_the_lease_goes_on_as_soon_as_it_holds() -> None:
    async def main() -> None:
        lease = Lease(15.0, lambda: 100.0, lambda: None)
        waiting = asyncio.create_task(lease.regained())
        for asked_at, goes_on in ((80.0, False), (100.0, True)):
            lease.renew(asked_at)
            for _ in range(3):
                await asyncio.sleep(0)
            assert waiting.done() == goes_on

    asyncio.run(main())


def test_a_lease_runs_from_before_the_sign_of_life_and_lapses_once() -> None:
    now = 100.0
    lapses: list[float] = []
    lease = Lease(15.0, lambda: now, lambda: lapses.append(now))

    def holds() -> bool:
        return lease.holds

    assert not holds()  # nobody has heard of us yet
    assert lapses == []
    lease.renew(98.0)
    assert (holds(), lease.generation) == (True, 0)
    now = 112.9
    assert holds()
    now = 113.0
    assert not holds()
    assert not holds()
    assert (lapses, lease.generation) == ([113.0], 1)
    lease.renew(97.0)  # an answer that was long under way
    assert not holds()
    lease.renew(112.0)
    assert holds()
    now = 200.0
    lease.renew(200.0)  # nobody looked in between
    assert (holds(), lease.generation, len(lapses)) == (True, 2, 2)


async def test_who_was_paused_gives_up_what_it_holds_and_reads_anew_what_is_still_its_own() -> None:
    loop = asyncio.get_running_loop()
    pause = 0.0
    store, provider = memory_store(), FakeProvider(room=20)
    own = dispatcher(store.queue, provider, lease_clock=lambda: loop.time() + pause)
    async with running(own):
        await store.pushes.accept(push("p", *many("t", 900), lane="bulk"))
        await until(lambda: len(provider.open) == 19)
        # It is stopped for so long that another takes over one of its two entries, and sends it.
        pause = 40.0
        store.kill(store.consumer)
        heir = store.as_consumer("heir")
        await heir.queue.beat()
        first = (await heir.queue.reclaim(ROUTE))[0]
        stream = store._state.lanes["shop", "apns", "bulk"]
        stream.owner = {entry: "heir" if entry == first.ref.entry_id else "memory" for entry in stream.owner}
        provider.answer(count=10)  # what is answered wakes the pump
        assert len(provider.submitted) == 19
        await until(lambda: len(provider.submitted) > 19)
        provider.says = lambda delivery: Sent(status=200)
        provider.answer()
        await until(lambda: len(provider.submitted) == 19 + 400)
        await asyncio.sleep(5.0)
    # Of the entry that is another's nothing more was sent; of its own everything, and once.
    theirs = {target.token for target in first.chunk.targets}
    again = provider.tokens[19:]
    assert len(set(provider.tokens)) == len(provider.tokens)
    assert not theirs & set(again)
    assert len(theirs) == 500


async def test_who_was_paused_with_its_clocks_learns_of_it_from_the_store() -> None:
    """So is a virtual machine that was stopped, or moved to another host."""
    queue, provider = FakeQueue(), FakeProvider(room=2)
    own = taken(chunk(*many("t", 10)))
    queue.entries = [own]
    async with running(dispatcher(queue, provider, lease_clock=lambda: 0.0)):
        await until(lambda: len(provider.open) == 2)
        queue.missed = 1
        beats = queue.beats
        await until(lambda: queue.beats > beats)
        provider.says = lambda delivery: Sent(status=200)
        provider.answer()
        await until(lambda: queue.forgotten == [own.ref])
        assert provider.tokens == ["t-0", "t-1"]
        other = taken(chunk("x", name="q"), "2-0")
        queue.entries = [other]
        await until(lambda: provider.tokens[2:] == ["x"])


async def test_an_answer_that_comes_after_a_pause_is_not_believed() -> None:
    loop = asyncio.get_running_loop()
    pause = 0.0
    queue, provider = Late(), FakeProvider()
    own = taken(chunk("a", "b"))
    queue.entries = [own]
    async with running(dispatcher(queue, provider, lease_clock=lambda: loop.time() + pause)):
        await until(lambda: not queue.entries)
        pause = 40.0
        beats = queue.beats
        await until(lambda: queue.beats > beats)  # its sign of life is fresh again
        queue.through.set()
        await until(lambda: queue.forgotten == [own.ref])
        assert provider.tokens == []


async def test_nothing_is_sent_while_no_sign_of_life_can_be_given() -> None:
    loop = asyncio.get_running_loop()
    queue, provider = FakeQueue(), FakeProvider(room=2)
    queue.entries = [taken(chunk(*many("t", 200)))]
    async with running(dispatcher(queue, provider, lease_clock=loop.time)):
        await until(lambda: len(provider.open) == 2)
        queue.away = 1_000_000
        began = loop.time()
        while loop.time() - began < 60.0:
            provider.answer()
            await asyncio.sleep(0.5)
        assert len(provider.submitted) <= 2 + 2 * (CONFIG.takeover + CONFIG.beat_every) / 0.5
        sent = len(provider.submitted)
        assert sent < 200
        queue.away = 0
        await until(lambda: bool(queue.forgotten))
        assert len(provider.submitted) == sent


# --- counted once -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [RouteLimits(per_token=RATE, on_exceed="drop"), RouteLimits(per_token=RATE)])
async def test_a_delivery_is_counted_against_a_limit_once(limits: RouteLimits) -> None:
    store, provider, limiter = memory_store(), FakeProvider(), Limits()
    answers: Iterator[Outcome] = iter([Unavailable(status=503), Unavailable(status=503), Sent(status=200)])
    provider.says = lambda delivery: next(answers)
    async with running(dispatcher(store.queue, provider, limiter=limiter, limits=limits)):
        await store.pushes.accept(push("p", "t"))
        await until(lambda: len(provider.submitted) == 1)
        limiter.over = "t"  # from now on it would be over
        await until(lambda: store._state.pushes["shop", "p"].state == "done")
        assert await counts(store, "p") == {"total": 1, "sent": 1}
    assert limiter.asked == ["t"]


async def test_a_retry_draws_no_second_permit_of_the_apps_limit() -> None:
    store, provider, limiter = memory_store(), FakeProvider(), Limits(permits=2)
    limits = RouteLimits(per_app=Rate(60, 60))
    refusals = {"a": 2, "b": 1}

    def says(delivery: Delivery) -> Outcome:
        token = delivery.target.token
        refusals[token] = refusals.get(token, 0) - 1
        return Unavailable(status=503) if refusals[token] >= 0 else Sent(status=200)

    provider.says = says
    async with running(dispatcher(store.queue, provider, limiter=limiter, limits=limits)):
        await store.pushes.accept(push("p", "a", "b"))
        await until(lambda: store._state.pushes["shop", "p"].state == "done")
        assert (provider.tokens, limiter.permits) == (["a", "b", "a", "b", "a"], 0)
        await store.pushes.accept(push("q", "c"))
        await asyncio.sleep(5.0)
        assert len(provider.tokens) == 5
        limiter.permits = 1
        await until(lambda: store._state.pushes["shop", "q"].state == "done")
    assert limiter.permits == 0


async def test_a_retry_draws_a_permit_of_the_accounts_quota() -> None:
    """A provider counts each request."""
    store, provider, limiter = memory_store(), FakeProvider(), Limits(permits=3)
    limits = RouteLimits(account=AccountLimits("p", Rate(60, 60)))
    answers: Iterator[Outcome] = iter([Unavailable(status=503), Unavailable(status=503), Sent(status=200)])
    provider.says = lambda delivery: next(answers)
    async with running(dispatcher(store.queue, provider, limiter=limiter, limits=limits)):
        await store.pushes.accept(push("p", "a"))
        await until(lambda: store._state.pushes["shop", "p"].state == "done")
    assert limiter.permits == 0


async def test_what_a_limit_has_delayed_is_not_dropped_once_it_drops() -> None:
    """The configuration was changed in between: a delivery in its second turn waits on."""
    store, limiter = memory_store(), Limits(over="t")
    delaying = RouteLimits(per_token=RATE)
    async with running(dispatcher(store.queue, FakeProvider(), limiter=limiter, limits=delaying)):
        await store.pushes.accept(push("p", "t"))
        await until(lambda: bool(limiter.asked))
    dropping = RouteLimits(per_token=RATE, on_exceed="drop")
    asked, provider = len(limiter.asked), FakeProvider()
    provider.says = lambda delivery: Sent(status=200)
    async with running(dispatcher(store.queue, provider, limiter=limiter, limits=dropping)):
        await until(lambda: len(limiter.asked) > asked + 1)
        limiter.over = ""
        await until(lambda: store._state.pushes["shop", "p"].state == "done")
        assert await counts(store, "p") == {"total": 1, "sent": 1}


async def test_what_is_taken_over_is_not_counted_again_and_what_was_delayed_is() -> None:
    store, provider, limiter = memory_store(), FakeProvider(), Limits(over="d")
    provider.says = lambda delivery: Sent(status=200)
    dead = store.as_consumer("dead")
    await store.pushes.accept(push("taken", "a", "b"))
    assert await dead.queue.take(ROUTE, "normal", targets=10, wait_ms=0)
    store.kill("dead")
    limits = RouteLimits(per_token=RATE)
    async with running(dispatcher(store.queue, provider, limiter=limiter, limits=limits)):
        await store.pushes.accept(push("delayed", "d"))
        await until(lambda: limiter.asked.count("d") == 2)
        limiter.over = ""
        for name in ("taken", "delayed"):
            await until(lambda name=name: store._state.pushes["shop", name].state == "done")  # type: ignore[misc]  # bound for the loop
    assert set(limiter.asked) == {"d"}
    assert sorted(provider.tokens) == ["a", "b", "d"]
