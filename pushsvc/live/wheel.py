"""One timing wheel for all deadlines of a process: heartbeats, times for an ack, times for the headers of a request.

A timer of the event loop for each connection costs more than the connection itself, and is moved with every message.
Here a deadline is one small object in the bucket of its tick. It is added, moved and cancelled in constant time, and
one timer of the loop waits for the first bucket. Moving a deadline further away, which is what life on a connection
does, only writes its new time: it changes its bucket when the old one is reached.

Source: Varghese and Lauck, Hashed and Hierarchical Timing Wheels, 1987, scheme 6.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

TICK: Final = 0.1
"""Seconds that a deadline may be late; it is never early."""
_TURN: Final = 500
"""Deadlines that are called before the event loop has its turn."""
_NEVER: Final = -1


class Deadline:
    """A call at a time, which can be moved and cancelled. Made by `Wheel.after`."""

    __slots__ = ("_call", "_due", "_tick", "_wheel")

    def __init__(self, wheel: Wheel, call: Callable[[], object]) -> None:
        self._wheel = wheel
        self._call = call
        self._due = 0.0
        self._tick = _NEVER

    @property
    def active(self) -> bool:
        """Whether the call is still to come."""
        return self._tick != _NEVER

    def move(self, seconds: float) -> None:
        """Set the deadline to `seconds` from now, also if it was cancelled or has been called."""
        self._due = due = self._wheel.now() + seconds
        if self._tick == _NEVER or due <= (self._tick - 1) * TICK:
            self._wheel._place(self)

    def bring_forward(self, at: float) -> None:
        """Set the deadline to `at` seconds of the wheel, unless it is due before: a call that is too early costs less
        than to move a deadline with each message."""
        if self._tick == _NEVER or at < self._due:
            self._due = at
            self._wheel._place(self)

    def cancel(self) -> None:
        """Forget the call. A deadline that is not active stays so."""
        self._wheel._remove(self)


class Wheel:
    """The deadlines of a process by the seconds of `now`; `wake` is called with the time of a new first one."""

    def __init__(self, now: Callable[[], float], wake: Callable[[float], None] = lambda at: None) -> None:
        self.now = now
        self._wake = wake
        self._buckets: dict[int, dict[Deadline, None]] = {}
        self._ticks: list[int] = []
        """The ticks of all buckets, as a heap: one entry a bucket, however many deadlines are in it."""

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    @property
    def next_at(self) -> float | None:
        """The time of the first bucket, or None if there is none."""
        return self._ticks[0] * TICK if self._ticks else None

    def after(self, seconds: float, call: Callable[[], object]) -> Deadline:
        """Return a deadline that calls `call` in `seconds`, up to one tick late."""
        deadline = Deadline(self, call)
        deadline.move(seconds)
        return deadline

    def expired(self, most: int = _TURN) -> Iterator[Callable[[], object]]:
        """Yield the calls that are due, looking at `most` deadlines; each is off the wheel when it is yielded."""
        now = self.now()
        for _ in range(most):
            if not self._ticks or self._ticks[0] * TICK > now:
                return
            bucket = self._buckets[self._ticks[0]]
            if not bucket:
                del self._buckets[heapq.heappop(self._ticks)]
                continue
            deadline, _ = bucket.popitem()
            deadline._tick = _NEVER
            if deadline._due > now:
                self._place(deadline)
            else:
                yield deadline._call

    def _place(self, deadline: Deadline) -> None:
        self._remove(deadline)
        # Rounded up, so that all of a bucket are due when it is reached; the product decides, as it does there.
        tick = math.ceil(deadline._due / TICK)
        if tick * TICK < deadline._due:
            tick += 1
        deadline._tick = tick
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            heapq.heappush(self._ticks, tick)
            if self._ticks[0] == tick:
                self._wake(tick * TICK)
        bucket[deadline] = None

    def _remove(self, deadline: Deadline) -> None:
        if deadline._tick != _NEVER:
            del self._buckets[deadline._tick][deadline]
            deadline._tick = _NEVER


@contextmanager
def running_wheel() -> Iterator[Wheel]:
    """Yield a wheel that the running event loop turns while the block lasts; after it nothing is called."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None

    def wake(at: float) -> None:
        nonlocal timer
        if timer is not None:
            timer.cancel()
        timer = loop.call_at(at, turn)

    def turn() -> None:
        nonlocal timer
        timer = None
        for call in wheel.expired():
            try:
                call()
            except Exception as error:
                loop.call_exception_handler({"message": "a deadline's call failed", "exception": error})
        at = wheel.next_at
        if at is not None and timer is None:
            wake(at)

    wheel = Wheel(loop.time, wake)
    try:
        yield wheel
    finally:
        if timer is not None:
            timer.cancel()
        wheel._wake = lambda at: None
