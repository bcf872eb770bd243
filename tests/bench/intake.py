"""Intake's speed: accepted POST/s and tokens/s of one core, and CPU microseconds a request, beside bare aiohttp.

    python -m tests.bench.intake [--seconds 3] [--rounds 3] [--store redis|memory]

The server runs in a process pinned to one core; the load comes from `wrk`, pinned with Redis to another. The peer in
the same run is an aiohttp handler that reads the body and answers a constant 202. The servers take turns, and figures
are medians. Those of a shared machine are noisy: compare the ratios, and read the CPU column, which waits of others do
not change much.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from typing import Any

import msgspec
import uvloop
from aiohttp import web

from pushsvc import telemetry
from pushsvc.api.app import build_app
from pushsvc.api.config import ApiApp, ApiConfig
from pushsvc.api.http.dispatch import CallDispatcher
from pushsvc.api.ports import ApiPorts
from pushsvc.api.pushes.waits import Waits
from pushsvc.api.server import serve
from pushsvc.cli.service.up import free_port
from pushsvc.model.access import ApiKey
from pushsvc.model.push import Push
from pushsvc.providers import REGISTRY
from pushsvc.runtime.channels import OpenedChannels
from pushsvc.runtime.parts import quiet_gc
from pushsvc.runtime.plans import eraser
from pushsvc.runtime.providers import addresses
from pushsvc.store import StoreConfig, open_store

from .figures import record
from .load import PLACE, Load, Post, generator as load_tool, put_load
from .machine import cores, cpu_seconds, pin

KEY = "bench-key"


# --- the server -------------------------------------------------------------------------------------


class Nothing:
    """A store that forgets: what is left is intake itself."""

    async def accept(self, push: Push) -> None:
        return None

    async def note_use(self, hashes: object, *, configured: object = ()) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the load does not call {name}")


async def bare(request: web.Request) -> web.Response:
    """The peer."""
    await request.read()
    return web.Response(status=202, body=b'{"id":"x"}', headers={"Content-Type": "application/json"})


@asynccontextmanager
async def bare_server() -> AsyncIterator[str]:
    """Serve the peer while the block lasts."""
    app = web.Application(client_max_size=4 << 20)
    app.router.add_post("/v1/push", bare)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def application(kind: str, redis: str, store_config: StoreConfig | None = None) -> AsyncIterator[CallDispatcher]:
    """The application that is measured."""
    async with AsyncExitStack() as stack:
        store: Any = Nothing()
        keys: Any = store
        dead: Any = store
        registry: Any = store
        erasures: Any = store
        suppressions: Any = store
        live: Any = store
        if kind == "redis":
            opened = await stack.enter_async_context(open_store(redis, store_config or StoreConfig()))
            store, keys, dead = opened.pushes, opened.keys, opened.dead
            registry, erasures, suppressions = opened.registry, eraser(opened), opened.suppressions
            live = opened.live
        key = ApiKey("bench", "shop", hashlib.sha256(KEY.encode()).hexdigest(), ("push",))
        known = {name: kind.renderer for name, kind in REGISTRY.items()}
        ports = ApiPorts(
            renderers=known,
            addresses=addresses(),
            pushes=store,
            receipts=store,
            registry=registry,
            keys=keys,
            dead=dead,
            erasures=erasures,
            suppressions=suppressions,
            channels=OpenedChannels(dict, request_timeout=10.0),
            live=live,
            conditions=store,
            admin=store,
            config=ApiConfig(),
            waits=Waits(store, most=0),
        )
        yield build_app(ports, {"shop": ApiApp("shop", frozenset(known), (key,))})


async def run_server(kind: str, redis: str, store_config: StoreConfig | None = None) -> None:
    """Serve until stdin closes."""
    telemetry.configure_logging("info")
    async with AsyncExitStack() as stack:
        if kind == "bare":
            url = await stack.enter_async_context(bare_server())
        else:
            app = await stack.enter_async_context(application(kind, redis, store_config))
            url = await stack.enter_async_context(serve(app, ApiConfig(port=0)))
        quiet_gc()  # as `serve` does
        print(url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


# --- the load ---------------------------------------------------------------------------------------


def push_post(url: str, targets: int) -> Post:
    """Return a POST to this number of APNs tokens."""
    document = {
        "to": {"tokens": [{"platform": "apns", "token": PLACE} for _ in range(targets)]},
        "notification": {"title": "Order 7 shipped", "body": "Arrives Friday", "sound": "default"},
        "data": {"order": "7"},
    }
    return Post(f"{url}/v1/push", msgspec.json.encode(document).decode(), {"Authorization": f"Bearer {KEY}"})


def drive(post: Post, pid: int, connections: int, seconds: float) -> tuple[Load, float]:
    """Return what the callers saw, and the server's CPU microseconds a request."""
    put_load(post, connections=connections, seconds=1)
    before = cpu_seconds(pid)
    found = put_load(post, connections=connections, seconds=seconds)
    return found, (cpu_seconds(pid) - before) / found.requests * 1e6


@asynccontextmanager
async def redis_server(cores: set[int]) -> AsyncIterator[str]:
    """A `redis-server` from the PATH on a free port, append-only as in service."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        options = ["--port", str(port), "--dir", folder, "--appendonly", "yes", "--save", "", "--loglevel", "warning"]
        command = ["redis-server", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220  # nothing else runs yet
        pin(process.pid, cores)
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, "redis-server has ended"
                    await asyncio.sleep(0.05)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait()


@asynccontextmanager
async def server_process(arguments: list[str], core: int) -> AsyncIterator[tuple[str, int]]:
    """Start a program that prints the URL at which it serves, on one core. Yields the URL and the process."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)  # noqa: ASYNC220  # nothing else runs yet
    pin(process.pid, {core})
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield (await asyncio.to_thread(process.stdout.readline)).strip(), process.pid
    finally:
        process.stdin.close()
        process.wait()


TARGETS = {1: 64, 1000: 8}
"""Tokens of a POST, and the connections over which it comes."""
NAMES = {"bare": "bare aiohttp, constant 202", "memory": "pushsvc, a store that forgets", "redis": "pushsvc, redis"}


async def compare(store: str, seconds: float, rounds: int) -> None:
    """Print the table. The servers take turns."""
    every = cores()
    pin(0, {every[-1]})
    found: dict[tuple[str, int], list[tuple[Load, float]]] = {}
    async with AsyncExitStack() as stack:
        kinds = ["bare", "memory"]
        redis = ""
        if store == "redis":
            kinds.append("redis")
            redis = await stack.enter_async_context(redis_server({every[-1]}))
        for _ in range(rounds):
            for kind in kinds:
                arguments = ["tests.bench.intake", "--serve", kind, "--redis", redis]
                async with server_process(arguments, every[0]) as (url, pid):
                    for targets, connections in TARGETS.items():
                        row = await asyncio.to_thread(drive, push_post(url, targets), pid, connections, seconds)
                        found.setdefault((kind, targets), []).append(row)
    print(
        f"{'intake':28} {'targets':>7} {'POST/s':>9} {'tokens/s':>10} {'CPU us/POST':>12} {'of bare':>8} {'p99 ms':>8}"
    )
    for (kind, targets), rows in found.items():
        rates, costs = [load.rate for load, _ in rows], [cpu for _, cpu in rows]
        shares = [bare / own for (_, bare), own in zip(found["bare", targets], costs, strict=True)]
        rate, p99 = median(rates), median(load.p99 for load, _ in rows)
        print(
            f"{NAMES[kind]:28} {targets:7} {rate:9,.0f} {rate * targets:10,.0f} {median(costs):12,.1f} "
            f"{median(shares):8.0%} {p99:8.1f}"
        )
        name = f"{NAMES[kind]}, {targets:,} a POST"
        record(name, "/s", *rates)
        record(name, "us", *costs)
        if kind != "bare":
            record(f"{name}: of bare aiohttp", "share", *shares)
    print(f"load: {load_tool()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", choices=("redis", "memory"), default="redis")
    parser.add_argument("--serve", default="")
    parser.add_argument("--redis", default="")
    options = parser.parse_args()
    if options.serve:
        uvloop.run(run_server(options.serve, options.redis))
    else:
        uvloop.run(compare(options.store, options.seconds, options.rounds))


if __name__ == "__main__":
    main()
