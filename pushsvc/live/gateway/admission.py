"""How many connects a process takes in, and how often one device may come. Pure: the clock is an argument."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ...model.rates import Rate
from ...rules import gcra

REMEMBERED = 65_536
"""Devices whose last calls are remembered; those that came last the longest time ago are forgotten first."""
ENOUGH: Final = 256
"""Connects that wait for Redis while no further connection is accepted: as many as share a round trip. More of them
would not be answered sooner, and take the CPU of what answers them."""
CONNECTING: Final = 1000
"""Connects that may wait for Redis: what comes beyond would be answered later than clients wait."""
STALLED: Final = 0.5
"""Seconds without the end of a connect after which connections are accepted again, to be answered: Redis may be away
for long, and the first clients wait a second for the end of the handshake.

Source: DefaultHandshakeTimeout in https://github.com/centrifugal/centrifuge-go/blob/master/config.go"""


class Connecting:
    """The connects that wait for Redis, and whether there is room for others. Times are in seconds."""

    def __init__(self) -> None:
        self.count = 0
        self._moved = 0.0
        """When the last one ended, or began where there was none before."""

    @property
    def is_full(self) -> bool:
        """Whether a connect is answered that the gateway is busy."""
        return self.count >= CONNECTING

    def begin(self, now: float) -> None:
        """Count a connect that waits from now on."""
        if not self.count:
            self._moved = now
        self.count += 1

    def end(self, now: float) -> None:
        """Forget one that waits no longer."""
        self.count -= 1
        self._moved = now

    def accepts(self, now: float) -> bool:
        """Return whether further connections are accepted. Clients that have not connected yet do not count: silent
        ones would keep the others away."""
        return self.count < ENOUGH or now - self._moved >= STALLED


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
        self._tats: OrderedDict[tuple[str, str], int] = OrderedDict()

    def admit(self, device: tuple[str, str], now: float) -> bool:
        """Return whether it is the turn of a device. `now` is in seconds."""
        tat = self._tats.pop(device, 0)
        decision = gcra.admit(tat, int(now * gcra.US), interval=self._interval, burst=self._burst)
        self._tats[device] = decision.tat
        if len(self._tats) > REMEMBERED:
            self._tats.popitem(last=False)
        return not decision.wait
