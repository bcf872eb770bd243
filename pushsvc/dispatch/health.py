"""Whether a route may send: a small state machine, with the clock as an argument.

    open --(Misconfigured)--> held --(probe is answered otherwise)--> open
                              ^   |
                              +---+ (probe: Misconfigured again; the next probe waits twice as long)

While held, one delivery at a time is let through as a probe; the rest waits in Redis and in the lanes.
"""

from __future__ import annotations

from typing import Literal

from ..model import Misconfigured, Outcome, Throttled, Unavailable

FIRST_PROBE = 1.0
LAST_PROBE = 30.0
UNBOUNDED = 1 << 30


class RouteHealth:
    """The state of one route. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.held_for: str = ""
        """The provider's reason, or the empty string while the route is open."""
        self.probe_at = 0.0
        self._delay = FIRST_PROBE
        self._probing = False

    def allowance(self, now: float) -> int:
        """How many deliveries may go now: no bound while open; one probe, or none, while held."""
        if not self.held_for:
            return UNBOUNDED
        return 1 if not self._probing and now >= self.probe_at else 0

    def begin_probe(self) -> bool:
        """Say that a delivery goes out; True when it is the probe of a held route."""
        if self.held_for:
            self._probing = True
        return self._probing

    def observe(self, outcome: Outcome, *, probe: bool, now: float) -> Literal["held", "resumed"] | None:
        """Take an outcome into account; tells a change of state."""
        if isinstance(outcome, Misconfigured):
            return self._refuse(outcome.reason, probe, now)
        if not probe:
            return None
        self._probing = False
        if isinstance(outcome, Unavailable | Throttled):
            # It says nothing about the credentials.
            self.probe_at = now + self._delay
            return None
        self.held_for = ""
        self._delay = FIRST_PROBE
        return "resumed"

    def probe_now(self) -> None:
        """Somebody mended something: do not wait for the next probe."""
        self.probe_at = 0.0
        self._delay = FIRST_PROBE

    def _refuse(self, reason: str, probe: bool, now: float) -> Literal["held"] | None:
        if probe:
            self._probing = False
            self._delay = min(LAST_PROBE, self._delay * 2)
            self.probe_at = now + self._delay
            self.held_for = reason
            return None
        if self.held_for:
            return None  # It was in flight when the route was held.
        self.held_for = reason
        self.probe_at = now + self._delay
        return "held"
