"""What one process knows of a lane's stream: which of its entries it holds, and whether it may have missed some."""

from __future__ import annotations

import asyncio

from ...model.push import Lane, Route
from .. import keys

LOOK = 60.0
"""Seconds between two looks at one's own pending entries: after a failover the new server may call pending what was
acknowledged on the old one, and as its consumer lives nobody would take it over."""


class LaneState:
    """One stream, as one consumer sees it."""

    __slots__ = ("cursor", "drained", "expected", "held", "key", "look_at", "looked", "place", "sure_after", "unsure")

    def __init__(self, route: Route, shard: int, lane: Lane) -> None:
        self.place = (route.app, shard, route.platform, lane)
        self.key = keys.lane(*self.place)
        self.held: set[str] = set()
        """Ids of the entries that were handed out and are not finished."""
        self.unsure = True
        """Entries may be pending under our name that were never handed out."""
        self.sure_after = 0.0
        self.drained = False
        """The latest wait returned all that there was: the next read may begin with a wait, too."""
        self.look_at = 0.0
        """When to look for such entries though nothing says that there are any."""
        self.cursor: bytes | str = "0"
        self.looked = ""
        """The last entry that was looked at for whether its time is over; empty: the next look begins in front."""
        # Recent targets an entry. The first guess is a full chunk, so that the first reads take too few, not too many.
        self.expected = 500.0

    def lost(self, grace: float) -> None:
        """An answer was lost. The server may even serve the abandoned read later, up to `grace` seconds from now."""
        self.unsure, self.drained = True, False
        self.sure_after = asyncio.get_running_loop().time() + grace
        self.cursor = "0"

    def empty(self) -> None:
        """Nothing (more) is pending that is not held."""
        now = asyncio.get_running_loop().time()
        self.unsure = now < self.sure_after
        self.look_at = now + LOOK
        self.cursor = "0"

    def learn(self, targets: int, entries: int) -> None:
        """Let the average follow what was read, within a few reads."""
        self.expected += 0.5 * (max(1.0, targets / entries) - self.expected)
