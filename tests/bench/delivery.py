"""The delivery path's speed: one core for the client, the simulator and the store on the other, in one run.

    python -m tests.bench.delivery [--scale 1.0] [--rounds 5] [--profile]

For APNs and for FCM: the bare transport, the vendor's or the field's own client (aioapns, firebase-admin async), and
our whole path from stream entry to recorded outcome, in deliveries a second and CPU microseconds a delivery of the
client's process. Ratios are what counts: machines differ, and the CPU column is the steadier of the two. The
contestants take turns, so that a noisy neighbour meets all of them, and of each the fastest round counts; in brackets
the median of its shares of the bare transport, each in one round.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import redis

from pushsvc.lab.simulator import Address, simulator_process
from pushsvc.store import open_embedded

from .figures import record
from .machine import cores, pin

MODULE = "tests.bench.contestants"
WIDTHS = (13, 9, 8, 9, 8, 9, 9)
CLIENT_CORE, SERVER_CORE = cores()[0], cores()[-1]


class Contestant(NamedTuple):
    name: str
    label: str
    deliveries: int
    per_push: int = 0


def ranks(peer: Contestant) -> tuple[Contestant, ...]:
    """What is compared: the bare transport, the peer, and our whole path at three sizes of a push."""
    return (
        Contestant("bare", "bare transport", 60_000),
        peer,
        Contestant("ours", "whole path, 1,000 a push", 100_000, 1000),
        Contestant("ours", "whole path, 10,000 a push", 100_000, 10_000),
        Contestant("ours", "whole path, 1 a push", 40_000, 1),
    )


CONTESTANTS = {
    "apns": ranks(Contestant("peer", "aioapns", 12_000)),
    "fcm": ranks(Contestant("peer", "firebase-admin async", 3_000)),
}


def child(task: dict[str, Any], profile: Path | None = None, module: str = MODULE) -> dict[str, float]:
    """Run one contestant, in a process of its own on the client's core. `module` is the program that takes the task."""
    command = [sys.executable, *(["-m", "cProfile", "-o", str(profile)] if profile else []), "-m", module]
    done = subprocess.run([*command, json.dumps(task)], stdout=subprocess.PIPE, check=True, preexec_fn=pin_client)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def store_cpu(url: str) -> float:
    """CPU seconds that the store has used."""
    with redis.Redis.from_url(url) as client:
        used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def pin_client() -> None:
    """Keep to the client's core, from here on."""
    pin(0, {CLIENT_CORE})


def address_of(simulator: Any) -> Address:
    """Return what a process needs to use this simulator."""
    return Address(
        simulator.apns_url,
        simulator.fcm_url,
        simulator.control_url,
        simulator.credentials,
        simulator.pid,
        simulator.urls,
    )


@contextmanager
def servers() -> Any:
    """The simulator and the store, on the other core."""
    pin(0, {SERVER_CORE})
    with (
        tempfile.TemporaryDirectory() as folder,
        simulator_process(Path(folder) / "simulator", record=False, fcm_streams=1000) as simulator,
        open_embedded(Path(folder) / "store") as store_url,
    ):
        yield simulator, store_url


Row = dict[str, float]


def measure(
    simulator: Any,
    store_url: str,
    reported: Any,
    platform: str,
    contestant: Contestant,
    scale: float,
    module: str = MODULE,
    **more: Any,
) -> Row:
    """One contestant's round: its own figures, and the CPU that it cost the simulator and the store. `more` is added to
    the task of the `module`."""
    per_push = contestant.per_push
    scaled = max(per_push, 500, int(contestant.deliveries * scale) // 500 * 500)
    scaled -= scaled % max(per_push, 1)
    task = {
        "name": contestant.name,
        "platform": platform,
        "address": reported,
        "count": scaled,
        "store_url": store_url,
        "per_push": per_push,
        **more,
    }
    before, store_before = simulator.state()["process"]["cpu_seconds"], store_cpu(store_url)
    row = {"deliveries": scaled, **child(task, module=module)}
    row["sink_us"] = (simulator.state()["process"]["cpu_seconds"] - before) / scaled * 1e6
    row["store_us"] = (store_cpu(store_url) - store_before) / scaled * 1e6
    return row


def show(platform: str, found: dict[str, list[Row]]) -> None:
    heads = ("deliveries/s", "CPU us", "x peer", "of bare", "", "sink us", "store us")
    print(f"\n{platform:<28}" + "".join(f"{head:>{width}}" for head, width in zip(heads, WIDTHS, strict=True)))
    best = {label: max(rows, key=lambda row: row["rate"]) for label, rows in found.items()}
    (bare, bare_row), (peer, peer_row), *_ = best.items()
    for label, row in best.items():
        rows = found[label]
        record(f"{platform}, {label}", "/s", *(each["rate"] for each in rows))
        record(f"{platform}, {label}", "us", *(each["cpu_us"] for each in rows))
        if label not in (bare, peer):
            shares = (own["rate"] / its["rate"] for own, its in zip(rows, found[bare], strict=True))
            record(f"{platform}, {label}: of the bare transport", "share", *shares)
        middle = median(own["rate"] / its["rate"] for own, its in zip(found[label], found[bare], strict=True))
        print(
            f"  {label:<26}{row['rate']:>13,.0f}{row['cpu_us']:>9.1f}{row['rate'] / peer_row['rate']:>8.2f}"
            f"{row['rate'] / bare_row['rate']:>9.0%}{f'({middle:.0%})':>8}"
            f"{row['sink_us']:>9.1f}{row['store_us']:>9.1f}",
            flush=True,
        )


def main(scale: float, rounds: int, profile: Path | None) -> None:
    with servers() as (simulator, store_url):
        address = address_of(simulator)
        reported = json.loads(address.as_json())
        for platform, contestants in CONTESTANTS.items():
            found: dict[str, list[Row]] = {each.label: [] for each in contestants}
            for _ in range(rounds):
                for each in contestants:
                    found[each.label].append(measure(simulator, store_url, reported, platform, each, scale))
            show(platform, found)
        if profile is not None:
            task = {"name": "ours", "platform": "apns", "address": reported, "count": 50_000, "store_url": store_url}
            child({**task, "per_push": 1000}, profile)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of deliveries")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", type=Path, help="write a cProfile of our path to this file")
    arguments = parser.parse_args()
    main(arguments.scale, arguments.rounds, arguments.profile)
