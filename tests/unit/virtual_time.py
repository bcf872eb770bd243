"""An event loop whose clock jumps: where everything waits, time passes at once to the next timer.

Back-offs of minutes and bounds of half a minute are tested in milliseconds, and exactly. For code without real I/O:
where nothing but the outside world could go on, the loop says so instead of waiting for ever.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

TURN = 1e-12
"""Seconds that a turn of the loop takes. A clock that stood still while the loop works would let a timer that the loop
takes slightly too early, within its resolution, run forever."""


class _Selector(selectors.DefaultSelector):
    """Never waits: moves the clock by as much as the loop would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everything waits, and for nothing that could come")
            self.now += max(timeout, TURN, math.ulp(self.now))
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` begins at 0."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def pause(self, seconds: float) -> None:
        """Let time pass in which the process is stopped: afterwards all that was due by then is due at once."""
        self._virtual.now += seconds


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


async def until(reached: Callable[[], Any], seconds: float = 600.0) -> None:
    """Let time pass, in the steps of `pace`, until something is so. Raises when it never is."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not reached():
        if loop.time() > began + seconds:
            raise AssertionError(f"still not so after {seconds:.0f} virtual seconds")
        await asyncio.sleep(pace(began))


def pace(began: float) -> float:
    """Return the time to the next look at what was awaited first at `began`: ten milliseconds for a minute, and later a
    hundredth of what has passed since, so that hours do not take a million looks."""
    return max(0.01, (asyncio.get_running_loop().time() - began - 60.0) / 100)
