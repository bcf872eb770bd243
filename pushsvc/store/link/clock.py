"""The clock of the store: Unix milliseconds by the clock of Redis, so that all processes on all machines use the same.

`ttl`, `send_at` and retries are times that one process writes and another compares with its now. With the clocks of
the machines, pushes of a slow `serve` would expire unsent, and a fast dispatcher would send scheduled pushes too
early. So each process measures the offset between the clock of Redis and a clock of its own that is never set, and
that counts suspensions of the machine: otherwise what has expired meanwhile would be sent until the next measurement. A
wall clock that is wrong, or jumps, has no effect.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from ...background import boot_clock, pulse
from ...errors import StoreError

Clock: TypeAlias = Callable[[], int]

LOOK: Final = 5.0
"""Seconds between two looks at Redis' clock: after a machine slept, or another primary took over."""
DRIFT: Final = 1e-4
"""The maximum drift of two clocks in seconds per second: a measurement loses this much precision as it ages."""
ASKED: Final = 3
"""The number of questions of a measurement. The fastest answer is the most precise."""


def wall_clock() -> int:
    """Return the time of this machine in Unix milliseconds."""
    return time.time_ns() // 1_000_000


class StoreClock:
    """Redis' clock, as last measured. Before the first measurement it is this machine's."""

    def __init__(self, steady: Callable[[], float] = boot_clock) -> None:
        self._steady = steady
        self._offset = time.time() - steady()
        self._doubt = math.inf
        """The possible error of the offset in seconds, as of `_learned_at`."""
        self._learned_at = 0.0

    def __call__(self) -> int:
        """Return the time in Unix milliseconds."""
        return int((self._steady() + self._offset) * 1000)

    def seconds(self) -> float:
        """Return the time in Unix seconds."""
        return self._steady() + self._offset

    def learn(self, shown: float, asked: float, answered: float) -> None:
        """Record that the clock of Redis showed `shown` (Unix seconds) at some time between `asked` and `answered`.

        The latter are times of the steady clock. A slow answer is imprecise. It is used only if it is more precise
        than what is known already, or contradicts it.
        """
        offset = shown - (asked + answered) / 2
        doubt = (answered - asked) / 2
        known = self._doubt + DRIFT * (answered - self._learned_at)
        if doubt <= known or abs(offset - self._offset) > doubt + known:
            self._offset, self._doubt, self._learned_at = offset, doubt, answered

    async def measure(self, ask: Callable[[str], Awaitable[Any]]) -> None:
        """Ask Redis for its time. Raises what `ask` raises."""
        for _ in range(ASKED):
            asked = self._steady()
            seconds, micros = await ask("TIME")
            self.learn(int(seconds) + int(micros) / 1_000_000, asked, self._steady())

    async def keep(self, ask: Callable[[str], Awaitable[Any]]) -> None:
        """Measure every few seconds until cancelled. While Redis is away, the last measurement is used."""
        while True:
            await pulse(LOOK)
            try:
                await self.measure(ask)
            except StoreError:
                continue
