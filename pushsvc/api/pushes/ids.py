"""Push ids are UUIDs of version 7: unique without coordination, and ordered by time.
https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7"""

from __future__ import annotations

import os
import re
import time
from typing import Final

UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
"""The pattern of every push id; other paths cannot name a push."""
_MOST: Final = 0xFFF
"""The highest count of the ids of one instant; further ones are unique, and in no order."""


def uuid7(unix_ms: int, random: bytes) -> str:
    """Return the UUIDv7 of an instant in Unix ms and 10 random bytes: 36 characters, lower case."""
    bits = int.from_bytes(random, "big")
    text = f"{unix_ms & 0xFFFF_FFFF_FFFF:012x}"
    high = 0x7000 | bits >> 68
    low = 0x8000_0000_0000_0000 | bits & 0x3FFF_FFFF_FFFF_FFFF
    tail = f"{low:016x}"
    return f"{text[:8]}-{text[8:]}-{high:04x}-{tail[:4]}-{tail[4:]}"


class PushIds:
    """Makes ids. Those of one instant are in the order in which they were made: of two pushes of a batch with one
    `collapse`, the second is the later one. https://www.rfc-editor.org/rfc/rfc9562#name-monotonicity-and-counters"""

    def __init__(self) -> None:
        self._instant = -1
        self._count = 0

    def __call__(self, unix_ms: int) -> str:
        """Return a new id, with the push's time of acceptance as `unix_ms`."""
        bits = int.from_bytes(os.urandom(10), "big")
        if unix_ms == self._instant:
            self._count = min(self._count + 1, _MOST)
        else:
            self._instant, self._count = unix_ms, bits >> 69  # in the lower half, so that it has room to grow
        return uuid7(unix_ms, (self._count << 68 | bits & (1 << 68) - 1).to_bytes(10, "big"))


new_push_id: Final = PushIds()


def now_ms() -> int:
    """Return the time in Unix ms."""
    return time.time_ns() // 1_000_000
