"""Observations gathered in plain numbers, and passed to prometheus_client together: each of its own takes a lock."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Final, Literal, TypeAlias

from prometheus_client import Histogram

from .metrics import STAGE_SECONDS

Stage: TypeAlias = Literal["queued", "taken", "written", "answered", "acked"]
STAGES: Final[tuple[Stage, ...]] = ("queued", "taken", "written", "answered", "acked")

Instants: TypeAlias = tuple[int, tuple[int, int], int, int]
"""When a delivery was to be sent, (was queued, was taken), was written and ended, in Unix ms."""


class Gathered:
    """Observations for one child of a histogram."""

    __slots__ = ("_histogram", "_values", "observe", "observe_all")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._values: list[float] = []
        self.observe: Callable[[float], None] = self._values.append
        """Takes a value. To sort them later costs a fifth of finding the bucket of each."""
        self.observe_all: Callable[[Iterable[float]], None] = self._values.extend

    def flush(self) -> None:
        """Hand what was gathered to prometheus_client."""
        # prometheus_client has no way to observe many at once: these are the fields that its `observe` adds to.
        values, counted = self._values, 0
        if not values:
            return
        values.sort()
        self._histogram._sum.inc(sum(values))
        for bucket, bound in zip(self._histogram._buckets, self._histogram._upper_bounds, strict=True):
            up_to = bisect_right(values, bound)
            if up_to > counted:
                bucket.inc(up_to - counted)
                counted = up_to
        values.clear()


class StageSeconds:
    """The time that deliveries spend in each stage, gathered in milliseconds, of which many are the same."""

    def __init__(self) -> None:
        self._gathered = {stage: Gathered(STAGE_SECONDS.labels(stage)) for stage in STAGES}
        self._spans: dict[Stage, Counter[int]] = {stage: Counter() for stage in STAGES}

    def passed(self, deliveries: Counter[Instants], last: Stage) -> None:
        """Take the instants of some deliveries whose `last` stage is over. An instant of another clock that lies
        before the one of the stage before it counts as that one, so that the stages of a delivery add up to the whole.
        """
        queued, taken, written, ended = [self._spans[stage] for stage in (*STAGES[:3], last)]
        # Comparing costs less than `max`.
        for (start, (queued_at, taken_at), written_at, ended_at), count in deliveries.items():
            if queued_at < start:
                queued_at = start
            if taken_at < queued_at:
                taken_at = queued_at
            if written_at < taken_at:
                written_at = taken_at
            if ended_at < written_at:
                ended_at = written_at
            queued[queued_at - start] += count
            taken[taken_at - queued_at] += count
            written[written_at - taken_at] += count
            ended[ended_at - written_at] += count

    def flush(self) -> None:
        """Hand what was gathered to prometheus_client."""
        for stage, spans in self._spans.items():
            if spans:
                gathered = self._gathered[stage]
                for span, count in spans.items():
                    gathered.observe_all(repeat(span / 1000, count))
                spans.clear()
                gathered.flush()
