"""Chooses the audience to expand next: urgent ones first, apps by the time they have used, first come first served
within an app and lane.

Apps share time rather than a number of choices: one choice may be a check of one device or a slice of a walk over a
million, and an app with short work must not wait for the long work of another between any two of its own.

Pure except for its memory. Each process has its own; several processes take what the others have not, so that the order
holds for all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...model.push import LANES
from ...ports.expansion import Waiting

OTHERS: Final = 0.25
"""The share of time that is given by the apps' use alone, whatever the lane, while a more urgent lane has more to do
than there is time: endless urgent pushes must not keep all others from beginning."""
CREDIT: Final = 1.0
"""The maximum number of seconds that an app is ahead of the others when it asks for something after a pause."""


class FairQueue:
    """Chooses among what waits, and counts the time that each app uses. Start-time fair queueing (Goyal, Vin and Cheng,
    SIGCOMM 1996) with one weight for all."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        """Each app's time, in seconds of the common clock `_now`."""
        self._now = 0.0
        """The time of the app that was chosen last."""
        self._owed = 0.0
        """Seconds that are owed to the apps that a more urgent lane has overtaken."""
        self._share = 0.0
        """What a second of the last choice adds to `_owed`."""

    def choose(self, waiting: Sequence[Waiting]) -> Waiting:
        """Return the next audience. Raises `ValueError` where none waits."""
        by_lane = min(waiting, key=lambda each: (LANES.index(each.lane), *self._place(each)))
        by_use = min(waiting, key=self._place)
        chosen, self._share = by_lane, 0.0
        if by_lane.lane != by_use.lane:
            chosen, self._share = (by_use, OTHERS - 1) if self._owed > 0 else (by_lane, OTHERS)
        self._used[chosen.app] = self._now = self._time(chosen.app)
        return chosen

    def use(self, chosen: Waiting, seconds: float) -> None:
        """Count the time that the last choice has taken."""
        self._used[chosen.app] += seconds
        self._owed += self._share * seconds

    def _place(self, each: Waiting) -> tuple[float, int, int, str]:
        return self._time(each.app), LANES.index(each.lane), each.since, each.push_id

    def _time(self, app: str) -> float:
        return max(self._used.get(app, 0.0), self._now - CREDIT)
