"""What the second core gives: the service on one core and on two, with one process of each part and with more.

    python -m tests.bench.cores [--seconds 4] [--rounds 5] [--share 0.3]

The simulator and the generator run on the same machine: with two cores in all they take a part of what the service
could have, so the last column says how much of the cores the service itself used. The rate that a machine with room for
both could reach is about that many cores times the rate a core. The settings take turns.

With `--share 0.3` the service has 30 % of the CPU time of its cores, all of them together, and the simulator and the
generator have the rest, as if they were on another machine: then `x` is what another core gives. Where the service used
less than its share, the others were the limit: take a smaller one. A part that is one process may still use up to a
whole core. This needs root, and cgroups with the controller `cpu`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median

from pushsvc.cli.service.up import free_port
from pushsvc.lab.playground import open_playground

from .figures import record
from .machine import NoLimit, cores, limited, pin
from .whole import Delivered, deliver_all, push_to, running_service

VARIANTS = ((1, 64), (1000, 8))
"""Tokens a POST, and connections."""


def settings(every: Sequence[int], share: float) -> dict[str, tuple[Sequence[int], Sequence[int], int]]:
    """Return what is compared: the cores of the service, those of the simulator and the generator, and the processes
    that serve and that dispatch."""
    return {
        "one core, one process of each part": (every[:1], every[-1:] if share == 1 else every, 1),
        f"{len(every)} cores, one process of each part": (every, every, 1),
        f"{len(every)} cores, {len(every)} of serve and dispatch": (every, every, len(every)),
    }


def one_round(
    service: Sequence[int],
    others: Sequence[int],
    processes: int,
    variant: tuple[int, int],
    seconds: float,
    share: float,
) -> Delivered:
    """Start the service and load it, when it has its share of its cores."""
    per_push, connections = variant
    pin(0, others)
    number = str(processes)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_playground(Path(folder), port=free_port(), record=False) as playground,
        running_service(
            playground, service, PUSHSVC__SERVER__PROCESSES=number, PUSHSVC__DISPATCH__PROCESSES=number
        ) as root,
        nullcontext() if share == 1 else limited(root, share * len(service)),
    ):
        post, simulator = push_to(playground, per_push), playground.simulator
        deliver_all(simulator, root, post, per_push, connections, 1)
        return deliver_all(simulator, root, post, per_push, connections, seconds)


def main(seconds: float, rounds: int, share: float) -> None:
    every = cores()
    compared = settings(every, share)
    limit = "" if share == 1 else f", {share:.0%} of its cores"
    for variant in VARIANTS:
        found: dict[str, list[Delivered]] = {name: [] for name in compared}
        for _ in range(rounds):
            for name, (service, others, processes) in compared.items():
                found[name].append(one_round(service, others, processes, variant, seconds, share))
        per_push, connections = variant
        what = f"{per_push:,} a POST, {connections} callers{limit}"
        print(f"{what:<42} {'deliveries/s':>13} {'x':>6} {'CPU us':>8} {'cores':>6}")
        first = next(iter(found.values()))
        for name, rows in found.items():
            rates, costs = [row.rate for row in rows], [row.cost for row in rows]
            ratios = [own.rate / its.rate for own, its in zip(rows, first, strict=True)]
            used = median(row.rate * row.cost / 1e6 for row in rows)
            line = f"{median(rates):>13,.0f} {median(ratios):>6.2f} {median(costs):>8.1f} {used:>6.2f}"
            print(f"  {name:<40} {line}", flush=True)
            record(f"{per_push:,} a POST: {name}{limit}", "/s", *rates)
            record(f"{per_push:,} a POST: {name}{limit}", "us", *costs)


def run(words: Sequence[str] | None = None) -> None:
    """Do what a command line asks for, which is that of this process where none is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=1.0, help="of its cores, for the service: 0.1 to 1")
    arguments = parser.parse_args(words)
    if not 0.1 <= arguments.share <= 1:
        parser.error("--share is at least 0.1 and at most 1")
    try:
        main(arguments.seconds, arguments.rounds, arguments.share)
    except NoLimit as error:
        sys.exit(f"--share: {error}")


if __name__ == "__main__":
    run()
