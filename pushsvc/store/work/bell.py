"""`Bell` over Redis: a stream of one entry, so that every process that waits is woken."""

from __future__ import annotations

from contextlib import suppress

from ...errors import StoreError
from .. import keys
from ..link.link import Link


class RedisBell:
    """See `ports.bell.Bell`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._last: bytes | str = "0-0"

    async def ring(self) -> None:
        with suppress(StoreError):
            await self._link.call("XADD", keys.BELL, "MAXLEN", 1, "*", "", "")

    async def heard(self, seconds: float) -> bool:
        wait_ms = max(1, int(seconds * 1000))
        words = ("XREAD", "BLOCK", wait_ms, "STREAMS", keys.BELL, self._last)
        (answer,) = await self._link.wait([words], wait_ms)
        for entries in dict(answer or ()).values():
            self._last = entries[-1][0]
        return bool(answer)
