"""Open WebSockets: the process memory of one, and the CPU time of its connect and of a push with its ack.

    python -m tests.bench.live_sockets [--connections 2000] [--rounds 25]

Each server is a process of its own, on uvloop and without compression: our sockets, `websockets`, aiohttp,
and the least protocol that could do it. A push is a publication of 300 bytes; the client acknowledges it with an RPC,
which the server decodes and answers. The time is the CPU time of the server's process, not the time on the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import uvloop
from aiohttp import WSMsgType, web
from websockets.asyncio.server import ServerConnection, serve as serve_websockets

from pushsvc.live.peer import Request, Transport
from pushsvc.live.sockets.config import SocketsConfig
from pushsvc.live.sockets.server import serve
from pushsvc.live.wheel import running_wheel
from pushsvc.net.websocket import frames
from pushsvc.runtime.parts import quiet_gc

from .figures import record

PUBLICATION: Final = json.dumps(
    {"push": {"channel": "device", "pub": {"data": {"id": "01J" + "x" * 23, "notification": {"title": "t" * 173}}}}}
).encode()
ACK: Final = b'{"id":12,"rpc":{"method":"ack","data":{"ack":123456}}}'
ANSWER: Final = b'{"id":12,"rpc":{}}'


class Rpc(msgspec.Struct):
    """A command, as much of it as is needed here."""

    id: int
    rpc: dict[str, Any]


decode = msgspec.json.Decoder(Rpc).decode


class Peer:
    """The least session that answers an ack."""

    __slots__ = ("transport",)

    def __init__(self, transport: Transport, _: Request) -> None:
        self.transport = transport
        PEERS.add(self)

    def received(self, data: bytes) -> None:
        decode(data)
        self.transport.write(ANSWER)

    def ponged(self) -> None: ...

    def resumed(self) -> None: ...

    def shutdown(self) -> None: ...

    def lost(self, clean: bool) -> None:
        PEERS.discard(self)


PEERS: set[Peer] = set()


class Bare(asyncio.Protocol):
    """The least that answers these clients, without any rule: what uvloop and the decoding cost by themselves."""

    __slots__ = ("io", "is_open")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.io: Any = transport
        self.is_open = False
        BARE.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        BARE.discard(self)

    def data_received(self, data: bytes) -> None:
        if not self.is_open:
            self.is_open = True
            self.io.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            return
        decode(frames.unmask(data[6:], data[2:6]))
        self.io.write(bytes((0x81, len(ANSWER))) + ANSWER)


BARE: set[Bare] = set()


async def serve_bare() -> None:
    """Serve without HTTP, parser and session."""
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0, backlog=4096)

    async def push() -> None:
        for bare in BARE:
            bare.io.write(b"\x81\x7e" + len(PUBLICATION).to_bytes(2) + PUBLICATION)

    await control(server.sockets[0].getsockname()[1], push)


async def serve_ours() -> None:
    """Serve our sockets."""
    with running_wheel() as wheel:
        async with serve(SocketsConfig(port=0), Peer, wheel=wheel) as sockets:

            async def push() -> None:
                for peer in PEERS:
                    peer.transport.write(PUBLICATION)

            await control(int(sockets.url.rpartition(":")[2]), push)


async def serve_by_websockets() -> None:
    """Serve by the library `websockets`."""
    connections: set[ServerConnection] = set()
    text = PUBLICATION.decode()

    async def handle(connection: ServerConnection) -> None:
        connections.add(connection)
        try:
            async for message in connection:
                decode(message)
                await connection.send(ANSWER.decode())
        finally:
            connections.discard(connection)

    async def push() -> None:
        for connection in list(connections):
            await connection.send(text)

    async with serve_websockets(handle, "127.0.0.1", 0, compression=None, ping_interval=None, backlog=4096) as server:
        await control(next(iter(server.sockets)).getsockname()[1], push)


async def serve_by_aiohttp() -> None:
    """Serve by aiohttp."""
    connections: set[web.WebSocketResponse] = set()
    text = PUBLICATION.decode()

    async def handle(request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(compress=False)
        await connection.prepare(request)
        connections.add(connection)
        async for message in connection:
            if message.type == WSMsgType.TEXT:
                decode(message.data)
                await connection.send_str(ANSWER.decode())
        connections.discard(connection)
        return connection

    async def push() -> None:
        for connection in list(connections):
            await connection.send_str(text)

    app = web.Application()
    app.router.add_get("/connection/websocket", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    await control(runner.addresses[0][1], push)


SERVERS: Final[dict[str, Callable[[], Awaitable[None]]]] = {
    "bare": serve_bare,
    "ours": serve_ours,
    "websockets": serve_by_websockets,
    "aiohttp": serve_by_aiohttp,
}


async def control(port: int, push: Callable[[], Awaitable[None]]) -> None:
    """Print the port, then obey the lines of standard input, `push`, `time` and `memory`, until it ends."""
    quiet_gc()
    print(port, flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        if line == b"push\n":
            await push()
        if line == b"memory\n":
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            print(pages * os.sysconf("SC_PAGE_SIZE"), flush=True)
        else:
            print(time.process_time(), flush=True)
    os._exit(0)


# --- the clients -----------------------------------------------------------------------------------------


def masked(payload: bytes) -> bytes:
    """Return a client's frame with one key; all that matters is that the server takes it off."""
    key = b"\x37\xfa\x21\x3d"
    return bytes((0x81, 0x80 | len(payload))) + key + bytes(byte ^ key[n % 4] for n, byte in enumerate(payload))


UPGRADE: Final = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
)
ACK_FRAME: Final = masked(ACK)
PUSHED: Final = len(PUBLICATION) + 4
ANSWERED: Final = len(ANSWER) + 2


class Client(asyncio.Protocol):
    """A client that counts bytes: the head of the upgrade, then publications and answers of known sizes."""

    def __init__(self, opened: Callable[[], None], acked: Callable[[], None]) -> None:
        self._opened, self._acked = opened, acked
        self._head = b""
        self._is_open = False
        self._bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._io = cast(asyncio.Transport, transport)
        self._io.write(UPGRADE)

    def data_received(self, data: bytes) -> None:
        if not self._is_open:
            self._head += data
            if self._head.endswith(b"\r\n\r\n"):
                assert b" 101 " in self._head, self._head
                self._is_open = True
                self._opened()
            return
        before, self._bytes = self._bytes, self._bytes + len(data)
        if before < PUSHED <= self._bytes:
            self._io.write(ACK_FRAME)
        if self._bytes == PUSHED + ANSWERED:
            self._bytes = 0
            self._acked()


async def measure(name: str, connections: int, rounds: int) -> None:
    """Print the figures of one server."""
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.live_sockets",
        "--serve",
        name,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    port = int(await server.stdout.readline())
    count, done = 0, asyncio.Event()

    def one() -> None:
        nonlocal count
        count += 1
        if count == connections:
            done.set()

    async def ask(line: bytes) -> float:
        nonlocal count
        assert server.stdin is not None
        assert server.stdout is not None
        count = 0
        done.clear()
        server.stdin.write(line)
        return float(await server.stdout.readline())

    loop = asyncio.get_running_loop()
    made: list[asyncio.Transport] = []

    async def connect(number: int) -> None:
        for _ in range(number):
            transport, _ = await loop.create_connection(lambda: Client(one, one), "127.0.0.1", port)
            made.append(transport)

    try:
        # A few first, so that what is loaded and cached once is in the base line.
        warm, connections = connections, 50
        await connect(50)
        await done.wait()
        await ask(b"push\n")
        await done.wait()
        connections = warm
        memory, cpu = await ask(b"memory\n"), await ask(b"time\n")
        await connect(connections)
        await done.wait()
        cpu_opened, opened = await ask(b"time\n"), await ask(b"memory\n")
        costs = []
        connections += 50
        for _ in range(rounds):
            before = await ask(b"time\n")
            await ask(b"push\n")
            await done.wait()
            after = await ask(b"time\n")
            costs.append((after - before) / connections * 1e6)
        loaded = await ask(b"memory\n")
        print(
            f"{name:10}  {(opened - memory) / warm:7,.0f} bytes open, {(loaded - memory) / warm:7,.0f} after traffic;"
            f"  connect {(cpu_opened - cpu) / warm * 1e6:5.0f} us;  push and ack {statistics.median(costs):5.1f} us",
            flush=True,
        )
        record(f"{name}: open", "bytes", (opened - memory) / warm)
        record(f"{name}: push and acknowledgement", "us", *costs)
    finally:
        server.stdin.close()
        await server.wait()
        for each in made:
            each.abort()


async def main(connections: int, rounds: int) -> None:
    """Measure all servers, one after the other."""
    for name in SERVERS:
        await measure(name, connections, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--serve", choices=SERVERS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(SERVERS[options.serve]())  # type: ignore[arg-type]  # coroutines, all of them
    else:
        uvloop.run(main(options.connections, options.rounds))
