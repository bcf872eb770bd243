"""What was counted in the last hours, in steps. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ...model.instants import instant
from ...ports.admin import RateHistory, Series
from ...ports.figures import SLOT


class FlowHistory:
    """The flow in steps of seconds, summed up piece by piece: a day is never in memory slot by slot."""

    def __init__(self, first: int, step: int, points: int) -> None:
        self._first = first
        self._step = step
        self._known = [False] * points
        self._sums: dict[str, list[int]] = {}
        self._levels: dict[str, list[int | None]] = {}

    def add(self, slots: Mapping[int, Mapping[str, int]]) -> None:
        """Add slots, which are later than those before. A level is that of the last slot of a step."""
        points = len(self._known)
        for slot in sorted(slots):
            at = (slot - self._first) * SLOT // self._step
            self._known[at] = True
            for levels in self._levels.values():
                levels[at] = None
            for name, count in slots[slot].items():
                if name in self._sums:
                    self._sums[name][at] += count
                elif name in self._levels:
                    self._levels[name][at] = count
                elif name.startswith("waiting:"):
                    self._levels[name] = [count if step == at else None for step in range(points)]
                elif not name.startswith("took:"):
                    self._sums[name] = [count if step == at else 0 for step in range(points)]

    def document(self) -> RateHistory:
        """Return the steps, with null for those of which nothing is known."""
        series = []
        for name in sorted((*self._sums, *self._levels)):
            kind, _, rest = name.partition(":")
            if name in self._levels:
                values = self._levels[name]
            else:
                values = [count if known else None for count, known in zip(self._sums[name], self._known, strict=True)]
            platform, _, outcome = rest.partition(":")
            if kind == "ended":
                series.append(Series(outcome, platform, "", values))
            else:
                series.append(Series(kind, "", rest, values))
        return RateHistory(instant(self._first * SLOT * 1000), self._step, len(self._known), series)
