"""Whose audience is looked up next: urgent ones first, apps in turn, first come first served within an app and lane.

Pure but for what it remembers: which app had its turn how long ago. Each process has its own; several of them take what
the others have not, so that the order holds for all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .model import LANES
from .ports.expansion import Waiting

ANY_LANE: Final = 4
"""One turn in this number goes to the app that has waited longest, whatever its lane: endless urgent pushes must not
keep all others from beginning."""


class Turns:
    """Chooses among what waits."""

    def __init__(self) -> None:
        self._number = 0
        self._served: dict[str, int] = {}
        """The number of each app's last turn."""

    def choose(self, waiting: Sequence[Waiting]) -> Waiting:
        """The one whose turn it is. Raises ValueError where nothing waits."""
        self._number += 1
        fair = self._number % ANY_LANE == 0

        def place(each: Waiting) -> tuple[int, int, int, int, str]:
            lane = LANES.index(each.lane)
            return 0 if fair else lane, self._served.get(each.app, 0), lane, each.since, each.push_id

        chosen = min(waiting, key=place)
        self._served[chosen.app] = self._number
        return chosen
