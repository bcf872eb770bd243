"""`Bell` over Redis: a stream of one entry, so that every process that waits is woken."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ...errors import StoreError
from .. import keys
from ..link.link import Link


class RedisBell:
    """See `ports.work.Bell`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._last: bytes | str = "0-0"
        self._wanted = False
        self._ringing: asyncio.Task[None] | None = None

    def ring(self) -> None:
        self._wanted = True
        if self._ringing is None or self._ringing.done():
            self._ringing = asyncio.create_task(self._ring(), name="bell")

    async def _ring(self) -> None:
        """Ring until nothing was written after the last ring began."""
        while self._wanted:
            self._wanted = False
            with suppress(StoreError):
                await self._link.call("XADD", keys.BELL, "MAXLEN", 1, "*", "", "")

    async def wait(self, seconds: float) -> bool:
        wait_ms = max(1, int(seconds * 1000))
        # The last ring may be missing on a new primary, and if its clock is behind, later rings have smaller ids there:
        # XREAD does not return them, so that what the bell holds after the wait is compared as well.
        words = ("XREAD", "BLOCK", wait_ms, "STREAMS", keys.BELL, self._last)
        _, rings = await self._link.wait([words, ("XREVRANGE", keys.BELL, "+", "-", "COUNT", 1)], wait_ms)
        before, self._last = self._last, rings[0][0] if rings else "0-0"
        return self._last not in (before, "0-0")

    async def aclose(self) -> None:
        """Return once it has rung for all that was written."""
        if self._ringing is not None:
            await self._ringing
