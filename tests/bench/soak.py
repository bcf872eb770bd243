"""Hours in minutes: the service under half of the load that it can carry, looked at once a minute.

    python -m tests.bench.soak [--minutes 30] [--connections 32] [--retention 60]

First the full rate is measured for ten seconds; then the generator posts at half of it. Each minute is a row: rate,
percentiles of the POST, memory and descriptors of all processes, keys and memory of the store, how often it began to
rewrite its file, which takes a part of the service's core, and pushes that have not been sent. Statuses are kept for
`--retention` seconds, so that keys can be as many at the end as at the beginning. Fails when a figure of the last third
is more than a tenth above that of the middle third, or when a push is lost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import redis
from msgspec import Struct

from pushsvc.cli.service.up import free_port
from pushsvc.lab.playground import Playground, open_playground
from pushsvc.store import attach_embedded

from .figures import record
from .load import Load, put_load
from .machine import cores, descriptors, family, pin, pss_mb
from .whole import arrived, push_to, running_service, until_still

GROWTH = 0.1
"""The part by which a figure may grow from the middle third of a run to the last one."""
SPREAD = 10
"""Connections for each one of the full load: they wait most of the time, so that the rate hardly depends on the time
that an answer takes."""
WATCHED = ("memory_mb", "descriptors", "keys_by_rate", "store_mb")


class Look(Struct, frozen=True):
    """A minute of the run, with the state at its end."""

    load: Load
    waiting: int
    """Pushes that were answered and that the provider does not have."""
    memory_mb: float
    descriptors: int
    keys: int
    store_mb: float
    forks: int
    """How often the store has begun to rewrite its file, from the beginning on."""

    @property
    def keys_by_rate(self) -> float:
        """The keys for each push a second: a rate that wavers does not look like a leak."""
        return self.keys / self.load.rate


def grown(values: Sequence[float]) -> float:
    """Return the part by which the median has grown from the middle third of the values to the last one; 0 for fewer
    than three. The first third is left out: there everything is new."""
    third = len(values) // 3
    if not third:
        return 0.0
    middle, last = median(values[third : 2 * third]), median(values[-third:])
    return last / middle - 1 if middle else 0.0


def look(playground: Playground, root: int, client: redis.Redis, load: Load, waiting: int) -> Look:
    """Measure the processes and the store."""
    pids = family(root)
    return Look(
        load=load,
        waiting=waiting,
        memory_mb=sum(map(pss_mb, pids)),
        descriptors=sum(map(descriptors, pids)),
        keys=int(client.dbsize()),
        store_mb=client.info("memory")["used_memory"] / 1e6,
        forks=client.info("stats")["total_forks"],
    )


def show(minute: int, seen: Look, rewrites: int) -> None:
    """Print a row."""
    load = seen.load
    print(
        f"{minute:>6} {load.rate:>8,.0f} {load.p50:>8.1f} {load.p99:>8.1f} {seen.waiting:>8,} {seen.memory_mb:>9.1f} "
        f"{seen.descriptors:>6} {seen.keys:>9,} {seen.store_mb:>9.1f} {rewrites:>8}",
        flush=True,
    )


def main(minutes: int, connections: int, retention: int) -> None:
    every = cores()
    pin(0, every[-1:])
    seen: list[Look] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        open_playground(Path(folder), port=free_port(), record=False) as playground,
        running_service(playground, every[:1], PUSHSVC__QUEUE__STATUS_RETENTION=str(retention)) as root,
    ):
        simulator, post = playground.simulator, push_to(playground, 1)
        url = attach_embedded(Path(folder) / "store")
        assert url is not None, "the service has no store of its own"
        full = put_load(post, connections=connections, seconds=10)
        base, _ = until_still(simulator, full.requests)
        rate, accepted = full.rate / 2, 0
        print(f"full rate {full.rate:,.0f}/s, from here on {rate:,.0f}/s; load: {full.tool}")
        print(
            f"{'minute':>6} {'POST/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'waiting':>8} {'memory MB':>9} {'files':>6} "
            f"{'keys':>9} {'store MB':>9} {'rewrites':>8}"
        )
        with redis.Redis.from_url(url) as client:
            forks = client.info("stats")["total_forks"]
            for minute in range(1, minutes + 1):
                load = put_load(post, connections=SPREAD * connections, seconds=60, rate=rate)
                accepted += load.requests
                waiting = max(0, base + accepted - arrived(simulator))
                seen.append(look(playground, root, client, load, waiting))
                show(minute, seen[-1], seen[-1].forks - forks)
                forks = seen[-1].forks
        after, _ = until_still(simulator, base + accepted)
    faults = [f"{base + accepted - after} pushes were lost"] if after < base + accepted else []
    for name in WATCHED:
        growth = grown([getattr(each, name) for each in seen])
        record(f"{name}: the last third, of the middle one", "x", 1 + growth)
        faults += [f"{name} has grown by {growth:.0%}"] * (growth > GROWTH)
    record("POST p50", "ms", *(each.load.p50 for each in seen))
    record("POST p99", "ms", *(each.load.p99 for each in seen))
    if faults:
        sys.exit("; ".join(faults))
    print("flat: memory, descriptors, keys; nothing lost")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--retention", type=int, default=60, help="seconds for which statuses are kept")
    arguments = parser.parse_args()
    main(arguments.minutes, arguments.connections, arguments.retention)
