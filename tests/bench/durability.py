"""What `queue.durability` costs intake: accepted POST/s and the p99 of their answers with memory, fsync and replicas.

    python -m tests.bench.durability [--seconds 0.8] [--rounds 5] [--callers 64]

Each round measures each of the three, one after the other, so that a machine that others use slows all alike; the
figures are medians over the rounds. The servers are Valkeys on this machine: with `appendfsync everysec`, with
`always`, and one with two replicas, both of which must have a push. So fsync costs what this disk takes, and replicas
cost what a network adds besides. Each push has one target; each caller waits for an answer before it posts again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from statistics import median, quantiles

import uvloop

from pushsvc.store import StoreConfig

from ..integration.servers import Server, running_server, wait_until
from .intake import Client, pin, request, run_server

MODULE = "tests.bench.durability"
REPLICAS = 2
CONFIGS = {
    "memory": StoreConfig(replicas=0),
    "fsync": StoreConfig(fsync=True, replicas=0),
    "replicas": StoreConfig(replicas=REPLICAS),
}


class Timed(Client):
    """Notes how long each answer took."""

    def __init__(self, requests: list[bytes]) -> None:
        super().__init__(requests)
        self.took: list[float] = []
        self._sent_at = 0.0

    def send(self) -> None:
        self._sent_at = time.perf_counter()
        super().send()

    def data_received(self, data: bytes) -> None:
        self.took.append(time.perf_counter() - self._sent_at)
        super().data_received(data)


def start_servers(stack: ExitStack) -> dict[str, Server]:
    """The server of each kind of durability."""

    def start(fsync: str, *more: str) -> Server:
        options = ["--appendonly", "yes", "--appendfsync", fsync, "--repl-diskless-sync-delay", "0", *more]
        return stack.enter_context(running_server("valkey", tcp=True, options=options))

    servers = {"memory": start("everysec"), "fsync": start("always"), "replicas": start("everysec")}
    primary = servers["replicas"]
    for _ in range(REPLICAS):
        start("everysec", "--replicaof", f"127.0.0.1 {primary.port}")
    wait_until(lambda: primary.command("INFO replication").count(b"state=online") == REPLICAS)
    return servers


async def measure(kind: str, server: Server, seconds: float, callers: int, cores: list[int]) -> tuple[float, float]:
    """POST/s, and the p99 of their answers in seconds."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", MODULE, "--serve", kind, "--redis", server.url]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)  # noqa: ASYNC220  # nothing else runs yet
    pin(process.pid, {cores[0]})
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = (await asyncio.to_thread(process.stdout.readline)).strip()
        host, _, port = url.removeprefix("http://").rpartition(":")
        clients = [Timed([request(1) for _ in range(16)]) for _ in range(callers)]
        loop = asyncio.get_running_loop()
        for client in clients:
            await loop.create_connection(lambda client=client: client, host, int(port))  # type: ignore[misc]  # mypy cannot infer it
        await asyncio.sleep(0.3)
        for client in clients:
            client.took.clear()
        started = time.perf_counter()
        await asyncio.sleep(seconds)
        took = [each for client in clients for each in client.took]
        passed = time.perf_counter() - started
        for client in clients:
            client.running = False
            if client.bad:
                raise SystemExit(client.bad.decode(errors="replace"))
        await asyncio.sleep(0.1)
        for client in clients:
            if client.transport is not None:
                client.transport.close()
        return len(took) / passed, quantiles(took, n=100)[98]
    finally:
        process.stdin.close()
        process.wait()


async def compare(seconds: float, rounds: int, callers: int) -> None:
    """Print the table."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    pin(0, {cores[-1]})
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in CONFIGS}
    async with AsyncExitStack() as stack:
        servers = start_servers(stack.enter_context(ExitStack()))
        for _ in range(rounds):
            for kind in CONFIGS:
                found[kind].append(await measure(kind, servers[kind], seconds, callers, cores))
    print(f"{'queue.durability':20} {'POST/s':>9} {'of memory':>10} {'p99 ms':>8}")
    base = median(rate for rate, _ in found["memory"])
    for kind, figures in found.items():
        rate, p99 = median(rate for rate, _ in figures), median(p99 for _, p99 in figures)
        print(f"{kind:20} {rate:9,.0f} {rate / base:10.0%} {p99 * 1000:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--serve", choices=tuple(CONFIGS), help=argparse.SUPPRESS)
    parser.add_argument("--redis", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(run_server("redis", options.redis, CONFIGS[options.serve]))
    else:
        uvloop.run(compare(options.seconds, options.rounds, options.callers))


if __name__ == "__main__":
    main()
