"""The generic cell rate algorithm: a token bucket that is stored as one number. Pure, with the clock as an argument.

The number is the *theoretical arrival time* (TAT): when the next push would arrive if all were evenly spaced. Each
push advances it by one interval; a push is admitted while the TAT is at most `burst - 1` intervals ahead of the clock.
So within `t` seconds at most `rate * t + burst` are admitted, and a TAT in the past is the same as none: a sender
below its rate needs no state.

`store/limits/limiter.lua` and `store/limits/lease.lua` do the same on the server, for many at once; tests compare
them.

Instants and intervals are whole microseconds. Source: ITU-T I.371 (https://www.itu.int/rec/T-REC-I.371), the virtual
scheduling form; https://brandur.org/rate-limiting is a short introduction.
"""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct

from ..model.rates import Rate

US: Final = 1_000_000

FLOOR: Final = 0.05
"""The share of its rate at which a ramp begins."""


def interval_of(rate: Rate) -> int:
    """Return the microseconds between two pushes at the rate, rounded up, so that it is never exceeded."""
    return max(1, -(-rate.seconds * US // rate.count))


class Decision(Struct, frozen=True):
    """The answer to one push: with `wait` 0 it may go now and is counted; otherwise it must wait that number of
    microseconds. `tat` is the bucket's new theoretical arrival time."""

    tat: int
    wait: int


def admit(tat: int, now: int, *, interval: int, burst: int) -> Decision:
    """Return the decision on one push of a sender with this TAT (0: none)."""
    span = interval * burst
    tat = min(max(tat, now), now + span)  # The server's clock may have been put back.
    earliest = tat + interval - span
    return Decision(tat + interval, 0) if earliest <= now else Decision(tat, earliest - now)


class Level(Struct, frozen=True):
    """The state of a bucket from which permits are leased."""

    tat: int = 0
    at: int = 0
    """The time of the last lease."""
    share: float = FLOOR
    """The part of its rate that it gives at present, where it ramps up."""


class Leased(Struct, frozen=True):
    level: Level
    granted: int
    wait: int
    """The time until `least` permits are available, if none were granted."""


def span_of(interval: int, rate: Rate, burst: float) -> int:
    """Return how far a TAT may be ahead so that `burst` seconds of the rate may be used at once: whole permits, at
    least one."""
    return interval * max(1, int(burst * rate.count / rate.seconds + 1e-9))


def lease(level: Level, now: int, wanted: int, *, interval: int, span: int, ramp: int, least: int = 1) -> Leased:
    """Take up to `wanted` permits at once, or none if fewer than `least` are available. A negative number returns
    permits.

    `span` is how far the TAT may be ahead; `ramp` 0 allows the whole rate at once.

    While ramping, a permit costs `interval / share`. Time in which the bucket was used up raises the share, over
    `ramp` from zero to one; idle time lowers it likewise. So the share follows the actual rate.
    """
    share = 1.0
    if ramp:
        passed = max(0, now - level.at)
        busy = min(passed, max(0, level.tat - level.at))
        share = min(1.0, max(FLOOR, level.share + (2 * busy - passed) / ramp))
    cost = math.ceil(interval / share)
    span = max(span, cost)
    tat = min(max(level.tat, now), now + span)
    granted = min(wanted, (now + span - tat) // cost)
    wait = 0
    if wanted < 0:
        granted = wanted
    elif granted < least:
        granted, wait = 0, tat + least * cost - span - now
    return Leased(Level(tat + granted * cost, now, share), granted, wait)
