"""Work that is retried until Redis is back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Final

from ..errors import StoreUnavailable
from ..telemetry import REDIS

FIRST: Final = 0.05
LONGEST: Final = 2.0
"""Seconds of the first and of the longest pause between two attempts; each is twice the one before it."""


class Patience:
    """Runs attempts one after the other, each in a block: `while ..: async with patience: ..`.

    A block that raises `StoreUnavailable` is left without an error after a pause, so that the loop around it tries
    again; one that ends well makes the next pause the first one again. Any other error is raised. The log says once
    that Redis is away and once that it is back, however many parts wait for it.
    """

    def __init__(self, who: Hashable, *, longest: float = LONGEST, unrecorded: Callable[[], int] | None = None) -> None:
        """Start with the first pause. `who` distinguishes the parts that wait; `longest` is the longest pause in
        seconds; `unrecorded` returns the number of outcomes that wait, for the log."""
        self._who = who
        self._longest = longest
        self._unrecorded = unrecorded
        self._pause = FIRST

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            self._pause = FIRST
            REDIS.end(self._who)
            return False
        if not isinstance(error, StoreUnavailable):
            return False
        more = {} if self._unrecorded is None else {"unrecorded": self._unrecorded()}
        REDIS.away(self._who, error, **more)
        await asyncio.sleep(self._pause)
        self._pause = min(self._longest, self._pause * 2)
        return True
