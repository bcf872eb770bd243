"""The clock of the store: Unix milliseconds by Redis' own clock, so that all parts on all machines go by one.

`ttl`, `send_at` and retries are instants that one process writes and another one compares with its now. By the clocks
of their machines a serve that is slow would have its pushes expire unsent, and a dispatcher that is fast would send
what is scheduled too early. So each process measures how far Redis' clock is from its own steady one, which nobody
sets, and goes by that; a wall clock that is wrong, or jumps, changes nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from ...errors import StoreError

Clock: TypeAlias = Callable[[], int]

LOOK: Final = 5.0
"""Seconds between two looks at Redis' clock: after a machine slept, or another primary took over."""
DRIFT: Final = 1e-4
"""Seconds a second by which two clocks may drift apart: a measurement loses as much of its precision as it ages."""
ASKED: Final = 3
"""Questions of one measurement: the quickest answer says the most."""


def wall_clock() -> int:
    """This machine's."""
    return time.time_ns() // 1_000_000


class StoreClock:
    """Redis' clock, as last measured. Before the first measurement it is this machine's."""

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._offset = time.time() - steady()
        self._doubt = math.inf
        """Seconds by which the offset may be wrong, as of `_learned_at`."""
        self._learned_at = 0.0

    def __call__(self) -> int:
        """Unix milliseconds."""
        return int((self._steady() + self._offset) * 1000)

    def seconds(self) -> float:
        """Unix seconds."""
        return self._steady() + self._offset

    def learn(self, told: float, asked: float, answered: float) -> None:
        """Learn that Redis said `told`, in Unix seconds, at some time between these two of the steady clock.

        A slow answer says little of the time. It counts only where it says more than what is known already, or proves
        that this is wrong.
        """
        offset = told - (asked + answered) / 2
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
        """Measure every few seconds until cancelled; while Redis is away the last measurement holds."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self.measure(ask)
            except StoreError:
                continue
