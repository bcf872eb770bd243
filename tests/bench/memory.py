"""A million deliveries queued: the bytes of Redis that each takes, a dispatcher's memory before it sends them,
meanwhile and after, and its rate at the beginning, in the middle and at the end.

    python -m tests.bench.memory [--scale 1.0] [--per 10000]

The dispatcher is a process of its own (`pushsvc dispatch`), watched from outside. `--scale 10` is ten million.
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
from itertools import pairwise
from pathlib import Path

import uvloop

from pushsvc import telemetry
from pushsvc.cli.service.up import free_port
from pushsvc.lab.playground import APP, Playground, open_playground
from pushsvc.lab.simulator import apns_token, fcm_token
from pushsvc.model.push import Content, Notification, Push, Target
from pushsvc.providers import REGISTRY
from pushsvc.runtime.configuration import load_settings
from pushsvc.runtime.store import own_embedded, store_config
from pushsvc.store import Store, open_store

from .figures import record
from .machine import resident_mb


async def used(store: Store) -> int:
    info = await store.link.call("INFO", "memory")
    return int(info["used_memory"])


async def still_mb(pid: int) -> float:
    """Return the resident memory of a process once it has stayed much the same for half a second."""
    found = [resident_mb(pid)]
    while len(found) < 6 or max(found[-6:]) - min(found[-6:]) > found[-1] / 500:
        await asyncio.sleep(0.1)
        found.append(resident_mb(pid))
    return found[-1]


def rates_of(left: list[tuple[float, int]], parts: int = 5) -> list[float]:
    """Return the rate in each part of the deliveries, from what was left at some instants."""
    total = left[0][1]
    ends = [next(at for at, count in left if count <= total * (parts - part) / parts) for part in range(parts + 1)]
    return [total / parts / max(1e-9, end - start) for start, end in pairwise(ends)]


async def run(playground: Playground, deliveries: int, per: int) -> None:
    settings = load_settings(playground.config_file)
    content = Content(notification=Notification(title="Order 7 shipped", body="Arrives Friday"))
    now = int(time.time() * 1000)
    messages = {
        platform: kind.renderer.render(content, push_id="bench", starts_at=now) for platform, kind in REGISTRY.items()
    }
    async with own_embedded(settings) as url, open_store(url, store_config(settings)) as store:
        dispatcher = subprocess.Popen(  # noqa: ASYNC220  # nothing else runs in this loop yet
            [sys.executable, "-m", "pushsvc", "dispatch"],
            env={**os.environ, "PUSHSVC_CONFIG": str(playground.config_file), "PUSHSVC__REDIS__URL": url},
        )
        try:
            await _until_connected(playground)
            before = await still_mb(dispatcher.pid)
            # The providers answer nothing while it fills, so that the whole million waits at once.
            await asyncio.to_thread(playground.simulator.control, "stall", on=True)
            empty, half, count = await used(store), per // 2, deliveries // per
            room, queueing = [(0.0, deliveries)], 0.0
            for number in range(count):
                first = number * per
                push = Push(
                    id=f"memory-{now}-{number}",
                    app=APP,
                    lane="bulk",
                    created_at=now,
                    expires_at=now + 3_600_000,
                    messages=messages,
                    targets={
                        "apns": tuple(Target(n, apns_token("ok", str(first + n))) for n in range(half)),
                        "fcm": tuple(Target(n, fcm_token("ok", str(first + n))) for n in range(half, per)),
                    },
                )
                # To make the tokens costs several times what it costs to queue them, and is not measured.
                began = time.perf_counter()
                await store.pushes.accept(push)
                queueing += time.perf_counter() - began
                room.append((queueing, deliveries - first - per))
            waiting = await still_mb(dispatcher.pid)
            queued = sum((await store.gauges({APP: ("apns", "fcm")})).pending.values())
            each = (await used(store) - empty) / queued
            await asyncio.to_thread(playground.simulator.control, "stall", on=False)
            started, most, left = time.perf_counter(), waiting, [(0.0, queued)]
            while left[-1][1]:
                gauges = await store.gauges({APP: ("apns", "fcm")})
                left.append((time.perf_counter() - started, sum(gauges.pending.values())))
                assert dispatcher.poll() is None, "the dispatcher has ended"
                most = max(most, resident_mb(dispatcher.pid))
                await asyncio.sleep(0.1)
            seconds = time.perf_counter() - started
            after = resident_mb(dispatcher.pid)
        finally:
            dispatcher.send_signal(signal.SIGTERM)
            dispatcher.wait(60)
    waited, sending = rates_of(room), rates_of(left)
    record("queued", "/s", deliveries / room[-1][0])
    record("sent", "/s", deliveries / seconds)
    record("sent, the last fifth of the rate of the first", "share", sending[-1] / sending[0])
    record(f"Redis for a queued delivery, {per:,} a push", "bytes", each)
    for name, value in (("before", before), ("with all queued", waiting), ("at most", most)):
        record(f"dispatcher, {name}", "MB", value)
    print(
        f"dispatcher RSS in MB: {before:.0f} before, {waiting:.0f} with {queued:,} queued, {most:.0f} at most while "
        f"sending ({deliveries / seconds:,.0f}/s), {after:.0f} after"
    )
    print(f"{per:,} a push: {each:.1f} bytes of Redis a delivery with a short token of the simulator")
    for what, rates in (("queued", waited), ("sent", sending)):
        print(f"{what} by fifths of them: " + ", ".join(f"{rate:,.0f}/s" for rate in rates))


async def _until_connected(playground: Playground) -> None:
    while True:
        state = await asyncio.to_thread(playground.simulator.state)
        if state["apns"]["connections"] and state["fcm"]["connections"]:
            return
        await asyncio.sleep(0.1)


def main(scale: float, per: int) -> None:
    telemetry.configure_logging("warning", json=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_playground(Path(folder), port=free_port(), record=False) as playground,
    ):
        uvloop.run(run(playground, int(1_000_000 * scale), per))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of deliveries")
    parser.add_argument("--per", type=int, default=10_000, help="deliveries of a push")
    arguments = parser.parse_args()
    main(arguments.scale, arguments.per)
