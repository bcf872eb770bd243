"""Compare the delivery path of this tree with that of another commit, to a few per cent.

    python -m tests.bench.slices COMMIT [--pairs 40] [--per-push 1] [--count 20000]
                                        [--platforms apns fcm] [--sink nginx]

Both trees live side by side, each in one process that waits while the other has its turn, and a turn is short: about
a second. So what disturbs the machine for longer meets both sides of a pair alike, where `tests.bench.against` compares
whole runs. With `--sink nginx` the provider takes less of the core that it shares with the store. Printed are the
median of the ratios of the pairs and the interval that holds the true median with 95 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import comb
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import redis

from . import delivery
from .against import ROOT, beside, environment_of
from .figures import record
from .sink import nginx_sink

CHILD = """
import json, sys
from tests.bench.contestants import contest
for line in sys.stdin:
    print(json.dumps(contest(json.loads(line))), flush=True)
"""


class Side:
    """One tree, in a process of its own on the client's core."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.rows: list[dict[str, float]] = []

    def turn(self, task: dict[str, Any]) -> dict[str, float]:
        """Run one slice. Returns its figures. Raises EOFError where the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(task), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise EOFError("the tree's process has ended; its error is above")
        found: dict[str, float] = json.loads(answer)
        return found


@contextmanager
def side(tree: Path) -> Iterator[Side]:
    """Start the process of a tree, and end it."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        cwd=tree,
        env=environment_of(tree),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=delivery.pin_client,
    ) as process:
        yield Side(process)
        assert process.stdin is not None
        process.stdin.close()


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the interval that holds the true median with 95 %, by the order of the values
    (https://en.wikipedia.org/wiki/Median#Confidence_interval_for_the_median)."""
    ordered, size = sorted(values), len(values)
    left, tail = 0, 0.0
    while left < size // 2 and (tail := tail + comb(size, left) / 2**size) < 0.025:
        left += 1
    left = max(0, left - 1)
    return ordered[left], ordered[size - 1 - left]


def show(name: str, ratios: Sequence[float]) -> None:
    low, high = interval(ratios)
    record(f"slices, {name}, this tree by the other", "share", *ratios)
    print(f"  {name:<14}{median(ratios):>8.3f}   95 %: {low:.3f} to {high:.3f}", flush=True)


def main(commit: str, pairs: int, per_push: int, count: int, platforms: Sequence[str], sink: str) -> None:
    """Let both trees take turns, and print their ratios."""
    with ExitStack() as stack:
        other = stack.enter_context(beside(commit))
        simulator, store_url = stack.enter_context(delivery.servers())
        store = stack.enter_context(redis.Redis.from_url(store_url))
        address = delivery.address_of(simulator)
        if sink == "nginx":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = stack.enter_context(nginx_sink(folder / "sink", address))
            address = msgspec.structs.replace(address, apns_url=url, fcm_url=url)
        before, after = (stack.enter_context(side(tree)) for tree in (other, ROOT))
        task = {"name": "ours", "address": json.loads(address.as_json()), "store_url": store_url}
        task |= {"count": count // per_push * per_push, "per_push": per_push}
        for platform in platforms:
            before.rows, after.rows = [], []
            for number in range(pairs + 1):
                for each in (before, after) if number % 2 else (after, before):
                    store.flushall()
                    each.rows.append(each.turn({**task, "platform": platform}))
            # The first pair warms up.
            turns = list(zip(before.rows[1:], after.rows[1:], strict=True))
            print(f"{platform}, {per_push:,} a push, {len(turns)} pairs of {count:,}: this tree by {commit}")
            show("deliveries/s", [own["rate"] / its["rate"] for its, own in turns])
            show("CPU", [own["cpu_us"] / its["cpu_us"] for its, own in turns])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--per-push", type=int, default=1)
    parser.add_argument("--count", type=int, default=20_000, help="deliveries of a turn")
    parser.add_argument("--platforms", nargs="+", choices=tuple(delivery.CONTESTANTS), default=["apns", "fcm"])
    parser.add_argument("--sink", choices=("simulator", "nginx"), default="simulator")
    options = parser.parse_args()
    main(options.commit, options.pairs, options.per_push, options.count, options.platforms, options.sink)
