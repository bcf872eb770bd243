"""The bound of the queue: when it is looked at what waits, and how little of that a flood costs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from pushsvc.api.pushes.backlog import EVERY, FRESH, Backlog
from pushsvc.errors import ContentTooLarge, StoreUnavailable, TooManyRequests
from pushsvc.rules.bound import Bound

from .virtual_time import VirtualLoop

LOOP = VirtualLoop


class Waiting:
    """A store of which this process has `heard`; a look finds what `waits`."""

    def __init__(self) -> None:
        self.heard = 0
        self.waits = 0
        self.removed = 0
        self.looks: list[tuple[str, ...]] = []
        self.noted: list[Bound] = []
        self.away = False

    @property
    def pending(self) -> int:
        return self.heard

    def pending_of(self, app: str) -> int:
        return self.heard - self.removed if app == "shop" else 0

    async def recount(self, apps: Iterable[str]) -> int:
        await asyncio.sleep(0.01)
        if self.away:
            raise StoreUnavailable("connection refused")
        self.looks.append(tuple(apps))
        self.heard = self.waits
        return self.heard

    async def note_refused(self, bounds: Iterable[Bound]) -> None:
        self.noted += bounds


def backlog(store: Any, most: int = 100, share: int = 0) -> Backlog:
    shares = dict.fromkeys(["shop", "news"], share or most)
    return Backlog(store, most, shares, monotonic=asyncio.get_running_loop().time)


async def refused(own: Backlog, deliveries: int, *, beside: int = 0) -> bool:
    try:
        await own.admit("shop", deliveries, "normal", beside=beside)
    except TooManyRequests as error:
        return error.retry_after is not None
    return False


async def test_what_fits_costs_no_look() -> None:
    store = Waiting()
    own = backlog(store)
    store.heard = 90
    await own.admit("shop", 10, "normal")
    await own.admit("shop", 4, "normal", beside=6)
    assert store.looks == []


async def test_nobody_is_refused_on_old_news() -> None:
    store = Waiting()
    own = backlog(store)
    store.heard, store.waits = 100, 40
    assert not await refused(own, 60)
    store.heard = store.waits = 100
    assert not await refused(own, 0)
    await asyncio.sleep(FRESH)
    assert await refused(own, 1)
    assert store.looks == [("shop", "news")] * 2
    store.waits = 98
    await asyncio.sleep(FRESH)
    assert await refused(own, 1, beside=2)
    assert not await refused(own, 2)


async def test_what_was_refused_is_noted_each_second_with_its_figures() -> None:
    store = Waiting()
    store.heard = store.waits = 8
    own = backlog(store, 10)
    async with own.watching():
        for deliveries in (3, 4):
            assert await refused(own, deliveries)
        assert await refused(own, 2, beside=1)
        assert not await refused(own, 2)
        await asyncio.sleep(EVERY + 0.1)
        assert store.noted == [Bound("", 9, 10, refused=2)]
        await asyncio.sleep(EVERY)
        assert len(store.noted) == 1
        assert (
            store.noted[0].text
            == "9 deliveries wait; the maximum is 10 (queue.max_pending), so a push of 2 was refused"
        )


async def test_a_flood_looks_ten_times_a_second() -> None:
    store = Waiting()
    store.heard = store.waits = 100
    own = backlog(store)
    for _ in range(50):
        assert all(await asyncio.gather(*(refused(own, 1) for _ in range(200))))
        await asyncio.sleep(0.01)
    assert len(store.looks) <= 7


async def test_what_would_never_fit_is_no_matter_of_waiting() -> None:
    store = Waiting()
    own = backlog(store)
    with pytest.raises(ContentTooLarge) as caught:
        await own.admit("shop", 101, "normal")
    assert [(fault.path, fault.message) for fault in caught.value.faults] == [
        ("to", "has 101 deliveries; the maximum is 100 (queue.max_pending): split it")
    ]
    own.limit(101, {"shop": 101})
    await own.admit("shop", 101, "normal")
    own.limit(50, {"news": 50})
    store.heard = store.waits = 1
    assert await refused(own, 50)
    assert store.looks == [("news",)]


async def test_it_looks_by_itself_each_second_also_when_redis_was_away() -> None:
    store, before = Waiting(), asyncio.all_tasks()
    own = backlog(store)
    async with own.watching():
        assert len(store.looks) == 1
        await asyncio.sleep(EVERY * 3.5)
        assert len(store.looks) == 4
        store.away = True
        await asyncio.sleep(EVERY * 2)
        store.heard = 100
        with pytest.raises(StoreUnavailable):
            await own.admit("shop", 1, "normal")
        store.away = False
        await asyncio.sleep(EVERY * 1.25)
        assert len(store.looks) == 5
    await asyncio.sleep(EVERY * 3)
    assert len(store.looks) == 5
    assert asyncio.all_tasks() == before


async def test_a_queue_that_is_full_of_others_has_room_for_urgent_pushes() -> None:
    store = Waiting()
    own = backlog(store, most=100, share=60)
    for waits, app, most in ((60, "shop", 66), (100, "news", 110)):
        store.heard = store.waits = waits
        with pytest.raises(TooManyRequests):
            await own.admit(app, 1, "normal")
        store.heard = store.waits = most - 1
        await own.admit(app, 1, "urgent")
        with pytest.raises(TooManyRequests) as caught:
            await own.admit(app, 2, "urgent")
        assert f"{most - 1} deliveries" in caught.value.detail
        assert f"maximum is {most} (" in caught.value.detail
        with pytest.raises(ContentTooLarge):
            await own.admit(app, 61, "urgent")


async def test_one_app_has_its_share_and_leaves_the_rest_to_the_others() -> None:
    store = Waiting()
    own = backlog(store, most=100, share=60)
    store.heard = store.waits = 60
    with pytest.raises(TooManyRequests) as caught:
        await own.admit("shop", 1, "normal")
    assert caught.value.detail.startswith("60 deliveries of the app wait; its maximum is 60 (")
    await own.admit("news", 40, "normal")
    with pytest.raises(ContentTooLarge):
        await own.admit("news", 61, "normal")
    store.heard = store.waits = 100
    with pytest.raises(TooManyRequests) as caught:
        await own.admit("news", 1, "normal")
    assert caught.value.detail == "100 deliveries wait; the maximum is 100 (queue.max_pending)."
    store.removed = 40
    with pytest.raises(TooManyRequests) as caught:
        await own.admit("shop", 10, "normal")
    assert caught.value.detail.startswith("100 deliveries wait, 40 of them for apps that were removed (see `held`")


@pytest.mark.parametrize(("a_second", "missing", "seconds"), [(10, 25, 3), (10, 1, 1), (1, 500, 60), (0, 1, 60)])
async def test_retry_after_follows_from_how_fast_the_queue_empties(a_second: int, missing: int, seconds: int) -> None:
    store = Waiting()
    store.waits = 1000
    own = backlog(store, most=2000)
    async with own.watching():
        await asyncio.sleep(EVERY / 4)  # between two looks
        for _ in range(20):
            await asyncio.sleep(EVERY / 2)
            store.waits -= a_second // 2 if a_second > 1 else a_second * (_ % 2)
        own.limit(store.waits, {"shop": store.waits})
        with pytest.raises(TooManyRequests) as caught:
            await own.admit("shop", missing, "normal")
        assert caught.value.retry_after == seconds
