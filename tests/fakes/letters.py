"""Dead letters and replays of the twin in memory, by the same rules as Redis': see `replays.py` and `replay.lua`."""

from __future__ import annotations

import msgspec

from pushsvc.model.codec import decode_chunk
from pushsvc.model.routing import has_provider_fallback
from pushsvc.ports.letters import DeadFilter, DeadGroup, DeadRow, ReplaySpec, ReplayStatus, ReplayStep
from pushsvc.store.letters.listing import fits, parse_cursor, row_of_letter
from pushsvc.store.letters.reopening import grouped, reopened
from pushsvc.store.letters.replays import ENDED

from .state import State


class MemoryDeadLetters:
    """`DeadLetters` in memory, and its steps."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def page(self, app: str, which: DeadFilter, *, cursor: str, limit: int) -> tuple[list[DeadRow], str | None]:
        after = int(parse_cursor(cursor)[1].partition("-")[0] or 0)
        rows: list[DeadRow] = []
        for number, letter in self._state.dead[app].items():
            if number > after and fits(letter, which):
                if len(rows) == limit:
                    return rows, rows[-1].id
                rows.append(row_of_letter(f"0-{number}-0", letter))
        return rows, None

    async def count(self, app: str, which: DeadFilter) -> int:
        return sum(1 for letter in self._state.dead[app].values() if fits(letter, which))

    async def groups(self, app: str, which: DeadFilter) -> tuple[list[DeadGroup], bool]:
        found: dict[tuple[str, str], list[DeadRow]] = {}
        for row in (await self.page(app, which, cursor="", limit=1000))[0]:
            found.setdefault((row.platform, row.reason), []).append(row)
        return [DeadGroup(*key, len(rows), rows[0].at, rows[-1].at, rows[:3]) for key, rows in found.items()], True

    async def request(self, spec: ReplaySpec) -> ReplayStatus:
        now = self._state.clock()
        status = ReplayStatus(
            job=f"{next(self._state.numbers):x}",
            spec=spec,
            state="queued",
            created_at=now,
            updated_at=now,
            matched=await self.count(spec.app, spec.filter),
        )
        self._state.replays[spec.app, status.job] = status
        self._state.replay_ends[status.job] = (0, max(self._state.dead[spec.app], default=0))
        return status

    async def replay(self, app: str, job: str) -> ReplayStatus | None:
        return self._state.replays.get((app, job))

    async def stop(self, app: str, job: str) -> ReplayStatus | None:
        status = self._state.replays.get((app, job))
        if status is not None and status.state not in ENDED:
            status = self._state.replays[app, job] = msgspec.structs.replace(status, state="stopped")
        return status

    async def unfinished(self, *, due: bool = True) -> list[tuple[str, str]]:
        return [place for place, status in self._state.replays.items() if status.state in ("queued", "running")]

    async def keep(self, app: str, job: str, *, lease: int) -> None:
        """Nobody dies here."""

    async def due_at(self, app: str, job: str) -> int:
        return 0

    async def put_off(self, app: str, job: str, due: int) -> None:
        """Nobody waits here."""

    async def finish(self, app: str, job: str, error: str = "") -> None:
        status = self._state.replays[app, job]
        if status.state != "stopped":
            state = "failed" if error else "done"
            self._state.replays[app, job] = msgspec.structs.replace(status, state=state, error=error)

    async def step(self, app: str, job: str, *, most: int) -> ReplayStep:
        state = self._state
        status = state.replays.get((app, job))
        if status is None or status.state in ENDED:
            return ReplayStep(over=True)
        seen, end = state.replay_ends[job]
        spec = status.spec
        most = min(most, spec.limit - status.moved) if spec.limit else most
        found = [
            (number, letter)
            for number, letter in state.dead[app].items()
            if seen < number <= end and fits(letter, spec.filter)
        ][: max(most, 0)]
        if not found:
            return ReplayStep(over=True)
        moved = skipped = 0
        for group in grouped([(str(number), letter) for number, letter in found], state.config.chunk_size):
            record = state.pushes[app, group[0][1].push_id]
            head = decode_chunk(group[0][1].head)
            if head.lacks_content:
                head = msgspec.structs.replace(head, message=record.push.messages[head.variant])
            reopening = reopened(head, group, now=state.clock())
            if record.state == "cancelled":
                skipped += len(group)
                continue
            for entry, letter in group:
                index = letter.target.index
                del record.ended[index], state.dead[app][int(entry)]
                record.rows.pop(index)
                record.turns[index] = reopening.chunk.turn
                if has_provider_fallback(reopening.chunk):
                    record.marks[index] = "f"
            record.state = "sending" if record.state == "done" else record.state
            state.lanes[app, head.channel, head.lane].add(reopening.chunk)
            moved += len(group)
        state.replay_ends[job] = (found[-1][0], end)
        state.replays[app, job] = msgspec.structs.replace(
            status, state="running", moved=status.moved + moved, skipped=status.skipped + skipped
        )
        state.change()
        return ReplayStep(moved=moved, skipped=skipped)
