"""The configuration of a dispatcher."""

from __future__ import annotations

from msgspec import Struct

from ...rules.policy import RetryPolicy


class DispatchConfig(Struct, frozen=True):
    """The configuration of a dispatcher. Spans are in seconds."""

    retry: RetryPolicy = RetryPolicy()
    prefetch: int = 2000
    """The maximum number of targets that a lane holds in memory, plus at most one entry."""
    read_wait: float = 2.0
    promote_every: float = 0.2
    """Seconds between two looks at what a route has in memory, and at the retries that are due; without any, there is
    one look each time that the store is asked. While more are due than one step promotes, steps follow each other."""
    launch_every: float = 0.2
    """Seconds between two looks at the scheduled pushes that are due, and so roughly their maximum delay. While
    more are due than one step launches, steps follow each other."""
    ask_every: float = 1.0
    """Seconds between two questions for what is due while nothing is known to be: a retry that another process has
    written, or a push that was scheduled for less than this, may be as late."""
    reclaim_every: float = 5.0
    lapse_every: float = 1.0
    """Seconds between two checks for expired deliveries in Redis while nothing is sent and memory is full."""
    beat_every: float = 4.0
    takeover: float = 15.0
    """Seconds for which a sign of life is valid. Without a newer one nothing is submitted."""
    drain_timeout: float = 25.0
