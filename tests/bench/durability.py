"""What `queue.durability` costs intake: accepted POST/s and the p99 of their answers with memory, fsync and replicas.

    python -m tests.bench.durability [--seconds 1] [--rounds 5] [--callers 64]

Each round measures each of the three, one after the other, so that a machine that others use slows all alike; the
figures are medians over the rounds. The servers are Valkeys on this machine: with `appendfsync everysec`, with
`always`, and one with two replicas, both of which must have a push. So fsync costs what this disk takes, and replicas
cost what a network adds besides. Each push has one target; each caller waits for an answer before it posts again.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack, ExitStack
from statistics import median

import uvloop

from pushsvc.store import StoreConfig

from ..integration.servers import Server, running_server, wait_until
from .figures import record
from .intake import push_post, run_server, server_process
from .load import Load, put_load
from .machine import cores, pin

MODULE = "tests.bench.durability"
REPLICAS = 2
CONFIGS = {
    "memory": StoreConfig(replicas=0),
    "fsync": StoreConfig(fsync=True, replicas=0),
    "replicas": StoreConfig(replicas=REPLICAS),
}


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


async def measure(kind: str, server: Server, seconds: float, callers: int, core: int) -> Load:
    """Return what callers see of a server with this durability."""
    async with server_process([MODULE, "--serve", kind, "--redis", server.url], core) as (url, _):
        post = push_post(url, 1)
        return await asyncio.to_thread(put_load, post, connections=callers, seconds=seconds)


async def compare(seconds: float, rounds: int, callers: int) -> None:
    """Print the table."""
    every = cores()
    pin(0, {every[-1]})
    found: dict[str, list[Load]] = {kind: [] for kind in CONFIGS}
    async with AsyncExitStack() as stack:
        servers = start_servers(stack.enter_context(ExitStack()))
        for _ in range(rounds):
            for kind in CONFIGS:
                found[kind].append(await measure(kind, servers[kind], seconds, callers, every[0]))
    print(f"{'queue.durability':20} {'POST/s':>9} {'of memory':>10} {'p99 ms':>8}")
    base = median(load.rate for load in found["memory"])
    for kind, loads in found.items():
        rates, late = [load.rate for load in loads], [load.p99 for load in loads]
        print(f"{kind:20} {median(rates):9,.0f} {median(rates) / base:10.0%} {median(late):8.1f}")
        record(f"POST/s with {kind}", "/s", *rates)
        record(f"p99 with {kind}", "ms", *late)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0)
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
