"""How much of a route's window is worth filling: a provider that is given more than it can do at once makes a queue of
it, and an urgent push waits there behind everything that was sent before.

A round is a tenth of a second or more. Where its answers took much longer than the quickest of late, there is a queue
somewhere on the way, and the next round tries with less in flight. If fewer answers come of it, the window was needed
after all: it is restored, and tried again later. So a provider that is merely far away keeps its whole window, and one
that is at its limit is kept busy with as little as it takes. Only what is not urgent is bound by it.

Two windows are kept. The calm one must not cost any speed. The lean one is for what others overtake, while they do
(`haste.py`): it also shrinks where a part of the speed goes with it, up to half, as long as more is saved in waiting.
A machine that is busy to its last core is a queue too, in front of every process; only less work makes it shorter.

The idea is that of delay-based congestion control: LEDBAT, https://www.rfc-editor.org/rfc/rfc6817, and BBR,
https://datatracker.ietf.org/doc/draft-ietf-ccwg-bbr/. Pure: the clock is an argument.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

ROUND: Final = 0.1
"""Seconds of a round at least. Answers come in bursts, and a shorter count of them would be chance."""
MORE: Final = 1.25
FULL: Final = 0.9
"""Only a window that was filled so far, in this round and the one before, says something about the provider."""
MEMORY: Final = 600.0
"""Seconds, once or twice over, for which the quickest answer is remembered. So long, because in a queue that stands
there is no quick answer; one that is out of date only brings about trials that fail."""
REST: Final = (0.5, 30.0)
"""Seconds without another trial after one that failed: the first, doubled with each up to the second."""
FLOOR: Final = 0.5
"""The share of the calm window's rate that a trial of the lean one must keep, however many there were before it."""
UNBOUND: Final = 1 << 30


class Tuning(Struct, frozen=True):
    """How a window is sought."""

    stretch: float
    slack: float
    """There is a queue when answers take `stretch` times the quickest and `slack` seconds more."""
    less: float
    """What a trial leaves of the window."""
    kept: float | None
    """The share of the rate that a trial must keep. None: half-way between all of it and what would be left if the
    window had been needed whole."""
    fade: float
    """What a round leaves of the best rate, which is the one to be kept: it is forgotten within seconds where it cannot
    be had again. 0: only the rate just before the trial counts."""
    least: int


CALM: Final = Tuning(stretch=2.0, slack=0.002, less=0.8, kept=0.95, fade=0.98, least=64)
LEAN: Final = Tuning(stretch=1.5, slack=0.0005, less=0.4, kept=None, fade=0.0, least=32)


class Round(Struct, frozen=True):
    """What was seen while the window was full."""

    rate: float
    """Answers a second."""
    used: int
    """The most that was in flight."""
    mean: float
    """Seconds that an answer took."""


class Quickest:
    """The quickest answer of late, in seconds."""

    __slots__ = ("_before", "_now", "_remembered_at")

    def __init__(self, now: float) -> None:
        self._before = self._now = float("inf")
        self._remembered_at = now

    def see(self, seconds: float) -> None:
        if seconds < self._now:
            self._now = seconds

    def get(self, now: float) -> float:
        """Infinite where there was none."""
        if now - self._remembered_at >= MEMORY:
            self._before, self._now, self._remembered_at = self._now, float("inf"), now
        return min(self._before, self._now)


class Window:
    """One search. `limit` is how many deliveries may be in flight before something must wait."""

    __slots__ = (
        "_before",
        "_best",
        "_count",
        "_floor",
        "_from",
        "_full",
        "_passing",
        "_quickest",
        "_rest",
        "_rest_until",
        "_round_at",
        "_sum",
        "_tuning",
        "_used",
        "last",
        "limit",
    )

    def __init__(self, tuning: Tuning, quickest: Quickest, now: float) -> None:
        self.limit = UNBOUND
        self.last: Round | None = None
        """The latest full one, of any time."""
        self._tuning = tuning
        self._quickest = quickest
        self._best = 0.0
        self._before = self._from = 0
        self._floor = 0.0
        self._rest, self._rest_until = REST[0], now
        self.begin(now)

    def begin(self, now: float) -> None:
        """Count from here: what was seen before belongs to another window. A trial under way is given up."""
        if self._before:
            self.limit, self._before = self._before, 0
        self._passing = self._full = False
        self._round_at, self._count, self._sum, self._used = now, 0, 0.0, 0

    def answered(self, seconds: float, in_flight: int, now: float) -> None:
        """An answer came, `seconds` after its delivery was submitted; `in_flight` others are still under way."""
        self._count += 1
        self._sum += seconds
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
        full = self._used >= (self._tuning.least if self.limit == UNBOUND else FULL * self.limit)
        if full and self._full:
            self.last = Round(rate, self._used, mean)
            self._judge(self.last, now)
        self._full = full
        if self._tuning.fade or not self._before:
            self._best *= self._tuning.fade
        self._round_at, self._count, self._sum, self._used = now, 0, 0.0, 0

    def _judge(self, seen: Round, now: float) -> None:
        if self._passing:
            # Half of these answers belong to what was sent before the trial began.
            self._passing = False
            return
        if self._before:
            failed = seen.rate < max(self._kept() * self._best, self._floor)
            if failed and self._wider():
                return
            before, self._before = self._before, 0
            if failed:
                # What was enough before may be too little as well.
                self.limit = min(UNBOUND, int(before * MORE))
                self._rest_until = now + self._rest
                self._rest = min(REST[1], self._rest * 2)
                return
            self._rest = REST[0]
        if self._queued(seen, now):
            self._try(seen, int(min(self.limit, seen.used) * self._tuning.less), now)
        else:
            self._best = max(self._best, seen.rate)
            if self.limit < UNBOUND:
                self.limit = int(self.limit * MORE)

    def seek(self, seen: Round, now: float) -> None:
        """Begin with what should do, by what another window has seen: the rate, times what an answer may take."""
        self._floor = FLOOR * seen.rate
        if self.limit == UNBOUND and self._queued(seen, now):
            self._try(seen, int(seen.rate * self._patience(now)), now)

    def _kept(self) -> float:
        """The share of the rate that the trial under way must keep."""
        kept = self._tuning.kept
        return (1 + self.limit / self._from) / 2 if kept is None else kept

    def _wider(self) -> bool:
        """Where a part of the rate may go, try something between this window and the one of before, if there is any."""
        wider = int(self.limit / self._tuning.less)
        if self._tuning.kept is not None or wider >= self._from:
            return False
        self.limit, self._passing = wider, True
        return True

    def _patience(self, now: float) -> float:
        """Seconds that an answer takes where there is no queue, at most."""
        return self._tuning.stretch * self._quickest.get(now) + self._tuning.slack

    def _queued(self, seen: Round, now: float) -> bool:
        return seen.mean > self._patience(now)

    def _try(self, seen: Round, smaller: int, now: float) -> None:
        """Let a smaller window show what it is worth."""
        self._best = max(self._best, seen.rate)
        smaller = max(self._tuning.least, smaller)
        if smaller < self.limit and now >= self._rest_until:
            self._from = max(smaller, seen.used)
            self._before, self.limit, self._passing = self.limit, smaller, True


class Congestion:
    """One route's measure of what may be in flight. Times are seconds of one monotonic clock."""

    __slots__ = ("_active", "_quickest", "calm", "lean")

    def __init__(self, now: float) -> None:
        self._quickest = Quickest(now)
        self.calm = Window(CALM, self._quickest, now)
        self.lean = Window(LEAN, self._quickest, now)
        self._active = self.calm

    def turn(self, now: float, *, lean: bool) -> None:
        """Which window bounds what is sent from now on, and is judged by it."""
        active = self.lean if lean else self.calm
        if active is not self._active:
            self._active.begin(now)
            active.begin(now)
            self._active = active
            if lean and self.calm.last is not None:
                self.lean.seek(self.calm.last, now)

    def answered(self, seconds: float, in_flight: int, now: float) -> None:
        """An answer came, `seconds` after its delivery was submitted; `in_flight` others are still under way."""
        self._quickest.see(seconds)
        self._active.answered(seconds, in_flight, now)
