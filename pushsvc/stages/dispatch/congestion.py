"""Congestion control: how much of a route's window is worth filling.

A provider that receives more than it can process at once builds a queue, and an urgent push waits there behind
everything that was sent before. A round is a tenth of a second or more. If its answers took much longer than the
fastest recent ones, there is a queue somewhere on the way, and the next round tries with less in flight. Urgent pushes
are exempt.

Two windows are kept. The *calm* one must not cost any throughput: if a trial with less brings fewer answers, the
window was needed; it is restored, and tried again later. So a provider that is merely far away keeps its whole window,
and one at its limit is kept busy with as little as it takes. The *lean* one is for lanes that are overtaken
(`preemption.py`): a machine whose last core is busy is a queue too, in front of every process, and only less work
makes it shorter. So this window begins small and is widened until a third of the throughput is kept; if answers do not
become faster there was no queue, and it returns to its former size.

The idea is that of delay-based congestion control: LEDBAT, https://www.rfc-editor.org/rfc/rfc6817, and BBR,
https://datatracker.ietf.org/doc/draft-ietf-ccwg-bbr/, whose start it has: a small window that is doubled as long as
that brings more answers. Pure: the clock is an argument.

One published window in place of these two is half as long, and was measured beside them: Gradient2 and Vegas, as in
Netflix's concurrency-limits, against providers of arithmetic (`tests/unit/test_congestion.py`) with room for 2,000, and
for 300 at the last two. Answers a second, and milliseconds of an answer, for which an urgent push waits as well:

    provider                   these two         Gradient2         Gradient2 from 64   Vegas from 64
    5,000/s, 0.5 ms away       5,000/s   13 ms   5,000/s  239 ms   5,000/s    30 ms    5,000/s   13 ms
    2,000/s, 20 ms away        2,000/s   47 ms   2,000/s  547 ms   2,000/s    76 ms    2,000/s   32 ms
    100/s, 20 ms away            100/s 1,799 ms    100/s 1,630 ms    100/s 1,063 ms      100/s  640 ms
    50 ms away                 6,000/s   50 ms   6,000/s   50 ms   5,255/s    50 ms    6,000/s   50 ms
    50 ms, jitter of 200 ms    1,969/s  151 ms   1,990/s  151 ms   1,740/s   150 ms      427/s  150 ms

Gradient2 compares answers with their own mean, so a queue that stands is its normal case, and it needs minutes for a
window of 2,000. Vegas compares with the quickest, so jitter is a queue for it. A trial distinguishes the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

ROUND: Final = 0.1
"""The minimum duration of a round in seconds. Answers come in bursts, and a shorter count would be random."""
START_ROUND: Final = 0.025
"""The same while a route begins: a window that is doubled is soon right, so a wrong judgement costs little."""
MORE: Final = 1.25
FULL: Final = 0.9
"""The fill level from which on a window is evidence about the provider, in this round and the one before."""
MEMORY: Final = 600.0
"""Seconds for which the fastest answer is remembered, once or twice. It is long because a standing queue has no fast
answers; an outdated one only causes trials that fail."""
REST: Final = (0.5, 30.0)
"""Seconds without another trial after one that failed: the first, doubled with each up to the second."""
KEPT: Final = 0.95
"""The share of the best rate that a trial of the calm window must keep."""
FADE: Final = 0.98
"""The factor by which the best rate decays each round: it is forgotten within seconds if it is not reached again."""
FLOOR: Final = 1 / 3
"""The share of the calm window's rate that the lean one keeps."""
SOONER: Final = 0.75
"""A trial of the lean window succeeds if answers take at most this share of their former time."""
UNBOUND: Final = 1 << 30
START: Final = 128
"""The window with which a route begins. It is doubled as long as that brings `MORE` answers a second.

Without it, the first burst at a slow provider is everything that the connections have room for: at 100 answers a
second some 2,000 deliveries, which wait for 20 seconds, and the urgent ones behind them.
"""


class Tuning(Struct, frozen=True):
    stretch: float
    slack: float
    """There is a queue when answers take `stretch` times the quickest and `slack` seconds more."""
    less: float
    """The share of the window that a trial uses."""
    least: int


CALM: Final = Tuning(stretch=2.0, slack=0.005, less=0.8, least=64)
LEAN: Final = Tuning(stretch=1.5, slack=0.0005, less=0.4, least=16)


class Round(Struct, frozen=True):
    """What was observed while the window was full."""

    rate: float
    """Answers a second."""
    used: int
    """The most that was in flight."""
    mean: float
    """Seconds that an answer took."""


class Quickest:
    """The fastest of the recent answers, in seconds."""

    __slots__ = ("_before", "_remembered_at", "latest")

    def __init__(self, now: float) -> None:
        self._before = self.latest = float("inf")
        """The quickest of the span before this one, and of this one: `Window.answered` writes the latter."""
        self._remembered_at = now

    def get(self, now: float) -> float:
        """Return the fastest recent answer in seconds, or infinity if there was none."""
        if now - self._remembered_at >= MEMORY:
            self._before, self.latest, self._remembered_at = self.latest, float("inf"), now
        return min(self._before, self.latest)


class Window(ABC):
    """One search. `limit` is how many deliveries may be in flight before something must wait."""

    __slots__ = (
        "_before",
        "_closes_at",
        "_count",
        "_full",
        "_passing",
        "_quickest",
        "_rest",
        "_rest_until",
        "_round_at",
        "_starting",
        "_sum",
        "_tuning",
        "_used",
        "limit",
    )

    def __init__(self, tuning: Tuning, quickest: Quickest, now: float) -> None:
        self.limit = UNBOUND
        self._starting = 0
        """Full rounds without more answers after which the start is over; 0 when it is."""
        self._tuning = tuning
        self._quickest = quickest
        self._rest, self._rest_until = REST[0], now
        self._before = 0
        """The window before the trial that is under way."""
        self.begin(now)

    def begin(self, now: float) -> None:
        """Start a new round and discard the observations, which belong to another window. Aborts a trial in
        progress."""
        if self._before:
            self.limit, self._before = self._before, 0
        self._passing = self._full = False
        self._begin_round(now)

    def _begin_round(self, now: float) -> None:
        self._round_at, self._count, self._sum, self._used = now, 0, 0.0, 0
        self._closes_at = now + (START_ROUND if self._starting else ROUND)

    def answered(self, seconds: Sequence[float], in_flight: int, now: float) -> None:
        """Record answers that came together, each this long after its submission. `in_flight` others were in flight
        when the first came."""
        quickest = min(seconds)
        if quickest < self._quickest.latest:
            self._quickest.latest = quickest
        self._count += len(seconds)
        self._sum += sum(seconds)
        if in_flight > self._used:
            self._used = in_flight
        if now >= self._closes_at:
            self._close(now)

    def _close(self, now: float) -> None:
        """Judge the round. It lasts until the answers of what it sent are in, so twice what an answer takes."""
        mean = self._sum / self._count
        span = now - self._round_at
        if span < 2 * mean:
            self._closes_at = self._round_at + 2 * mean
            return
        full = self._used >= (self._tuning.least if self._starting or self.limit == UNBOUND else FULL * self.limit)
        if full and self._full:
            if self._passing:
                # Half of these answers belong to what was sent before the trial began.
                self._passing = False
            else:
                self._judge(Round(self._count / span, self._used, mean), now)
        self._full = full
        self._begin_round(now)

    @abstractmethod
    def _judge(self, seen: Round, now: float) -> None:
        """Adjust the window after a full round."""

    def _patience(self, now: float) -> float:
        """Return the longest time in seconds that an answer takes when no queue has formed at the provider."""
        return self._tuning.stretch * self._quickest.get(now) + self._tuning.slack

    def _queued(self, seen: Round, now: float) -> bool:
        return seen.mean > self._patience(now)

    def _begin_trial(self, smaller: int, now: float) -> bool:
        """Start a trial of a smaller window. Returns False during the pause after a failed trial."""
        if now < self._rest_until:
            return False
        self._before, self.limit, self._passing = self.limit, smaller, True
        return True

    def _failed(self, now: float) -> None:
        """Pause the trials, twice as long each time."""
        self._rest_until = now + self._rest
        self._rest = min(REST[1], self._rest * 2)


class Calm(Window):
    """The smallest window that costs no speed."""

    __slots__ = ("_best", "last")

    def __init__(self, quickest: Quickest, now: float) -> None:
        self.last: Round | None = None
        """The latest full one, of any time."""
        self._best = 0.0
        super().__init__(CALM, quickest, now)
        self.limit, self._starting = START, 2
        self.begin(now)

    @property
    def starting(self) -> bool:
        """Whether the window is still sought by doubling."""
        return bool(self._starting)

    def _close(self, now: float) -> None:
        began = self._round_at
        super()._close(now)
        if self._round_at != began:
            self._best *= FADE

    def _judge(self, seen: Round, now: float) -> None:
        self.last = seen
        if self._starting:
            if seen.rate >= MORE * self._best:
                self._best, self.limit, self._starting = seen.rate, self.limit * 2, 2
                return
            # Half of the answers of the first round belong to the window before.
            self._starting -= 1
            if self._starting:
                return
            if seen.used < FULL * self.limit or not self._queued(seen, now):
                # The connections have room for less, or the provider is not what takes the time.
                self.limit = UNBOUND
        if self._before:
            before, self._before = self._before, 0
            if seen.rate < KEPT * self._best:
                # What was enough before may be too little as well.
                self.limit = min(UNBOUND, int(before * MORE))
                self._failed(now)
                return
            self._rest = REST[0]
        self._best = max(self._best, seen.rate)
        if not self._queued(seen, now):
            if self.limit < UNBOUND:
                self.limit = int(self.limit * MORE)
            return
        smaller = max(self._tuning.least, int(min(self.limit, seen.used) * self._tuning.less))
        if smaller < self.limit:
            self._begin_trial(smaller, now)


class Lean(Window):
    """The smallest window that keeps a third of the throughput, if it makes answers faster."""

    __slots__ = ("_floor", "_mean")

    def __init__(self, quickest: Quickest, now: float) -> None:
        self._floor = 0.0
        self._mean = 0.0
        """The mean answer time before the trial."""
        super().__init__(LEAN, quickest, now)

    def seek(self, seen: Round, now: float) -> None:
        """Start a trial with the size that should suffice by the calm window's figures: the rate times the target
        answer time."""
        self._floor = FLOOR * seen.rate
        if self.limit == UNBOUND and self._queued(seen, now):
            self._try(seen, int(seen.rate * self._patience(now)), now)

    def _judge(self, seen: Round, now: float) -> None:
        if self._before:
            before, self._before = self._before, 0
            if seen.mean > SOONER * self._mean:
                self.limit = before
                self._failed(now)
                return
            self._rest = REST[0]
        if seen.rate < self._floor:
            self.limit = min(UNBOUND, int(self.limit * MORE))
            self._failed(now)
            return
        if self._queued(seen, now):
            self._try(seen, int(min(self.limit, seen.used) * self._tuning.less), now)

    def _try(self, seen: Round, smaller: int, now: float) -> None:
        smaller = max(self._tuning.least, smaller)
        if smaller < min(self.limit, seen.used) and self._begin_trial(smaller, now):
            self._mean = seen.mean


class Congestion:
    """One route's measure of what may be in flight. Times are seconds of one monotonic clock."""

    __slots__ = ("_active", "_quickest", "answered", "calm", "lean")

    def __init__(self, now: float) -> None:
        self._quickest = Quickest(now)
        self.calm = Calm(self._quickest, now)
        self.lean = Lean(self._quickest, now)
        self._active: Window = self.calm
        self.answered = self._active.answered
        """The same of the window that is chosen."""

    def choose(self, now: float, *, lean: bool) -> None:
        """Choose the window that limits what is sent from now on; the answers to this judge the same window.

        At the start this is always the calm window. Otherwise a trickle that overtakes everything from the first moment
        on would keep the route at its initial window.
        """
        active: Window = self.lean if lean and not self.calm.starting else self.calm
        if active is not self._active:
            self._active.begin(now)
            active.begin(now)
            self._active, self.answered = active, active.answered
            if lean and self.calm.last is not None:
                self.lean.seek(self.calm.last, now)
