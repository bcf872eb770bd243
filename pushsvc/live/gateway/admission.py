"""How many connects a process takes in, and how often one device may come. Pure: the clock is an argument."""

from __future__ import annotations

from ...model.rates import Rate
from ...rules import gcra

REMEMBERED = 65_536
"""Devices whose last calls are remembered; those that came last the longest time ago are forgotten first."""


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


class Turns:
    """A small bucket for each device, so that one that comes again and again takes no turn of another."""

    def __init__(self, rate: Rate, burst: int) -> None:
        """Let each device come at `rate`, and `burst` times at once."""
        self._interval = gcra.interval_of(rate)
        self._burst = burst
        self._tats: dict[tuple[str, str], int] = {}

    def admit(self, device: tuple[str, str], now: float) -> bool:
        """Return whether it is the turn of a device. `now` is in seconds."""
        tat = self._tats.pop(device, 0)
        decision = gcra.admit(tat, int(now * gcra.US), interval=self._interval, burst=self._burst)
        self._tats[device] = decision.tat
        if len(self._tats) > REMEMBERED:
            del self._tats[next(iter(self._tats))]
        return not decision.wait
