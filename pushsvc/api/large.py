"""Large documents are judged in a thread, so that other requests do not wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

LARGE: Final = 256 * 1024
"""The size in bytes from which on a document is judged in a thread. That of a push to 10,000 tokens takes some 15 ms,
and 80 ms where one of them has a fault; other requests would wait for it, and so wait for no more than Python's switch
of threads, 5 ms."""


class LargeDocuments:
    """Judges the large documents of all requests, one at a time: each thread more would make the others wait longer for
    their turn."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def judge(self, read: Callable[[], T]) -> T:
        """Return what `read` returns in a thread, or raise what it raises."""
        async with self._lock:
            return await asyncio.to_thread(read)
