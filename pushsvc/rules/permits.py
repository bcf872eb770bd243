"""Permits of a bucket that all processes share, leased a little ahead of need. Pure but for what it counts."""

from __future__ import annotations

from typing import Final

from ..model.rates import Rate

SLOT: Final = 0.05
"""Seconds of the rate that are leased at once, so that permits are used evenly."""

PERMIT_LIFE: Final = 1.0
"""Seconds after which permits that were not used are forgotten, so that they are not hoarded over a stall."""


class Permits:
    """The permits that this process has in hand. Instants are monotonic, in seconds."""

    def __init__(self, rate: Rate, *, most: int | None = None) -> None:
        """Start without permits. `most` limits one lease."""
        slot = max(1, int(rate.per_second * SLOT))
        self.slot = slot if most is None else min(most, slot)
        """How many are leased at once, unless more are needed."""
        self._count = 0
        self._until = 0.0

    def left(self, now: float) -> int:
        if now >= self._until:
            self._count = 0
        return self._count

    def spend(self, count: int) -> None:
        self._count -= count

    def grant(self, count: int, asked: float) -> None:
        """Add `count` permits that were asked for at that instant: the server counted them at some time after it."""
        self._count = self.left(asked) + count
        self._until = asked + PERMIT_LIFE
