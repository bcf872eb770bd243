"""A task beside a block of code, for as long as that lasts; a lease that is renewed so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from .errors import StoreError


@asynccontextmanager
async def in_background(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[asyncio.Task[None]]:
    """Run `work` while the block lasts, then cancel it and wait for its end. Raises the error with which it failed."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


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
