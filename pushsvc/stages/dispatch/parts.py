"""Parts of a route that are refused while the rest of it works: FCM's credential for Apple, APNs' broadcasts.

Whether a delivery belongs to such a part is unknown before it is sent, so the first request of each is sent. Those
that were refused for it carry the part's name (`Chunk.part`) and wait in Redis; when they are due, one of them is sent
as a probe and the others wait again, without costing an attempt, until a probe passes. Pure: the clock is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

FIRST_PROBE: Final = 1.0
LAST_PROBE: Final = 30.0
PROBE_LIFE: Final = 60.0
"""Seconds after which an unanswered probe no longer counts."""


class _Part(Struct):
    reason: str
    probe_at: float
    delay: float = FIRST_PROBE
    probing_until: float = 0.0


class Parts:
    """The parts of one route that are in trouble. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._held: dict[str, _Part] = {}
        self.passed_at: dict[str, float] = {}
        """Parts that were not refused when they were tried last, and when: what still carries their name may go."""

    def __bool__(self) -> bool:
        return bool(self._held)

    @property
    def held(self) -> Mapping[str, str]:
        """The refused parts, with the provider's reason."""
        return {name: part.reason for name, part in self._held.items() if part.reason}

    def refused(self, name: str, reason: str, now: float, *, probe: bool) -> None:
        self.passed_at.pop(name, None)
        part = self._held.get(name)
        if part is None:
            self._held[name] = _Part(reason, now + FIRST_PROBE)
            return
        part.reason = reason
        if probe:
            part.probing_until = 0.0
            part.delay = min(LAST_PROBE, part.delay * 2)
            part.probe_at = now + part.delay

    def passed(self, name: str, now: float) -> None:
        """Record that a probe was not refused for its part: the part works."""
        self._held.pop(name, None)
        self.passed_at[name] = now

    def unjudged(self, name: str) -> None:
        """Record that a probe returned without evidence about its part: another one may be sent."""
        if (part := self._held.get(name)) is not None:
            part.probing_until = 0.0

    def admits(self, name: str, now: float) -> int | None:
        """Return how many deliveries of this part may be sent now: 1 for a probe, 0, or None if it is not held."""
        if name in self.passed_at:
            return None
        # A process that has just started does not know yet, and asks by one delivery.
        part = self._held.setdefault(name, _Part("", now))
        if now < part.probe_at or now < part.probing_until:
            return 0
        part.probing_until = now + PROBE_LIFE
        return 1
