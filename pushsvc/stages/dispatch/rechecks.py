"""Asks the store again whether what has waited here for long is still open, before it is sent.

A device may acknowledge a delivery that a provider is to carry on, and the dispatcher that has it in memory does not
learn of it: nearly always it has been sent by then. Where it waits, because its route is held, or paced, or has a
backlog, it is asked for again when its turn comes. Its lane rests until the answer is there, for one round trip; the
other lanes go on. Entries stay in their places meanwhile, so that revocations and expiries still find them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from ...model.push import LANES, Lane
from ..outage import Patience
from .context import DispatchContext
from .lanes import Lanes, OpenEntry
from .settling import Settler

FRESH_MS: Final = 1000
"""Milliseconds for which an answer of the store is good enough to send by."""

ASKED: Final = 256
"""Targets of a lane that are asked for together, from the first on that has waited too long."""


class Rechecks:
    """The questions of one route. Instants are Unix milliseconds."""

    def __init__(
        self,
        context: DispatchContext,
        app: str,
        lanes: Lanes,
        settler: Settler,
        *,
        answered: Callable[[], None],
    ) -> None:
        """Start without a question. `answered` is called when lanes that rested may be drawn from again."""
        self.needed = False
        """Whether anything was ever admitted that a device may acknowledge meanwhile: else there is nothing to ask."""
        self._queue, self._wall_clock = context.queue, context.wall_clock
        self._app = app
        self._lanes = lanes
        self._settler = settler
        self._answered = answered
        self._asked: dict[Lane, list[OpenEntry]] = {}
        self._more = asyncio.Event()

    def look(self, reach: int, now: int) -> None:
        """Ask where it is needed before the next `reach` targets of each lane are drawn; such lanes rest."""
        for lane in LANES:
            if lane not in self._lanes.resting:
                self._ask(lane, self._lanes.stale(lane, now - FRESH_MS, reach=reach, most=ASKED))

    def is_fresh(self, entry: OpenEntry, now: int) -> bool:
        """Return whether a target of the entry may be sent now; if not, it is asked for."""
        if not entry.is_stale(now - FRESH_MS):
            return True
        if entry.chunk.lane not in self._lanes.resting:
            self._ask(entry.chunk.lane, [entry])
        return False

    def _ask(self, lane: Lane, entries: list[OpenEntry]) -> None:
        if entries:
            self._asked[lane] = entries
            self._lanes.resting.add(lane)
            self._more.set()

    async def run(self) -> None:
        """Ask until cancelled. While Redis is away the lanes rest."""
        patience = Patience(("recheck", self._app))
        while True:
            await self._more.wait()
            asked = [entry for entries in self._asked.values() for entry in entries]
            lanes = set(self._asked)
            async with patience:
                answers = await self._queue.outstanding(self._app, [entry.chunk for entry in asked])
                self._remove(asked, answers)
                for lane in lanes:
                    del self._asked[lane]
                self._lanes.resting -= lanes
                if not self._asked:
                    self._more.clear()
                self._answered()

    def _remove(self, asked: Sequence[OpenEntry], answers: Sequence[Sequence[int]]) -> None:
        """Remove what has ended: it is counted where it has ended, and nothing is recorded of it here."""
        now = int(self._wall_clock() * 1000)
        left = {entry: frozenset(answer) for entry, answer in zip(asked, answers, strict=True)}
        for entry in asked:
            entry.sure_at = now
        over = self._lanes.sift(
            lambda entry: tuple(t for t in entry.left if t.index not in left[entry]) if entry in left else ()
        )
        for entry, gone in over:
            self._settler.spare(entry, len(gone))
