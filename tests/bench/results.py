"""The results of `make bench`: one file of JSON a run, and what has changed since the runs before. Values and pure
functions, besides reading and writing the files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from .figures import MORE_IS_BETTER, Figure
from .machine import Machine

ROOT: Final = Path(__file__).parents[2]
NOISE: Final = 0.1
"""The part by which a figure changes between two runs of the same code, on a machine that does little else."""


class Part(Struct, frozen=True):
    """What one part of a run found."""

    seconds: float
    figures: tuple[Figure, ...]
    failed: bool = False


class Run(Struct, frozen=True, kw_only=True):
    """A run of `make bench`."""

    at: str
    """When it began, in UTC."""
    commit: str
    quick: bool
    machine: Machine
    load: float
    """How many processes wanted a core in the minute before it began, beside it."""
    generator: str
    """What put the load on HTTP servers."""
    parts: dict[str, Part]


class Row(Struct, frozen=True):
    """A figure, beside the same of an earlier run."""

    figure: Figure
    before: Figure | None = None

    @property
    def change(self) -> float:
        """The part by which it has grown; 0 where there is nothing to compare it with."""
        if self.before is None or not self.before.value:
            return 0.0
        return self.figure.value / self.before.value - 1

    @property
    def verdict(self) -> str:
        """`better` or `worse` where the change is more than noise: the rounds do not overlap either."""
        own, its = self.figure, self.before
        if its is None or abs(self.change) <= NOISE or (own.low <= its.high and its.low <= own.high):
            return ""
        return "better" if (self.change > 0) == (own.unit in MORE_IS_BETTER) else "worse"


class Chart(Struct, frozen=True):
    """The figures of one part with the same unit, which can be drawn at one scale."""

    part: str
    unit: str
    rows: tuple[Row, ...]


def commit() -> str:
    """Return the commit of this tree, with `-dirty` where it was changed; empty where
    git is not here or does not know."""
    if (git := shutil.which("git")) is None:
        return ""
    words = [git, "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def save(run: Run, file: Path) -> None:
    """Write a run, so that a reader never meets half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    part.replace(file)


def saved(folder: Path) -> list[Run]:
    """Return the runs of a folder, oldest first. A file that another version wrote is left out, with a line that says
    so."""
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            found.append(msgspec.json.decode(file.read_bytes(), type=Run))
        except msgspec.DecodeError as error:
            print(f"{file} is not compared: {error}", file=sys.stderr)
    return sorted(found, key=lambda run: run.at)


def last_of_each(runs: Iterable[Run], *, quick: bool, machine: Machine) -> dict[str, Part]:
    """Return what the latest run of each part found, of those with the same machine and effort. `runs` are in order."""
    return {
        name: part
        for run in runs
        if run.quick == quick and run.machine == machine
        for name, part in run.parts.items()
        if not part.failed
    }


def charts(name: str, part: Part, before: Part | None) -> list[Chart]:
    """Return the charts of a part: a chart for each unit, in the order in which they come first."""
    old = {(each.name, each.unit): each for each in before.figures} if before else {}
    rows: dict[str, list[Row]] = {}
    for each in part.figures:
        rows.setdefault(each.unit, []).append(Row(each, old.get((each.name, each.unit))))
    return [Chart(name, unit, tuple(some)) for unit, some in rows.items()]


def changed(every: Sequence[Chart]) -> list[str]:
    """Return a line for each figure that is better or worse than noise explains."""
    return [
        f"{row.verdict:<7}{row.change:+.0%}  {chart.part}: {row.figure.name} ({chart.unit})"
        for chart in every
        for row in chart.rows
        if row.verdict
    ]
