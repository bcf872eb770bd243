"""The clock of the store: Unix milliseconds by Redis' own clock, so that all parts on all machines go by one.

`ttl`, `send_at` and retries are instants that one process writes and another one compares with its now. By the clocks
of their machines a serve that is slow would have its pushes expire unsent, and a dispatcher that is fast would send
what is scheduled too early. So each process measures how far Redis' clock is from its own steady one, which nobody
sets, and goes by that; a wall clock that is wrong, or jumps, changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from ..errors import StoreError

Clock: TypeAlias = Callable[[], int]

LOOK: Final = 5.0
"""Seconds between two looks at Redis' clock: after a machine slept, or another primary took over."""
SLOW: Final = 0.05
"""Seconds. An answer that took longer says little of the time, and counts only where it says that we are far off."""


def wall_clock() -> int:
    """This machine's."""
    return time.time_ns() // 1_000_000


class StoreClock:
    """Redis' clock, as last measured. Before the first measurement it is this machine's."""

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._offset = time.time() - steady()

    def __call__(self) -> int:
        """Unix milliseconds."""
        return int((self._steady() + self._offset) * 1000)

    def seconds(self) -> float:
        """Unix seconds."""
        return self._steady() + self._offset

    def learn(self, told: float, asked: float, answered: float) -> None:
        """Redis said `told`, in Unix seconds, at some time between these two of the steady clock."""
        offset = told - (asked + answered) / 2
        doubt = (answered - asked) / 2
        if doubt <= SLOW or abs(offset - self._offset) > doubt:
            self._offset = offset

    async def measure(self, ask: Callable[[str], Awaitable[Any]]) -> None:
        """Ask Redis for its time. Raises what `ask` raises."""
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
