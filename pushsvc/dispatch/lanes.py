"""What a route has read and not yet sent, and whose turn it is. Pure: no clock, no I/O.

Urgent goes first, then normal, then bulk; but a lane that waits gathers credit, a share of everything that others
send meanwhile, and goes first as soon as that buys a slice. So bulk keeps moving under any load of urgent pushes,
and urgent never waits for more than one slice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final

from ..model import LANES, Chunk, Lane, Target
from ..ports import EntryRef

SHARE: Final[dict[Lane, float]] = {"urgent": 0.0, "normal": 0.15, "bulk": 0.05}
"""The part of the sending that a waiting lane is guaranteed. Urgent needs none: it goes first anyway."""

SLICE: Final = 32
"""Targets that a lane gives up the line for at most."""


class OpenEntry:
    """A stream entry of which some targets are not yet settled. When `unsettled` is 0 it may be acknowledged."""

    __slots__ = ("chunk", "cursor", "ref", "targets", "unsettled")

    def __init__(self, ref: EntryRef, chunk: Chunk, targets: tuple[Target, ...]) -> None:
        self.ref = ref
        self.chunk = chunk
        self.targets = targets
        self.cursor = 0
        self.unsettled = len(chunk.targets)


def take_out(queue: deque[OpenEntry], wanted: Callable[[EntryRef], bool]) -> list[OpenEntry]:
    """Take entries out of a queue, in their order; the others keep theirs."""
    taken = [entry for entry in queue if wanted(entry.ref)]
    for entry in taken:
        queue.remove(entry)
    return taken


class Lanes:
    """The waiting entries of one route, by lane; `size` counts their targets."""

    def __init__(self) -> None:
        self._queues: dict[Lane, deque[OpenEntry]] = {lane: deque() for lane in LANES}
        self._credit: dict[Lane, float] = dict.fromkeys(LANES, 0.0)
        self.size: dict[Lane, int] = dict.fromkeys(LANES, 0)

    def __bool__(self) -> bool:
        return any(self.size.values())

    def add(self, entry: OpenEntry) -> None:
        """Put the entry's targets at the end of its lane."""
        if entry.targets:
            lane = entry.chunk.lane
            self._queues[lane].append(entry)
            self.size[lane] += len(entry.targets)

    def draw(
        self, limit: int, *, spare: int | None = None, lean: int | None = None, overtaken: Sequence[Lane] = ()
    ) -> tuple[OpenEntry, tuple[Target, ...]] | None:
        """The next slice: at most `limit` targets of one entry. None when nothing waits that may go.

        What is not urgent takes at most `spare`, and `lean` where its lane is one of the `overtaken` and its credit
        does not say that it is its turn.
        """
        lane, limit = self._next_lane(limit, limit if spare is None else spare, lean, overtaken)
        if lane is None:
            return None
        entry = self._queues[lane][0]
        end = min(entry.cursor + min(limit, SLICE), len(entry.targets))
        drawn = entry.targets[entry.cursor : end]
        entry.cursor = end
        if end == len(entry.targets):
            self._queues[lane].popleft()
        self.size[lane] -= len(drawn)
        self._settle_credit(lane, len(drawn))
        return entry, drawn

    def draw_probe(self, avoid: Collection[str], *, only_others: bool) -> tuple[OpenEntry, Target] | None:
        """One target for a probe, the most urgent first: of a push that is not to be avoided, where one waits; else,
        unless `only_others`, of any."""
        choice: OpenEntry | None = None
        for lane in LANES:
            for entry in self._queues[lane]:
                if entry.chunk.push_id not in avoid:
                    return self._draw_one(entry)
                choice = choice or entry
        return None if only_others or choice is None else self._draw_one(choice)

    def _draw_one(self, entry: OpenEntry) -> tuple[OpenEntry, Target]:
        target = entry.targets[entry.cursor]
        entry.cursor += 1
        lane = entry.chunk.lane
        self.size[lane] -= 1
        if entry.cursor == len(entry.targets):
            self._queues[lane].remove(entry)
        return entry, target

    def expired(self, now: int) -> list[tuple[OpenEntry, tuple[Target, ...]]]:
        """Take out what waits and whose time was over at `now`, in Unix ms."""
        over = {entry.ref for queue in self._queues.values() for entry in queue if entry.chunk.expires_at <= now}
        return self.withdraw(over.__contains__) if over else []

    def withdraw(self, wanted: Callable[[EntryRef], bool]) -> list[tuple[OpenEntry, tuple[Target, ...]]]:
        """Take what was not drawn of these entries out of the line."""
        taken = []
        for lane, queue in self._queues.items():
            for entry in take_out(queue, wanted):
                left = entry.targets[entry.cursor :]
                self.size[lane] -= len(left)
                taken.append((entry, left))
        return taken

    def _next_lane(
        self, limit: int, spare: int, lean: int | None, overtaken: Sequence[Lane]
    ) -> tuple[Lane | None, int]:
        """The lane whose turn it is, and how much of it may go."""
        due = [lane for lane in LANES if self._credit[lane] >= SLICE]
        for lane in (*due, *LANES):
            if not self.size[lane]:
                continue
            room = limit if lane == "urgent" else min(limit, spare)
            if lean is not None and lane in overtaken and lane not in due:
                room = min(room, lean)
            if room > 0:
                return lane, room
        return None, 0

    def _settle_credit(self, lane: Lane, drawn: int) -> None:
        for other in LANES:
            gained = self._credit[other] + drawn * SHARE[other]
            if other == lane:
                self._credit[other] = max(0.0, gained - drawn)
            else:
                self._credit[other] = gained if self.size[other] else 0.0
