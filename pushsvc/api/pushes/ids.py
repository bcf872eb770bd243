"""Push ids are UUIDs of version 7: unique without coordination, and ordered by time.
https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7"""

from __future__ import annotations

import os
import re
import time
from typing import Final

UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
"""The pattern of every push id; other paths cannot name a push."""
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
"""The digit with the variant of RFC 9562 in its two upper bits, by a random one."""
_MOST: Final = 0xFFF
"""The highest count of the ids of one instant; further ones are unique, and in no order."""
_DRAWN: Final = 256
"""The number of ids whose random digits are drawn at once."""
_DIGITS: Final = 20
"""Random digits of an id."""


class PushIds:
    """Makes ids. Those of one instant are in the order in which they were made: of two pushes of a batch with one
    `collapse`, the second is the later one. https://www.rfc-editor.org/rfc/rfc9562#name-monotonicity-and-counters"""

    def __init__(self) -> None:
        self._instant = -1
        self._count = 0
        self._begin = ""
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Draw other random digits: those in memory may be used by another process."""
        self._drawn, self._used = "", 0

    def __call__(self, unix_ms: int) -> str:
        """Return a new id, with the push's time of acceptance as `unix_ms`."""
        used = self._used
        if used == len(self._drawn):
            self._drawn, used = os.urandom(_DRAWN * _DIGITS // 2).hex(), 0
        self._used = used + _DIGITS
        digits = self._drawn[used : used + _DIGITS]
        if unix_ms == self._instant:
            self._count = min(self._count + 1, _MOST)
        else:
            # In the lower half, so that it has room to grow.
            self._instant, self._count = unix_ms, int(digits[:3], 16) >> 1
            instant = f"{unix_ms & 0xFFFF_FFFF_FFFF:012x}"
            self._begin = f"{instant[:8]}-{instant[8:]}-7"
        return f"{self._begin}{self._count:03x}-{_VARIANT[digits[4]]}{digits[5:8]}-{digits[8:]}"


new_push_id: Final = PushIds()


def now_ms() -> int:
    """Return the time in Unix ms."""
    return time.time_ns() // 1_000_000
