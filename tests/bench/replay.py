"""A replay of 100,000 dead letters, its worker killed half-way: each is sent once more, by the simulator's record.

    python -m tests.bench.replay [--scale 1.0]

The whole service runs as its processes (`pushsvc up`, embedded store). The simulator refuses each delivery at its first
attempt and takes the second. Prints the rates, and fails when a count is off by one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from pushsvc import telemetry
from pushsvc.cli.service.up import free_port
from pushsvc.cli.service.whole import open_service
from pushsvc.lab.playground import Playground, open_playground
from pushsvc.lab.simulator import apns_token, fcm_token
from pushsvc.runtime.configuration import load_settings

from .figures import record
from .volume import document, post_all

CALL = 1000
"""Deliveries of one push."""


def refused_once(number: int) -> dict[str, str]:
    """Every other one an iPhone."""
    if number % 2:
        return {"platform": "fcm", "token": fcm_token("INVALID_ARGUMENT.1", str(number))}
    return {"platform": "apns", "token": apns_token("BadPriority.1", str(number))}


def job_processes() -> list[int]:
    """Our children that are `pushsvc jobs`, by /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == os.getpid() and b"jobs" in words:
            found.append(int(folder.name))
    return found


async def sum_up(session: aiohttp.ClientSession, ids: list[str]) -> Counter[str]:
    """The sum of all status documents once all are done; each must balance at each look."""
    deadline = time.monotonic() + 600
    while True:
        counts: Counter[str] = Counter()
        done = True
        for push in ids:
            async with session.get(f"/v1/push/{push}") as answer:
                status = await answer.json()
            own = status["counts"]
            assert own["total"] == sum(n for name, n in own.items() if name != "total"), own
            counts.update(own)
            done = done and status["state"] == "done"
        if done:
            return +counts
        assert time.monotonic() < deadline, f"not done: {counts}"
        await asyncio.sleep(0.2)


async def state_of(session: aiohttp.ClientSession, job: str) -> dict[str, Any]:
    async with session.get(f"/v1/failed/replay/{job}") as answer:
        found: dict[str, Any] = await answer.json()
        return found


async def run(playground: Playground, scale: float) -> None:
    count = max(2, int(100 * scale)) * CALL
    settings = load_settings(playground.config_file)
    async with open_service(settings, playground.config_file, os.environ) as service:
        headers = {"Authorization": f"Bearer {playground.api_key}"}
        async with aiohttp.ClientSession(service.url, headers=headers) as session:
            bodies = (document([refused_once(start + n) for n in range(CALL)]) for start in range(0, count, CALL))
            ids = await post_all(session, bodies, 4)
            failed = await sum_up(session, ids)
            print(f"{count:,} deliveries failed: {dict(failed)}")

            started = time.perf_counter()
            async with session.post("/v1/failed/replay", json={}) as answer:
                reported = await answer.json()
            print(f"matched {reported['matched']:,} in {time.perf_counter() - started:.2f} s")
            killed_at = 0
            while (state := await state_of(session, reported["job"]))["state"] != "done":
                if not killed_at and state["moved"] >= count * 0.3:
                    for pid in job_processes():
                        os.kill(pid, signal.SIGKILL)
                    killed_at = (await state_of(session, reported["job"]))["moved"]
                    killed = time.perf_counter()
                    print(f"killed the worker at {killed_at:,} of {count:,}, after {killed - started:.1f} s")
                await asyncio.sleep(0.01)
            moved = time.perf_counter() - started
            print(f"moved {state['moved']:,}, skipped {state['skipped']}, in {moved:.1f} s")
            sent = await sum_up(session, ids)
            record("dead letters moved", "/s", count / moved)
            record("dead letters sent", "/s", count / (time.perf_counter() - started))
            seen = await asyncio.to_thread(playground.simulator.record)
            arrived = sum(seen[platform]["accepted"] for platform in ("apns", "fcm"))
            twice = sum(seen[platform]["duplicates"] for platform in ("apns", "fcm"))
            print(
                f"all sent after {time.perf_counter() - started:.1f} s: {dict(sent)}; "
                f"the simulator accepted {arrived:,}, twice {twice}"
            )
            if not 0 < killed_at < count:
                sys.exit("the worker was not killed half-way")
            if failed != {"total": count, "failed": count} or sent != {"total": count, "sent": count}:
                sys.exit("the counts do not add up")
            if (arrived, twice, state["moved"]) != (count, 0, count):
                sys.exit("not each was sent once")


def main(scale: float) -> None:
    telemetry.configure_logging("warning", json=False)
    with tempfile.TemporaryDirectory() as folder, open_playground(Path(folder), port=free_port()) as playground:
        uvloop.run(run(playground, scale))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of dead letters")
    main(parser.parse_args().scale)
