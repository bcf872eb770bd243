"""What this process has learned of the intervals that devices and their networks can hold."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ..protocol.heartbeat import NOTHING, Bounds, Learned, agree, ended

MOST: Final = 65_536
"""Devices that are remembered; the one that was not seen for the longest time is forgotten first."""


class Heartbeats:
    """The learned intervals by device. A device that is forgotten starts from nothing."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._learned: OrderedDict[tuple[str, str], Learned] = OrderedDict()

    def agree(self, device: tuple[str, str], requested: float | None, *, foreground: bool | None) -> float:
        """Return the interval in seconds that a device gets."""
        return agree(self._bounds, self._learned.get(device, NOTHING), requested, foreground)

    def ended(self, device: tuple[str, str], agreed: float, lived: float, *, clean: bool) -> None:
        """Learn from the end of a connection that `lived` for some seconds with the `agreed` interval."""
        learned = self._learned.pop(device, NOTHING)
        learned = ended(self._bounds, learned, agreed, lived, clean=clean)
        if learned != NOTHING:
            self._learned[device] = learned
            while len(self._learned) > MOST:
                self._learned.popitem(last=False)
