"""Locks that all processes share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Locks(Protocol):
    """Locks by name. The lock of an owner that died becomes free when its lease expires."""

    def held(self, name: str, *, lease: float) -> AbstractAsyncContextManager[Callable[[], bool] | None]:
        """Take a lock for the block, with a lease of `lease` seconds that is renewed meanwhile. Yields None where
        another process has the lock. Otherwise yields a function that returns whether the lock was lost: this process
        stood still for longer than the lease, and another one took it."""

    async def holder(self, name: str) -> str | None:
        """Return a readable name of the lock's owner, or None where the lock is free."""

    async def acquire(self, name: str, owner: str, *, lease: float) -> bool:
        """Take a lock for `lease` seconds if it is free, and return whether it was taken. Not even `owner` can take it
        twice. For work that one of all processes does once in that time."""

    async def hold(self, name: str, owner: str, *, lease: float) -> bool:
        """Take a lock for `lease` seconds, from now on if `owner` has it. Returns False if another owner has it."""

    async def release(self, name: str, owner: str) -> None:
        """Free a lock now, if it belongs to `owner`."""
