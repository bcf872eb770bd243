"""How much of a route's window is worth filling: a provider that is given more than it can do at once makes a queue of
it, and an urgent push waits there behind everything that was sent before.

A round is a tenth of a second or more. Where its answers took much longer than the quickest of late, there is a queue
somewhere on the way, and the next round tries with less in flight. If fewer answers come of it, the window was needed
after all: it is restored, and tried again later. So a provider that is merely far away keeps its whole window, and one
that is at its limit is kept busy with as little as it takes. Only what is not urgent is bound by it.

The idea is that of delay-based congestion control: LEDBAT, https://www.rfc-editor.org/rfc/rfc6817, and BBR,
https://datatracker.ietf.org/doc/draft-ietf-ccwg-bbr/. Pure: the clock is an argument.
"""

from __future__ import annotations

from typing import Final

ROUND: Final = 0.1
"""Seconds of a round at least. Answers come in bursts, and a shorter count of them would be chance."""
STRETCH: Final = 2.0
SLACK: Final = 0.002
"""There is a queue when answers take `STRETCH` times the quickest and `SLACK` seconds more."""
LESS: Final = 0.8
MORE: Final = 1.25
KEPT: Final = 0.95
"""The share of the best rate of late that a smaller window must keep."""
FADE: Final = 0.98
"""What a round leaves of the best rate: it is forgotten within seconds where it cannot be had again."""
LEAST: Final = 64
FULL: Final = 0.9
"""Only a window that was filled so far, in this round and the one before, says something about the provider."""
MEMORY: Final = 600.0
"""Seconds, once or twice over, for which the quickest answer is remembered. So long, because in a queue that stands
there is no quick answer; one that is out of date only brings about trials that fail."""
REST: Final = (0.5, 30.0)
"""Seconds without another trial after one that failed: the first, doubled with each up to the second."""
UNBOUND: Final = 1 << 30


class Congestion:
    """One route's measure of what may be in flight. Times are seconds of one monotonic clock."""

    __slots__ = (
        "_before",
        "_best",
        "_count",
        "_full",
        "_passing",
        "_quickest",
        "_quickest_before",
        "_remembered_at",
        "_rest",
        "_rest_until",
        "_round_at",
        "_sum",
        "_used",
        "limit",
    )

    def __init__(self, now: float) -> None:
        self.limit = UNBOUND
        """How many deliveries may be in flight before something that is not urgent must wait."""
        self._round_at = now
        self._count = 0
        self._sum = 0.0
        self._used = 0
        self._best = 0.0
        self._before = 0
        self._passing = False
        self._full = False
        self._rest, self._rest_until = REST[0], now
        self._quickest = self._quickest_before = float("inf")
        self._remembered_at = now

    def answered(self, seconds: float, in_flight: int, now: float) -> None:
        """An answer came, `seconds` after its delivery was submitted; `in_flight` others are still under way."""
        self._count += 1
        self._sum += seconds
        if seconds < self._quickest:
            self._quickest = seconds
        if in_flight > self._used:
            self._used = in_flight
        if now - self._round_at >= ROUND:
            self._close(now)

    def _close(self, now: float) -> None:
        """Judge the round. It lasts until the answers of what it sent are in, so twice what an answer takes."""
        mean = self._sum / self._count
        span = now - self._round_at
        if span < 2 * mean:
            return
        rate = self._count / span
        full = self._used >= (LEAST if self.limit == UNBOUND else FULL * self.limit)
        if full and self._full:
            self._judge(mean, rate, now)
        self._full = full
        self._best *= FADE
        if now - self._remembered_at >= MEMORY:
            self._quickest_before, self._quickest, self._remembered_at = self._quickest, float("inf"), now
        self._round_at, self._count, self._sum, self._used = now, 0, 0.0, 0

    def _judge(self, mean: float, rate: float, now: float) -> None:
        if self._passing:
            # Half of these answers belong to what was sent before the trial began.
            self._passing = False
            return
        if self._before:
            before, self._before = self._before, 0
            if rate < KEPT * self._best:
                # What was enough before may be too little as well.
                self.limit = min(UNBOUND, int(before * MORE))
                self._rest_until = now + self._rest
                self._rest = min(REST[1], self._rest * 2)
                return
            self._rest = REST[0]
        self._best = max(self._best, rate)
        quickest = min(self._quickest, self._quickest_before)
        queued = mean > STRETCH * quickest + SLACK
        if queued and now >= self._rest_until:
            smaller = max(LEAST, int(min(self.limit, self._used) * LESS))
            if smaller < self.limit:
                self._before, self.limit, self._passing = self.limit, smaller, True
        elif not queued and self.limit < UNBOUND:
            self.limit = int(self.limit * MORE)
