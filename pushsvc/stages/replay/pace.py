"""When the next step of a replay with a rate is due. Pure."""

from __future__ import annotations

from typing import Final

BEHIND: Final = 1000
"""Milliseconds that a replay with a rate may make up for."""


class Pace:
    """Computes when the next step of a replay with a given rate a second is due. Instants in Unix ms.

    Reckoned from when the step was due, not from when somebody came to take it, so that the rate is kept although
    nobody waits beside it; a step that comes more than `BEHIND` late is no reason to hurry for longer than that.
    """

    def __init__(self, rate: float, due: int) -> None:
        self._rate = rate
        self._due = due

    def after(self, moved: int, now: int) -> int:
        """Return when the next step is due, after one at `now` that has moved this number."""
        self._due = max(self._due, now - BEHIND) + int(moved / self._rate * 1000)
        return self._due
