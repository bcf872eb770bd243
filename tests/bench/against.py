"""Compare benchmarks of this tree with those of another commit, interleaved on one machine.

    python -m tests.bench.against COMMIT [--rounds 5] BENCH [BENCH ..] [-- arguments of the benches]

The two trees take turns, so that a noisy neighbour meets both. Every number that a benchmark prints is compared under
the words of its line and its place there; the table shows the median of each side, the ratio of the two medians, and
in brackets the lowest and the highest ratio of one round.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TypeAlias

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")

Name: TypeAlias = tuple[str, int, int]
"""The words of a line, which line of these words it is, and the place of the number in it."""
Figures: TypeAlias = dict[Name, float]


def figures(text: str) -> Figures:
    """Return the numbers of a benchmark's output."""
    found: Figures = {}
    lines: Counter[str] = Counter()
    for line in text.splitlines():
        words = " ".join(NUMBER.sub("#", line).split())
        lines[words] += 1
        for place, number in enumerate(NUMBER.findall(line)):
            found[words, lines[words], place] = float(number.replace(",", ""))
    return found


def environment_of(tree: Path) -> dict[str, str]:
    """Return the environment in which a process of this tree runs."""
    return {**os.environ, "PYTHONPATH": str(tree)}


def run(tree: Path, bench: str, arguments: list[str]) -> Figures:
    """Run one benchmark of one tree and return its figures. Raises CalledProcessError where it fails."""
    command = [sys.executable, "-m", f"tests.bench.{bench}", *arguments]
    done = subprocess.run(command, cwd=tree, env=environment_of(tree), check=True, capture_output=True, text=True)
    return figures(done.stdout)


@contextmanager
def beside(commit: str) -> Iterator[Path]:
    """Check a commit out beside this tree."""
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "before"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(other), commit], cwd=ROOT, check=True)
        try:
            yield other
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(other)], cwd=ROOT, check=True)


def show(bench: str, before: list[Figures], after: list[Figures]) -> None:
    """Print each figure that both sides have in every round."""
    print(f"\n{bench:<72} {'before':>11} {'after':>11} {'after/before':>13}")
    for name in before[0]:
        if not all(name in found for found in (*before, *after)):
            continue
        old, new = ([found[name] for found in side] for side in (before, after))
        if not all(old):
            continue
        shares = [own / its for own, its in zip(new, old, strict=True)]
        words, line, place = name
        label = f"{words[:58]} line {line} [{place}]"
        spread = f"({min(shares):.2f}-{max(shares):.2f})"
        ratio = median(new) / median(old)
        print(f"{label:<72} {median(old):>11,.1f} {median(new):>11,.1f} {ratio:>6.2f} {spread}", flush=True)


def main(commit: str, benches: list[str], arguments: list[str], rounds: int) -> None:
    """Check the commit out beside this tree and run each benchmark `rounds` times in turn."""
    with beside(commit) as other:
        for bench in benches:
            before: list[Figures] = []
            after: list[Figures] = []
            for number in range(rounds):
                turns = [(other, before), (ROOT, after)]
                for tree, side in turns if number % 2 == 0 else reversed(turns):
                    side.append(run(tree, bench, arguments))
            show(bench, before, after)


if __name__ == "__main__":
    own, _, theirs = " ".join(sys.argv[1:]).partition(" -- ")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("benches", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(own.split())
    main(options.commit, options.benches, theirs.split(), options.rounds)
