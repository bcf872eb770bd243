"""The whole service under a compiled generator: `pushsvc up` with the store that it brings, as its users run it.

    python -m tests.bench.whole [--seconds 4] [--rounds 5]

The service and its store have the first core; the simulator, which stands for APNs, and the generator have the last
one. First the service is idle: memory and CPU of all its processes. Then callers post to it, each as soon as its last
POST was answered, a fresh token in each; the variants take turns. A delivery counts when the simulator has it, and one
that it never gets fails the run. CPU is that of all processes of the service, the store among them.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct

from pushsvc.cli.service.up import free_port
from pushsvc.lab.playground import Playground, open_playground
from pushsvc.lab.simulator import SimulatorHandle

from .figures import record
from .load import PLACE, Load, Post, generator, put_load
from .machine import cores, cpu_by_part, cpu_since, family, pin, pss_mb, running_seconds

VARIANTS = ((1, 1), (1, 8), (1, 32), (1, 128), (1000, 4))
"""Tokens a POST, and connections."""
STILL = 0.5
"""Seconds without a further delivery after which all have arrived."""
START = 120.0
"""Seconds in which a service must be ready, and in which it must have stopped."""
PATIENCE = 30.0
"""Seconds for which one more is waited for, where some are missing."""


class Delivered(Struct, frozen=True):
    """A round: deliveries a second from the first POST to the last receipt, and microseconds of CPU a delivery."""

    rate: float
    cpu_us: dict[str, float]
    """By part."""
    load: Load
    lost: int = 0
    """Deliveries that were accepted and have not arrived."""

    @property
    def cost(self) -> float:
        return sum(self.cpu_us.values())


@contextmanager
def running_service(playground: Playground, on: Collection[int], **environ: str) -> Iterator[int]:
    """Run `pushsvc up` on these cores. Yields its process once it is ready. Raises `RuntimeError` when it ends."""
    environment = {**os.environ, "PUSHSVC_CONFIG": str(playground.config_file), **environ}
    command = [sys.executable, "-m", "pushsvc", "up"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, preexec_fn=lambda: pin(0, on))
    try:
        until_ready(f"{playground.url}/readyz", process)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START)


def until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers 200. Raises `RuntimeError` when its process has ended, or for too long a wait."""
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.02)
    raise RuntimeError(f"{url} is not ready: the process {'runs' if process.poll() is None else 'has ended'}")


def until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server accepts connections. Raises `RuntimeError` when its process has ended."""
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}: the process has ended")


def push_to(playground: Playground, per_push: int) -> Post:
    """Return a POST to this number of APNs tokens."""
    document = {
        "to": {"tokens": [{"platform": "apns", "token": PLACE} for _ in range(per_push)]},
        "notification": {"title": "Order 7 shipped", "body": "Arrives Friday", "sound": "default"},
    }
    headers = {"Authorization": f"Bearer {playground.api_key}"}
    return Post(f"{playground.url}/v1/push", msgspec.json.encode(document).decode(), headers)


def arrived(simulator: SimulatorHandle) -> int:
    """Return how many pushes APNs has accepted."""
    count: int = simulator.record()["apns"]["accepted"]
    return count


def until_still(simulator: SimulatorHandle, expected: int, patience: float = PATIENCE) -> tuple[int, float]:
    """Wait until no more arrive, for `patience` seconds where some are missing. Returns how many have arrived, and when
    the last of them did (`perf_counter`)."""
    count, at = arrived(simulator), time.perf_counter()
    while (waited := time.perf_counter() - at) < (STILL if count >= expected else patience):
        time.sleep(0.02 if waited < 0.2 else 0.1)
        if (now := arrived(simulator)) != count:
            count, at = now, time.perf_counter()
    return count, at


def deliver(
    simulator: SimulatorHandle, roots: Collection[int], post: Post, per_push: int, *, connections: int, seconds: float
) -> Delivered:
    """Post for some seconds and wait until everything has arrived. `roots` are the processes above all of the service,
    its store among them."""
    before, used, began = arrived(simulator), cpu_by_part(*roots), time.perf_counter()
    load = put_load(post, connections=connections, seconds=seconds)
    wanted = load.requests * per_push
    after, at = until_still(simulator, before + wanted)
    spent, count = cpu_since(used, *roots), after - before
    costs = {part: each / count * 1e6 for part, each in spent.items()}
    return Delivered(count / (at - began), costs, load, max(0, wanted - count))


def deliver_all(
    simulator: SimulatorHandle, root: int, post: Post, per_push: int, connections: int, seconds: float
) -> Delivered:
    """Do the same with a service that is this process and those below it, and end the benchmark where anything was
    lost."""
    row = deliver(simulator, [root], post, per_push, connections=connections, seconds=seconds)
    if row.lost:
        sys.exit(f"{row.lost:,} deliveries were accepted and have not arrived")
    return row


def until_calm(pids: Collection[int]) -> None:
    """Wait until no half second of the last two seconds took these processes less CPU than all before: what they do
    once is over."""
    used, least, since = sum(map(running_seconds, pids)), float("inf"), 0
    while since < 4:
        time.sleep(0.5)
        now = sum(map(running_seconds, pids))
        least, since = (now - used, 0) if now - used < least else (least, since + 1)
        used = now


def show_idle(root: int, seconds: float = 3.0) -> None:
    """Print what the service takes that has nothing to do."""
    started = sum(cpu_by_part(root).values())
    pids = family(root)
    until_calm(pids)
    before = sum(map(running_seconds, pids))
    time.sleep(seconds)
    idle = (sum(map(running_seconds, pids)) - before) / seconds * 1000
    memory = sum(map(pss_mb, pids))
    print(f"idle: {len(pids)} processes, {memory:.0f} MB (PSS), {idle:.1f} ms of CPU a second")
    print(f"start: ready after {started:.1f} s of CPU")
    record("idle: memory (PSS)", "MB", memory)
    record("idle: CPU in a second", "ms", idle)
    record("start: CPU until ready", "s", started)


def parts_of(rounds: Collection[Delivered]) -> str:
    """Return the median cost of each part, the dearest first."""
    names = {name for each in rounds for name in each.cpu_us}
    costs = {name: median(each.cpu_us.get(name, 0.0) for each in rounds) for name in names}
    dearest = sorted(costs.items(), key=lambda item: -item[1])
    return "  ".join(f"{name} {us:.1f}" for name, us in dearest if us >= 0.05)


def main(seconds: float, rounds: int) -> None:
    every = cores()
    pin(0, every[-1:])
    found: dict[tuple[int, int], list[Delivered]] = {variant: [] for variant in VARIANTS}
    with (
        tempfile.TemporaryDirectory() as folder,
        open_playground(Path(folder), port=free_port(), record=False) as playground,
        running_service(playground, every[:1]) as root,
    ):
        show_idle(root)
        put_load(push_to(playground, 1), connections=32, seconds=1)
        for _ in range(rounds):
            for (per_push, connections), rows in found.items():
                post = push_to(playground, per_push)
                rows.append(deliver_all(playground.simulator, root, post, per_push, connections, seconds))
    print(f"{'a POST':>8} {'callers':>8} {'deliveries/s':>13} {'CPU us':>8} {'POST p50':>9} {'p99 ms':>7}")
    for (per_push, connections), rows in found.items():
        rates, costs = [row.rate for row in rows], [row.cost for row in rows]
        p50, p99 = (median(getattr(row.load, name) for row in rows) for name in ("p50", "p99"))
        print(
            f"{per_push:>8,} {connections:>8} {median(rates):>13,.0f} {median(costs):>8.1f} {p50:>9.1f} {p99:>7.1f}   "
            f"{parts_of(rows)}"
        )
        name = f"{per_push:,} a POST, {connections} callers"
        record(name, "/s", *rates)
        record(name, "us", *costs)
        for part in ("serve", "dispatch", "store"):
            record(f"{name}: {part}", "us", *(row.cpu_us.get(part, 0.0) for row in rows))
    print(f"load: {generator()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in each round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    main(arguments.seconds, arguments.rounds)
