"""What a phone has shown its user. Pure.

A phone drops a push that it has shown before, and it acknowledges only what it has without a hole: `prev` of a
publication is the offset before it in the stream, so a phone that has everything up to there has missed nothing.
"""

from __future__ import annotations

from msgspec import Struct

from ...ports.live import Position


class Hole(Struct, frozen=True, gc=False):
    """Offsets of a stream that did not come and were not announced as lost: those after `after` and before `before`."""

    epoch: str
    after: int
    before: int

    def __str__(self) -> str:
        return f"{self.after + 1}..{self.before - 1}"


class Shown:
    """What one phone has shown, in order."""

    __slots__ = ("epoch", "holes", "late", "lost", "missing", "position", "pushes", "reached", "repeats", "top")

    def __init__(self) -> None:
        self.pushes: dict[str, int] = {}
        """The offset of each push that was shown, in the order in which they were shown."""
        self.repeats = 0
        """Publications of pushes that had been shown before."""
        self.holes: list[Hole] = []
        """Holes that were not filled since."""
        self.late: list[str] = []
        """Pushes that were shown after others that stand behind them in the stream."""
        self.lost = 0
        """Connects from a position that was not recovered: there may be a hole."""
        self.missing = 0
        """How many publications were reported to it as missing."""
        self.epoch = ""
        self.position = 0
        """The offset that the client libraries keep, and recover from."""
        self.reached: int | None = None
        """Everything of the stream up to here has come; None: the next publication decides where it begins."""
        self.top = 0
        """The highest offset of the stream that has come."""

    @property
    def recover_from(self) -> Position | None:
        """Return the position that the next connect recovers from."""
        return Position(self.epoch, self.position) if self.epoch else None

    def connected(
        self, epoch: str, offset: int, *, recovered: bool, asked: bool, missing: int = 0, acked: int | None = None
    ) -> None:
        """Take the position in the answer to a connect; its publications follow. What is not recovered begins after
        what is acknowledged."""
        if not recovered:
            self.lost += asked
            self.missing += missing
            self.reached = acked
        if epoch != self.epoch:
            self.top = 0
        self.epoch, self.position = epoch, offset

    def published(self, push_id: str, offset: int, prev: int) -> bool:
        """Take a publication. Returns whether the push is shown now: it is dropped if it was shown before."""
        self.position = offset
        if self.reached is None or prev <= self.reached:
            self.reached = reached = offset if self.reached is None else max(self.reached, offset)
            if self.holes:
                self.holes = [each for each in self.holes if each.epoch != self.epoch or each.before > reached]
        else:
            self.holes.append(Hole(self.epoch, self.reached, offset))
        if push_id in self.pushes:
            self.repeats += 1
            return False
        if offset < self.top:
            self.late.append(push_id)
        self.top = max(self.top, offset)
        self.pushes[push_id] = offset
        return True
