"""Whose audience is looked up next: urgent ones first, apps by the time they have used, first come first served within
an app and lane.

Time is what apps share, not turns: a turn may be a look at one device or a slice of a walk over a million, and an app
whose turns are short must not wait for a long one of another's between any two of its own.

Pure but for what it remembers. Each process has its own; several of them take what the others have not, so that the
order holds for all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...model.push import LANES
from ...ports.expansion import Waiting

OTHERS: Final = 0.25
"""The share of the time that goes by the apps' use alone, whatever the lane, while a lane that goes first has more to
do than there is time: endless urgent pushes must not keep all others from beginning."""
CREDIT: Final = 1.0
"""Seconds that an app is ahead of the others at most, when it asks for something after a pause."""


class Turns:
    """Chooses among what waits, and counts the time that each app uses. Start-time fair queueing (Goyal, Vin and Cheng,
    SIGCOMM 1996) with one weight for all."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        """Each app's time, in seconds of a common clock: that of `_now`."""
        self._now = 0.0
        """The time of the app that was chosen last."""
        self._owed = 0.0
        """Seconds that are owed to those whom a more urgent lane has passed."""
        self._share = 0.0
        """What a second of the turn that was chosen last adds to `_owed`."""

    def choose(self, waiting: Sequence[Waiting]) -> Waiting:
        """The one whose turn it is. Raises ValueError where nothing waits."""
        by_lane = min(waiting, key=lambda each: (LANES.index(each.lane), *self._place(each)))
        by_use = min(waiting, key=self._place)
        chosen, self._share = by_lane, 0.0
        if by_lane.lane != by_use.lane:
            chosen, self._share = (by_use, OTHERS - 1) if self._owed > 0 else (by_lane, OTHERS)
        self._used[chosen.app] = self._now = self._time(chosen.app)
        return chosen

    def use(self, chosen: Waiting, seconds: float) -> None:
        """Count the time that what `choose` gave last has taken."""
        self._used[chosen.app] += seconds
        self._owed += self._share * seconds

    def _place(self, each: Waiting) -> tuple[float, int, int, str]:
        return self._time(each.app), LANES.index(each.lane), each.since, each.push_id

    def _time(self, app: str) -> float:
        return max(self._used.get(app, 0.0), self._now - CREDIT)
