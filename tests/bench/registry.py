"""The registry at a million devices: bytes a device by what they are spent on, and how fast it is written and read.

    python -m tests.bench.registry [--kind valkey|redis] [--devices 1000000] [--seed 7]

Half of the devices are APNs' (64 hexadecimal digits), half FCM's (about 152 characters). Each has a UUID for its id, a
user (every sixth user has two devices), a locale, a timezone, a version, two tags and one or two topics: `news`, of
everybody, and for every third one of a hundred others. CPU is that of this process and of the server, apart: the rate
on an otherwise idle machine is about one device in the sum of the two.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import string
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from pushsvc.model.devices import ByTopic, Device, ToAll
from pushsvc.ports.registry import Prune
from pushsvc.store import Store, open_store

from ..integration.servers import KINDS, Server, running_server
from .figures import record

BATCH = 500
NOW = 1_764_579_600_000
LETTERS = string.ascii_letters + string.digits + "-_"
KEYS = {
    "documents": "d:",
    "ids": "i:",
    "tokens": "k:",
    "users": "u:",
    "topics": "t:",
    "names of topics": "topics",
    "tombstones": "x",
    "counters": "count",
    "others": "",
}


class Population:
    """Devices by number, the same for a seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def device(self, number: int) -> Device:
        rng = random.Random(self._seed * 1_000_003 + number)
        apns = number % 2 == 0
        if apns:
            token = rng.randbytes(32).hex()
        else:
            token = "".join(rng.choices(LETTERS, k=22)) + ":APA91b" + "".join(rng.choices(LETTERS, k=123))
        digits = rng.randbytes(16).hex()
        return Device(
            id=f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}",
            platform="apns" if apns else "fcm",
            token=token,
            user=f"user-{number * 6 // 7}",
            tags={"plan": rng.choice(["free", "pro", "team"]), "beta": rng.random() < 0.1},
            locale=rng.choice(["de-AT", "en-US", "fr-FR", "pt-BR"]),
            timezone=rng.choice(["Europe/Vienna", "America/New_York", "America/Sao_Paulo"]),
            app_version=rng.choice(["3.2.0", "3.1.4", "2.10.11"]),
            registered_at=NOW + number,
            last_seen_at=NOW + number + (0 if rng.random() < 0.5 else rng.randrange(10**9)),
            topics=("news", f"team-{rng.randrange(100)}") if number % 3 == 0 else ("news",),
        )

    def range(self, first: int, count: int) -> list[Device]:
        return [self.device(number) for number in range(first, first + count)]


class Meter:
    """Times what is done to a number of devices."""

    def __init__(self, server: Server) -> None:
        self._pid = server.process.pid

    async def __call__(self, what: str, step: Callable[[], Awaitable[int]]) -> None:
        server, own, started = self._server_cpu(), time.process_time(), time.perf_counter()
        count = await step()
        wall = time.perf_counter() - started
        self.show(what, count, wall, time.process_time() - own, self._server_cpu() - server)

    @staticmethod
    def show(what: str, count: int, wall: float, own: float, server: float) -> None:
        record(what, "/s", count / wall)
        print(
            f"{what:34} {count:>9,} {count / wall:>11,.0f}/s {own / count * 1e6:>9.1f} {server / count * 1e6:>9.1f}",
            flush=True,
        )

    def _server_cpu(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def used(store: Store) -> int:
    info = await store.link.call("INFO", "memory")
    return int(info["used_memory"])


async def fill(store: Store, population: Population, count: int, server: Server) -> None:
    """Write them all; only the writing is timed, not the making of the devices."""
    wall = own = 0.0
    meter = Meter(server)
    before = meter._server_cpu()
    for first in range(0, count, 50_000):
        made = population.range(first, min(50_000, count - first))
        started, cpu = time.perf_counter(), time.process_time()
        for at in range(0, len(made), BATCH):
            await store.registry.put_many("shop", made[at : at + BATCH])
        wall, own = wall + time.perf_counter() - started, own + time.process_time() - cpu
    meter.show(f"put_many of {BATCH}, new devices", count, wall, own, meter._server_cpu() - before)


async def page_through(store: Store, audience: ToAll | ByTopic) -> int:
    count, after = 0, ""
    while True:
        page = await store.registry.members("shop", audience, after=after, limit=1000)
        count += len(page.devices)
        if page.cursor is None:
            return count
        after = page.cursor


async def spent(store: Store, total: int, devices: int) -> None:
    """Bytes a device by kind of key, as the server counts each key; the rest is its tables of keys."""
    sums = dict.fromkeys(KEYS, 0)
    numbers = dict.fromkeys(KEYS, 0)
    prefix = b"ps:{shop.devices}:"
    cursor = 0
    while True:
        cursor, found = await store.link.call("SCAN", cursor, "COUNT", 2000)
        names = [name for name in found if name.startswith(prefix)]
        sizes = await store.link.many([("MEMORY", "USAGE", name, "SAMPLES", 0) for name in names])
        for name, size in zip(names, sizes, strict=True):
            kind = next(kind for kind, start in KEYS.items() if name[len(prefix) :].startswith(start.encode()))
            sums[kind] += size
            numbers[kind] += 1
        if int(cursor) == 0:
            break
    print(f"\n{'spent on':34} {'keys':>9} {'bytes a device':>15}")
    for kind, size in sums.items():
        print(f"{kind:34} {numbers[kind]:>9,} {size / devices:>15.2f}")
    print(f"{'tables of keys, rounding':34} {'':>9} {(total - sum(sums.values())) / devices:>15.2f}")
    record("a device", "bytes", total / devices)
    print(f"{'all':34} {sum(numbers.values()):>9,} {total / devices:>15.2f}", flush=True)


async def run(server: Server, count: int, seed: int) -> None:
    population = Population(seed)
    async with open_store(server.url) as store:
        registry, meter = store.registry, Meter(server)
        about = await store.link.call("INFO", "server")
        print(f"\n{server.kind} {about.get('valkey_version', about['redis_version'])}, {count:,} devices")
        print(f"{'':34} {'devices':>9} {'':>13} {'own us':>9} {'server us':>9}")
        base = await used(store)
        await fill(store, population, count, server)
        total = await used(store) - base

        some = population.range(count // 3, min(count // 3, 5000))

        async def put() -> int:
            for each in some:
                await registry.put("shop", each)
            return len(some)

        async def get() -> int:
            for each in some:
                assert await registry.get("shop", each.id) is not None
            return len(some)

        async def prune() -> int:
            prunes = [
                Prune(each.id, each.token, each.registered_at, "Unregistered", each.registered_at) for each in some
            ]
            for at in range(0, len(some), BATCH):
                assert all(await registry.prune("shop", prunes[at : at + BATCH]))
            return len(some)

        async def put_many() -> int:
            for at in range(0, len(some), BATCH):
                await registry.put_many("shop", some[at : at + BATCH])
            return len(some)

        await meter("page of 1,000, all", lambda: page_through(store, ToAll()))
        await meter("page of 1,000, topic of all", lambda: page_through(store, ByTopic("news")))
        await meter("page of 1,000, topic of 1 in 300", lambda: page_through(store, ByTopic("team-7")))
        await meter("get", get)
        await meter("put, refresh", put)
        await meter(f"prune, {BATCH} at once", prune)
        await meter(f"put_many of {BATCH}, known devices", put_many)
        assert await registry.count("shop") == count
        await spent(store, total, count)


def main(kinds: list[str], count: int, seed: int) -> None:
    for kind in KINDS:
        if kind in kinds:
            with running_server(kind) as server:
                asyncio.run(run(server, count, seed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: both")
    parser.add_argument("--devices", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    main(arguments.kind or list(KINDS), arguments.devices, arguments.seed)
