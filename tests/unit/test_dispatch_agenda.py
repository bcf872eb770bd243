"""When Redis is asked for what is due: rarely while nothing is, and in time for what is."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from math import inf

import pytest

from pushsvc.model.delivery import Sent, Unavailable
from pushsvc.model.push import Route
from pushsvc.stages.dispatch.agenda import Agenda
from pushsvc.stages.dispatch.config import DispatchConfig

from .dispatch_fakes import FakeProvider, FakeQueue, memory_store, push
from .test_dispatch_dispatcher import dispatcher, running
from .virtual_time import VirtualLoop, until

LOOP = VirtualLoop


def test_it_asks_at_what_is_due_and_after_a_while() -> None:
    agenda = Agenda(1.0)
    assert agenda.take(1000, 5.2)
    assert not agenda.take(1700, 5.9)
    assert agenda.left(1700) == inf
    agenda.note(2500)
    agenda.note(None)
    agenda.note(3000)
    assert not agenda.take(1750, 5.95)
    assert agenda.left(1750) == 0.75
    assert agenda.take(2500, 5.96)
    assert not agenda.take(3000, 5.99)
    # The clock of the day may be set back.
    agenda.note(9000)
    assert agenda.take(10, 6.0)
    assert (agenda.left(10), agenda.take(20, 6.9)) == (inf, False)


class Asked(FakeQueue):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    async def next_retry(self, route: Route) -> int | None:
        self.asked[route.name] += 1
        return None

    async def next_launch(self, app: str) -> int | None:
        self.asked[app] += 1
        return None

    async def promote(self, route: Route, now: int) -> int:
        raise AssertionError("nothing is due")

    async def launch(self, app: str, now: int) -> int:
        raise AssertionError("nothing is due")


async def test_an_idle_dispatcher_asks_once_a_second() -> None:
    queue = Asked()
    async with running(dispatcher(queue, FakeProvider(), FakeProvider(Route("shop", "fcm")))):
        await asyncio.sleep(60.0)
        assert set(queue.asked) == {"shop", "shop/apns", "shop/fcm"}
        assert all(45 <= count <= 62 for count in queue.asked.values())


class Crowded(FakeQueue):
    """Has retries for a number of steps, each of which takes some time. What one leaves is due `later` ms after the
    time that it was given."""

    SECONDS = 0.01

    def __init__(self, steps: int, *, later: int = 0) -> None:
        super().__init__()
        self.left, self.later = steps, later
        self.nows: list[int] = []

    async def next_retry(self, route: Route) -> int | None:
        return self.nows[-1] + self.later if self.nows and self.left else 0 if self.left else None

    async def promote(self, route: Route, now: int) -> int:
        self._come()
        self.nows.append(now)
        await asyncio.sleep(self.SECONDS)
        self.left -= 1
        return 500


async def test_full_steps_of_retries_follow_each_other_and_leave_redis_half_of_the_time() -> None:
    queue = Crowded(200)
    async with running(dispatcher(queue, FakeProvider())):
        await until(lambda: not queue.left)
        spans = [after - before for before, after in itertools.pairwise(queue.nows)]
        # Each gets the present time: what has become due meanwhile is promoted as well.
        assert max(spans) <= 2 * Crowded.SECONDS * 1000 + 2
        assert min(spans) >= 2 * Crowded.SECONDS * 1000 - 2


async def test_a_stream_of_retries_is_promoted_at_its_pace() -> None:
    """Some are due at any time, but each step has promoted all that were: Redis is not asked again at once."""
    queue = Crowded(20, later=1)
    async with running(dispatcher(queue, FakeProvider())):
        await until(lambda: not queue.left, 10.0)
        spans = [after - before for before, after in itertools.pairwise(queue.nows)]
        assert min(spans) >= DispatchConfig().promote_every * 1000


@pytest.mark.parametrize("phase", [0.0, 0.15, 0.3, 0.45])
async def test_a_retry_of_less_than_a_second_goes_at_its_time(phase: float) -> None:
    loop = asyncio.get_running_loop()
    store, provider, sent = memory_store(), FakeProvider(), list[float]()

    def says(delivery: object) -> Sent | Unavailable:
        sent.append(loop.time())
        return Sent(status=200) if len(sent) == 2 else Unavailable(status=500, reason="InternalServerError")

    provider.says = says
    async with running(dispatcher(store.queue, provider)):
        await asyncio.sleep(10.0 + phase)
        await store.pushes.accept(push("p", "t"))
        await until(lambda: len(sent) == 2)
    assert 0.5 <= sent[1] - sent[0] <= 0.5 + DispatchConfig().promote_every + 0.05
