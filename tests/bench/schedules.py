"""Schedules kept: 10,000 pushes each at its time, half of another 10,000 cancelled, and 10,000 for one instant.

    python -m tests.bench.schedules [--scale 1.0] [--seed 1]

1. 10,000 pushes, their `send_at` spread over 20 s: how late each arrives, by the simulator's clock and record.
2. The same again; half of them are cancelled, each at a random moment before its time. By the simulator's record none
   whose status says `cancelled` has arrived, and each of the others once.
3. 10,000 pushes for one instant: how long until the last has arrived.

The whole service runs as its processes, with two dispatchers and the embedded store. Prints, and fails when one is
early, twice, missing, or sent though it was cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop

from pushsvc import telemetry
from pushsvc.cli.service.up import free_port
from pushsvc.cli.service.whole import open_service
from pushsvc.lab.playground import Playground, open_playground
from pushsvc.lab.simulator import apns_token
from pushsvc.runtime.configuration import load_settings

from .figures import record

AT_ONCE = 64
SPREAD = 20.0
"""Seconds over which the times are spread."""
POSTS_A_SECOND = 700
"""What the slowest machine should manage: the first time is so far ahead that all is posted before."""


class Schedule:
    """Pushes to one token each, with the time of each in Unix seconds."""

    def __init__(self, session: aiohttp.ClientSession, name: str, times: Iterable[float]) -> None:
        self.session = session
        self.due = {apns_token("ok", f"{name}-{number}"): at for number, at in enumerate(times)}
        self.ids: dict[str, str] = {}
        """By token."""

    async def post(self) -> None:
        async def one(token: str) -> None:
            body = msgspec.json.encode(
                {
                    "to": {"tokens": [{"platform": "apns", "token": token}]},
                    "notification": {"title": "It is time"},
                    "send_at": datetime.fromtimestamp(self.due[token], UTC).isoformat(),
                }
            )
            async with self.session.post("/v1/push", data=body) as answer:
                reported = msgspec.json.decode(await answer.read())
                assert (answer.status, reported.get("state")) == (202, "scheduled"), reported
                self.ids[token] = reported["id"]

        await each(self.due, one)

    async def cancel(self, chosen: Iterable[str], rng: random.Random) -> None:
        """Cancel these, each at a random moment between now and its time."""
        now = time.time()
        moments = sorted((rng.uniform(now, self.due[token]), token) for token in chosen)
        async with asyncio.TaskGroup() as tasks:
            for moment, token in moments:
                await asyncio.sleep(max(0.0, moment - time.time()))
                tasks.create_task(self._cancel(token))

    async def _cancel(self, token: str) -> None:
        async with self.session.delete(f"/v1/push/{self.ids[token]}") as answer:
            # 409: sent already, in the last moment.
            assert answer.status in (200, 409), await answer.text()

    async def ends(self) -> dict[str, str]:
        """`sent` or `cancelled` by token, once nothing is under way any more."""
        ended: dict[str, str] = {}
        deadline = time.monotonic() + 300

        async def look(token: str) -> None:
            async with self.session.get(f"/v1/push/{self.ids[token]}") as answer:
                counts = msgspec.json.decode(await answer.read())["counts"]
            if not counts["queued"] and not counts["retrying"]:
                (ended[token],) = (name for name, count in counts.items() if count and name != "total")

        while left := self.due.keys() - ended.keys():
            assert time.monotonic() < deadline, f"{len(left)} have not ended"
            await each(left, look)
            await asyncio.sleep(0.5)
        return ended


async def each(tokens: Iterable[str], act: Callable[[str], Any]) -> None:
    """Do it for all of them, some at once."""
    rest = iter(list(tokens))

    async def worker() -> None:
        for token in rest:
            await act(token)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def arrivals(playground: Playground) -> dict[str, list[float]]:
    """Unix seconds at which the simulator got a push, by token."""
    reported = await asyncio.to_thread(playground.simulator.call, "GET", "/record/apns?limit=1000000")
    found: dict[str, list[float]] = {}
    for request in reported["requests"]:
        path = dict(request["headers"])[":path"]
        found.setdefault(path.rpartition("/")[2], []).append(request["at"])
    return found


async def account(playground: Playground, schedule: Schedule, title: str) -> None:
    """Hold the record against the schedule, and print how late they were."""
    ends = await schedule.ends()
    arrived = await arrivals(playground)
    late = sorted(at - schedule.due[token] for token, times in arrived.items() for at in times)
    quantiles = [late[min(len(late) - 1, int(len(late) * share))] for share in (0.0, 0.5, 0.99, 1.0)]
    print(
        f"{title:<28}{len(schedule.due):>7,} scheduled  {dict(Counter(ends.values()))}  arrived {len(late):,}; late by"
        f" least {quantiles[0] * 1000:.0f}, median {quantiles[1] * 1000:.0f}, p99 {quantiles[2] * 1000:.0f},"
        f" most {quantiles[3] * 1000:.0f} ms",
        flush=True,
    )
    record(f"{title}: p99 late", "ms", quantiles[2] * 1000)
    sent = {token for token, end in ends.items() if end == "sent"}
    if set(ends.values()) - {"sent", "cancelled"}:
        sys.exit("some ended otherwise")
    if any(len(times) > 1 for times in arrived.values()):
        sys.exit("some arrived twice")
    if arrived.keys() - sent:
        sys.exit(f"{len(arrived.keys() - sent)} arrived though they were cancelled")
    if sent - arrived.keys():
        sys.exit(f"{len(sent - arrived.keys())} have not arrived")
    if quantiles[0] < 0:
        sys.exit("some were early")


async def run(playground: Playground, scale: float, seed: int) -> None:
    count = max(20, int(10_000 * scale))
    ahead = 2.0 + count / POSTS_A_SECOND
    rng = random.Random(seed)
    variables = {**os.environ, "PUSHSVC__DISPATCH__PROCESSES": "2"}
    settings = load_settings(playground.config_file, variables)
    async with open_service(settings, playground.config_file, variables) as service:
        headers = {"Authorization": f"Bearer {playground.api_key}", "Content-Type": "application/json"}
        async with aiohttp.ClientSession(service.url, headers=headers) as session:

            async def schedule(name: str, spread: float) -> Schedule:
                await asyncio.to_thread(playground.simulator.clear)
                first = time.time() + ahead
                own = Schedule(session, name, [first + rng.uniform(0.0, spread) for _ in range(count)])
                await own.post()
                return own

            own = await schedule("each", SPREAD)
            await account(playground, own, f"spread over {SPREAD:.0f} s")

            own = await schedule("half", SPREAD)
            await own.cancel(rng.sample(sorted(own.due), count // 2), rng)
            await account(playground, own, "half of them cancelled")

            own = await schedule("crowd", 0.0)
            await account(playground, own, "all for one instant")


def main(scale: float, seed: int) -> None:
    telemetry.configure_logging("warning", json=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_playground(Path(folder), port=free_port(), keep=1_000_000) as playground,
    ):
        uvloop.run(run(playground, scale, seed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of pushes")
    parser.add_argument("--seed", type=int, default=1, help="of the times and of what is cancelled")
    given = parser.parse_args()
    main(given.scale, given.seed)
