"""Group commit: writes that arrive during a round trip, or within one tick of the event loop, share the next one.

A round trip costs tens of microseconds of Python whatever it contains; one push per round trip would spend more on
that than on the rest of a request. With one flush in flight at a time, a batch grows with the load: a single push does
not wait. If a write waits for a disk, a few are in flight at once, because otherwise a write that has just missed one
would wait for two.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, cast

from ...errors import StoreUnavailable

T = TypeVar("T")


class GroupCommit(Generic[T]):
    """Collects the items of many callers for one `write`. Each caller waits until the write with its own item is done,
    and gets the exception of that write if it failed."""

    def __init__(
        self,
        write: Callable[[list[T]], Awaitable[None]],
        *,
        flights: int = 1,
        most: int = 1000,
        most_bytes: int = 8 << 20,
    ) -> None:
        """Configure the commits:

        `most` items and about `most_bytes` bytes share one write, `flights` writes run at once.
        """
        # Asked once: Python 3.11 asks the system for the process at each time.
        self._loop = asyncio.get_running_loop()
        self._write = write
        self._flights = flights
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[T, int, asyncio.Future[None]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, item: T, size: int) -> asyncio.Future[None]:
        """Hand over one caller's item, of about `size` bytes."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((item, size, future))
        if len(self._tasks) < self._flights:
            self._tasks.add(self._loop.create_task(self._run()))
        return future

    async def aclose(self) -> None:
        """Wait until everything that was added is written."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self) -> None:
        batch: list[asyncio.Future[None]] = []
        try:
            while self._waiting:
                items, batch = self._next()
                try:
                    await self._write(items)
                except Exception as error:
                    for future in batch:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for future in batch:
                        if not future.done():
                            future.set_result(None)
        finally:
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))
            # Reached with waiting callers only when the loop is being closed.
            for future in [*batch, *(entry[2] for entry in self._waiting)]:
                if not future.done():
                    future.set_exception(StoreUnavailable("the store is closing"))
            self._waiting.clear()

    def _next(self) -> tuple[list[T], list[asyncio.Future[None]]]:
        items: list[T] = []
        futures: list[asyncio.Future[None]] = []
        size = 0
        waiting = self._waiting
        while waiting and len(items) < self._most and (not items or size < self._most_bytes):
            item, own_size, future = waiting.popleft()
            items.append(item)
            futures.append(future)
            size += own_size
        return items, futures
