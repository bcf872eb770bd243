"""Group commit: what is asked during a round trip, or within one tick of the event loop, shares the next one.

A round trip costs tens of microseconds of Python whatever it contains; one push per round trip would spend more on
that than on the rest of a request. With one flush in flight at a time, a batch grows with the load: a single push does
not wait. If a write waits for a disk, a few are in flight at once, because otherwise a write that has just missed one
would wait for two.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, cast

from ...errors import StoreUnavailable

T = TypeVar("T")
R = TypeVar("R")


class GroupCommit(Generic[T, R]):
    """Collects the items of many callers for one `write`, which returns the result of each. A caller waits for that of
    its own item. An exception among the results is raised to its caller alone, one of the whole write to all."""

    def __init__(
        self,
        write: Callable[[list[T]], Awaitable[Sequence[R | Exception]]],
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
        self._waiting: deque[tuple[T, int, asyncio.Future[R]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, item: T, size: int = 0) -> asyncio.Future[R]:
        """Hand over one caller's item, of about `size` bytes."""
        future: asyncio.Future[R] = self._loop.create_future()
        self._waiting.append((item, size, future))
        if len(self._tasks) < self._flights:
            self._tasks.add(self._loop.create_task(self._run()))
        return future

    async def aclose(self) -> None:
        """Wait until everything that was added is written."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self) -> None:
        batch: list[asyncio.Future[R]] = []
        try:
            while self._waiting:
                items, batch = self._next()
                results: Sequence[R | Exception]
                try:
                    results = await self._write(items)
                except Exception as error:
                    results = [error] * len(batch)
                for future, result in zip(batch, results, strict=True):
                    if future.done():
                        continue
                    if isinstance(result, Exception):
                        future.set_exception(_raisable(result))
                    else:
                        future.set_result(result)
        finally:
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))
            # Reached with waiting callers only when the loop is being closed.
            for future in [*batch, *(entry[2] for entry in self._waiting)]:
                if not future.done():
                    future.set_exception(StoreUnavailable("the store is closing"))
            self._waiting.clear()

    def _next(self) -> tuple[list[T], list[asyncio.Future[R]]]:
        items: list[T] = []
        futures: list[asyncio.Future[R]] = []
        size = 0
        waiting = self._waiting
        while waiting and len(items) < self._most and (not items or size < self._most_bytes):
            item, own_size, future = waiting.popleft()
            items.append(item)
            futures.append(future)
            size += own_size
        return items, futures


def _raisable(error: Exception) -> Exception:
    """Return the error as a future takes it: a `StopIteration` is a `RuntimeError` there, as where a coroutine raises
    it."""
    if not isinstance(error, StopIteration):
        return error
    raised = RuntimeError("an item raised StopIteration")
    raised.__cause__ = error
    return raised
