"""Expansions of the twin in memory, by the same rules as Redis': see `expansions.py` and `expand.lua`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pushsvc.model.codec import chunks_of, without_contents
from pushsvc.model.push import Platform, Target
from pushsvc.ports.expansion import Expansion, FailingExpansion, Waiting
from pushsvc.store.pushes.expansions import pause

from .state import Record, State, Walk


class MemoryExpansions:
    """`Expansions` in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def due(self, apps: Iterable[str]) -> list[Waiting]:
        wanted, now = set(apps), self._state.clock()
        found = [
            Waiting(app, push_id, record.push.lane, record.walk.due)
            for (app, push_id), record in self._state.pushes.items()
            if app in wanted and record.walk is not None and record.walk.due <= now
        ]
        return sorted(found, key=lambda each: (each.since, each.push_id))

    async def lapsed(self, apps: Iterable[str]) -> list[Waiting]:
        now, pushes = self._state.clock(), self._state.pushes
        return [each for each in await self.due(apps) if pushes[each.app, each.push_id].push.expires_at <= now]

    async def take_up(self, which: Waiting, *, lease: int) -> bool:
        walk = self._walk(which.app, which.push_id)
        if walk is None or walk.due > self._state.clock():
            return False
        walk.due = self._state.clock() + lease
        return True

    async def release(self, at: Expansion) -> None:
        walk = self._walk(at.push.app, at.push.id)
        if walk is not None:
            walk.due = at.push.starts_at

    async def put_off(self, which: Waiting, why: str) -> int:
        walk = self._walk(which.app, which.push_id)
        if walk is None:
            return 0
        walk.faults += 1
        walk.why, walk.failed = why, self._state.clock() if walk.failed is None else walk.failed
        wait = pause(walk.faults)
        walk.due = self._state.clock() + wait
        return wait

    async def failing(self, apps: Iterable[str]) -> list[FailingExpansion]:
        wanted = set(apps)
        return [
            FailingExpansion(app, push_id, record.walk.why, record.walk.failed)
            for (app, push_id), record in self._state.pushes.items()
            if app in wanted and record.walk is not None and record.walk.failed is not None
        ]

    def _walk(self, app: str, push_id: str) -> Walk | None:
        record = self._state.pushes.get((app, push_id))
        return None if record is None else record.walk

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
        for chunk in chunks_of(record.push, found, 0, state.config.chunk_size):
            state.lanes[push.app, chunk.channel, chunk.lane].add(chunk)
            record.places.update((target.index, chunk.channel) for target in chunk.targets)
        before = record.push.targets
        targets = {**before, **{platform: (*before.get(platform, ()), *more) for platform, more in found.items()}}
        record.push = msgspec.structs.replace(record.push, targets=targets)
        record.launched, record.updated_at = True, state.clock()
        record.walk.step, record.walk.cursor, record.walk.due = at.step + 1, cursor or "", state.clock() + lease
        record.walk.faults, record.walk.failed = 0, None
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
    push = without_contents(msgspec.structs.replace(record.push, targets={}))
    return Expansion(push, walk.step, walk.cursor, record.push.total)
