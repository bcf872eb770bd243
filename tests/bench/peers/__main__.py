"""The service and its peers, side by side: `make bench-peers`, or `python -m tests.bench.peers [--rounds 5]`.

First the services that take pushes over HTTP, then the clients that programs call. All send to the simulator in place
of APNs, have the first core (their store too), and leave the last one to the simulator and the generator; they take
turns, and figures are medians with their range. CPU is that of all processes, the store among them, and memory (PSS)
is taken under load. Nothing of a peer is part of this project: one that is not on this machine is named with the way to
get it.

`after a crash`: while the provider answers nothing, some pushes are posted; then the service is killed without warning
and started again, while its store runs on. The column says how many of those that it had accepted arrive.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import aiohttp
import uvloop

from pushsvc.cli.service.up import free_port
from pushsvc.lab.playground import Playground, open_playground

from ..figures import record
from ..load import Post, generator, requests_of
from ..machine import cores, family, pin, pss_mb
from ..whole import Delivered, arrived, deliver, until_still
from .libraries import LIBRARIES, Sent, send
from .private import APPLE, INSIDE, enter, settle
from .services import SERVICES, Service, redis_server

OWN, REST = cores()[:1], cores()[-1:]
"""The cores of who is measured, and of the simulator and the generator; taken before this process is pinned."""
SIZES = {1: 32, 1000: 4}
"""Tokens of a POST, and the connections over which it comes."""
CRASHED = 200
"""Pushes of the test with a crash."""
ANSWER = 3.0
"""Seconds after which a service that has not answered has not accepted."""
TAKEOVER = 45.0
"""Seconds for which a restarted service may send nothing, before what is missing counts as lost."""


class Row:
    """What was measured of one service at one size of a POST."""

    def __init__(self) -> None:
        self.rounds: list[Delivered] = []
        self.memory: list[float] = []


class Peak(threading.Thread):
    """Watches the memory of processes from beside."""

    def __init__(self, roots: Sequence[int]) -> None:
        super().__init__(daemon=True)
        self._roots = roots
        self._over = threading.Event()
        self._most = 0.0

    def run(self) -> None:
        while not self._over.wait(0.5):
            with suppress(OSError):  # a process has ended meanwhile
                self._most = max(self._most, sum(map(pss_mb, family(*self._roots))))

    def end(self) -> float:
        """Return the most that was seen, in MB."""
        self._over.set()
        self.join()
        return self._most


@contextmanager
def store_of(service: Service, folder: Path) -> Iterator[tuple[list[int], int]]:
    """Run the Redis of a service that needs one. Yields its process and its port."""
    if not service.redis:
        yield [], 0
        return
    with redis_server(folder, OWN) as (pid, port):
        yield [pid], port


def measure(playground: Playground, service: Service, count: int, seconds: float, row: Row) -> None:
    """Start a service, load it, and stop it."""
    simulator = playground.simulator
    with (
        tempfile.TemporaryDirectory() as folder,
        store_of(service, Path(folder)) as (store, port),
        service.start(playground, Path(folder), OWN, port) as running,
    ):
        post, roots = running.post(count), [running.pid, *store]
        deliver(simulator, roots, post, count, connections=SIZES[count], seconds=1)
        peak = Peak(roots)
        peak.start()
        row.rounds.append(deliver(simulator, roots, post, count, connections=SIZES[count], seconds=seconds))
        row.memory.append(peak.end())


async def accept(post: Post, count: int) -> int:
    """Post some pushes at once. Returns how many were accepted."""
    request = requests_of(post, f"ef{secrets.token_hex(3)}")
    bodies = [request().partition(b"\r\n\r\n")[2] for _ in range(count)]
    headers = {"Content-Type": "application/json", **post.headers}
    timeout, connector = aiohttp.ClientTimeout(total=ANSWER), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, connector=connector) as session:

        async def one(body: bytes) -> bool:
            try:
                async with session.post(post.url, data=body) as answer:
                    await answer.read()
                    return answer.status < 300
            except (TimeoutError, aiohttp.ClientError):
                return False

        return sum(await asyncio.gather(*map(one, bodies)))


def survives(playground: Playground, service: Service) -> str:
    """Kill a service that has accepted pushes and could not send them, and start it again. Returns how many of them
    arrive."""
    simulator = playground.simulator
    with tempfile.TemporaryDirectory() as folder, store_of(service, Path(folder)) as (_, port):
        before = arrived(simulator)
        with service.start(playground, Path(folder), OWN, port) as running:
            simulator.control("stall", on=True)
            try:
                accepted = uvloop.run(accept(running.post(1), CRASHED))
                running.kill()
            finally:
                simulator.control("stall", on=False)
        if not accepted:
            return "answers after it has sent"
        with service.start(playground, Path(folder), OWN, port):
            after, _ = until_still(simulator, before + accepted, patience=TAKEOVER)
    return f"{min(accepted, after - before)} of {accepted} arrive"


def compare_services(playground: Playground, seconds: float, rounds: int) -> None:
    """Print the table of the services."""
    here = {name: service for name, service in SERVICES.items() if not service.missing()}
    found = {(count, name): Row() for count in SIZES for name, service in here.items() if service.most >= count}
    for number in range(rounds):
        for (count, name), row in found.items():
            print(f"round {number + 1} of {rounds}: {name}, {count:,} a POST", file=sys.stderr, flush=True)
            measure(playground, here[name], count, seconds, row)
    crashes: dict[str, str] = {}
    for name, service in here.items():
        print(f"a crash: {name}", file=sys.stderr, flush=True)
        crashes[name] = survives(playground, service)
    heads = f"{'deliveries/s':>13} {'range':>19} {'CPU us':>8} {'PSS MB':>7} {'lost':>6}  after a crash"
    print(f"{'tokens a POST':<28} {heads}")
    for (count, name), row in found.items():
        rates, costs = [each.rate for each in row.rounds], [each.cost for each in row.rounds]
        print(
            f"{count:>5,}  {name:<21} {median(rates):>13,.0f} {f'{min(rates):,.0f} to {max(rates):,.0f}':>19} "
            f"{median(costs):>8.1f} {median(row.memory):>7.0f} {sum(each.lost for each in row.rounds):>6,}  "
            f"{crashes[name]}"
        )
        record(f"{count:,} a POST, {name}", "/s", *rates)
        record(f"{count:,} a POST, {name}", "us", *costs)
        record(f"{count:,} a POST, {name}: memory (PSS)", "MB", *row.memory)
    print(f"load: {generator()}")


def compare_libraries(playground: Playground, scale: float, rounds: int) -> None:
    """Print the table of the libraries."""
    with tempfile.TemporaryDirectory() as folder:
        commands = {name: library.command(Path(folder)) for name, library in LIBRARIES.items()}
        found: dict[str, list[Sent]] = {name: [] for name, command in commands.items() if command}
        for number in range(rounds):
            for name, rows in found.items():
                print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
                count = max(1000, int(LIBRARIES[name].count * scale) // 1000 * 1000)
                rows.append(send(playground.simulator, commands[name], count, OWN))
    print(f"\n{'clients, one process':<28} {'pushes/s':>13} {'range':>19} {'CPU us':>8} {'PSS MB':>7}")
    for name, rows in found.items():
        rates, costs = [each.rate for each in rows], [each.cost for each in rows]
        print(
            f"  {name:<26} {median(rates):>13,.0f} {f'{min(rates):,.0f} to {max(rates):,.0f}':>19} "
            f"{median(costs):>8.1f} {median(each.memory_mb for each in rows):>7.0f}"
        )
        record(f"client {name}", "/s", *rates)
        record(f"client {name}", "us", *costs)


def show_missing() -> None:
    """Print what takes no part, and how it would."""
    missing = {name: service.missing() for name, service in SERVICES.items()}
    with tempfile.TemporaryDirectory() as folder:
        missing |= {name: "" if each.command(Path(folder)) else each.get for name, each in LIBRARIES.items()}
    for name, how in missing.items():
        if how:
            print(f"{name} is not here; to get it: {how}", flush=True)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="make bench-peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in each round")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of pushes of the clients")
    parser.add_argument("--only", choices=("services", "clients"), help="one of the two tables")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.inside:
        enter(arguments)
    pin(0, REST)
    with tempfile.TemporaryDirectory() as folder:
        settle(Path(folder))
        with open_playground(
            Path(folder) / "playground", port=free_port(), host=APPLE, apns_port=443, record=False
        ) as playground:
            show_missing()
            if options.only != "clients":
                compare_services(playground, options.seconds, options.rounds)
            if options.only != "services":
                compare_libraries(playground, options.scale, options.rounds)


if __name__ == "__main__":
    main(sys.argv[1:])
