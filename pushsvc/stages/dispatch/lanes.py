"""What a route has read and not yet sent, and the order of the lanes. Pure: no clock, no I/O.

Urgent goes first, then normal, then bulk. A lane that waits accumulates credit, a share of everything that the others
send, and goes first as soon as the credit covers a slice. So bulk proceeds under any load of urgent pushes, and urgent
never waits for more than one slice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from ...model.push import LANES, Chunk, Lane, Target
from ...model.routing import CARRIERS
from ...ports.entries import EntryRef

SHARE: Final[dict[Lane, float]] = {"urgent": 0.0, "normal": 0.15, "bulk": 0.05}
"""The guaranteed share of each waiting lane. Urgent needs none, because it goes first."""

SLICE: Final = 32
"""Targets that a lane gives up the line for at most."""

Drawn: TypeAlias = "tuple[OpenEntry, tuple[Target, ...]]"
"""An entry, and those of its targets that are to be sent now."""


class OpenEntry:
    """A stream entry with unsettled targets. When `unsettled` is 0 it may be acknowledged, unless it was `dropped`:
    then another process may have it. Nothing more is sent of an entry that is `revoked`."""

    __slots__ = (
        *("chunk", "counted", "cursor", "dropped", "passed", "ref", "revoked", "sure_at", "targets", "unsettled"),
    )

    def __init__(self, ref: EntryRef, chunk: Chunk, targets: tuple[Target, ...], taken_at: int = 0) -> None:
        self.ref = ref
        self.chunk = chunk
        # What comes from the live channel to a provider was counted there.
        self.counted = chunk.counted or bool(chunk.home and chunk.turn > 1 and chunk.channel not in CARRIERS)
        self.targets = targets
        self.passed = (int(ref.entry_id.partition("-")[0]), taken_at)
        """When it was queued, and when it was taken from there, in Unix ms."""
        self.sure_at = taken_at
        """When the store last reported its targets as open, in Unix ms."""
        self.cursor = 0
        self.unsettled = len(chunk.targets)
        self.revoked = False
        self.dropped = False

    @property
    def left(self) -> tuple[Target, ...]:
        """The targets that were not drawn."""
        return self.targets[self.cursor :]

    def is_stale(self, before: int) -> bool:
        """Return whether a device may have acknowledged any of it unnoticed: it was last looked up before `before`."""
        return self.sure_at < before and bool(self.chunk.home) and self.chunk.turn > 1

    def without(self, gone: Sequence[Target]) -> None:
        """Take targets out that were not drawn."""
        if len(gone) == len(self.targets) - self.cursor:
            self.targets = self.targets[: self.cursor]
        elif gone:
            indexes = {target.index for target in gone}
            kept = tuple(target for target in self.left if target.index not in indexes)
            self.targets = self.targets[: self.cursor] + kept


Choice: TypeAlias = Callable[[OpenEntry], tuple[Target, ...]]
"""Which of an entry's `left` targets are to be taken out."""
Withdrawn: TypeAlias = list[tuple[OpenEntry, tuple[Target, ...]]]


def sift(queue: deque[OpenEntry], choose: Choice) -> Withdrawn:
    """Remove the chosen targets from a queue, and entries that have none left. The order is kept."""
    found = [(entry, gone) for entry in queue if (gone := choose(entry))]
    for entry, gone in found:
        entry.without(gone)
    if found:
        kept = [entry for entry in queue if entry.cursor < len(entry.targets)]
        queue.clear()
        queue.extend(kept)
    return found


class Lanes:
    """The waiting entries of one route, by lane; `size` counts their targets, `counted` those of them that the limits
    have counted before, as they were to be sent for the first time."""

    def __init__(self) -> None:
        self.counted = 0
        self._queues: dict[Lane, deque[OpenEntry]] = {lane: deque() for lane in LANES}
        self._credit: dict[Lane, float] = dict.fromkeys(LANES, 0.0)
        self.size: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self.resting: set[Lane] = set()
        """Lanes of which nothing is drawn until the store has reported what of them is still open."""

    def __bool__(self) -> bool:
        return any(self.size.values())

    def add(self, entry: OpenEntry) -> None:
        if entry.targets:
            lane = entry.chunk.lane
            self._queues[lane].append(entry)
            self.size[lane] += len(entry.targets)
            if entry.counted:
                self.counted += len(entry.targets)

    def draw(
        self,
        limit: int,
        *,
        spare: int | None = None,
        lean: int | None = None,
        overtaken: Sequence[Lane] = (),
        permits: int | None = None,
    ) -> list[Drawn]:
        """Return the next slice: at most `limit` targets of one lane, or nothing if nothing waits that may be sent.

        Other lanes than urgent get at most `spare`, and at most `lean` if the lane is one of the `overtaken` and has
        not enough credit. At most `permits` targets that the limits have not counted yet are returned.
        """
        lane, limit = self._next_lane(limit, limit if spare is None else spare, lean, overtaken, permits)
        if lane is None:
            return []
        queue = self._queues[lane]
        counted = queue[0].counted
        room = whole = min(limit, SLICE)
        drawn = []
        while room and queue:
            entry = queue[0]
            if entry.counted != counted:
                break  # what applies to the permits of one does not to those of the other
            targets, start = entry.targets, entry.cursor
            end = min(start + room, len(targets))
            entry.cursor = end
            if end == len(targets):
                queue.popleft()
            room -= end - start
            drawn.append((entry, targets[start:end]))
        self.size[lane] -= whole - room
        if counted:
            self.counted -= whole - room
        self._settle_credit(lane, whole - room)
        return drawn

    def stale(self, lane: Lane, before: int, *, reach: int, most: int) -> list[OpenEntry]:
        """Return what is stale among the next `most` targets of a lane, or nothing where the next `reach` are not."""
        found: list[OpenEntry] = []
        passed = 0
        for entry in self._queues[lane]:
            if passed >= (most if found else reach):
                break
            if entry.is_stale(before):
                found.append(entry)
            passed += len(entry.targets) - entry.cursor
        return found

    def draw_probe(
        self,
        lanes: Sequence[Lane],
        suspects: Mapping[str, float],
        *,
        suspects_first: bool = False,
        only_others: bool = False,
        is_fresh: Callable[[OpenEntry], bool],
    ) -> tuple[OpenEntry, Target] | None:
        """Remove and return one target for a probe, from the first of these lanes that has one.

        Pushes that are not suspect come first, or last if `suspects_first` is set, or alone by `only_others`. Of the
        suspects the one comes first that was in trouble longest ago. A dry run, which may never reach the provider, is
        returned only if nothing else waits, and not by `only_others`. Returns None if nothing is left, or if the chosen
        entry is not fresh.
        """
        choice: OpenEntry | None = None
        for lane in lanes:
            real = [entry for entry in self._queues[lane] if not entry.chunk.dry_run]
            other = next((entry for entry in real if entry.chunk.push_id not in suspects), None)
            suspect = None
            if not only_others and (other is None or suspects_first):
                known = [entry for entry in real if entry.chunk.push_id in suspects]
                suspect = min(known, key=lambda entry: suspects[entry.chunk.push_id], default=None)
            if choice := suspect or other:
                break
        if choice is None and not only_others:
            choice = next((entry for lane in lanes for entry in self._queues[lane]), None)
        return None if choice is None or not is_fresh(choice) else self._draw_one(choice)

    def _draw_one(self, entry: OpenEntry) -> tuple[OpenEntry, Target]:
        target = entry.targets[entry.cursor]
        entry.cursor += 1
        lane = entry.chunk.lane
        self.size[lane] -= 1
        self.counted -= entry.counted
        if entry.cursor == len(entry.targets):
            self._queues[lane].remove(entry)
        return entry, target

    def expired(self, now: int) -> Withdrawn:
        """Remove and return the waiting targets that had expired at `now` (Unix ms)."""
        return self.sift(lambda entry: entry.left if entry.chunk.expires_at <= now else ())

    def sift(self, choose: Choice) -> Withdrawn:
        """Take targets that were not drawn out of the line."""
        found: Withdrawn = []
        for lane, queue in self._queues.items():
            own = sift(queue, choose)
            self.size[lane] -= sum(len(gone) for _, gone in own)
            self.counted -= sum(len(gone) for entry, gone in own if entry.counted)
            found += own
        return found

    def _next_lane(
        self, limit: int, spare: int, lean: int | None, overtaken: Sequence[Lane], permits: int | None
    ) -> tuple[Lane | None, int]:
        """Return the next lane, and how much of it may be sent."""
        due = [lane for lane in LANES if self._credit[lane] >= SLICE]
        for lane in (*due, *LANES):
            if not self.size[lane] or lane in self.resting:
                continue
            room = limit if lane == "urgent" else min(limit, spare)
            if lean is not None and lane in overtaken and lane not in due:
                room = min(room, lean)
            if permits is not None and permits < room and not self._queues[lane][0].counted:
                room = permits
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
