"""What a rate needs that this machine cannot show: processes, shards, connections and quota, from what one delivery
takes here. And how long a push to very many devices takes, by a simulation that is held against real runs.

    python -m tests.bench.plan                   the table of `guides/sizing.md`, from the costs that are written here
    python -m tests.bench.plan --measured        the same from the last run of `make bench` that has the part `whole`
    python -m tests.bench.plan burst             a push to 4,000,000 devices
    python -m tests.bench.plan check             pushes to 20,000 and 100,000 devices, real ones, beside the simulation

Everything but `check` is arithmetic. Microseconds are those of one core of the machine that measured them.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct, structs

from . import figures
from .figures import Figure
from .machine import cores
from .results import ROOT, saved

USE: Final = 0.6
"""The part of a core that a plan uses: what is above it lets a process catch up after a pause."""
STREAMS: Final = 1000
"""Requests that one connection to APNs has under way at most: Apple's servers allow as many."""
QUOTA: Final = 10_000
"""Messages a second that FCM takes for a project by default
(https://firebase.google.com/docs/cloud-messaging/throttling-and-quotas)."""
RAMP: Final = 60.0
"""Seconds of use until FCM's quota is used in full, from a twentieth of it
(https://firebase.google.com/docs/cloud-messaging/scale-fcm)."""
OUTAGE: Final = 600
"""Seconds for which everything may have to wait in Redis."""
RATES: Final = (10_000, 100_000, 1_000_000)


class Costs(Struct, frozen=True):
    """Microseconds of CPU of one delivery by part, and the bytes of Redis while it waits."""

    serve: float
    dispatch: float
    store: float
    queued: float


COSTS: Final[Mapping[int, Costs]] = {
    1: Costs(serve=54, dispatch=32, store=30, queued=266),
    1000: Costs(serve=1, dispatch=10, store=3, queued=34),
}
"""By the tokens of a POST: what `tests.bench.sizes` found on two cores of an AMD EPYC, with Python 3.13."""
EXPAND: Final = 8.0
"""Microseconds of `jobs` for a device that it looks up by a topic."""


class Plan(Struct, frozen=True):
    """What a rate needs."""

    serve: int
    dispatch: int
    shards: int
    connections: int
    """To APNs, if all goes there."""
    projects: int
    """Firebase projects with the default quota, or times the default quota, if all goes there."""
    cores: float
    """That are busy, of all machines."""
    outage_gb: float
    """The memory of Redis for an outage of both providers of ten minutes."""


def plan(rate: float, costs: Costs, *, latency: float = 0.1, own_connections: int = 2) -> Plan:
    """Return what `rate` deliveries a second need. `latency` is the seconds that a provider takes to answer, and
    `own_connections` is `apns.connections`: each dispatcher keeps as many."""

    def processes(us: float) -> int:
        return max(1, math.ceil(rate * us / 1e6 / USE))

    dispatch = max(processes(costs.dispatch), math.ceil(rate * latency / STREAMS / own_connections))
    return Plan(
        serve=processes(costs.serve),
        dispatch=dispatch,
        shards=processes(costs.store),
        connections=dispatch * own_connections,
        projects=max(1, math.ceil(rate / QUOTA)),
        cores=rate * (costs.serve + costs.dispatch + costs.store) / 1e6,
        outage_gb=rate * OUTAGE * costs.queued / 1e9,
    )


HEADS: Final = (
    "deliveries a second",
    "tokens a push",
    "busy cores",
    "`serve`",
    "`dispatch`",
    "shards",
    "connections to APNs",
    "times FCM's quota",
    "Redis for 10 minutes of outage",
)


def table(costs: Mapping[int, Costs]) -> list[str]:
    """Return the plans as lines of a table in Markdown."""
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    for rate in RATES:
        for per_push, each in costs.items():
            need = plan(rate, each)
            busy = f"{need.cores:,.0f}" if need.cores >= 10 else f"{need.cores:.1f}"
            memory = f"{need.outage_gb:,.0f}" if need.outage_gb >= 10 else f"{need.outage_gb:.1f}"
            lines.append(
                f"| {rate:,} | {per_push:,} | {busy} | {need.serve:,} | {need.dispatch:,} | {need.shards:,} "
                f"| {need.connections:,} | {need.projects:,} | {memory} GB |"
            )
    return lines


def costs_of(found: Iterable[Figure], own: Mapping[int, Costs] = COSTS) -> dict[int, Costs]:
    """Return the costs in the figures of the part `whole`, at the most callers of each size; what it does not have is
    taken from `own`."""
    costs: dict[int, dict[str, float]] = {}
    for each in found:
        words, _, part = each.name.partition(": ")
        size = words.partition(" a POST")[0].replace(",", "")
        if each.unit == "us" and size.isdecimal() and part in ("serve", "dispatch", "store"):
            costs.setdefault(int(size), {})[part] = each.value  # the variants come in the order of their callers
    return {size: structs.replace(own[size], **costs.get(size, {})) for size in own}


# --- one push to very many devices ----------------------------------------------------------------


class Burst(Struct, frozen=True, kw_only=True):
    """A push to an audience, and what carries it. Costs are microseconds of CPU of a delivery."""

    devices: int
    cores: float
    dispatchers: int = 1
    jobs: int = 1
    expand_us: float
    """Of `jobs`, which looks the audience up."""
    dispatch_us: float
    store_us: float
    """Of the store, half of it while the audience is looked up."""
    others_us: float = 0.0
    """Of all else on the same cores, while it is sent: feedback, and a simulator."""
    quota: float = math.inf
    """Deliveries a second that the providers take in all."""
    ramp: bool = False
    """Whether the quota is used in full only after a minute."""


class Course(Struct, frozen=True):
    """How a burst went: seconds since it was posted, and the most that waited in the queue."""

    expanded: float
    half: float
    last: float
    waiting: int


def simulate(burst: Burst, step: float = 0.05) -> Course:
    """Return the course of a burst, in steps of time: in each step the parts have what work there is, bounded by their
    processes, the store's one core, the cores of the machine, and the quota."""
    looked_up = sent = now = 0.0
    half = expanded = 0.0
    most = 0.0
    while sent < burst.devices - 0.5:
        share = min(1.0, 1 / 20 + now / RAMP * 19 / 20) if burst.ramp else 1.0
        # What each part could do by itself in this step, in deliveries.
        more = min(burst.devices - looked_up, burst.jobs * step * 1e6 / burst.expand_us)
        send = min(
            looked_up + more - sent, burst.dispatchers * step * 1e6 / burst.dispatch_us, burst.quota * share * step
        )
        store = (more + send) * burst.store_us / 2
        wanted = store + more * burst.expand_us + send * (burst.dispatch_us + burst.others_us)
        # Where cores or the store are too few, all get the same share of what they want.
        fit = min(1.0, burst.cores * step * 1e6 / wanted, step * 1e6 / store if store else 1.0)
        looked_up, sent, now = looked_up + more * fit, sent + send * fit, now + step
        most = max(most, looked_up - sent)
        if not expanded and looked_up >= burst.devices - 0.5:
            expanded = now
        if not half and sent >= burst.devices / 2:
            half = now
        if now > 86_400:
            raise ValueError("the burst takes more than a day")
    return Course(expanded, half, now, round(most))


def check(sizes: tuple[int, int] = (20_000, 100_000)) -> None:
    """Measure the costs in a small real run, predict a larger one from them, and print it beside what it took."""
    small, large = (_real(size) for size in sizes)
    for size, found in zip(sizes, (small, large), strict=True):
        costs = {part: small[f"CPU of {part} a device", "us"] for part in ("jobs", "dispatch", "store", "others")}
        course = simulate(
            Burst(
                devices=size,
                cores=len(cores()),
                expand_us=costs["jobs"],
                dispatch_us=costs["dispatch"],
                store_us=costs["store"],
                others_us=costs["others"],
            )
        )
        took = size / found["whole service: deliveries", "/s"]
        print(f"{size:,} devices: {course.last:.2f} s by the simulation, {took:.2f} s in fact")
        figures.record(f"{size:,} devices: in fact, of the simulation", "x", took / course.last)


def _real(devices: int) -> dict[tuple[str, str], float]:
    """Return what the benchmark of audiences finds for this number of devices."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures"
        environ = {**os.environ, figures.FILE: str(file)}
        command = [sys.executable, "-m", "tests.bench.audience", "--scale", str(devices / 1e6)]
        subprocess.run(command, cwd=ROOT, env=environ, check=True, stdout=sys.stderr)
        return {(each.name, each.unit): each.value for each in figures.recorded(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("table", "burst", "check"), default="table")
    parser.add_argument("--measured", action="store_true", help="with the costs of the last run of `make bench`")
    parser.add_argument("--devices", type=int, default=4_000_000)
    parser.add_argument("--cores", type=float, default=8.0)
    parser.add_argument("--dispatchers", type=int, default=4)
    options = parser.parse_args()
    costs = dict(COSTS)
    if options.measured:
        runs = [run.parts["whole"] for run in saved(ROOT / "var" / "bench") if "whole" in run.parts]
        if not runs:
            sys.exit("no run has the part `whole`: make bench BENCH_FLAGS='--only whole'")
        costs = costs_of(runs[-1].figures)
    if options.what == "check":
        check()
    elif options.what == "table":
        print("\n".join(table(costs)))
    else:
        each = costs[1000]
        burst = Burst(
            devices=options.devices,
            cores=options.cores,
            dispatchers=options.dispatchers,
            expand_us=EXPAND,
            dispatch_us=each.dispatch,
            store_us=each.store,
        )
        for name, quota, ramp in (("APNs, without a quota", math.inf, False), ("FCM, one project", QUOTA, True)):
            course = simulate(structs.replace(burst, quota=quota, ramp=ramp))
            print(
                f"{options.devices:,} devices, {name}: looked up after {course.expanded:.0f} s, half sent after "
                f"{course.half:.0f} s, all after {course.last:.0f} s, {course.waiting:,} waiting at most"
            )


if __name__ == "__main__":
    main()
