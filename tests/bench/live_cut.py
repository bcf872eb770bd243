"""All phones are cut at once: when are they back, how long do callers wait meanwhile, and is anything lost?

    python -m tests.bench.live_cut [--phones 50000] [--processes 3]

The whole service runs as its processes, with so many gateways; the phones are simulated by as many processes, since one
may have too few files for all, and speak as the official clients do. Every fifth is reached by the live channel alone.

Where callers wait is measured beside it: how long the API takes to answer what needs no Redis, and Redis to answer a
PING, and what each part has used of the CPU and waited for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import msgspec
import uvloop
from redis.asyncio import Redis

from pushsvc.lab.phones.fleet import FleetConfig, Pace, open_fleet
from pushsvc.lab.phones.tokens import SecretTokens
from pushsvc.lab.playground import APP
from pushsvc.runtime.parts import raise_file_limit
from pushsvc.store import open_store

from ..chaos.rig import Rig, open_rig
from ..chaos.test_live import device
from ..phone_verdict import judge
from .figures import record
from .live_phones import Phones
from .machine import family, running_seconds, waiting_seconds

PUSHES = 500
"""Pushes before the cut, and at least so many from it on."""
LINE: Final = 1 << 26
"""The most bytes of a command or an answer: a line of JSON names every push of a process."""


# --- a process of phones -----------------------------------------------------------------------------------------


async def obey(url: str, secret: str, first: int, count: int) -> None:
    """Obey lines of JSON: `"online"`, `"cut"`, or an object with the pushes that each phone was sent."""
    raise_file_limit()
    config = FleetConfig(url=url, seed=str(first), pace=Pace())
    async with open_fleet(config, SecretTokens(APP, secret)) as fleet:
        for number in range(first, first + count):
            fleet.add(device(number).id)
        fleet.start()
        reader = asyncio.StreamReader(limit=LINE)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            ((name, sent),) = json.loads(line).items()
            wrong: dict[str, str] = {}
            if name == "cut":
                for phone in list(fleet.phones.values()):
                    phone.cut()
                while fleet.online > count / 2:
                    await asyncio.sleep(0.01)
            if name == "judge":
                while not all(len(fleet.phones[each].shown.pushes) >= len(own) for each, own in sent.items()):
                    await asyncio.sleep(0.1)
                verdicts = {each: judge(own, fleet.phones[each].shown) for each, own in sent.items()}
                wrong = {each: str(verdict) for each, verdict in verdicts.items() if not verdict.holds}
            else:
                while fleet.online < count:
                    await asyncio.sleep(0.01)
            figures = fleet.figures
            answer = {"at": time.monotonic(), "wrong": wrong, "faults": figures.faults, "errors": figures.errors}
            answer |= {"unanswered": figures.unanswered, "lost": figures.lost, "recovered": figures.recovered}
            print(json.dumps(answer), flush=True)


@asynccontextmanager
async def open_fleets(rig: Rig, count: int, processes: int) -> AsyncIterator[Sequence[Phones]]:
    """Start the phones."""
    secret = (rig.playground.config_file.parent / "live-secret").read_text()
    share = -(-count // processes)
    started = []
    for first in range(0, count, share):
        task = {"url": rig.live_url, "secret": secret, "first": first, "count": min(share, count - first)}
        command = [sys.executable, "-m", "tests.bench.live_cut", "--fleet", json.dumps(task)]
        pipe = asyncio.subprocess.PIPE
        started.append(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=LINE))
    try:
        yield [Phones(process) for process in started]
    finally:
        for process in started:
            process.kill()
            await process.wait()


# --- the load ----------------------------------------------------------------------------------------------------


async def posts(rig: Rig, count: int, sent: dict[str, list[str]], back: asyncio.Event | None = None) -> list[float]:
    """Push to one phone after the other, `PUSHES` times and until all are `back`; milliseconds of each before that."""
    times: list[float] = []
    pushes = 0
    while pushes < PUSHES or (back is not None and not back.is_set()):
        number = len(rig.ledger.pushes)
        name = device(number * 7919 % count).id
        body = msgspec.json.encode({"to": {"devices": [name]}, "notification": {"title": "cut"}})
        began = time.monotonic()
        counts = back is None or not back.is_set()
        push = await rig.insist(body, f"cut-{number}")
        if counts:
            times.append((time.monotonic() - began) * 1000)
        pushes += 1
        rig.ledger.pushes.append(push)
        sent.setdefault(name, []).append(push)
        await asyncio.sleep(0.01)
    return times


async def all_of(fleets: Sequence[Phones], name: str, sent: Mapping[str, list[str]] | None = None) -> list[Any]:
    """Give a command to all processes of phones, and return their answers."""
    for each in fleets:
        each.send(**{name: sent})
    return [await each.answer() for each in fleets]


# --- where the time goes -----------------------------------------------------------------------------------------


@asynccontextmanager
async def probing(rig: Rig) -> AsyncIterator[dict[str, list[float]]]:
    """Measure the ways of a request one by one while the block lasts; yields their milliseconds by name."""
    found: dict[str, list[float]] = {}
    async with Redis.from_url(rig.store.url) as redis:

        async def healthy() -> None:
            async with rig.session.get("/healthz") as answer:
                await answer.read()

        steps: dict[str, Callable[[], Awaitable[Any]]] = {"GET /healthz": healthy, "PING of Redis": redis.ping}
        over = asyncio.Event()

        async def probe() -> None:
            while not over.is_set():
                for name, step in steps.items():
                    began = time.monotonic()
                    await step()
                    found.setdefault(name, []).append((time.monotonic() - began) * 1000)
                await asyncio.sleep(0.02)

        task = asyncio.create_task(probe())
        try:
            yield found
        finally:
            over.set()
            await task


def used_by_part() -> dict[tuple[str, str], float]:
    """Return the seconds of CPU that each part of the service and the phones have used, and waited for."""
    found: dict[tuple[str, str], float] = defaultdict(float)
    for pid, part in family(os.getpid()).items():
        with suppress(OSError):  # it has ended meanwhile
            found[part, "ran"] += running_seconds(pid)
            found[part, "waited"] += waiting_seconds(pid)
    return found


def late(times: Sequence[float], share: float = 0.99) -> float:
    """Return a percentile."""
    return sorted(times)[int(len(times) * share)]


def show(name: str, times: Sequence[float]) -> None:
    """Print the middle and the end of some milliseconds."""
    print(f"{name}: p50 {late(times, 0.5):.1f} ms, p99 {late(times):.1f} ms of {len(times):,}")


# --- the whole ---------------------------------------------------------------------------------------------------


async def main(count: int, processes: int) -> None:
    """Print the figures."""
    raise_file_limit()
    async with open_rig(seed="cut", live=True, LIVE__PROCESSES=str(processes), LIVE__MAX_CONNECTIONS="100000") as rig:
        async with open_store(rig.store.url) as store:
            for start in range(0, count, 500):
                devices = [device(number) for number in range(start, min(count, start + 500))]
                await store.registry.put_many(APP, devices)
        began = time.monotonic()
        async with open_fleets(rig, count, processes) as fleets:
            before = await all_of(fleets, "online")
            print(
                f"{count:,} phones at {processes} gateways are online after {time.monotonic() - began:.1f} s",
                flush=True,
            )
            sent: dict[str, list[str]] = {}
            async with probing(rig) as idle_ways:
                idle = idle_ways["POST to 202"] = await posts(rig, count, sent)
            earlier = used_by_part()
            async with probing(rig) as ways:
                began, back = time.monotonic(), asyncio.Event()
                posting = asyncio.create_task(posts(rig, count, sent, back))
                answers = await all_of(fleets, "cut")
                seconds = max(each["at"] for each in answers) - began
                used = {part: spent - earlier.get(part, 0.0) for part, spent in used_by_part().items()}
                back.set()
            meanwhile = ways["POST to 202"] = await posting
            record("all phones are back", "s", seconds)
            print(f"cut at once: all are back after {seconds:.1f} s", flush=True)
            record("POST to 202, idle: p99", "ms", late(idle))
            record("POST to 202, while they come back: p99", "ms", late(meanwhile))
            for name in ways:
                show(f"{name}, idle", idle_ways[name])
                show(f"{name}, while they come back", ways[name])
            print(f"p99 of POST is {late(meanwhile) / late(idle):.1f} times that of the idle service")
            for part in sorted({part for part, _ in used}):
                print(f"{part}: ran {used[part, 'ran']:.1f} s, waited for a core {used[part, 'waited']:.1f} s")
            refused, lost = ("errors", "refused, by code"), ("lost", "not recovered")
            for name, what in (refused, ("unanswered", "unanswered"), lost, ("recovered", "recovered")):
                print(f"{what}, since the cut: {_difference(before, answers, name)}")
            share = -(-count // processes)
            for place, each in enumerate(fleets):
                own = {device(number).id for number in range(place * share, min(count, (place + 1) * share))}
                each.send(judge={name: pushes for name, pushes in sent.items() if name in own})
            judged = [await each.answer() for each in fleets]
            counts = await rig.balance()
            wrong = {name: verdict for each in judged for name, verdict in each["wrong"].items()}
            print(
                f"accepted {len(rig.ledger.pushes):,}, counted {dict(counts)}; {wrong or 'each shown once, in order'}"
            )
            print(f"faults: {[each['faults'] for each in judged]}")


def _difference(before: Sequence[Any], after: Sequence[Any], name: str) -> Any:
    """Return how much a figure of the phones has grown, by kind where it has kinds."""
    kinds = [each[name] if isinstance(each[name], dict) else {"all": each[name]} for each in after]
    earlier = [each[name] if isinstance(each[name], dict) else {"all": each[name]} for each in before]
    grown = sum(map(Counter, kinds), Counter()) - sum(map(Counter, earlier), Counter())
    return dict(grown) or 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phones", type=int, default=50_000)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--fleet")
    options = parser.parse_args()
    if options.fleet:
        uvloop.run(obey(**json.loads(options.fleet)))
    else:
        uvloop.run(main(options.phones, options.processes))
