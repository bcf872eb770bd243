"""Every delivery counted: 100,000 pushes to one token each and 200 calls of 1,000 tokens, over the real service.

    python -m tests.bench.volume [--scale 1.0]

The whole service runs as its processes (`pushsvc up`, embedded store); the simulator keeps the record. Prints the
rates, and fails when a count is off by one: `total` of all status documents, what the simulator accepted, duplicates.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop

from pushsvc import telemetry
from pushsvc.cli.service.up import free_port
from pushsvc.cli.service.whole import open_service
from pushsvc.lab.playground import Playground, open_playground
from pushsvc.lab.simulator import apns_token, fcm_token
from pushsvc.runtime.configuration import load_settings

from .figures import record


def document(tokens: list[dict[str, str]]) -> bytes:
    """A push to these tokens."""
    return msgspec.json.encode({"to": {"tokens": tokens}, "notification": {"title": "Order 7 shipped"}})


def target(number: int) -> dict[str, str]:
    """Every other one an iPhone."""
    if number % 2:
        return {"platform": "fcm", "token": fcm_token("ok", str(number))}
    return {"platform": "apns", "token": apns_token("ok", str(number))}


async def post_all(session: aiohttp.ClientSession, bodies: Iterable[bytes], at_once: int) -> list[str]:
    """POST them all; the ids."""
    ids: list[str] = []
    rest = iter(bodies)

    async def worker() -> None:
        for body in rest:
            async with session.post("/v1/push", data=body, headers={"Content-Type": "application/json"}) as answer:
                reported = await answer.read()
                assert answer.status == 202, reported
                ids.append(msgspec.json.decode(reported)["id"])

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return ids


async def add_up(session: aiohttp.ClientSession, ids: list[str], total: int) -> Counter[str]:
    """The sum of all status documents, once everything has ended."""
    deadline = time.monotonic() + 600
    open_ids, ended = list(ids), Counter[str]()
    while open_ids:
        assert time.monotonic() < deadline, f"{len(open_ids)} pushes are not done"
        still: list[str] = []
        rest = iter(open_ids)

        async def worker(rest: Any = rest, still: list[str] = still) -> None:
            for push in rest:
                async with session.get(f"/v1/push/{push}") as answer:
                    status = msgspec.json.decode(await answer.read())
                counts = status["counts"]
                assert counts["total"] == sum(n for name, n in counts.items() if name != "total"), counts
                if status["state"] == "done":
                    ended.update(counts)
                else:
                    still.append(push)

        await asyncio.gather(*(worker() for _ in range(32)))
        open_ids = still
        if still:
            await asyncio.sleep(0.2)
    return +ended


async def run(playground: Playground, scale: float) -> None:
    singles, calls = int(100_000 * scale), int(200 * scale)
    settings = load_settings(playground.config_file)
    async with open_service(settings, playground.config_file, os.environ) as service:
        headers = {"Authorization": f"Bearer {playground.api_key}"}
        connector = aiohttp.TCPConnector(limit=64)
        async with aiohttp.ClientSession(service.url, headers=headers, connector=connector) as session:
            for name, bodies, count in (
                ("1 token a call", (document([target(n)]) for n in range(singles)), singles),
                (
                    "1,000 tokens a call",
                    (document([target(singles + c * 1000 + n) for n in range(1000)]) for c in range(calls)),
                    calls * 1000,
                ),
            ):
                await asyncio.to_thread(playground.simulator.clear)
                started = time.perf_counter()
                ids = await post_all(session, bodies, 64 if count == singles else 4)
                accepted = time.perf_counter() - started
                counts = await add_up(session, ids, count)
                ended = time.perf_counter() - started
                seen = await asyncio.to_thread(playground.simulator.record)
                arrived = sum(seen[platform]["accepted"] for platform in ("apns", "fcm"))
                twice = sum(seen[platform]["duplicates"] for platform in ("apns", "fcm"))
                print(
                    f"{name:<22}{len(ids):>8,} calls  {count:>8,} deliveries  accepted in {accepted:6.1f} s"
                    f"  status {dict(counts)}  simulator accepted {arrived:,}, twice {twice}"
                )
                record(f"accepted, {name}", "/s", count / accepted)
                record(f"accepted and sent, {name}", "/s", count / ended)
                if counts != {"total": count, "sent": count} or arrived != count or twice:
                    sys.exit("the counts do not add up")


def main(scale: float) -> None:
    telemetry.configure_logging("warning", json=False)
    with tempfile.TemporaryDirectory() as folder, open_playground(Path(folder), port=free_port()) as playground:
        uvloop.run(run(playground, scale))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of deliveries")
    main(parser.parse_args().scale)
