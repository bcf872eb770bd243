"""How many connects a process takes in. Pure: the clock is an argument."""

from __future__ import annotations

from ...model.rates import Rate


class Admission:
    """A bucket of connects that fills at a rate, and holds one second of it."""

    def __init__(self, rate: Rate | None) -> None:
        """Fill at `rate`; without one, admit everything."""
        self._each = 0.0 if rate is None else 1 / rate.per_second
        self._full_at = 0.0

    def admit(self, now: float) -> bool:
        """Consume one permit if there is one."""
        full_at = max(now, self._full_at) + self._each
        if full_at - now > max(1.0, self._each):
            return False
        self._full_at = full_at
        return True
