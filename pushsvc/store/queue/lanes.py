"""The state of a lane's stream in one process: the entries that it works on, and whether it may have missed some."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias

from ...model.push import Lane, Platform, Route
from ...ports.entries import EntryRef
from .. import keys

LanePlace: TypeAlias = tuple[str, int, Platform, Lane]
"""App, shard, platform and lane."""

LOOK = 60.0
"""Seconds between two checks of this consumer's pending entries: after a failover the new server may call pending what
was acknowledged on the old one, and no other consumer takes it over while this one lives."""

GIVEN_BACK: Final = 1 << 64
"""Among the parts in work of an entry: another part was given back, so that the entry is not acknowledged but read
again, once none is in work."""


def bit_of(ref: EntryRef) -> int:
    """Return a part of an entry, or the entry itself, as a bit of `LaneState.held`."""
    return 1 << max(ref.part, 0)


class LaneState:
    """One stream from the view of one consumer."""

    __slots__ = (
        *("cursor", "drained", "ending", "expected", "held", "key", "look_at", "looked", "losses", "place"),
        *("sure_after", "unsure"),
    )

    def __init__(self, route: Route, shard: int, lane: Lane) -> None:
        self.place = (route.app, shard, route.platform, lane)
        self.key = keys.lane(*self.place)
        self.held: dict[str, int] = {}
        """The ids of the entries that were returned and are not finished, each with a bit for each part in work."""
        self.unsure = True
        """Whether entries may be pending for this consumer that were never returned."""
        self.sure_after = 0.0
        self.losses = 0
        """How often answers were lost: what was looked at before the latest time says nothing about now."""
        self.ending = False
        """Whether the end of some of `held` is being recorded: see `ending`."""
        self.drained = False
        """Whether the latest read returned everything, so that the next one may begin with a wait."""
        self.look_at = 0.0
        """When to check for such entries although nothing indicates any."""
        self.cursor: bytes | str = "0"
        self.looked = ""
        """The last entry that was looked at for whether its time is over; empty: the next look begins in front."""
        # Recent targets an entry. The first guess is a full chunk, so that the first reads take too few, not too many.
        self.expected = 500.0

    def lost(self, grace: float) -> None:
        """Note that an answer was lost. The server may serve the abandoned read for up to `grace` seconds from now."""
        self.unsure, self.drained = True, False
        self.losses += 1
        self.sure_after = max(self.sure_after, asyncio.get_running_loop().time() + grace)
        self.cursor = "0"

    def finish(self, entry_id: str, parts: int) -> None:
        """Note that these parts of an entry are finished."""
        left = self.held.get(entry_id, 0) & ~parts
        if left not in (0, GIVEN_BACK):
            self.held[entry_id] = left
        elif self.held.pop(entry_id, 0) & GIVEN_BACK:
            self.lost(0.0)

    def give_back(self, ref: EntryRef) -> None:
        """Note that an entry is to be read again: at once, or as soon as no other part of it is in work."""
        left = self.held.get(ref.entry_id, 0) & ~bit_of(ref)
        if left not in (0, GIVEN_BACK):
            self.held[ref.entry_id] = left | GIVEN_BACK
        else:
            self.held.pop(ref.entry_id, 0)
        self.lost(0.0)

    def empty(self) -> None:
        """Note that no pending entries are missing here."""
        now = asyncio.get_running_loop().time()
        self.unsure = now < self.sure_after
        self.look_at = now + LOOK
        self.cursor = "0"

    def learn(self, targets: int, entries: int) -> None:
        """Let the average follow the recent reads."""
        self.expected += 0.5 * (max(1.0, targets / entries) - self.expected)


@contextmanager
def ending(finished: Sequence[EntryRef], state_of: Callable[[EntryRef], LaneState | None]) -> Iterator[list[EntryRef]]:
    """Yield a reference to each entry of which nothing is left in work once these have ended, and note after the block
    that they have. Of a lane there is one such block at a time: of two that end the last parts of an entry, each would
    leave the entry to the other."""
    last: list[EntryRef] = []
    states: set[LaneState] = set()
    ends: dict[tuple[LaneState, str], tuple[EntryRef, int]] = {}
    for ref in finished:
        state = state_of(ref)
        if ref.part < 0:
            last.append(ref)
        if state is not None:
            states.add(state)
            place = state, ref.entry_id
            ends[place] = ref, ends.get(place, (ref, 0))[1] | bit_of(ref)
    assert not any(state.ending for state in states), "what ends in one lane is recorded one batch after the other"
    last += [
        ref
        for (state, name), (ref, bits) in ends.items()
        if ref.part >= 0 and not state.held.get(name, GIVEN_BACK) & ~bits
    ]
    for state in states:
        state.ending = True
    try:
        yield last
    finally:
        for state in states:
            state.ending = False
    for ref, bits in ends.values():
        if (state := state_of(ref)) is not None:
            state.finish(ref.entry_id, bits)
