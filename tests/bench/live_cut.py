"""All phones are cut at once: when are they back, how long do callers wait meanwhile, and is anything lost?

    python -m tests.bench.live_cut [--phones 50000] [--processes 3]

The whole service runs as its processes, with so many gateways; the phones are simulated by as many processes, since one
may have too few files for all, and speak as the official clients do. Every fifth is reached by the live channel alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import uvloop

from pushsvc.lab.phones.fleet import FleetConfig, Pace, open_fleet
from pushsvc.lab.phones.shown import judge
from pushsvc.lab.phones.tokens import SecretTokens
from pushsvc.lab.playground import APP
from pushsvc.runtime import raise_file_limit
from pushsvc.store import open_store

from ..chaos.rig import Rig, open_rig
from ..chaos.test_live import device
from .figures import record
from .live_phones import Phones

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
            answer |= {"unanswered": figures.unanswered, "lost": figures.lost}
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


async def posts(rig: Rig, count: int, sent: dict[str, list[str]], more: asyncio.Event | None = None) -> list[float]:
    """Push to one phone after the other, until `more` is set and at least `PUSHES` times; milliseconds of each."""
    times: list[float] = []
    while len(times) < PUSHES or (more is not None and not more.is_set()):
        number = len(rig.ledger.pushes)
        name = device(number * 7919 % count).id
        body = msgspec.json.encode({"to": {"devices": [name]}, "notification": {"title": "cut"}})
        began = time.monotonic()
        push = await rig.insist(body, f"cut-{number}")
        times.append((time.monotonic() - began) * 1000)
        rig.ledger.pushes.append(push)
        sent.setdefault(name, []).append(push)
        await asyncio.sleep(0.01)
    return sorted(times)


async def all_of(fleets: Sequence[Phones], name: str, sent: Mapping[str, list[str]] | None = None) -> list[Any]:
    """Give a command to all processes of phones, and return their answers."""
    for each in fleets:
        each.send(**{name: sent})
    return [await each.answer() for each in fleets]


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
            await all_of(fleets, "online")
            print(
                f"{count:,} phones at {processes} gateways are online after {time.monotonic() - began:.1f} s",
                flush=True,
            )
            sent: dict[str, list[str]] = {}
            idle = await posts(rig, count, sent)
            began, back = time.monotonic(), asyncio.Event()
            posting = asyncio.create_task(posts(rig, count, sent, back))
            answers = await all_of(fleets, "cut")
            back.set()
            record("all phones are back", "s", max(each["at"] for each in answers) - began)
            print(f"cut at once: all are back after {max(each['at'] for each in answers) - began:.1f} s", flush=True)
            meanwhile = await posting
            for name, times in (("idle", idle), ("while they come back", meanwhile)):
                middle, late = times[len(times) // 2], times[int(len(times) * 0.99)]
                record(f"POST to 202, {name}: p99", "ms", late)
                print(f"POST to 202, {name}: p50 {middle:.1f} ms, p99 {late:.1f} ms of {len(times):,}")
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
            for name in ("errors", "unanswered", "faults"):
                print(f"{name}: {[each[name] for each in judged]}")


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
