"""This machine and its processes, as benchmarks see them: cores, CPU time, memory. It reads `/proc`, of Linux."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

STORES = ("valkey-server", "redis-server")
CGROUPS: Final = Path("/sys/fs/cgroup")
PERIOD_US: Final = 10_000
"""Microseconds after which a limited process may run again that has used up its CPU time."""


class Machine(Struct, frozen=True):
    """What figures depend on beside the code. Two runs can be compared where it is the same."""

    processor: str
    cores: int
    memory_gb: float
    system: str
    python: str


def this_machine() -> Machine:
    """Describe this machine, without its name."""
    words = (line.partition(":") for line in _text("/proc/cpuinfo").splitlines())
    processor = next((value.strip() for key, _, value in words if key.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    system = f"{platform.system()} {platform.release()}"
    # Builds of one version differ in speed by a fifth: those of distributions are optimized by profile.
    python = f"{platform.python_version()}, {platform.python_compiler()}, built {platform.python_build()[1]}"
    return Machine(processor, len(cores()), round(memory, 1), system, python)


def cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(pid: int, to: Collection[int]) -> None:
    """Keep a process (0: this one) and those that it starts on these cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, to)


def limit_files(limit: float, root: Path = CGROUPS) -> tuple[Path, dict[str, str]]:
    """Return the folder in which a cgroup is made, and what its files say where it has the CPU time of so many cores
    (https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files, and of version 1
    https://docs.kernel.org/scheduler/sched-bwc.html). It has the highest weight too: beside each process outside it
    would be no more than one process, and not reach its limit."""
    quota = round(limit * PERIOD_US)
    if (root / "cgroup.controllers").exists():
        return root, {"cpu.max": f"{quota} {PERIOD_US}", "cpu.weight": "10000"}
    files = {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota), "cpu.shares": "262144"}
    return root / "cpu", files


class NoLimit(RuntimeError):
    """The system does not let the CPU time of a process be limited."""


@contextmanager
def limited(pid: int, limit: float, root: Path = CGROUPS) -> Iterator[None]:
    """Limit a process and those below it, all together, to the CPU time of so many cores while the block runs. Raises
    `NoLimit` where the system does not let it."""
    parent, files = limit_files(limit, root)
    group = parent / f"pushsvc-bench-{pid}"
    try:
        group.mkdir()
    except OSError as error:
        raise NoLimit(f"limiting CPU time needs root and a cgroup under {root}: {error}") from error
    try:
        try:
            for name, text in files.items():
                (group / name).write_text(text)
        except OSError as error:
            raise NoLimit(f"limiting CPU time needs the controller `cpu` for {parent}: {error}") from error
        joined: set[int] = set()
        while new := family(pid).keys() - joined:  # until none has started another one meanwhile
            _move(new, group)
            joined |= new
        yield
    finally:
        while members := {int(word) for word in _text(f"{group}/cgroup.procs").split()}:
            _move(members, parent)
        group.rmdir()


def _move(pids: Collection[int], group: Path) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            (group / "cgroup.procs").write_text(str(pid))


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process, and of those of its children that have ended."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def running_seconds(pid: int) -> float:
    """Return the CPU time of the threads that a process has now, to the nanosecond, where `cpu_seconds` counts in
    hundredths of a second (https://docs.kernel.org/scheduler/sched-stats.html: schedstat)."""
    return _scheduled(pid, 0)


def waiting_seconds(pid: int) -> float:
    """Return how long the threads that a process has now could have run and waited for a core (as above)."""
    return _scheduled(pid, 1)


def _scheduled(pid: int, field: int) -> float:
    tasks = os.listdir(f"/proc/{pid}/task")
    return sum(int(_text(f"/proc/{pid}/task/{task}/schedstat").split()[field]) for task in tasks) / 1e9


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB (10^6 bytes)."""
    return int(_text(f"/proc/{pid}/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def pss_mb(pid: int) -> float:
    """Return the memory of a process in MB, with its share of what it has in common with others
    (https://docs.kernel.org/filesystems/proc.html: Pss); 0 of one that has ended, as the store's that write its file
    anew do."""
    try:
        lines = _text(f"/proc/{pid}/smaps_rollup").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def descriptors(pid: int) -> int:
    """Return the number of open descriptors of a process; 0 of one that has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def family(*roots: int) -> dict[int, str]:
    """Return some processes and those below them, each with the name of its part: the command of `pushsvc`, or `store`,
    or the name of the program."""
    children: dict[int, list[int]] = {}
    words: dict[int, list[str]] = {}
    for pid in _processes():
        try:
            text, command = _text(f"/proc/{pid}/stat"), _text(f"/proc/{pid}/cmdline")
        except OSError:
            continue  # it has ended meanwhile
        children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(pid)
        words[pid] = command.split("\0")
    found: dict[int, str] = {}
    wanted = list(roots)
    while wanted:
        pid = wanted.pop()
        if pid in words:
            found[pid] = part_of(words[pid])
        wanted += children.get(pid, [])
    return found


def part_of(command: list[str]) -> str:
    """Return the name of the part that a command line runs."""
    # A server shows itself as one word with its address: "/usr/bin/valkey-server unixsocket:/tmp/store.sock".
    if any(name in command[0] for name in STORES):
        return "store"
    match command[1:]:
        case ["-m", "pushsvc", part, *_]:
            return part
    return Path(command[0]).name


def cpu_by_part(*roots: int) -> dict[str, float]:
    """Return the seconds of CPU of some processes and those below them, by part."""
    found: dict[str, float] = {}
    for pid, part in family(*roots).items():
        with suppress(OSError):  # it has ended meanwhile
            found[part] = found.get(part, 0.0) + cpu_seconds(pid)
    return found


def cpu_since(before: Mapping[str, float], *roots: int) -> dict[str, float]:
    """Return the seconds of CPU that they have used since."""
    return {part: used - before.get(part, 0.0) for part, used in cpu_by_part(*roots).items()}


def _processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").glob("[0-9]*"))


def _text(path: str) -> str:
    return Path(path).read_text(errors="replace")
