"""Intake's speed: accepted POST/s and tokens/s of one core, and CPU microseconds a request, beside bare aiohttp.

    python tests/bench/intake.py [--seconds 3] [--store redis|memory]

The server runs in a process pinned to one core; the load comes from this process, pinned with Redis to another. The
peer in the same run is an aiohttp handler that reads the body and answers a constant 202. Figures of a shared machine
are noisy: compare the ratios, and read the CPU column, which waits of others do not change much.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import uvloop
from aiohttp import web

from pushsvc import runtime, telemetry
from pushsvc.api import ApiApp, ApiConfig, ApiPorts, Waits, build_app, serve
from pushsvc.api.http.dispatch import CallDispatcher
from pushsvc.cli.up import free_port
from pushsvc.model.access import ApiKey
from pushsvc.model.push import Push
from pushsvc.providers import REGISTRY
from pushsvc.runtime import eraser
from pushsvc.runtime.channels import OpenedChannels
from pushsvc.store import StoreConfig, open_store

KEY = "bench-key"
CONNECTIONS = 64


# --- the server -------------------------------------------------------------------------------------


class Nothing:
    """A store that forgets: what is left is intake itself."""

    async def accept(self, push: Push) -> None:
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
            addresses=runtime.addresses(),
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
        runtime.quiet_gc()  # as `serve` does
        print(url, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


# --- the load ---------------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """One connection that always has one request under way."""

    def __init__(self, requests: list[bytes]) -> None:
        self.requests = requests
        self.done = 0
        self.bad = b""
        self.running = True
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not of asyncio's classes.
        self.transport = cast(asyncio.Transport, transport)
        self.send()

    def send(self) -> None:
        assert self.transport is not None
        self.transport.write(self.requests[self.done % len(self.requests)])

    def data_received(self, data: bytes) -> None:
        # An answer is small and comes in one segment.
        if not data.startswith(b"HTTP/1.1 202"):
            self.bad, self.running = data, False
        self.done += 1
        if self.running:
            self.send()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def drive(url: str, pid: int, requests: list[bytes], seconds: float) -> tuple[float, float]:
    """Requests a second, and the server's CPU microseconds a request."""
    loop = asyncio.get_running_loop()
    host, _, port = url.removeprefix("http://").rpartition(":")
    clients = [Client(requests[index::CONNECTIONS] or requests) for index in range(CONNECTIONS)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, host, int(port))  # type: ignore[misc]  # mypy cannot infer it
    await asyncio.sleep(0.5)
    done, cpu, start = sum(client.done for client in clients), cpu_seconds(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    done = sum(client.done for client in clients) - done
    cpu, passed = cpu_seconds(pid) - cpu, time.perf_counter() - start
    for client in clients:
        client.running = False
        if client.bad:
            raise SystemExit(client.bad.decode(errors="replace"))
    await asyncio.sleep(0.2)
    for client in clients:
        if client.transport is not None:
            client.transport.close()
    return done / passed, cpu / max(done, 1) * 1e6


def request(targets: int) -> bytes:
    """Make one POST with this number of distinct APNs tokens."""
    body = msgspec.json.encode(
        {
            "to": {"tokens": [{"platform": "apns", "token": secrets.token_hex(32)} for _ in range(targets)]},
            "notification": {"title": "Order 7 shipped", "body": "Arrives Friday", "sound": "default"},
            "data": {"order": "7"},
        }
    )
    head = (
        "POST /v1/push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


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


def pin(pid: int, cores: set[int]) -> None:
    """Keep a process on these cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, cores)


async def measure(
    kind: str, redis: str, seconds: float, cores: tuple[set[int], set[int]]
) -> dict[int, tuple[float, float]]:
    """Figures by targets a call."""
    command = [sys.executable, __file__, "--serve", kind, "--redis", redis]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)  # noqa: ASYNC220  # nothing else runs yet
    pin(process.pid, cores[0])
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        url = (await asyncio.to_thread(process.stdout.readline)).strip()
        return {
            targets: await drive(url, process.pid, [request(targets) for _ in range(count)], seconds)
            for targets, count in ((1, 1024), (1000, 128))
        }
    finally:
        process.stdin.close()
        process.wait()


async def compare(store: str, seconds: float) -> None:
    """Print the table."""
    every = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    cores = ({every[0]}, {every[-1]})
    pin(0, cores[1])
    async with AsyncExitStack() as stack:
        kinds = ["bare", "memory"]
        redis = ""
        if store == "redis":
            kinds.append("redis")
            redis = await stack.enter_async_context(redis_server(cores[1]))
        results = {kind: await measure(kind, redis, seconds, cores) for kind in kinds}
    print(f"{'intake':28} {'targets':>7} {'POST/s':>9} {'tokens/s':>10} {'CPU us/POST':>12} {'of bare':>8}")
    names = {"bare": "bare aiohttp, constant 202", "memory": "pushsvc, a store that forgets", "redis": "pushsvc, redis"}
    for kind, figures in results.items():
        for targets, (rate, cpu) in figures.items():
            share = results["bare"][targets][1] / cpu if cpu else 0.0
            print(f"{names[kind]:28} {targets:7} {rate:9,.0f} {rate * targets:10,.0f} {cpu:12,.1f} {share:8.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--store", choices=("redis", "memory"), default="redis")
    parser.add_argument("--serve", default="")
    parser.add_argument("--redis", default="")
    options = parser.parse_args()
    if options.serve:
        uvloop.run(run_server(options.serve, options.redis))
    else:
        uvloop.run(compare(options.store, options.seconds))


if __name__ == "__main__":
    main()
