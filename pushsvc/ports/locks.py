"""Locks that all processes share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Locks(Protocol):
    """Locks by name. The lock of an owner that died is free when its lease is over."""

    def held(self, name: str, *, lease: float) -> AbstractAsyncContextManager[Callable[[], bool] | None]:
        """Hold a lock for the block, with a lease of `lease` seconds that is renewed meanwhile. Yields None where
        somebody else holds it, else a function that returns whether it was lost since: this process stood still for
        longer than the lease, and another one has taken it."""
        ...

    async def holder(self, name: str) -> str | None:
        """Return a name for whoever holds a lock, as people may read it, or None."""
        ...

    async def acquire(self, name: str, owner: str, *, lease: float) -> bool:
        """Take a lock for `lease` seconds if nobody holds it, not even `owner`, and return whether it was taken.

        For work that one of all processes does once in that time.
        """
        ...

    async def release(self, name: str, owner: str) -> None:
        """Free a lock now, if it is `owner`'s."""
        ...
