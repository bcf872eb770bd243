"""`Locks` over Redis: a key a lock, with its owner, that lives as long as the lease."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from ...background import lease_kept
from .. import keys
from ..part import StorePart


class RedisLocks(StorePart):
    """See `ports.work.Locks`."""

    @asynccontextmanager
    async def held(self, name: str, *, lease: float) -> AsyncIterator[Callable[[], bool] | None]:
        owner = f"process {os.getpid()} on {socket.gethostname()} ({secrets.token_hex(4)})"
        renew = partial(self.hold, name, owner, lease=lease)
        if not await renew():
            yield None
            return
        async with lease_kept(renew, partial(self.release, name, owner), lease=lease, name=f"lock:{name}") as lost:
            yield lost

    async def holder(self, name: str) -> str | None:
        owner = await self._link.call("GET", keys.lock(name))
        return None if owner is None else owner.decode().partition(" (")[0]

    async def hold(self, name: str, owner: str, *, lease: float) -> bool:
        return bool(await self._link.script("hold", [keys.lock(name)], [owner, int(lease * 1000)]))

    async def release(self, name: str, owner: str) -> None:
        await self._link.script("hold", [keys.lock(name)], [owner, 0])
