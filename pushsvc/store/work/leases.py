"""Work that is not done yet, and when it is due: sorted sets of names, by the ms at which one is taken up.

Whoever works on a name puts its instant off as it goes. Nobody is locked out by that: it only says whom to leave the
work to. When a worker dies its names become due by themselves. Taking a name out of its set is a part of the step
that ends the work, and stands there.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..link.clock import Clock
from ..link.link import Link

MOST = 100
"""Names of one set that are told at once."""


class Leases:
    """The moves that all such sets share."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock

    async def due(self, keys: Sequence[str]) -> list[list[str]]:
        """For each set the names that nobody works on, longest overdue first."""
        now = self._clock()
        found = await self._link.many([("ZRANGEBYSCORE", key, "-inf", now, "LIMIT", 0, MOST) for key in keys])
        return [[name.decode() for name in names] for names in found]

    async def all(self, key: str) -> list[str]:
        """Every name of the set, worked on or not."""
        return [name.decode() for name in await self._link.call("ZRANGE", key, 0, -1)]

    async def keep(self, key: str, name: str, lease: int) -> None:
        """Somebody works on it for so many ms, or soon will; 0: nobody does. A name that is gone stays gone."""
        await self._link.call("ZADD", key, "XX", self._clock() + lease, name)
