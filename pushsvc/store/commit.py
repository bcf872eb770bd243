"""Group commit: what is to be written while a round trip is under way, or within one tick of the loop, shares the next.

A round trip costs tens of microseconds of Python whatever it carries; one push a round trip would spend more on that
than on everything else of a request. With one flush in flight at a time a batch grows just as large as the load makes
it: alone, a push waits for nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from ..errors import StoreUnavailable

Args: TypeAlias = list[Any]
Write: TypeAlias = Callable[[Args], Awaitable[None]]


class GroupCommit:
    """Collects the arguments of many callers for one `write`. Each caller waits until the write that held its own
    arguments is done, and gets that write's exception if it failed.
    """

    def __init__(self, write: Write, *, most: int = 1000, most_bytes: int = 8 << 20) -> None:
        """`most` callers and about `most_bytes` bytes share one write."""
        self._write = write
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[Args, int, asyncio.Future[None]]] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, args: Args, size: int) -> asyncio.Future[None]:
        """Hand over one caller's arguments, of about `size` bytes."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append((args, size, future))
        if self._task is None:
            self._task = loop.create_task(self._run())
        return future

    async def aclose(self) -> None:
        """Let what was handed over be written."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        batch: list[asyncio.Future[None]] = []
        try:
            while self._waiting:
                args, batch = self._next()
                try:
                    await self._write(args)
                except Exception as error:
                    for future in batch:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for future in batch:
                        if not future.done():
                            future.set_result(None)
        finally:
            self._task = None
            # Reached with somebody waiting only when the loop is being torn down.
            for future in [*batch, *(entry[2] for entry in self._waiting)]:
                if not future.done():
                    future.set_exception(StoreUnavailable("the store is closing"))
            self._waiting.clear()

    def _next(self) -> tuple[Args, list[asyncio.Future[None]]]:
        args: Args = []
        futures: list[asyncio.Future[None]] = []
        size = 0
        waiting = self._waiting
        while waiting and len(futures) < self._most and (not futures or size < self._most_bytes):
            own, own_size, future = waiting.popleft()
            args += own
            size += own_size
            futures.append(future)
        return args, futures
