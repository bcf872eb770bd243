"""What a dispatcher receives of its own process: when it has room for it, and that it is judged like what it reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from pushsvc.background import boot_clock
from pushsvc.model.delivery import Ended, Sent
from pushsvc.model.push import LANES, Lane
from pushsvc.model.rates import Rate
from pushsvc.ports.entries import News, Revoked, Taken
from pushsvc.ports.queue import Offer
from pushsvc.rules.policy import RetryPolicy
from pushsvc.stages.dispatch import DispatchConfig, Dispatcher, RouteLimits, settling
from pushsvc.stages.dispatch.preemption import TRICKLE

from .dispatch_fakes import ROUTE, FakeProvider, FakeQueue, chunk, many, memory_store, push, taken, wall_clock
from .test_dispatch_revoking import Limits
from .virtual_time import run, until

CONFIG = DispatchConfig(retry=RetryPolicy(base=1.0, server_error={}, throttled={}), prefetch=100)


@asynccontextmanager
async def running(
    queue: FakeQueue,
    provider: FakeProvider,
    *,
    limiter: Limits | None = None,
    lease_clock: Callable[[], float] = boot_clock,
) -> AsyncIterator[Dispatcher]:
    """A dispatcher that receives by now."""
    own = Dispatcher(
        queue,
        [provider],
        CONFIG,
        hash_token=lambda route: lambda token: "",
        limiter=limiter,
        limits={ROUTE: RouteLimits(per_token=Rate(1, 60))} if limiter else None,
        wall_clock=wall_clock,
        jitter=lambda: 0.5,
        lease_clock=lease_clock,
    )
    stop = asyncio.Event()
    task = asyncio.create_task(own.run(stop))
    try:
        await until(lambda: ROUTE in queue.offers and queue.offers[ROUTE]("normal"))
        yield own
    finally:
        stop.set()
        await task


def offered(queue: FakeQueue, lane: Lane = "normal") -> Offer | None:
    return queue.offers[ROUTE](lane)


def entry(name: str, *tokens: str, lane: Lane = "normal") -> Taken:
    return taken(chunk(*tokens, name=name, lane=lane), f"{len(name)}{sum(map(ord, name))}-0")


def ends(queue: FakeQueue) -> dict[str, str]:
    """How each token has ended."""
    found: dict[str, str] = {}
    for settlements, _ in queue.settled:
        for each in settlements:
            assert isinstance(each.verdict, Ended)
            found[each.delivery.target.token] = each.verdict.end
    return found


def test_what_is_received_is_sent_and_settled() -> None:
    async def main() -> None:
        queue, provider = FakeQueue(), FakeProvider()
        provider.says = lambda delivery: Sent(status=200)
        async with running(queue, provider):
            first, second = entry("p", "a", "b"), entry("q", "c", lane="urgent")
            assert queue.hand_over(first)
            assert queue.hand_over(second)
            await until(lambda: {ref for _, finished in queue.settled for ref in finished} == {first.ref, second.ref})
        assert ends(queue) == {"a": "sent", "b": "sent", "c": "sent"}
        assert offered(queue) is None  # it has stopped

    run(main())


def test_each_lane_offers_the_room_that_it_has() -> None:
    async def main() -> None:
        queue, provider = FakeQueue(), FakeProvider(room=0)
        async with running(queue, provider):
            assert queue.hand_over(entry("p", *many("t", 60), lane="bulk"))
            await asyncio.sleep(0.1)
            rooms = {lane: offer and offer.targets for lane in LANES for offer in [offered(queue, lane)]}
            assert rooms == {"urgent": 100, "normal": 100, "bulk": 40}
            assert queue.hand_over(entry("q", *many("u", 20), lane="bulk"))
            await asyncio.sleep(0.1)
            assert offered(queue, "bulk") is None
            assert not queue.hand_over(entry("rest", "v", lane="bulk"))
            assert queue.hand_over(entry("s", "w", lane="urgent"))
            provider.says = lambda delivery: Sent(status=200)
            provider.widen(1000)
            await until(lambda: len(ends(queue)) == 82)  # the rest was read, once there was room
        assert provider.tokens[0] == "w"
        assert len(provider.tokens) == len(set(provider.tokens)) == 82

    run(main())


def test_too_much_that_is_unrecorded_ends_the_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "BOUND", 4)

    async def main() -> None:
        queue, provider = FakeQueue(seconds=50.0), FakeProvider()
        async with running(queue, provider):
            for name, size in (("p", 1), ("q", 4)):
                assert queue.hand_over(entry(name, *many(name, size)))
                await until(lambda: provider.open)
                provider.answer()
                await until(lambda: bool(queue.attempts))
            assert offered(queue) is None
            await until(lambda: len(ends(queue)) == 5)
            assert offered(queue) is not None

    run(main())


def test_nothing_is_offered_on_an_old_lease_and_nothing_sent_that_was_offered_before() -> None:
    pause = 0.0

    async def main() -> None:
        nonlocal pause
        loop = asyncio.get_running_loop()
        queue, provider = FakeQueue(), FakeProvider()
        async with running(queue, provider, lease_clock=lambda: loop.time() + pause):
            before, late = offered(queue), entry("p", "a")
            assert before is not None
            pause, beats = 40.0, queue.beats
            assert offered(queue) is None
            await until(lambda: queue.beats > beats)  # its sign of life is fresh again
            assert offered(queue) is not None
            before.admit([late])
            assert queue.forgotten == [late.ref]
            await asyncio.sleep(1.0)
            assert provider.tokens == []

    run(main())


def test_nothing_is_offered_from_another_server_until_what_was_sent_is_recorded() -> None:
    async def main() -> None:
        queue, provider = FakeQueue(), FakeProvider()
        async with running(queue, provider):
            assert queue.hand_over(entry("p", "a"))
            await until(lambda: provider.open)
            queue.history += 1
            assert offered(queue) is None
            await asyncio.sleep(1.0)
            assert offered(queue) is None
            provider.answer()
            await until(lambda: offered(queue) is not None, 5.0)
            assert ends(queue) == {"a": "sent"}

    run(main())


def test_a_cancel_between_the_write_and_the_hand_over_is_obeyed() -> None:
    async def main() -> None:
        queue, provider = FakeQueue(), FakeProvider()
        provider.says = lambda delivery: Sent(status=200)
        async with running(queue, provider):
            offer = offered(queue)
            assert offer is not None
            queue.news = [News("shop", 0, "7-0", Revoked(pushes=frozenset("p")))]
            await until(lambda: bool(queue.acknowledged))
            assert queue.acknowledged[0][1] == {}
            offer.admit([entry("p", "a", "b"), entry("q", "c")])
            await until(lambda: len(ends(queue)) == 3)
        assert ends(queue) == {"a": "cancelled", "b": "cancelled", "c": "sent"}
        assert provider.tokens == ["c"]

    run(main())


def test_what_is_received_asks_the_limits() -> None:
    async def main() -> None:
        queue, provider, limiter = FakeQueue(), FakeProvider(), Limits(over="b")
        provider.says = lambda delivery: Sent(status=200)
        async with running(queue, provider, limiter=limiter):
            assert queue.hand_over(entry("p", "a", "b"))
            await until(lambda: sum(len(settlements) for settlements, _ in queue.settled) == 2)
        assert (limiter.asked, provider.tokens) == (["a", "b"], ["a"])

    run(main())


@pytest.mark.parametrize(("size", "overtaken"), [(TRICKLE, ("normal", "bulk")), (TRICKLE + 1, ())])
def test_a_trickle_that_is_received_overtakes_floods(size: int, overtaken: tuple[Lane, ...]) -> None:
    async def main() -> None:
        queue, provider = FakeQueue(), FakeProvider()
        async with running(queue, provider) as own:
            assert queue.hand_over(entry("p", *many("t", size), lane="urgent"))
            await until(lambda: len(provider.open) == size)
            assert own._preemption.overtaken(ROUTE, asyncio.get_running_loop().time()) == overtaken
            provider.answer()

    run(main())


def test_urgent_pushes_pass_bulk_that_was_received_before_them() -> None:
    async def main() -> None:
        store, provider = memory_store(), FakeProvider(room=10)
        own = Dispatcher(
            store.queue,
            [provider],
            DispatchConfig(),
            hash_token=lambda route: lambda token: "",
            wall_clock=wall_clock,
        )
        stop = asyncio.Event()
        task = asyncio.create_task(own.run(stop))
        await asyncio.sleep(0.1)
        await store.pushes.accept(push("bulk", *many("b", 200), lane="bulk"))
        await until(lambda: len(provider.open) == 10)
        await store.pushes.accept(push("urgent", *many("u", 5), lane="urgent"))
        await asyncio.sleep(0.1)
        provider.says = lambda delivery: Sent(status=200)
        provider.answer(count=10)
        await until(lambda: len(provider.submitted) == 205)
        assert {f"u-{number}" for number in range(5)} <= {*provider.tokens[10:20]}
        stop.set()
        await task

    run(main())
