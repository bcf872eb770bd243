"""Decides whether the recent answers of a route can be believed. Pure, over counts that the store keeps per time slot.

A provider that reports half of an audience as dead says something about our configuration (the wrong key, environment
or topic), not about the phones. While it does so, pruning is frozen for the route. It resumes by itself when the share
has fallen: the counts are the only state.

The share is computed for every span of whole slots that contains the answer in question, begins at most a window
before it and ends at most a minute after it. A short span finds a burst behind an hour of good answers at once, the
long ones find a trickle, and the minute after it is there for late judgements.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Final, Literal, TypeAlias

from msgspec import Struct

SLOT_MS: Final = 10_000
"""Answers are counted in slots of ten seconds."""

AFTER_MS: Final = 60_000
"""The time after an answer that is considered for it, in milliseconds."""

Cause = Literal["dead", "suspect"]


class Answers(Struct, frozen=True, gc=False):
    """Counts of a provider's answers about tokens within a slot. Answers that say nothing about the token are not
    counted."""

    sent: int = 0
    dead: int = 0
    suspect: int = 0

    @property
    def total(self) -> int:
        return self.sent + self.dead + self.suspect

    def __add__(self, other: Answers) -> Answers:
        return Answers(self.sent + other.sent, self.dead + other.dead, self.suspect + other.suspect)

    def __sub__(self, other: Answers) -> Answers:
        return Answers(self.sent - other.sent, self.dead - other.dead, self.suspect - other.suspect)


Slots: TypeAlias = Mapping[int, Answers]
"""The counts of a route by slot number, `instant // SLOT_MS`. A missing slot has no answers."""


class FreezePolicy(Struct, frozen=True):
    """The share of bad answers, of a minimum number, from which on a route is not believed. `window` is in seconds."""

    window: float = 600.0
    dead: float = 0.5
    dead_answers: int = 200
    suspect: float = 0.2
    suspect_answers: int = 100


class Freeze(Struct, frozen=True):
    cause: Cause
    count: int
    answers: int
    seconds: int

    @property
    def why(self) -> str:
        """The reason as a text for people, with the counts."""
        return f"{self.count:,} of {self.answers:,} answers within {self.seconds} s were `{self.cause}`"


class AnswerHealth(Struct, frozen=True):
    """The credibility of a route at a time, as computed from the counts."""

    freeze: Freeze | None = None
    counted: bool = True
    """False: the counts of that time are gone."""
    proven: bool = True
    """Whether enough answers are near to distinguish a burst of bad ones from a few dead tokens."""
    vouched: bool = True
    """The provider took our identity for others at that time, and not too many were suspect: so it is the token."""


def slots_around(since: int, until: int, policy: FreezePolicy) -> tuple[int, int]:
    """Return the first and the last slot that `health` looks at for answers between two instants, Unix ms."""
    reach = max(1, int(policy.window * 1000) // SLOT_MS)
    return since // SLOT_MS - reach + 1, (until + AFTER_MS) // SLOT_MS


def health(slots: Slots, at: int, policy: FreezePolicy) -> AnswerHealth:
    """Return the health of a route for an answer at the time `at` (Unix ms). A future slot has no counts."""
    first, last = slots_around(at, at, policy)
    own = at // SLOT_MS - first
    counts = [slots.get(slot, Answers()) for slot in range(first, last + 1)]
    sums = [Answers(), *accumulate(counts)]
    least = max(policy.dead_answers, policy.suspect_answers)
    whole = sums[-1]
    return AnswerHealth(
        freeze=_worst(sums, own, policy),
        counted=whole.total > 0,
        proven=(whole - sums[max(own - 1, 0)]).total >= least,
        vouched=whole.sent > 0 and whole.suspect <= policy.suspect * whole.total,
    )


def _worst(sums: list[Answers], own: int, policy: FreezePolicy) -> Freeze | None:
    """Return, of all spans with too large a share, the one with the most answers, and of those the shortest."""
    worst: Freeze | None = None
    if not _possible(sums[-1], policy):
        return None  # as nearly always: no need to look at each
    for end in range(own + 1, len(sums)):
        for start in range(own, -1, -1):
            span = sums[end] - sums[start]
            if worst is not None and span.total <= worst.answers:
                continue
            cause = _cause(span, policy)
            if cause is not None:
                seconds = (end - start) * SLOT_MS // 1000
                worst = Freeze(cause, span.dead if cause == "dead" else span.suspect, span.total, seconds)
    return worst


def _possible(whole: Answers, policy: FreezePolicy) -> bool:
    """Return whether there are enough bad answers for any span to reach the share."""
    return whole.dead > policy.dead * policy.dead_answers or whole.suspect > policy.suspect * policy.suspect_answers


def _cause(span: Answers, policy: FreezePolicy) -> Cause | None:
    total = span.total
    if total >= policy.dead_answers and span.dead > policy.dead * total:
        return "dead"
    if total >= policy.suspect_answers and span.suspect > policy.suspect * total:
        return "suspect"
    return None
