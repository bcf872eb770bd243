"""Devices in bulk: import, export and cleanup at a million, and what a cleanup costs the API beside it.

    python -m tests.bench.devices [--kind valkey|redis] [--devices 1000000] [--seconds 30]

The devices are those of `tests.bench.registry`; one in a hundred has not been seen for a year and goes when the cleanup
comes, and some entries of indexes lead nowhere. Import, export, cleanup and API are the commands, as processes of their
own. CPU is in seconds of one core. The API's latencies are those of a steady load (a push to one token, and a
registration, in turns), first alone and then while `pushsvc cleanup` runs.
"""

from __future__ import annotations

import argparse
import asyncio
import filecmp
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec

from pushsvc.cli.devices.lines import ndjson_of
from pushsvc.model.devices import Device
from pushsvc.runtime.providers import addresses
from pushsvc.store import open_store

from ..integration.cleanup_rig import make_orphans
from ..integration.ports import free_ports
from ..integration.servers import KINDS, Server, running_server
from .figures import record
from .machine import cpu_seconds, resident_mb
from .registry import Population

KEY = "key-of-the-benchmark"
RATE = 100
"""Requests a second: what one server process answers without queueing on a busy machine."""
YEAR = 365 * 86_400_000
CONFIG = """
[server]
port = {port}
[metrics]
port = 0
[redis]
url = "{url}"
[[apps.shop.keys]]
name = "bench"
sha256 = "{sha256}"
scopes = ["push", "devices"]
[apps.shop.apns]
topic = "com.example.shop"
key_file = "{folder}/none.p8"
key_id = "ABC123DEFG"
team_id = "DEF123GHIJ"
[apps.shop.fcm]
service_account_file = "{folder}/none.json"
"""


class Site:
    """A folder, its configuration and the server that it names."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server = folder, server
        self.port = free_ports()
        self.config = folder / "pushsvc.toml"
        sha256 = hashlib.sha256(KEY.encode()).hexdigest()
        self.config.write_text(CONFIG.format(port=self.port, url=server.url, sha256=sha256, folder=folder))

    def start(self, *words: str, **environ: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "pushsvc", *words],
            env={**os.environ, "PUSHSVC_CONFIG": str(self.config), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )


class Watch:
    """A command from outside: its memory while it runs, and the CPU of it and of the store."""

    def __init__(self, site: Site, *words: str, **environ: str) -> None:
        self._site = site
        self.words = words
        self._environ = environ
        self.rss: list[float] = []
        self.seconds = self.cpu = self.store_cpu = 0.0
        self.out = b""

    async def run(self) -> None:
        store = self._site.server.process.pid
        began, store_before = time.perf_counter(), cpu_seconds(store)
        process = self._site.start(*self.words, **self._environ)
        reading = asyncio.create_task(asyncio.to_thread(process.communicate))
        while process.poll() is None:
            self.rss.append(of_living(resident_mb, process.pid))
            self.cpu = of_living(cpu_seconds, process.pid) or self.cpu
            await asyncio.sleep(0.1)
        self.out, _ = await reading
        assert process.returncode == 0, (self.words, process.returncode)
        self.seconds = time.perf_counter() - began
        self.store_cpu = cpu_seconds(store) - store_before

    def show(self, count: int) -> None:
        half = [each for each in self.rss[len(self.rss) // 5 :] if each]
        memory = f"{min(half, default=0):.0f} to {max(half, default=0):.0f} MB after its first fifth"
        print(
            f"{' '.join(self.words[:2]):16} {count:>9,} in {self.seconds:6.1f} s {count / self.seconds:>9,.0f}/s   "
            f"own CPU {self.cpu:6.1f} s, store's {self.store_cpu:6.1f} s   RSS {memory}",
            flush=True,
        )
        record(" ".join(self.words[:2]), "/s", count / self.seconds)


def of_living(figure: Callable[[int], float], pid: int) -> float:
    """Return a figure of a process; 0 where it has ended."""
    try:
        return figure(pid)
    except OSError:
        return 0.0


def make_file(path: Path, count: int) -> int:
    """The devices as lines; how many of them are stale."""
    population, stale = Population(7), 0
    now = time.time_ns() // 1_000_000
    with path.open("wb") as file:
        for first in range(0, count, 10_000):
            made = [fresh(device, now) for device in population.range(first, min(10_000, count - first))]
            for place in range(1, len(made), 200):  # of FCM, whose stale devices go
                made[place] = msgspec.structs.replace(made[place], registered_at=now - YEAR, last_seen_at=now - YEAR)
                stale += 1
            file.write(ndjson_of(made, addresses()))
    return stale


def fresh(device: Device, now: int) -> Device:
    """Seen within the last ten days."""
    at = now - device.registered_at % (10 * 86_400_000)
    return msgspec.structs.replace(device, registered_at=at, last_seen_at=at)


# --- the API under load -----------------------------------------------------------------------------


@asynccontextmanager
async def serving(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    process = site.start("serve")
    try:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(f"http://127.0.0.1:{site.port}", headers=headers) as session:
            while True:
                try:
                    async with session.get("/readyz"):
                        break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
            yield session
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait)


class Load:
    """Requests at a steady rate, each at its time whether the others have been answered or not."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._number = 0

    async def until(self, over: Callable[[], bool]) -> list[float]:
        """Milliseconds of each request until it is `over`."""
        loop, found, asked = asyncio.get_running_loop(), list[float](), set[asyncio.Task[None]]()
        began = due = loop.time()
        while not over():
            task = asyncio.create_task(self._ask(due, found))
            asked.add(task)
            task.add_done_callback(asked.discard)
            due += 1 / RATE
            await asyncio.sleep(max(0.0, due - loop.time()))
        await asyncio.gather(*asked)
        assert found, f"nothing was asked in {loop.time() - began:.1f} s"
        return found

    async def _ask(self, due: float, found: list[float]) -> None:
        self._number += 1
        number = self._number
        if number % 2:
            body = {"to": {"tokens": [{"platform": "apns", "token": f"{number:064x}"}]}, "data": {"n": str(number)}}
            call = self._session.post("/v1/push", json=body)
        else:
            device = {"platform": "apns", "token": f"{number:064x}", "user": f"bench-{number % 1000}"}
            call = self._session.put(f"/v1/devices/bench-{number % 5000}", json=device)
        async with call as answer:
            assert answer.status in (200, 201, 202), await answer.text()
        found.append((asyncio.get_running_loop().time() - due) * 1000)


def show_latencies(what: str, found: list[float]) -> float:
    """Print median and 99th percentile; returns the latter."""
    cuts = statistics.quantiles(found, n=100)
    record(f"API {what}: p99", "ms", cuts[98])
    print(f"API {what:26} {len(found):>6,} requests   median {cuts[49]:6.1f} ms   p99 {cuts[98]:6.1f} ms", flush=True)
    return cuts[98]


# --- the story --------------------------------------------------------------------------------------


async def run(site: Site, count: int, seconds: float) -> None:
    file, back = site.folder / "devices.ndjson", site.folder / "back.ndjson"
    stale = make_file(file, count)
    async with open_store(site.server.url) as store:
        before = int((await store.link.call("INFO", "memory"))["used_memory"])
        importing = Watch(site, "devices", "import", str(file), "--app", "shop", "--json")
        await importing.run()
        reported = json.loads(importing.out)
        assert (reported["imported"], reported["new"], reported["rejected"]) == (count, count, 0), reported
        importing.show(count)
        used = int((await store.link.call("INFO", "memory"))["used_memory"]) - before
        line = file.stat().st_size / count
        print(f"{used / count:.1f} bytes of the store a device; a line has {line:.0f}", flush=True)

        exporting = Watch(site, "devices", "export", str(back), "--app", "shop")
        await exporting.run()
        exporting.show(count)
        assert filecmp.cmp(file, back, shallow=False), "the export is not the file that was imported"
        print("the export is the imported file to the byte", flush=True)
        back.unlink()

        orphans = sum((await make_orphans(store)).values())
        async with serving(site) as session:
            load = Load(session)
            warm = time.monotonic() + 3
            await load.until(lambda: time.monotonic() > warm)
            end = time.monotonic() + seconds
            alone = show_latencies("alone", await load.until(lambda: time.monotonic() > end))
            dry = Watch(site, "cleanup", "--dry-run", "--json", PUSHSVC__CLEANUP__SHARE="1.0")
            await dry.run()
            cleaning = Watch(site, "cleanup", "--json")
            task = asyncio.create_task(cleaning.run())
            beside = show_latencies("beside a cleanup", await load.until(task.done))
            await task
            end = time.monotonic() + seconds
            again = show_latencies("alone again", await load.until(lambda: time.monotonic() > end))
        expected, found = json.loads(dry.out)["apps"], json.loads(cleaning.out)["apps"]
        assert expected == found, (expected, found)
        assert (found["shop"]["stale"], found["shop"]["orphans"]) == (stale, orphans), found
        cleaning.show(count)
        share = cleaning.store_cpu / cleaning.seconds
        print(
            f"the store took {share:.0%} of a core for it and the load; it removed {found['shop']}, as its dry run said"
        )
        print(f"p99 beside the cleanup against alone: {beside / ((alone + again) / 2):.2f}", flush=True)


def main(kind: str, count: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder, running_server(kind, options=("--save", "")) as server:  # type: ignore[arg-type]  # one of KINDS
        asyncio.run(run(Site(Path(folder), server), count, seconds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="valkey")
    parser.add_argument("--devices", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of load without a cleanup")
    arguments = parser.parse_args()
    main(arguments.kind, arguments.devices, arguments.seconds)
