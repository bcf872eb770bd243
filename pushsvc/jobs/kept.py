"""The event loop in which the jobs of a process run, and the store that is kept in it from one job to the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from typing import Any, Final, TypeVar

from ..background import boot_clock
from ..ports.store import Store
from ..runtime.store import connect
from ..settings.schema import Settings

T = TypeVar("T")

REST: Final = 1.0
"""Seconds after a job for which its store is kept. It checks about as often which server is the primary, but only
while a job runs."""


class KeptStore:
    """Runs jobs one after the other in one loop, and keeps a store for them: to open it costs as much as to expand an
    audience of a thousand.

    A job that raises anything ends both, as one does that is interrupted (see limit.py): it may have been anywhere in
    them. Other settings need another store.
    """

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._job: asyncio.Task[Any] | None = None
        self._opened = AsyncExitStack()
        self._store: Store | None = None
        self._settings: Settings | None = None
        self._used_at = -inf

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a job, and return its result."""
        try:
            if boot_clock() - self._used_at > REST:
                self.close()
            self._used_at = -inf  # where this job does not return, the next one has another loop
            self._runner = self._runner or asyncio.Runner()
            result = self._runner.run(self._noted(work))
            self._used_at = boot_clock()
            return result
        except BaseException:
            self.close()
            raise

    @asynccontextmanager
    async def connect(self, url: str, settings: Settings) -> AsyncIterator[Store]:
        """Yield the store, opened where that is needed; see `runtime.store.connect`. For jobs that `run` runs."""
        if self._store is None or self._store.replaced.is_set() or self._settings is not settings:
            self._store = None
            await self._opened.aclose()
            self._store = await self._opened.enter_async_context(connect(url, settings))
            self._settings = settings
        yield self._store

    def close(self) -> None:
        """End the job, if one was interrupted, then the store and the loop. Where this is interrupted too, the next job
        has others nevertheless."""
        runner, job, opened = self._runner, self._job, self._opened
        self._runner = self._job = self._store = None
        self._opened = AsyncExitStack()
        if runner is not None:
            try:
                runner.run(_end(job, opened))
            finally:
                runner.close()

    async def _noted(self, work: Coroutine[Any, Any, T]) -> T:
        self._job = asyncio.current_task()
        return await work


async def _end(job: asyncio.Task[Any] | None, opened: AsyncExitStack) -> None:
    if job is not None and not job.done():
        job.cancel()
        await asyncio.wait([job])
    await opened.aclose()
