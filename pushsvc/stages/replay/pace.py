"""The pace of a replay with a rate. Pure."""

from __future__ import annotations

from typing import Final

BEHIND: Final = 1000
"""Milliseconds that a replay with a rate may make up for."""


class Pace:
    """Computes when the next step of a replay with a given rate a second is due. Instants in Unix ms.

    It counts from the time at which the step was due, not from its start, so that the rate is kept although no task
    waits for it. A step that is more than `BEHIND` late is made up for only by that much.
    """

    def __init__(self, rate: float, due: int) -> None:
        self._rate = rate
        self._due = due

    def after(self, moved: int, now: int) -> int:
        """Return when the next step is due, after one at `now` that has moved this number."""
        self._due = max(self._due, now - BEHIND) + int(moved / self._rate * 1000)
        return self._due
