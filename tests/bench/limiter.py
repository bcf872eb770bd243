"""The limiter under load: 4 processes, 10,000 tokens, 10/s each, 30 s; and what a token costs when nobody is limited.

    python -m tests.bench.limiter [--seconds 30] [--tokens 10000] [--processes 4]

Each process asks for random tokens as fast as it can, every other time for one of the busiest hundredth, which are
so far over their limit. What it is granted it notes with the server's time; at the end
every token's grants are laid on one time line and held against `rate * t + burst` in every window.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import redis

from pushsvc.model.push import Route
from pushsvc.model.rates import Rate, parse_rate
from pushsvc.store import open_embedded, open_store

MODULE = "tests.bench.limiter"
ROUTE = Route("shop", "apns")
BATCH = 500


def excess(instants: Sequence[int], rate: Rate) -> float:
    """How many more than `rate * t + burst` there were in the worst window; at most 0 where the limit held.

    `instants` are microseconds, in order. For grants i..j the window is their distance, so the worst over all i is
    what a bucket of the rate would owe after j: one pass.
    """
    worst = owed = 0.0
    for before, now in pairwise((instants[0] if instants else 0, *instants)):
        owed = max(0.0, owed - (now - before) / 1e6 * rate.per_second) + 1
        worst = max(worst, owed)
    return worst - rate.count


async def ask(url: str, seconds: float, tokens: int, rate: Rate, seed: int) -> dict[str, object]:
    """Ask for `seconds`; the grants by token, as the span of server time in which each was given."""
    rng = random.Random(seed)
    names = [f"token-{number:06d}-{'a' * 50}" for number in range(tokens)]
    grants: dict[int, list[tuple[int, int]]] = defaultdict(list)
    asked = 0
    async with open_store(url) as store:
        end = time.monotonic() + seconds
        # The server's clock before an answer and after it: the grant lies in between.
        before = await _now(store.link)
        while time.monotonic() < end:
            chosen = [rng.randrange(tokens if n % 2 else max(1, tokens // 100)) for n in range(BATCH)]
            waits = await store.limiter.admit(ROUTE, rate, [names[number] for number in chosen])
            after = await _now(store.link)
            over = {place for place, _ in waits}
            for place, number in enumerate(chosen):
                if place not in over:
                    grants[number].append((before, after))
            before = after
            asked += BATCH
    return {"asked": asked, "grants": grants}


async def _now(link: object) -> int:
    seconds, micros = await link.call("TIME")  # type: ignore[attr-defined]  # the store's Link
    return int(seconds) * 1_000_000 + int(micros)


def judge(results: Sequence[dict[str, object]], rate: Rate) -> tuple[int, float]:
    """How many grants there were, and the worst excess of a token, counted by the latest instants that are possible
    for those before a window and the earliest for those in it: by the middle of each span, give or take its half."""
    lines: dict[str, list[int]] = defaultdict(list)
    blur = 0
    for result in results:
        grants: dict[str, list[tuple[int, int]]] = result["grants"]  # type: ignore[assignment]  # as `ask` made it
        for token, spans in grants.items():
            for first, last in spans:
                lines[token].append((first + last) // 2)
                blur = max(blur, last - first)
    worst = max(excess(sorted(line), rate) for line in lines.values())
    return sum(map(len, lines.values())), worst - blur / 1e6 * rate.per_second


async def cost(url: str, count: int) -> tuple[float, float, float]:
    """Microseconds a token that is not limited: of this process's CPU, of the server's, and bytes kept."""
    names = [f"quiet-{number:07d}-{'a' * 50}" for number in range(count)]
    rate = Rate(240, 60)
    with redis.Redis.from_url(url) as client:
        async with open_store(url) as store:
            await store.limiter.admit(ROUTE, rate, names[:BATCH])
            kept, server = client.info("memory")["used_memory"], _server_cpu(client)
            own = resource.getrusage(resource.RUSAGE_SELF)
            for start in range(0, count, BATCH):
                await store.limiter.admit(ROUTE, rate, names[start : start + BATCH])
            used = resource.getrusage(resource.RUSAGE_SELF)
            cpu = used.ru_utime + used.ru_stime - own.ru_utime - own.ru_stime
            spent = _server_cpu(client) - server
            held = client.info("memory")["used_memory"] - kept
    return cpu / count * 1e6, spent / count * 1e6, held / count


def _server_cpu(client: redis.Redis) -> float:
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def main(processes: int, tokens: int, seconds: float, text: str) -> None:
    rate = parse_rate(text)
    assert rate is not None
    with tempfile.TemporaryDirectory() as folder, open_embedded(Path(folder) / "store") as url:
        own, server, kept = asyncio.run(cost(url, 100_000))
        print(f"nobody limited: {own:.2f} us of the client, {server:.2f} us of the store, {kept:.0f} bytes a token")
        tasks = [
            subprocess.Popen(
                [sys.executable, "-m", MODULE, "--ask", json.dumps([url, seconds, tokens, text, seed])],
                stdout=subprocess.PIPE,
            )
            for seed in range(processes)
        ]
        results = [json.loads(task.communicate()[0]) for task in tasks]
    asked = sum(result["asked"] for result in results)
    granted, worst = judge(results, rate)
    print(
        f"{processes} processes, {tokens:,} tokens, {text} each, {seconds:.0f} s: {asked:,} asked, {granted:,} granted"
    )
    print(f"worst excess over rate * t + burst: {worst:.2f} (must not be above 0)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", default="10/s")
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ask:
        url, seconds, tokens, text, seed = json.loads(arguments.ask)
        reported = parse_rate(text)
        assert reported is not None
        print(json.dumps(asyncio.run(ask(url, seconds, tokens, reported, seed))))
    else:
        main(arguments.processes, arguments.tokens, arguments.seconds, arguments.rate)
