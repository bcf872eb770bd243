"""The figures of a benchmark as values. A part of `make bench` prints for people and records here for comparison; run
by itself, it only prints."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

FILE: Final = "PUSHSVC_BENCH_FIGURES"
"""The environment variable with the file to which figures are appended, each a line of JSON."""

Unit: TypeAlias = Literal["/s", "us", "ms", "s", "MB", "bytes", "share", "x"]
"""`share` is a part of what a reference reaches, `x` a multiple of what a reference takes."""

MORE_IS_BETTER: Final = frozenset({"/s", "share"})


class Figure(Struct, frozen=True):
    """The median of some rounds, with the lowest and the highest."""

    name: str
    unit: Unit
    value: float
    low: float
    high: float


def figure(name: str, unit: Unit, values: Iterable[float]) -> Figure:
    """Return the figure of these rounds."""
    found = sorted(values)
    return Figure(name, unit, median(found), found[0], found[-1])


def record(name: str, unit: Unit, *values: float) -> None:
    """Record a figure, given the value of each round, where somebody collects them."""
    if file := os.environ.get(FILE):
        with open(file, "ab") as out:
            out.write(msgspec.json.encode(figure(name, unit, values)) + b"\n")


def recorded(file: Path) -> list[Figure]:
    """Return the figures in a file, of which there may be none."""
    lines = file.read_bytes().splitlines() if file.exists() else []
    return [msgspec.json.decode(line, type=Figure) for line in lines]
