"""Expansions of the twin in memory, by the same rules as Redis': see `expansions.py` and `expand.lua`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..codec import chunks_of
from ..model import Platform, Target
from ..ports.expansion import Expansion
from .memory_state import Record, State


class MemoryExpansions:
    """`Expansions` in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def due(self, apps: Iterable[str]) -> list[tuple[str, str]]:
        wanted, now = set(apps), self._state.clock()
        return [
            place
            for place, record in self._state.pushes.items()
            if place[0] in wanted and record.walk is not None and record.walk.due <= now
        ]

    async def keep(self, app: str, push_id: str, *, lease: int) -> None:
        record = self._state.pushes.get((app, push_id))
        if record is not None and record.walk is not None:
            record.walk.due = self._state.clock() + lease

    async def load(self, app: str, push_id: str) -> Expansion | None:
        record = self._state.pushes.get((app, push_id))
        return None if record is None else _expansion(record)

    async def advance(
        self, at: Expansion, found: Mapping[Platform, Sequence[Target]], *, cursor: str | None, lease: int
    ) -> Expansion | None:
        state, push = self._state, at.push
        record = state.pushes[push.app, push.id]
        if record.walk is None or record.walk.step != at.step:
            return None
        for chunk in chunks_of(push, found, 0, state.config.chunk_size):
            state.lanes[push.app, chunk.platform, chunk.lane].add(chunk)
        before = record.push.targets
        targets = {**before, **{platform: (*before.get(platform, ()), *more) for platform, more in found.items()}}
        record.push = msgspec.structs.replace(record.push, targets=targets)
        record.launched, record.updated_at = True, state.clock()
        record.walk.step, record.walk.cursor, record.walk.due = at.step + 1, cursor or "", state.clock() + lease
        record.state = "expanding"
        following = _expansion(record)
        if cursor is None:
            record.walk = None
            record.state = "done" if record.left == 0 else "sending"
        state.change()
        return following


def _expansion(record: Record) -> Expansion | None:
    walk = record.walk
    if walk is None:
        return None
    return Expansion(msgspec.structs.replace(record.push, targets={}), walk.step, walk.cursor, record.push.total)
