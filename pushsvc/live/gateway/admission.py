"""How many connects a process takes in. Pure: the clock is an argument."""

from __future__ import annotations

from ...model.rates import Rate
from ...rules import gcra


class Admission:
    """A bucket of connects that fills at a rate, and holds one second of it."""

    def __init__(self, rate: Rate | None) -> None:
        """Fill at `rate`; without one, admit everything."""
        self._rate = rate
        self._tat = 0

    def admit(self, now: float) -> bool:
        """Consume one permit if there is one. `now` is in seconds."""
        rate = self._rate
        if rate is None:
            return True
        burst = max(1, int(rate.per_second))
        decision = gcra.admit(self._tat, int(now * gcra.US), interval=gcra.interval_of(rate), burst=burst)
        self._tat = decision.tat
        return not decision.wait
