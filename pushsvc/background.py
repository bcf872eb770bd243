"""A task beside a block of code, for as long as that lasts; a lease that is renewed so; work until an event, and in the
pulse of a process; a clock that counts suspensions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

from .errors import StoreError

T = TypeVar("T")

EARLY: Final = 0.01

boot_clock: Final = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds that also pass while the machine is suspended, on systems that have such a clock, unlike those of
CLOCK_MONOTONIC: https://man7.org/linux/man-pages/man2/clock_gettime.2.html"""


@asynccontextmanager
async def in_background(
    work: Coroutine[Any, Any, None], name: str, *, stop: asyncio.Event | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """Run `work` while the block lasts, then cancel it, or set `stop` where it is given, and wait for its end. Where it
    fails, the block is cancelled and raises the error: so a process ends that lacks a part of itself."""
    block = asyncio.current_task()
    assert block is not None, "called in a task"
    before, leaving, cut = block.cancelling(), False, False

    def ended(task: asyncio.Task[None]) -> None:
        nonlocal cut
        if not leaving and not task.cancelled() and task.exception() is not None:
            cut = block.cancel()

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(ended)
    try:
        yield task
    except asyncio.CancelledError:
        if not cut:
            raise
        cut = False
        if block.uncancel() > before:
            raise  # another one has cancelled it too
    finally:
        leaving = True
        if cut:  # the block ended before it was reached, and nothing after it may be
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            block.uncancel()
        if stop is None:
            task.cancel()
        else:
            stop.set()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def repeated(every: float, act: Callable[[], Awaitable[object]], name: str) -> AsyncIterator[None]:
    """Call `act` at each pulse of `every` seconds while the block lasts. Where it fails, the block is cancelled and
    raises the error."""

    async def repeat() -> None:
        while True:
            await pulse(every)
            await act()

    async with in_background(repeat(), name):
        yield


async def pulse(seconds: float) -> None:
    """Sleep until the clock of the loop comes to a multiple of `seconds`. So what a process does regularly is done
    together: it wakes up once, and what it asks of Redis then is written and answered at once."""
    await asyncio.sleep(until_pulse(seconds))


def until_pulse(seconds: float) -> float:
    """Return the seconds that `pulse` would sleep: at most that long, and a little for a timer that came too early, as
    it does by the resolution of the loop's clock (uvloop: 1 ms)."""
    left = seconds - asyncio.get_running_loop().time() % seconds
    return left if left > min(EARLY, seconds / 10) else left + seconds


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return what `work` returns, or cancel it when `stop` is set before, and return None."""
    working = asyncio.ensure_future(work)
    tasks = (working, asyncio.ensure_future(stop.wait()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def lease_kept(
    renew: Callable[[], Awaitable[bool]], release: Callable[[], Awaitable[object]], *, lease: float, name: str
) -> AsyncIterator[Callable[[], bool]]:
    """Keep a lease that was taken for `lease` seconds while the block lasts, then release it.

    `renew` is called after each third of that time and returns False if another process has the lease, because this one
    was suspended for longer than the lease lasts. The function that is yielded returns whether that has happened. A
    `StoreError` decides nothing: a renewal is tried again, and a lease that cannot be released runs out.
    """
    lost = False

    async def keep() -> None:
        nonlocal lost
        while not lost:
            await asyncio.sleep(lease / 3)
            with suppress(StoreError):
                lost = not await renew()

    try:
        async with in_background(keep(), name):
            yield lambda: lost
    finally:
        with suppress(StoreError):
            await release()
