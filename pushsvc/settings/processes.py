"""The number of processes of a part, in the configuration and on the command line: a number, or "auto"."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from math import ceil, inf
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, TypeAlias

from ..decoding import Rule
from .values import too_many

PROCESSES_HELP: Final = 'a whole number of at least 1, or "auto" for half of the cores'


COPIES: Final = "PUSHSVC_COPIES"
"""The environment variable in which a supervisor says how many processes like this one it runs."""


@cache
def cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its quota of CPU time, as it was when
    first asked for: settings that are read again compare equal where nothing was written, whatever cores the process
    has been given since."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return ceil(min(len(os.sched_getaffinity(0)), quota()))
    return os.cpu_count() or 1


def quota(root: Path = Path("/")) -> float:
    """Return the quota of CPU time of this process's cgroup and those above it, in cores: infinity where there is none,
    and under cgroups of version 1, which are not read
    (https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files)."""
    least = inf
    with suppress(OSError, StopIteration):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        group = next(PurePosixPath(line[3:]) for line in lines if line.startswith("0::"))
        for place in (group, *group.parents):
            with suppress(OSError, ValueError):  # the root of all has none, and "max" is no number
                share, period = (root / "sys/fs/cgroup" / str(place)[1:] / "cpu.max").read_text().split()
                least = min(least, int(share) / int(period))
    return least


def parse_processes(text: str) -> int:
    """Return the number of processes that a text means. "auto" is half of the cores, and at least one: the other half
    is left to the store and the other parts. Raises `ValueError`."""
    if text.strip() == "auto":
        return max(1, cores() // 2)
    if (count := int(text)) < 1:
        raise ValueError(f"expected {PROCESSES_HELP}")
    return count


def share_address(configured: int) -> bool:
    """Return whether several processes listen on the address of this one: as many as its supervisor runs, which has
    counted once for all, or else as are `configured`. A process that takes the place of another may find another
    configuration, or other cores."""
    return int(os.environ.get(COPIES, configured)) > 1


Processes: TypeAlias = Annotated[int, Rule(PROCESSES_HELP, too_many, parse_processes, numbers=True)]
