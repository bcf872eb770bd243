"""Preemption within a process: what arrives in a trickle overtakes what arrives in a flood. Pure: no clock, no I/O.

All routes of a process share its event loop, its core and its Redis, so a flood on one route delays a trickle on every
other. While a trickle flows, the floods that it overtakes are sent with the lean window (`congestion.py`): those of
the lanes below its own, and those of other routes in its own lane.
"""

from __future__ import annotations

from typing import Final

from ...model.push import LANES, Lane, Route

TRICKLE: Final = 64
"""The maximum number of targets in a lane of a route for which what was read into it counts as a trickle."""

SPAN: Final = 1.0
"""Seconds for which a trickle continues after it was last seen."""

_NEVER: Final = float("-inf")


class Preemption:
    """The trickles of one process. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._latest: dict[Lane, tuple[Route | None, float]] = dict.fromkeys(LANES, (None, _NEVER))
        self._other: dict[Lane, float] = dict.fromkeys(LANES, _NEVER)
        """The latest of any other route than the one that is `_latest`."""

    def note(self, route: Route, lane: Lane, now: float) -> None:
        before, at = self._latest[lane]
        if before != route:
            self._other[lane] = at
        self._latest[lane] = (route, now)

    def overtaken(self, route: Route, now: float) -> tuple[Lane, ...]:
        """Return the route's lanes that others overtake now: from one of `LANES` on, all below it."""
        since = now - SPAN
        for place, lane in enumerate(LANES):
            latest, at = self._latest[lane]
            if at < since:
                continue
            if latest != route or self._other[lane] >= since:
                return LANES[place:]
            return LANES[place + 1 :]
        return ()
