"""Unfinished work and the times at which it is due: sorted sets of names, scored by due time in ms.

A worker postpones the time of a name while it works on it. This is no lock: it only says which work to leave
alone. If a worker dies, its names become due by themselves. Removing a name from its set is a part of the step that
ends the work, and is defined there.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..link.clock import Clock
from ..link.link import Link

MOST = 100
"""The maximum number of names of a set that are returned at once."""


class Leases:
    """The operations that all such sets share."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock

    async def due(self, keys: Sequence[str]) -> list[list[str]]:
        """Return, for each set, the names without a worker, longest overdue first."""
        now = self._clock()
        found = await self._link.many([("ZRANGEBYSCORE", key, "-inf", now, "LIMIT", 0, MOST) for key in keys])
        return [[name.decode() for name in names] for names in found]

    async def all(self, key: str) -> list[str]:
        """Return every name of the set, worked on or not."""
        return [name.decode() for name in await self._link.call("ZRANGE", key, 0, -1)]

    async def keep(self, key: str, name: str, lease: int) -> None:
        """Postpone a name by `lease` ms, because it is being worked on; 0 makes it due.

        A removed name stays removed.
        """
        await self._link.call("ZADD", key, "XX", self._clock() + lease, name)
