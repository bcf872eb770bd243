"""The retries of one route that wait in Redis: promotes those that are due, and rests until the next may be."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ...background import until_pulse
from ...model.push import Route
from .agenda import Agenda
from .context import DispatchContext


class Retries:
    """The retries of one route."""

    def __init__(self, context: DispatchContext, route: Route) -> None:
        self._queue, self._wall_clock = context.queue, context.wall_clock
        self._route = route
        self._config = context.config
        self._loop = asyncio.get_running_loop()
        self._agenda = Agenda(context.config.ask_every)
        self._expects = asyncio.Event()
        self._took: float | None = None
        """Seconds that the last step took, if it has left some that were due."""

    def expect(self, due_at: int) -> None:
        """Look for a retry at `due_at` (Unix ms): it was recorded a moment ago."""
        self._agenda.note(due_at)
        self._expects.set()

    async def promote(self) -> None:
        """Let those that are due be read, one step of them at most. Raises `StoreUnavailable`."""
        self._took = None
        now, started = int(self._wall_clock() * 1000), self._loop.time()
        if not self._agenda.take(now, started):
            return
        due = await self._queue.next_retry(self._route)
        self._agenda.note(due)
        if due is not None and due <= now:
            await self._queue.promote(self._route, now)
            due = await self._queue.next_retry(self._route)
            if due is not None and due <= now:
                self._took = self._loop.time() - started

    async def rest(self, *, idle: bool) -> None:
        """Wait until the next look. While the route is `idle`, with nothing in memory and free to send, that is when a
        question is due or a retry is recorded here. After a step that has left some that were due, wait only as long as
        it took, so that half of the time of Redis is for others."""
        if self._took is not None:
            await asyncio.sleep(self._took)
        elif not idle:
            await asyncio.sleep(self._config.promote_every)
        else:
            self._expects.clear()
            left = min(self._agenda.left(int(self._wall_clock() * 1000)), until_pulse(self._config.ask_every))
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._config.promote_every, left)):
                    await self._expects.wait()
