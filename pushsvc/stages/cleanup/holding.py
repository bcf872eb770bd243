"""Of several that would clean up at once, one does: a lock with a lease, renewed for as long as its owner lives."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from ...background import in_background
from ...errors import StoreError, StoreUnavailable
from ...ports.cleanup import Cleanups


def process_name() -> str:
    """A name for this process, for whoever is told that it holds something."""
    return f"process {os.getpid()} on {socket.gethostname()} ({secrets.token_hex(4)})"


@asynccontextmanager
async def holding(cleanups: Cleanups, owner: str, *, lease: float) -> AsyncIterator[Callable[[], bool] | None]:
    """Be the one who cleans up for the block. Yields whether that was lost meanwhile, or None where another is.

    It is lost when this process stood still for longer than the lease (seconds), and another has begun.
    """
    if not await cleanups.hold(owner, lease=lease):
        yield None
        return
    lost = False

    async def renew() -> None:
        nonlocal lost
        while not lost:
            await asyncio.sleep(lease / 3)
            with suppress(StoreUnavailable):  # the next time, perhaps
                lost = not await cleanups.hold(owner, lease=lease)

    try:
        async with in_background(renew(), "holding"):
            yield lambda: lost
    finally:
        with suppress(StoreError):  # else the lease runs out
            await cleanups.release(owner)
