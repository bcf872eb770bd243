"""The clock as the store reads it: Unix milliseconds, handed in so that tests can set it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], int]


def wall_clock() -> int:
    return time.time_ns() // 1_000_000
