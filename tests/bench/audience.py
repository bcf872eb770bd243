"""A push to a topic of a million devices: how soon, how fast, in how much memory, and killed half-way.

    python -m tests.bench.audience [--scale 1.0]

First the expansion by itself (the embedded store and `pushsvc jobs`, nobody sends), then with the whole service on the
same two cores, twice: undisturbed, and with `pushsvc jobs` killed half-way. Prints the figures, and fails when a
device is missed or sent to twice by the simulator's own record.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from pushsvc import telemetry
from pushsvc.cli.service.up import free_port
from pushsvc.cli.service.whole import open_service
from pushsvc.lab.playground import APP, Playground, open_playground
from pushsvc.lab.simulator import apns_token, fcm_token
from pushsvc.model.codec import encode_audience
from pushsvc.model.devices import ByTopic, ByWhere, Device
from pushsvc.model.push import LANES, Content, Notification, Push
from pushsvc.providers import REGISTRY
from pushsvc.runtime.configuration import load_settings
from pushsvc.runtime.store import own_embedded, store_config
from pushsvc.settings.schema import Settings
from pushsvc.store import Store, keys, open_store

from .figures import record as note
from .machine import cpu_by_part, cpu_seconds, cpu_since, resident_mb
from .replay import job_processes

SMALL = 1000
"""Devices of another topic, whose push shows how soon one is sent that does not have to wait for its own expansion."""


def device(number: int) -> Device:
    """Every other one an iPhone."""
    platform, token = ("fcm", fcm_token) if number % 2 else ("apns", apns_token)
    return Device(
        id=f"device-{number}",
        platform=platform,
        token=token("ok", str(number)),
        user=f"user-{number // 2}",
        tags={"plan": "pro" if number % 4 == 0 else "free"},
        locale="de-AT" if number % 3 else "en-GB",
        app_version="3.2.0",
        registered_at=int(time.time() * 1000),
        last_seen_at=int(time.time() * 1000),
        topics=("news", "few") if number < SMALL else ("news",),
    )


async def register(store: Store, count: int) -> None:
    started = time.perf_counter()
    for first in range(0, count, 500):
        await store.registry.put_many(APP, [device(n) for n in range(first, min(first + 500, count))])
    print(f"registered {count:,} devices in {time.perf_counter() - started:.0f} s")


# --- the expansion by itself ----------------------------------------------------------------------


def push_to(audience: ByTopic | ByWhere, name: str) -> Push:
    now = int(time.time() * 1000)
    content = Content(notification=Notification(title="Rain tonight", body="Take an umbrella"))
    return Push(
        id=name,
        app=APP,
        lane="bulk",
        created_at=now,
        expires_at=now + 3_600_000,
        messages={
            platform: kind.renderer.render(content, push_id=name, starts_at=now) for platform, kind in REGISTRY.items()
        },
        targets={},
        audience=encode_audience(audience),
    )


@asynccontextmanager
async def jobs(playground: Playground, url: str) -> AsyncIterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(  # noqa: ASYNC220  # it returns at once
        [sys.executable, "-m", "pushsvc", "jobs"],
        env={**os.environ, "PUSHSVC_CONFIG": str(playground.config_file), "PUSHSVC__REDIS__URL": url},
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait, 60)


async def by_itself(playground: Playground, settings: Settings, count: int) -> None:
    async with own_embedded(settings) as url, open_store(url, store_config(settings)) as store:
        await register(store, count)
        async with jobs(playground, url) as process:
            for name, audience in (("topic", ByTopic("news")), ("where", ByWhere("tags.plan == 'pro'"))):
                await store.pushes.accept(push_to(audience, f"alone-{name}"))
                await watch_alone(store, process.pid, name, count)


async def watch_alone(store: Store, pid: int, name: str, count: int) -> None:
    """Until the newest push has been expanded; then what it made is thrown away."""
    (push_id,) = [each.decode() for each in await store.link.call("ZRANGE", keys.expansions(APP, 0, "bulk"), 0, -1)]
    before = started = spent = 0.0
    most, total = 0.0, 0
    while True:
        status = await store.pushes.status(APP, push_id)
        assert status is not None
        if not started and status.counts.total:
            before, started, total = resident_mb(pid), time.perf_counter(), status.counts.total
            spent = cpu_seconds(pid)
        most = max(most, resident_mb(pid))
        if status.state != "expanding":
            break
        await asyncio.sleep(0.005)
    seconds, spent = time.perf_counter() - started, cpu_seconds(pid) - spent
    print(
        f"expansion by {name}, nobody sends: {status.counts.total:,} targets of {count:,} devices; "
        f"{count / seconds:,.0f} devices/s, {(status.counts.total - total) / seconds:,.0f} targets/s, "
        f"{spent / count * 1e6:.1f} us of jobs' CPU a device; "
        f"jobs RSS {before:.0f} MB at its first page, {most:.0f} at most"
    )
    note(f"expansion by {name}, nobody sends", "/s", count / seconds)
    note(f"CPU of `jobs` a device, by {name}", "us", spent / count * 1e6)
    lanes = [keys.lane(APP, 0, platform, lane) for platform in REGISTRY for lane in LANES]
    await store.link.many([("DEL", key) for key in [*lanes, keys.pending(APP, 0)]])


# --- with the whole service -----------------------------------------------------------------------


class Watched:
    """A push that is followed from its POST on."""

    def __init__(self, session: aiohttp.ClientSession, topic: str, lane: str) -> None:
        self._session = session
        self._document = {
            "to": {"topic": topic},
            "notification": {"title": "Rain tonight", "body": "Take an umbrella"},
            "lane": lane,
        }
        self.id = ""
        self.posted = self.answered = 0.0

    async def post(self) -> None:
        self.posted = time.perf_counter()
        async with self._session.post("/v1/push", json=self._document) as answer:
            reported = await answer.json()
            self.answered = time.perf_counter()
            assert answer.status == 202, reported
            assert reported["deliveries"] is None
        self.id = reported["id"]

    async def status(self) -> dict[str, Any]:
        async with self._session.get(f"/v1/push/{self.id}") as answer:
            found: dict[str, Any] = await answer.json()
        counts = found["counts"]
        assert counts["total"] == sum(n for name, n in counts.items() if name != "total"), counts
        return found

    async def first_sent(self) -> float:
        """Seconds from the POST until a delivery was recorded as sent."""
        while not (await self.status())["counts"]["sent"]:
            await asyncio.sleep(0.002)
        return time.perf_counter() - self.posted


async def watch(playground: Playground, session: aiohttp.ClientSession, count: int, *, kill: bool) -> None:
    record = await asyncio.to_thread(playground.simulator.record)
    before = Counter(
        {name: sum(own[name] for own in (record["apns"], record["fcm"])) for name in ("accepted", "duplicates")}
    )
    push = Watched(session, "news", "bulk")
    used = cpu_by_part(os.getpid())
    await push.post()
    first = await push.first_sent()
    most, killed, expanded = 0.0, "", 0.0
    while (status := await push.status())["state"] != "done":
        total = status["counts"]["total"]
        most = max([most, *map(resident, job_processes())])
        if kill and not killed and total >= count / 2:
            for pid in job_processes():
                os.kill(pid, signal.SIGKILL)
            killed = f"; jobs killed at {total:,}"
        if not expanded and status["state"] != "expanding":
            expanded = time.perf_counter() - push.posted
        await asyncio.sleep(0.01)
    whole, spent = time.perf_counter() - push.posted, cpu_since(used, os.getpid())
    record = await asyncio.to_thread(playground.simulator.record)
    arrived = sum(record[platform]["accepted"] for platform in ("apns", "fcm")) - before["accepted"]
    twice = sum(record[platform]["duplicates"] for platform in ("apns", "fcm")) - before["duplicates"]
    print(
        f"whole service: POST {(push.answered - push.posted) * 1000:.1f} ms, first delivery after {first:.2f} s, "
        f"expanded after {expanded:.1f} s ({count / expanded:,.0f} targets/s), all sent after {whole:.1f} s "
        f"({count / whole:,.0f}/s); jobs RSS {most:.0f} MB at most{killed}; {status['counts']['sent']:,} sent, "
        f"the simulator accepted {arrived:,}, twice {twice}"
    )
    if not kill:
        note("whole service: POST", "ms", (push.answered - push.posted) * 1000)
        note("whole service: the first delivery", "s", first)
        note("whole service: deliveries", "/s", count / whole)
        named = {part: spent.pop(part, 0.0) for part in ("jobs", "dispatch", "store")}
        for part, seconds in {**named, "others": sum(spent.values())}.items():
            note(f"CPU of {part} a device", "us", seconds / count * 1e6)
    if (status["counts"]["sent"], arrived, twice) != (count, count, 0):
        sys.exit("somebody was missed, or sent to twice")


def resident(pid: int) -> float:
    try:
        return resident_mb(pid)
    except (OSError, IndexError):
        return 0.0  # it has just ended


async def with_all(playground: Playground, settings: Settings, count: int) -> None:
    async with open_service(settings, playground.config_file, os.environ) as service:
        headers = {"Authorization": f"Bearer {playground.api_key}"}
        async with aiohttp.ClientSession(service.url, headers=headers) as session:
            for _ in range(3):
                small = Watched(session, "few", "urgent")
                await small.post()
                first = await small.first_sent()
                print(f"topic of {SMALL}: POST {(small.answered - small.posted) * 1000:.1f} ms, first {first:.2f} s")
                while (await small.status())["state"] != "done":
                    await asyncio.sleep(0.02)
            await watch(playground, session, count, kill=False)
            await watch(playground, session, count, kill=True)


def main(scale: float) -> None:
    count = int(1_000_000 * scale)
    telemetry.configure_logging("warning", json=False)
    with tempfile.TemporaryDirectory() as folder, open_playground(Path(folder), port=free_port()) as playground:
        settings = load_settings(playground.config_file)
        uvloop.run(by_itself(playground, settings, count))
        uvloop.run(with_all(playground, settings, count))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of devices")
    main(parser.parse_args().scale)
