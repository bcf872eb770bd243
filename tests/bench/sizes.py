"""Bytes and CPU of a delivery, for the page `guides/sizing.md`.

    python -m tests.bench.sizes [--scale 1.0]

The first part fills a Valkey with pushes that nothing sends: bytes of memory and of the append-only file for each
delivery that is queued, scheduled, ended or dead. The second runs the whole service against the simulator: CPU of its
processes for each delivery.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import uvloop

from pushsvc import telemetry
from pushsvc.cli.service.up import free_port
from pushsvc.cli.service.whole import open_service
from pushsvc.lab.playground import APP, Playground, open_playground
from pushsvc.model.delivery import BadNotification, Ended, Sent
from pushsvc.model.push import Push
from pushsvc.runtime.configuration import load_settings
from pushsvc.store import Store, open_store
from pushsvc.store.server.embedded import open_embedded

from ..integration.test_store_kit import make_push, moment, settlement, take_all
from .figures import record
from .machine import cpu_by_part, cpu_since
from .volume import document, post_all, target


async def settle(store: Store, *, failed: bool) -> None:
    """End everything that is queued, as a dispatcher does."""
    verdict = Ended("failed", dead_letter=True) if failed else Ended("sent")
    outcome = BadNotification(status=400, reason="BadTopic") if failed else Sent(status=200)
    while entries := await take_all(store):
        for taken in entries:
            results = [settlement(taken.chunk, each.index, verdict, outcome) for each in taken.chunk.targets]
            await store.queue.settle("shop", results, [taken.ref])


async def store_part(folder: Path, url: str, pushes: int, targets: int) -> None:
    """Print the bytes that a delivery takes in each of its states."""
    async with open_store(url) as store:
        made = 0

        def more(send_at: int | None = None) -> list[Push]:
            nonlocal made
            made += pushes
            return [make_push(f"{targets}-{n:08}", targets, send_at=send_at) for n in range(made - pushes, made)]

        async def accept(send_at: int | None = None) -> None:
            for push in more(send_at):
                await store.pushes.accept(push)

        async def measured(name: str, act: Callable[[], Awaitable[None]], base: int | None = None) -> int:
            before, disk = await memory(store), size_of(folder)
            await act()
            after = await memory(store)
            grown = after - (before if base is None else base)
            record(f"{name}, {targets:,} a push", "bytes", grown / pushes / targets)
            print(
                f"{targets:>6,} targets a push  {name:<13}{grown / pushes / targets:>10.1f} bytes of memory a delivery"
                f"{(size_of(folder) - disk) / pushes / targets:>10.1f} bytes of log"
            )
            return before

        before = await measured("queued", accept)
        await measured("sent", lambda: settle(store, failed=False), before)
        before = await measured("queued again", accept)
        await measured("failed", lambda: settle(store, failed=True), before)
        await measured("scheduled", lambda: accept(moment() + 3_600_000))


async def memory(store: Store) -> int:
    """Return the bytes that the server uses for its data."""
    return int((await store.link.call("INFO", "memory"))["used_memory_dataset"])


def size_of(folder: Path) -> int:
    """Return the bytes of the append-only file."""
    return sum(file.stat().st_size for file in (folder / "appendonlydir").iterdir())


async def service_part(playground: Playground, calls: int, targets: int) -> None:
    """Print the CPU that a delivery costs each part of a whole service."""
    settings = load_settings(playground.config_file)
    async with open_service(settings, playground.config_file, os.environ) as service:
        headers = {"Authorization": f"Bearer {playground.api_key}"}
        async with aiohttp.ClientSession(service.url, headers=headers) as session:
            bodies = (document([target(call * targets + n) for n in range(targets)]) for call in range(calls))
            before, began = cpu_by_part(os.getpid()), time.perf_counter()
            await post_all(session, bodies, 32 if targets == 1 else 4)
            async with open_store(service.store_url) as store:
                while sum((await store.gauges({APP: ("apns", "fcm")})).pending.values()):
                    await asyncio.sleep(0.05)
            seconds, after = time.perf_counter() - began, cpu_since(before, os.getpid())
    # This process is the caller, and the simulator is no part of the service.
    spent = {part: 1e6 * after.get(part, 0.0) / calls / targets for part in PARTS}
    record(f"CPU, {targets:,} a push", "us", sum(spent.values()))
    parts = "  ".join(f"{part} {us:.1f}" for part, us in sorted(spent.items(), key=lambda each: -each[1]) if us > 0.05)
    print(f"{targets:>6,} targets a push  {calls * targets / seconds:>8,.0f}/s  us of CPU a delivery: {parts}")


PARTS = ("serve", "dispatch", "feedback", "jobs", "live", "store")


def main(scale: float) -> None:
    telemetry.configure_logging("warning", json=False)
    for targets, pushes in ((1, 20_000), (1000, 100)):
        with tempfile.TemporaryDirectory() as folder, open_embedded(Path(folder)) as url:
            uvloop.run(store_part(Path(folder), url, int(pushes * scale), targets))
    for targets, calls in ((1, 20_000), (1000, 100)):
        with (
            tempfile.TemporaryDirectory() as folder,
            open_playground(Path(folder), port=free_port(), record=False) as playground,
        ):
            uvloop.run(service_part(playground, int(calls * scale), targets))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of deliveries")
    main(parser.parse_args().scale)
