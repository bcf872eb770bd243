"""Urgent first, fair to every app, and one provider's silence is its own: three ratios of the running service.

    python -m tests.bench.lanes [--scale 1.0]

1. 1,000,000 bulk deliveries are queued, then 100 urgent pushes follow: seconds from POST to the provider's answer,
   beside the same on the idle service.
2. One app has the huge queue, another posts 100 normal pushes: the same question.
3. One provider answers nothing: the rate of the other, as a share of its rate while both are well.

Everything runs as its processes, on this machine; the provider is the simulator. The instant of an answer is the one
in the delivery's row.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import math
import os
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop

from pushsvc import telemetry
from pushsvc.cli.service.up import free_port
from pushsvc.cli.service.whole import open_service
from pushsvc.lab.playground import CONFIG, Playground, open_playground
from pushsvc.lab.simulator import apns_token, fcm_token
from pushsvc.runtime.configuration import load_settings

from .figures import record

PROBES = 100
GAP = 0.05
"""Seconds between two of the pushes that are timed."""
OTHER_KEY = "pk_other"


class Caller:
    """One app's client."""

    def __init__(self, session: aiohttp.ClientSession, playground: Playground, key: str) -> None:
        self.session = session
        self.playground = playground
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._posted = 0

    async def post(self, tokens: list[dict[str, str]], lane: str) -> str:
        body = msgspec.json.encode({"to": {"tokens": tokens}, "lane": lane, "notification": {"title": "Order 7"}})
        async with self.session.post("/v1/push", data=body, headers=self.headers) as answer:
            reported = await answer.read()
            assert answer.status == 202, reported
            push: str = msgspec.json.decode(reported)["id"]
            return push

    async def status(self, push: str) -> dict[str, Any]:
        async with self.session.get(f"/v1/push/{push}", headers=self.headers) as answer:
            document: dict[str, Any] = await answer.json()
            return document

    async def queue(self, count: int, lane: str, platform: str = "apns") -> list[str]:
        """Queue `count` deliveries in calls of 10,000."""
        make = apns_token if platform == "apns" else fcm_token
        pushes = []
        for start in range(0, count, 10_000):
            self._posted += 1
            tokens = [
                {"platform": platform, "token": make("ok", f"{self._posted}-{n}")}
                for n in range(min(10_000, count - start))
            ]
            pushes.append(await self.post(tokens, lane))
        return pushes

    async def probe(self, lane: str, mark: str) -> list[float]:
        """Post one push after the other; the seconds from each POST to the provider's answer, sorted."""
        posted: list[tuple[str, float]] = []
        for number in range(PROBES):
            began = time.time()
            push = await self.post([{"platform": "apns", "token": apns_token("ok", f"{mark}-{number}")}], lane)
            posted.append((push, began))
            await asyncio.sleep(GAP)
        found: list[float] = []
        deadline = time.monotonic() + 300
        for push, began in posted:
            while (await self.status(push))["state"] != "done":
                assert time.monotonic() < deadline, "a timed push has not ended"
                await asyncio.sleep(0.05)
            async with self.session.get(f"/v1/push/{push}/deliveries", headers=self.headers) as answer:
                (row,) = (await answer.json())["items"]
            assert row["outcome"] == "sent"
            found.append(datetime.fromisoformat(row["at"]).timestamp() - began)
        return sorted(found)


def p(sorted_values: list[float], share: float) -> float:
    """The percentile by the nearest rank, in milliseconds."""
    return sorted_values[math.ceil(share * len(sorted_values)) - 1] * 1000


def show(what: str, idle: list[float], busy: list[float]) -> float:
    """Print a line; the ratio of the 99th percentiles."""
    for name, times in (("idle", idle), ("busy", busy)):
        record(f"{what}: {name}, p99", "ms", p(times, 0.99))
    ratio = p(busy, 0.99) / p(idle, 0.99)
    print(
        f"{what:<44} idle p50 {p(idle, 0.5):6.1f} p99 {p(idle, 0.99):6.1f} ms"
        f"   busy p50 {p(busy, 0.5):6.1f} p99 {p(busy, 0.99):6.1f} ms   ratio of p99 {ratio:5.2f}",
        flush=True,
    )
    return ratio


async def pending(session: aiohttp.ClientSession) -> float:
    """Deliveries in the queue."""
    async with session.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("pushsvc_queue_pending{"))


async def until_empty(session: aiohttp.ClientSession) -> None:
    while await pending(session):
        await asyncio.sleep(0.5)


async def cancel(caller: Caller, pushes: list[str]) -> None:
    """The rest of a huge queue is not worth waiting for."""
    for push in pushes:
        async with caller.session.delete(f"/v1/push/{push}", headers=caller.headers) as answer:
            assert answer.status in (200, 409), await answer.text()


async def queue_held(caller: Caller, count: int) -> list[str]:
    """Fill the queue while the provider is silent, so that nothing leaves meanwhile; then let it answer."""
    await asyncio.to_thread(caller.playground.simulator.control, "stall", on=True, platform="apns")
    pushes = await caller.queue(count, "bulk")
    await asyncio.to_thread(caller.playground.simulator.control, "stall", on=False, platform="apns")
    await until_steady(caller, "apns")
    return pushes


async def accepted(caller: Caller, platform: str) -> int:
    """Return how many deliveries the provider has accepted."""
    seen = await asyncio.to_thread(caller.playground.simulator.record)
    count: int = seen[platform]["totals"].get("200", 0)
    return count


async def until_steady(caller: Caller, platform: str) -> None:
    """Wait until the provider accepts no more in a quarter of a second than in the one before."""
    before, most = await accepted(caller, platform), 0
    while True:
        await asyncio.sleep(0.25)
        now = await accepted(caller, platform)
        if 0 < now - before <= most:
            return
        before, most = now, now - before


async def rate(caller: Caller, seconds: float) -> float:
    """Return the deliveries a second that FCM accepts."""
    before, started = await accepted(caller, "fcm"), time.perf_counter()
    await asyncio.sleep(seconds)
    return (await accepted(caller, "fcm") - before) / (time.perf_counter() - started)


async def lanes(shop: Caller, other: Caller, count: int) -> None:
    """Questions 1 and 2."""
    await shop.probe("urgent", "warm")
    await other.probe("normal", "warm-other")
    idle_urgent = await shop.probe("urgent", "idle")
    idle_other = await other.probe("normal", "idle-other")
    pushes = await queue_held(shop, count)
    left = await pending(shop.session)
    busy_urgent = await shop.probe("urgent", "busy")
    busy_other = await other.probe("normal", "busy-other")
    still = await pending(shop.session)
    print(f"{left:,.0f} bulk deliveries in the queue when the timed pushes began, {still:,.0f} when they ended")
    show("1. urgent, behind the app's own bulk", idle_urgent, busy_urgent)
    show("2. another app's normal, beside it", idle_other, busy_other)
    await cancel(shop, pushes)
    await until_empty(shop.session)


async def silence(shop: Caller, count: int) -> None:
    """Question 3: FCM has plenty to do, with APNs idle and then with APNs silent over a queue of its own."""
    control = shop.playground.simulator.control
    seconds = max(1.0, min(10.0, count / 250_000))  # far less than what is queued, at 100,000 a second
    found: dict[bool, list[float]] = {False: [], True: []}
    # In turns, so that what else the machine does falls on both.
    for silent in (False, True) * 3:
        await asyncio.to_thread(control, "stall", on=True)
        pushes = await shop.queue(count, "bulk", "fcm")
        if silent:
            pushes += await shop.queue(min(count, 100_000), "bulk", "apns")
        await asyncio.to_thread(control, "stall", on=False, platform="fcm")
        await until_steady(shop, "fcm")
        found[silent].append(await rate(shop, seconds))
        left = sum([(await shop.status(push))["counts"]["queued"] for push in pushes[: count // 10_000]])
        assert left, "the queue ran dry while the rate was measured"
        await asyncio.to_thread(control, "stall", on=False)
        await cancel(shop, pushes)
        await until_empty(shop.session)
    normal, stalled = (sorted(found[silent])[1] for silent in (False, True))
    shares = (own / its for own, its in zip(found[True], found[False], strict=True))
    record("3. FCM while APNs is silent", "share", *shares)
    print(
        f"3. FCM {normal:,.0f}/s normally, {stalled:,.0f}/s while APNs is silent: {stalled / normal:.0%}"
        f"   (medians of 3; {', '.join(f'{each:,.0f}' for each in found[False] + found[True])})",
        flush=True,
    )


async def run(playground: Playground, scale: float, only: str) -> None:
    count = int(1_000_000 * scale)
    settings = load_settings(playground.config_file)
    async with (
        open_service(settings, playground.config_file, os.environ) as service,
        aiohttp.ClientSession(service.url) as session,
    ):
        shop, other = Caller(session, playground, playground.api_key), Caller(session, playground, OTHER_KEY)
        if only != "silence":
            await lanes(shop, other, count)
        if only != "lanes":
            await silence(shop, count)


def add_app(playground: Playground) -> None:
    """A second app with the same accounts and a key of its own."""
    text = playground.config_file.read_text()
    section = text[text.index("[apps.demo]") :]
    own = hashlib.sha256(playground.api_key.encode()).hexdigest()
    section = section.replace("apps.demo", "apps.other").replace(own, hashlib.sha256(OTHER_KEY.encode()).hexdigest())
    playground.config_file.write_text(text + "\n" + section)


def main(scale: float, only: str, latency: float) -> None:
    assert "[apps.{app}]" in CONFIG
    telemetry.configure_logging("warning", json=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_playground(Path(folder), port=free_port(), fcm_streams=1000, record=False, latency=latency) as playground,
    ):
        add_app(playground)
        uvloop.run(run(playground, scale, only))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the deliveries that are queued")
    parser.add_argument("--only", choices=("lanes", "silence"), default="", help="one half of it")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that the providers take to answer")
    arguments = parser.parse_args()
    main(arguments.scale, arguments.only, arguments.latency)
