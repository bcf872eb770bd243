"""The bound of the queue: when it is looked at what waits, and how little of that a flood costs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from pushsvc.errors import InvalidRequest, StoreUnavailable, TooManyRequests
from pushsvc.intake import Backlog
from pushsvc.intake.backlog import EVERY, FRESH

from .virtual_time import run


class Waiting:
    """A store of which this process has `heard`; a look finds what `waits`."""

    def __init__(self) -> None:
        self.heard = 0
        self.waits = 0
        self.looks: list[tuple[str, ...]] = []
        self.away = False

    @property
    def pending(self) -> int:
        return self.heard

    async def recount(self, apps: Iterable[str]) -> int:
        await asyncio.sleep(0.01)
        if self.away:
            raise StoreUnavailable("connection refused")
        self.looks.append(tuple(apps))
        self.heard = self.waits
        return self.heard


def backlog(store: Any, most: int = 100) -> Backlog:
    return Backlog(store, most, ["shop", "news"], monotonic=asyncio.get_running_loop().time)


async def refused(own: Backlog, deliveries: int, *, beside: int = 0) -> bool:
    try:
        await own.admit("shop", deliveries, beside=beside)
    except TooManyRequests as error:
        return error.retry_after is not None
    return False


def test_what_fits_costs_no_look() -> None:
    async def main() -> None:
        store = Waiting()
        own = backlog(store)
        store.heard = 90
        await own.admit("shop", 10)
        await own.admit("shop", 4, beside=6)
        assert store.looks == []

    run(main())


def test_nobody_is_refused_on_old_news() -> None:
    async def main() -> None:
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

    run(main())


def test_a_flood_looks_ten_times_a_second() -> None:
    async def main() -> None:
        store = Waiting()
        store.heard = store.waits = 100
        own = backlog(store)
        for _ in range(50):
            assert all(await asyncio.gather(*(refused(own, 1) for _ in range(200))))
            await asyncio.sleep(0.01)
        assert len(store.looks) <= 7

    run(main())


def test_what_would_never_fit_is_no_matter_of_waiting() -> None:
    async def main() -> None:
        store = Waiting()
        own = backlog(store)
        with pytest.raises(InvalidRequest) as caught:
            await own.admit("shop", 101)
        assert [(fault.path, fault.message) for fault in caught.value.faults] == [
            ("to", "makes 101 deliveries; the queue may hold 100 in all: split it")
        ]
        own.hold(101, ["shop"])
        await own.admit("shop", 101)
        own.hold(50, ["news"])
        store.heard = store.waits = 1
        assert await refused(own, 50)
        assert store.looks == [("news",)]

    run(main())


def test_it_looks_by_itself_each_second_also_when_redis_was_away() -> None:
    async def main() -> None:
        store = Waiting()
        own = backlog(store)
        async with own.watching():
            assert len(store.looks) == 1
            await asyncio.sleep(EVERY * 3.5)
            assert len(store.looks) == 4
            store.away = True
            await asyncio.sleep(EVERY * 2)
            store.heard = 100
            with pytest.raises(StoreUnavailable):
                await own.admit("shop", 1)
            store.away = False
            await asyncio.sleep(EVERY * 1.5)
            assert len(store.looks) == 5
        await asyncio.sleep(EVERY * 3)
        assert len(store.looks) == 5
        assert len(asyncio.all_tasks()) == 1

    run(main())
