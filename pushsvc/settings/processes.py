"""The number of processes of a part, in the configuration and on the command line: a number, or "auto"."""

from __future__ import annotations

import os
from functools import cache
from typing import Annotated, Final, TypeAlias

from ..decoding import Rule
from .values import too_many

PROCESSES_HELP: Final = 'a whole number of at least 1, or "auto" for half of the cores'


@cache
def cores() -> int:
    """Return the number of cores that this process may use, as it was when first asked for: settings that are read
    again compare equal where nothing was written, whatever cores the process has been given since."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse_processes(text: str) -> int:
    """Return the number of processes that a text means. "auto" is half of the cores, and at least one: the other half
    is left to the store and the other parts. Raises `ValueError`."""
    if text.strip() == "auto":
        return max(1, cores() // 2)
    if (count := int(text)) < 1:
        raise ValueError(f"expected {PROCESSES_HELP}")
    return count


Processes: TypeAlias = Annotated[int, Rule(PROCESSES_HELP, too_many, parse_processes, numbers=True)]
