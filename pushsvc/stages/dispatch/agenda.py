"""When Redis is asked for what is due: at the time that is known, and every second for what others have written."""

from __future__ import annotations

from math import inf


class Agenda:
    """The next time to ask: at each multiple of `every` seconds, and when something is due. Pure, with both clocks as
    arguments."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._due = inf
        self._ask_at = -inf

    def note(self, due: int | None) -> None:
        """Ask at this time (Unix ms) at the latest. None says that nothing is known to be due."""
        if due is not None:
            self._due = min(self._due, due)

    def take(self, now: int, at: float) -> bool:
        """Return whether to ask now: something is due at `now` (Unix ms), or the last question is old at `at`, in
        seconds of a clock that is never set back. What was noted is forgotten: the answer says what comes next."""
        if now < self._due and at < self._ask_at:
            return False
        self._due, self._ask_at = inf, (at // self._every + 1) * self._every
        return True

    def left(self, now: int) -> float:
        """Return the seconds until something is due that is known at `now`; infinite without such a thing."""
        return max(0.0, self._due - now) / 1000
