"""The live channel beside Centrifugo, with its Redis engine, history and recovery: the same phones, cores and pushes.

    python -m tests.bench.live_beside [idle] [traffic] [away] [--phones 50000] [--online 10000] [--rounds 3]

Centrifugo takes part where a build of it is on the PATH, or named by `CENTRIFUGO`. In `traffic` a bare protocol on
uvloop does too, which keeps nothing and checks nothing: no server in Python can be cheaper. All processes of a server
have the first core; the phones, the callers and Redis have the last one. Each publication is acknowledged by an RPC:
ours ends the delivery and moves the cursor of the device by it, Centrifugo has nothing to do for it and answers its
RPC `ping`.

`idle`: connections without traffic. Bytes of the kernel are of one end. `traffic`: both servers run, and take turns.
`away`: bytes of Redis for a message to a device that is not connected. A rate "a core" is that of one second of CPU
time, of the server's processes and of Redis together, so that the work of others on the machine changes it little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, Final, cast

import httptools
import msgspec
import redis.asyncio
import uvloop
from msgspec import Struct

from pushsvc import telemetry
from pushsvc.cli.service.up import free_port
from pushsvc.cli.service.whole import open_service
from pushsvc.model.devices import Device
from pushsvc.runtime.configuration import load_settings
from pushsvc.store import open_store

from ..chaos.rig import child_pids
from .figures import record
from .intake import redis_server
from .live_phones import Phones, open_phones
from .machine import cpu_seconds, pin

APP: Final = "bench"
PARTS: Final = ("serve", "dispatch", "live", "jobs")
OF_PROCESS: Final = 17_000
"""Connections of one process of a server, or of phones: machines may allow it 20,000 files."""
AT_ONCE: Final = 64
REDIS: Final = "Redis"
TITLE: Final = "Order 7 shipped" * 6
CONFIG: Final = """
[server]
port = {port}
[redis]
url = "{redis}"
[store]
data_dir = "{folder}/store"
[logging]
level = "error"
[live]
port = {live}
processes = {processes}
connects = "0"
[apps.bench]
[[apps.bench.keys]]
name = "bench"
sha256 = "{sha256}"
scopes = ["push"]
[apps.bench.live]
secret = "{secret}"
ack_within = 60
"""


class Server(Struct):
    """A running server."""

    name: str
    port: int
    """Of its API."""
    ports: list[int]
    """Those that phones connect to, in turn."""
    parts: dict[str, list[int]]
    """Its processes by the name of their part."""
    gateways: list[int]
    """Those that hold the connections."""
    redis_url: str
    redis: redis.asyncio.Redis
    redis_pid: int
    single: Callable[[str, str], bytes]
    """Return the request that sends a publication with this mark to one device."""
    many: Callable[[Sequence[str], str], bytes]
    """Return the one that sends it to many devices."""

    def cpu(self) -> dict[str, float]:
        """Return the CPU seconds by part, and of Redis."""
        found = {name: sum(map(cpu_seconds, pids)) for name, pids in self.parts.items()}
        return {**found, REDIS: cpu_seconds(self.redis_pid)}

    async def scripts(self) -> int:
        """Return how many scripts Redis has run."""
        found = await self.redis.info("commandstats")
        return sum(found[name]["calls"] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in found)

    def gateway_cpu(self) -> float:
        """Return the CPU seconds of the processes that hold connections."""
        return sum(map(cpu_seconds, self.gateways))

    def resident(self) -> int:
        """Return the bytes of memory of the processes that hold connections."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) for pid in self.gateways]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def request(path: str, header: str, document: Any) -> bytes:
    """Return a POST."""
    body = msgspec.json.encode(document)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{header}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@asynccontextmanager
async def open_ours(folder: Path, secret: str, processes: int, cores: tuple[int, int]) -> AsyncIterator[Server]:
    """Start the service, with an app that has the live channel alone."""
    async with redis_server({cores[1]}) as url:
        key, port = "pk_bench", free_port()
        digest = sha256(key.encode()).hexdigest()
        live = free_port()
        config = folder / "pushsvc.toml"
        config.write_text(
            CONFIG.format(
                port=port, redis=url, folder=folder, live=live, processes=processes, sha256=digest, secret=secret
            )
        )
        environ = {**os.environ, "PUSHSVC_CONFIG": str(config)}
        settings = load_settings(config, environ)
        pin(0, {cores[0]})
        async with open_service(settings, config, environ):
            pin(0, {cores[1]})
            pids = {part: child_pids(os.getpid(), part) for part in PARTS}
            client = redis.asyncio.Redis.from_url(url)
            header = f"Authorization: Bearer {key}"

            def push(devices: Sequence[str], mark: str) -> bytes:
                document = {"to": {"devices": devices}, "notification": {"title": TITLE}, "data": {"t": mark}}
                return request("/v1/push", header, document)

            yield Server(
                name="pushsvc",
                port=port,
                ports=[live],
                parts=pids,
                gateways=pids["live"],
                redis_url=url,
                redis=client,
                redis_pid=int((await client.info("server"))["process_id"]),
                single=lambda device, mark: push([device], mark),
                many=push,
            )
            await client.aclose()


def _published(mark: str) -> dict[str, Any]:
    """Return the data of a publication, with the fields that it has with us."""
    return {
        "id": "01J" + "x" * 23,
        "at": "2026-12-01T09:00:00.000Z",
        "expires_at": "2026-12-29T09:00:00.000Z",
        "lane": "normal",
        "notification": {"title": TITLE},
        "data": {"t": mark},
        "unread": 1,
    }


@asynccontextmanager
async def open_centrifugo(folder: Path, secret: str, processes: int, cores: tuple[int, int]) -> AsyncIterator[Server]:
    """Start nodes of Centrifugo."""
    binary = centrifugo()
    assert binary is not None
    async with redis_server({cores[1]}) as url:
        key, ports = secrets.token_hex(8), [free_port() for _ in range(processes)]
        config = folder / "centrifugo.json"
        document = {
            "log": {"level": "error"},
            "health": {"enabled": True},
            "http_api": {"key": key},
            "client": {"token": {"hmac_secret_key": secret}, "allowed_origins": ["*"], "connection_limit": 0},
            "engine": {"type": "redis", "redis": {"address": url, "connect_timeout": "30s", "io_timeout": "30s"}},
            "rpc": {"ping": {"enabled": True, "method": "ack"}},
            "channel": {
                "namespaces": [{"name": "device", "history_size": 200, "history_ttl": "168h", "force_recovery": True}]
            },
            "websocket": {"read_buffer_size": 512, "use_write_buffer_pool": True},
        }
        config.write_text(json.dumps(document))
        pin(0, {cores[0]})
        nodes = [
            subprocess.Popen(  # noqa: ASYNC220  # nothing else runs yet
                [binary, "--config", str(config), "--http_server.port", str(port)], stdout=subprocess.DEVNULL
            )
            for port in ports
        ]
        pin(0, {cores[1]})
        client = redis.asyncio.Redis.from_url(url)
        try:
            for port in ports:
                await until_listening(port)
            header = f"X-API-Key: {key}"
            yield Server(
                name="Centrifugo",
                port=ports[0],
                ports=ports,
                parts={"nodes": [node.pid for node in nodes]},
                gateways=[node.pid for node in nodes],
                redis_url=url,
                redis=client,
                redis_pid=int((await client.info("server"))["process_id"]),
                single=lambda device, mark: request(
                    "/api/publish", header, {"channel": f"device:{device}", "data": _published(mark)}
                ),
                many=lambda devices, mark: request(
                    "/api/broadcast",
                    header,
                    {"channels": [f"device:{each}" for each in devices], "data": _published(mark)},
                ),
            )
        finally:
            await client.aclose()
            for node in nodes:
                node.terminate()
                node.wait()


@asynccontextmanager
async def open_bare(folder: Path, secret: str, processes: int, cores: tuple[int, int]) -> AsyncIterator[Server]:
    """Start the bare protocol, which is the limit of what Python can do, and has no use for Redis."""
    async with redis_server({cores[1]}) as url:
        port = free_port()
        pin(0, {cores[0]})
        bare = subprocess.Popen([sys.executable, "-m", "tests.bench.live_bare", str(port)])  # noqa: ASYNC220  # nothing else runs yet
        pin(0, {cores[1]})
        client = redis.asyncio.Redis.from_url(url)
        try:
            await until_listening(port)

            def push(devices: Sequence[str], mark: str) -> bytes:
                return request("/", "Accept: */*", {"devices": devices, "data": _published(mark)})

            yield Server(
                name="bare protocol",
                port=port,
                ports=[port],
                parts={"server": [bare.pid]},
                gateways=[bare.pid],
                redis_url=url,
                redis=client,
                redis_pid=int((await client.info("server"))["process_id"]),
                single=lambda device, mark: push([device], mark),
                many=push,
            )
        finally:
            await client.aclose()
            bare.kill()
            bare.wait()


OPEN: Final = {"pushsvc": open_ours, "centrifugo": open_centrifugo, "bare": open_bare}


def centrifugo() -> str | None:
    """Return the path of a build of Centrifugo, if there is one."""
    return shutil.which(os.environ.get("CENTRIFUGO", "centrifugo"))


async def until_listening(port: int) -> None:
    """Wait until something listens there."""
    async with asyncio.timeout(60):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


# --- the load ----------------------------------------------------------------------------------------------------


class Caller(asyncio.Protocol):
    """A connection to the API that has one request under way."""

    def __init__(self) -> None:
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.io = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        status = self._parser.get_status_code()
        self._parser = httptools.HttpResponseParser(self)
        if status in (200, 202):
            self._answered.set_result(None)
        else:
            self._answered.set_exception(AssertionError(f"the API answered {status}"))

    async def post(self, body: bytes) -> None:
        """Post, and wait for the answer."""
        self._answered = asyncio.get_running_loop().create_future()
        self.io.write(body)
        await self._answered


async def callers(server: Server, count: int) -> list[Caller]:
    """Open connections to the API."""
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(Caller, "127.0.0.1", server.port))[1] for _ in range(count)]


def mark() -> str:
    """Return the instant with which the phones compare."""
    return str(time.monotonic_ns())


class Figures:
    """What was measured: by the words of a line and the name of a server, a value a round."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, server: Server, words: str, value: float) -> None:
        """Add a value."""
        self._found[words][server.name].append(value)

    def note(self) -> None:
        """Record our own figures and the ratios, for `make bench`. A rate is what has `/s` in its words, and the rest
        is less where it is better."""
        for words, by_name in self._found.items():
            for peer, ours, theirs in _beside(by_name):
                name = f"{words.strip()}, of {peer}'s"
                record(name, "share" if "/s" in words else "x", *(a / b for a, b in zip(ours, theirs, strict=True)))

    def show(self) -> None:
        """Print the medians, and ours as a share of each of the others."""
        for words, by_name in self._found.items():
            values = "  ".join(f"{name} {median(values):>11,.1f}" for name, values in by_name.items())
            shares = "".join(
                f"  {median(ours) / median(theirs):6.2f} of {peer}'s" for peer, ours, theirs in _beside(by_name)
            )
            print(f"{words:<58} {values}{shares}", flush=True)


def _beside(by_name: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, Sequence[float], Sequence[float]]]:
    """Yield each other server with our values and its own, where both have some."""
    ours = by_name.get("pushsvc")
    for name, theirs in by_name.items():
        if name != "pushsvc" and ours and all(theirs):
            yield name, ours, theirs


async def connect(server: Server, phones: Sequence[Phones], count: int) -> float:
    """Connect so many phones, spread over their processes, and return the seconds."""
    share, began = -(-count // len(phones)), time.monotonic()
    for place, each in enumerate(phones):
        first, port = place * share, server.ports[place % len(server.ports)]
        each.send(connect=[first, min(share, count - first), "127.0.0.1", port])
    for each in phones:
        await each.answer()
    return time.monotonic() - began


async def register(server: Server, count: int) -> None:
    """Register devices, if it is our server."""
    if server.name != "pushsvc":
        return
    now = int(time.time() * 1000)
    async with open_store(server.redis_url) as store:
        for start in range(0, count, 500):
            names = [f"d{number}" for number in range(start, min(count, start + 500))]
            await store.registry.put_many(
                APP,
                [Device(id=each, platform="live", token=each, registered_at=now, last_seen_at=now) for each in names],
            )


# --- what is measured --------------------------------------------------------------------------------------------


def kernel() -> int:
    """Return the bytes that the kernel has for objects and in the buffers of TCP, of the whole machine."""
    slab = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("Slab:"))
    tcp = next(line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:"))
    return int(slab.split()[1]) * 1024 + int(tcp.split()[-1]) * os.sysconf("SC_PAGE_SIZE")


async def idle(name: str, phones_count: int, seconds: float, figures: Figures, cores: tuple[int, int]) -> None:
    """Connections without traffic."""
    processes = -(-phones_count // OF_PROCESS)
    async with opened([name], processes, cores) as ((server,), secret), open_phones(APP, secret, processes) as phones:
        await register(server, phones_count + 60 * processes)
        # A few first, so that what is loaded and kept once is in the base line.
        for place, each in enumerate(phones):
            port = server.ports[place % len(server.ports)]
            await each.call(connect=[phones_count + 60 * place, 60, "127.0.0.1", port])
        await settled(server)
        resting = await spent(server, seconds / 2)
        clients = (await server.redis.info("clients"))["connected_clients"]
        memory, resident, objects = await used(server), server.resident(), kernel()
        cpu, redis_cpu = server.gateway_cpu(), cpu_seconds(server.redis_pid)
        took = await connect(server, phones, phones_count)
        print(f"{server.name}: {phones_count:,} are connected", flush=True)
        cpu, redis_cpu = server.gateway_cpu() - cpu, cpu_seconds(server.redis_pid) - redis_cpu
        await settled(server)
        figures.add(server, "connections", phones_count)
        figures.add(server, "connected after, s", took)
        figures.add(server, "CPU of a connect, us", cpu / phones_count * 1e6)
        figures.add(server, "  and of Redis", redis_cpu / phones_count * 1e6)
        figures.add(server, "process memory of a connection, bytes", (server.resident() - resident) / phones_count)
        figures.add(server, "kernel memory of a connection, bytes", (kernel() - objects) / phones_count / 2)
        figures.add(server, "Redis memory of a connection, bytes", (await used(server) - memory) / phones_count)
        figures.add(server, "connections to Redis, 60 phones a process", clients)
        figures.add(server, "  with all", (await server.redis.info("clients"))["connected_clients"])
        beats = phones_count * seconds / 25.0
        figures.add(server, "CPU of a heartbeat (25 s), us", (await spent(server, seconds) - 2 * resting) / beats * 1e6)
        figures.add(server, "process memory after the heartbeats", (server.resident() - resident) / phones_count)


async def spent(server: Server, seconds: float) -> float:
    """Return the CPU seconds that the processes with the connections spend in that time."""
    before = server.gateway_cpu()
    await asyncio.sleep(seconds)
    return server.gateway_cpu() - before


async def used(server: Server) -> int:
    """Return the bytes that Redis uses for what it keeps, without its buffers."""
    found = await server.redis.info("memory")
    return int(found["used_memory"] - found["mem_clients_normal"] - found["mem_aof_buffer"])


async def delays_of(server: Server, phones: Phones, calls: int) -> list[float]:
    """Push to one phone after the other, with nothing else going on; milliseconds from POST to phone."""
    (caller,) = await callers(server, 1)
    phones.send(watch=calls)
    for number in range(calls):
        await caller.post(server.single(f"d{number * 7919 % 1000}", mark()))
        await asyncio.sleep(0.01)
    caller.io.close()
    return sorted(each / 1e6 for each in (await phones.answer())["delays"])


class Rate(Struct):
    """What messages from POST to acknowledged have cost."""

    a_second: float
    cpu: dict[str, float]
    """CPU seconds of a message by part, and of Redis."""
    scripts: float
    """Scripts of Redis a message."""

    @property
    def own(self) -> float:
        """CPU seconds of a message without Redis."""
        return sum(self.cpu.values()) - self.cpu[REDIS]


async def rate_of(server: Server, phones: Phones, online: int, calls: int, devices: int) -> Rate:
    """Push to so many devices a call."""
    calling = await callers(server, min(AT_ONCE, calls))
    phones.send(watch=calls * devices)
    scripts, cpu = await server.scripts(), server.cpu()
    began, numbers = time.monotonic_ns(), iter(range(calls))

    async def call(caller: Caller) -> None:
        for number in numbers:
            names = [f"d{(number * devices + each) % online}" for each in range(devices)]
            await caller.post(server.single(names[0], mark()) if devices == 1 else server.many(names, mark()))

    await asyncio.gather(*map(call, calling))
    last = (await phones.answer())["last"]
    after = server.cpu()
    for caller in calling:
        caller.io.close()
    count = calls * devices
    return Rate(
        count / (last - began) * 1e9,
        {name: (after[name] - before) / count for name, before in cpu.items()},
        (await server.scripts() - scripts) / count,
    )


async def traffic(names: Sequence[str], online: int, rounds: int, figures: Figures, cores: tuple[int, int]) -> None:
    """Pushes to phones that are online; the servers take turns."""
    async with AsyncExitStack() as stack:
        servers, secret = await stack.enter_async_context(opened(names, 1, cores))
        each_phones = await stack.enter_async_context(open_phones(APP, secret, len(servers)))
        pairs = list(zip(servers, each_phones, strict=True))
        for server, phones in pairs:
            await register(server, online)
            await connect(server, [phones], online)
            await rate_of(server, phones, online, 300, 1)
            await rate_of(server, phones, online, 3, 1000)
        for number in range(rounds):
            for server, phones in pairs if number % 2 == 0 else reversed(pairs):
                found = await delays_of(server, phones, 300)
                figures.add(server, "POST to phone, idle: p50, ms", found[len(found) // 2])
                figures.add(server, "POST to phone, idle: p99, ms", found[int(len(found) * 0.99)])
                for calls, devices in ((3000, 1), (20, 1000)):
                    rate = await rate_of(server, phones, online, calls, devices)
                    figures.add(server, f"acked/s, {devices:,} a call", rate.a_second)
                    figures.add(server, f"acked/s a core, {devices:,} a call", 1 / sum(rate.cpu.values()))
                    figures.add(server, f"  of its own CPU alone, {devices:,} a call", 1 / rate.own)
                    for part, seconds in rate.cpu.items():
                        figures.add(server, f"  CPU of a message, us: {part}, {devices:,} a call", seconds * 1e6)
                    figures.add(server, f"  scripts of 1,000 messages, {devices:,} a call", rate.scripts * 1000)
                most = min(online, 10_000)
                rate = await rate_of(server, phones, online, 1, most)
                figures.add(server, f"to {most:,} at once: all acked after, s", most / rate.a_second)
        figures.show()


async def away(names: Sequence[str], figures: Figures, cores: tuple[int, int]) -> None:
    """Messages that wait for devices that are not connected."""
    devices = 10_000
    async with opened(names, 1, cores) as (servers, _):
        for server in servers:
            await register(server, devices)
            (caller,) = await callers(server, 1)
            before = await used(server)
            names_of_all = [f"d{each}" for each in range(devices)]
            await caller.post(server.many(names_of_all, mark()))
            first = await settled(server)
            figures.add(server, "Redis bytes of the first message to a device away", (first - before) / devices)
            for _ in range(9):
                await caller.post(server.many(names_of_all, mark()))
            now = await settled(server)
            figures.add(server, "  of each, with ten of them", (now - before) / devices / 10)
            for number in range(2000):
                await caller.post(server.single(f"d{number}", mark()))
            figures.add(server, "  of one that was posted to it alone", (await settled(server) - now) / 2000)
    figures.show()


async def settled(server: Server) -> int:
    """Return the bytes that Redis uses once they have stayed much the same for three seconds."""
    found: list[int] = []
    while len(found) < 4 or max(found[-4:]) - min(found[-4:]) > found[-1] / 500:
        found.append(await used(server))
        await asyncio.sleep(1.0)
    return found[-1]


@asynccontextmanager
async def opened(
    names: Sequence[str], processes: int, cores: tuple[int, int]
) -> AsyncIterator[tuple[list[Server], str]]:
    """Start servers, and return them with the secret of the tokens."""
    secret = secrets.token_hex(16)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = []
        for name in names:
            (own := folder / name).mkdir()
            found.append(await stack.enter_async_context(OPEN[name](own, secret, processes, cores)))
        yield found, secret


async def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=("idle", "traffic", "away"))
    parser.add_argument("--phones", type=int, default=50_000)
    parser.add_argument("--online", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beats", type=float, default=50.0, help="seconds for which heartbeats are measured")
    parser.add_argument("--only", nargs="+", choices=OPEN)
    options = parser.parse_args()
    telemetry.configure_logging("error", json=False)
    names = options.only or [name for name in OPEN if name != "centrifugo" or centrifugo()]
    every = sorted(os.sched_getaffinity(0))
    cores = (every[0], every[-1])
    pin(0, {cores[1]})
    for what in options.what or ("idle", "traffic", "away"):
        print(f"--- {what}", flush=True)
        figures = Figures()
        if what == "idle":
            for name in [name for name in names if name != "bare"]:
                await idle(name, options.phones, options.beats, figures, cores)
                figures.show()
        elif what == "traffic":
            await traffic(names, options.online, options.rounds, figures, cores)
        else:
            await away([name for name in names if name != "bare"], figures, cores)
        figures.note()


if __name__ == "__main__":
    uvloop.run(main())
