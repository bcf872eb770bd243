"""The flow of each app in slots of ten seconds, from which the rates of the last hours are made.

Processes count in their own memory and add the increase here every few seconds, so that nothing that a push passes
through pays for it. An increase belongs to the slot in which it is noted.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from ...model.push import LANES
from ...ports.figures import KEPT, SLOT, FlowNote
from .. import keys
from ..link.link import ScriptCall
from ..part import StorePart

LIFETIME: Final = (KEPT + 300) * 1000
"""Milliseconds after which a minute expires."""


class RedisFlow(StorePart):
    """`Flow` over a hash a minute."""

    @property
    def slot(self) -> int:
        return self._clock() // (1000 * SLOT)

    async def note(self, note: FlowNote) -> None:
        minute, second = divmod(note.slot * SLOT, 60)
        calls: list[ScriptCall] = []
        for app, counts in note.counts.items():
            fields = [part for name, count in counts.items() for part in (f"{second}:{name}", count)]
            args = [LIFETIME, f":{note.process}", note.mark, *fields]
            calls.append(("flow_note", [keys.flow(app, minute)], args))
        if calls:
            await self._link.scripts(calls)

    async def note_waiting(self, apps: Collection[str]) -> None:
        places = [(app, shard) for app in apps for shard in range(self._config.shards_of(app))]
        answers = await self._link.many([("HGETALL", keys.pending(*place)) for place in places])
        waiting = {app: dict.fromkeys(LANES, 0) for app in apps}
        for (app, _), counters in zip(places, answers, strict=True):
            for field, count in counters.items():
                lane = field.decode().rpartition(":")[2]
                if lane in waiting[app]:
                    waiting[app][lane] += int(count)
        minute, second = divmod(self.slot * SLOT, 60)
        commands: list[tuple[Any, ...]] = []
        for app, lanes in waiting.items():
            key = keys.flow(app, minute)
            fields = [part for lane, count in lanes.items() for part in (f"{second}:waiting:{lane}", count)]
            commands += [("HSET", key, *fields), ("PEXPIRE", key, LIFETIME)]
        await self._link.many(commands)

    async def read(self, app: str, first: int, last: int) -> dict[int, dict[str, int]]:
        """Return the slots in one round trip."""
        minutes = range(first * SLOT // 60, last * SLOT // 60 + 1)
        hashes = await self._link.many([("HGETALL", keys.flow(app, minute)) for minute in minutes])
        found: dict[int, dict[str, int]] = {}
        for minute, fields in zip(minutes, hashes, strict=True):
            for field, count in fields.items():
                second, _, name = field.decode().partition(":")
                if not second:
                    continue  # the mark of a process
                slot = (minute * 60 + int(second)) // SLOT
                if first <= slot <= last:
                    found.setdefault(slot, {})[name] = int(count)
        return found
