"""Push ids are UUIDs of version 7: unique without coordination, and ordered by time.
https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7"""

from __future__ import annotations

import os
import re
import time
from typing import Final

UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
"""The pattern of every push id; other paths cannot name a push."""


def uuid7(unix_ms: int, random: bytes) -> str:
    """Return the UUIDv7 of an instant in Unix ms and 10 random bytes: 36 characters, lower case."""
    bits = int.from_bytes(random, "big")
    text = f"{unix_ms & 0xFFFF_FFFF_FFFF:012x}"
    high = 0x7000 | bits >> 68
    low = 0x8000_0000_0000_0000 | bits & 0x3FFF_FFFF_FFFF_FFFF
    tail = f"{low:016x}"
    return f"{text[:8]}-{text[8:]}-{high:04x}-{tail[:4]}-{tail[4:]}"


def new_push_id(unix_ms: int) -> str:
    """Return a new id, with the push's time of acceptance as `unix_ms`."""
    return uuid7(unix_ms, os.urandom(10))


def now_ms() -> int:
    """Return the time in Unix ms."""
    return time.time_ns() // 1_000_000
