"""The switches of a simulated platform, which affect every request. Pure; clocks are arguments."""

from __future__ import annotations

from typing import Literal, TypeAlias

Interference: TypeAlias = Literal["unavailable", "refused", "throttled"]


class Bucket:
    """A token bucket: `rate` requests a second, and bursts of up to `burst`."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._level, self._at = burst, now

    def take(self, now: float) -> bool:
        """Return whether one more request is within the rate."""
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True


class Switches:
    """The switches, all off at first."""

    def __init__(self, latency: float = 0.0) -> None:
        self.latency = latency
        """The delay of every answer in seconds."""
        self.stalled = False
        self.credentials_refused = False
        self.token_endpoint_refuses = False
        """Whether no access tokens are issued, where the platform has an endpoint for them."""
        self.retry_after: int | None = None
        """The Retry-After, in seconds, of 503 and 429 answers."""
        self._unavailable_until = 0.0
        self._rate = 0.0
        self._burst = 0.0
        self._buckets: dict[bytes, Bucket] = {}

    def unavailable(self, until: float) -> None:
        """Answer 503 to everything until that instant."""
        self._unavailable_until = until

    def throttle(self, rate: float, burst: float) -> None:
        """Answer 429 beyond `rate` requests a second for each app or project; 0: no limit."""
        self._rate, self._burst = rate, max(burst, 1.0)
        self._buckets.clear()

    def calm(self) -> None:
        """Switch everything off, except the latency."""
        self.stalled = self.credentials_refused = self.token_endpoint_refuses = False
        self.retry_after = None
        self._unavailable_until = self._rate = 0.0

    def interfere(self, key: bytes, now: float) -> Interference | None:
        """Return how the switches affect a request of this app or project now, or None."""
        if self._unavailable_until:
            if now < self._unavailable_until:
                return "unavailable"
            self.unavailable(0.0)
        if self.credentials_refused:
            return "refused"
        if self._rate:
            bucket = self._buckets.get(key)
            if bucket is None:
                bucket = self._buckets[key] = Bucket(self._rate, self._burst, now)
            if not bucket.take(now):
                return "throttled"
        return None
