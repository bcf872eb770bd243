"""How a dispatcher works."""

from __future__ import annotations

from msgspec import Struct

from ...rules.policy import RetryPolicy


class DispatchConfig(Struct, frozen=True):
    """How a dispatcher works. Spans in seconds."""

    retry: RetryPolicy = RetryPolicy()
    prefetch: int = 2000
    """Targets a lane holds in memory at most, give or take one entry."""
    read_wait: float = 2.0
    promote_every: float = 0.2
    launch_every: float = 0.2
    """A scheduled push leaves at most about so much after its time."""
    reclaim_every: float = 5.0
    lapse_every: float = 1.0
    """While nothing goes and memory is full, between two looks for what has expired behind that."""
    beat_every: float = 4.0
    takeover: float = 15.0
    """How long a sign of life is good for: without a newer one nothing is submitted."""
    drain_timeout: float = 25.0
