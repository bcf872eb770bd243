"""A gateway on a real socket with sessions that record what reaches them, and a raw client beside it."""

from __future__ import annotations

import asyncio
import base64
import os
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from pushsvc.live.peer import Request, Transport
from pushsvc.live.sockets.config import SocketsConfig
from pushsvc.live.sockets.emulation import Forward
from pushsvc.live.sockets.http import HttpRoute
from pushsvc.live.sockets.server import Sockets, serve
from pushsvc.live.wheel import running_wheel

LOOP = uvloop.new_event_loop


class Session:
    """Records what its transport reports; with `echo` it answers each message with itself."""

    echo = True

    def __init__(self, transport: Transport, request: Request) -> None:
        self.transport = transport
        self.request = request
        self.messages: list[bytes] = []
        self.pongs = 0
        self.resumes = 0
        self.ended: list[bool] = []
        self.end = asyncio.Event()

    def received(self, data: bytes) -> None:
        self.messages.append(data)
        if data.startswith(b"fail"):
            raise RuntimeError(data.decode())
        if self.echo:
            self.transport.write(data)

    def ponged(self) -> None:
        self.pongs += 1

    def resumed(self) -> None:
        self.resumes += 1

    def shutdown(self) -> None:
        self.transport.close(3001, "shutdown")

    def lost(self, clean: bool) -> None:
        self.ended.append(clean)
        self.end.set()


class Gateway:
    """A running gateway with all sessions that it has made."""

    def __init__(self, *, known: bool) -> None:
        self.sessions: list[Session] = []
        self.known = known
        """Whether clients are known from the start; otherwise they are strangers."""
        self.sockets: Sockets
        self.host = "127.0.0.1"
        self.port = 0
        self.clients: list[Client] = []
        self._made = asyncio.Event()

    def make(self, transport: Transport, request: Request) -> Session:
        session = Session(transport, request)
        if self.known:
            transport.known()
        self.sessions.append(session)
        self._made.set()
        return session

    async def session(self, number: int = 0) -> Session:
        """Return a session by its number, waiting until it is made."""
        while len(self.sessions) <= number:
            self._made.clear()
            await self._made.wait()
        return self.sessions[number]

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection(self.host, self.port, limit=1 << 24))
        self.clients.append(client)
        return client

    async def upgrade(self, query: str = "", **headers: str) -> Client:
        """Return a client whose WebSocket is open."""
        client = await self.connect()
        client.send(upgrade_request(query, **headers))
        assert (await client.head()).startswith("HTTP/1.1 101 ")
        return client


def upgrade_request(query: str = "", **headers: str) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return (
        f"GET /connection/websocket{query} HTTP/1.1\r\nHost: gateway.test\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{lines}\r\n"
    ).encode()


def masked(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """Return a client's frame."""
    key = b"\x37\xfa\x21\x3d"
    first, size = (0x80 if final else 0) | opcode, len(payload)
    head = bytes((first, 0x80 | size)) if size < 126 else struct.pack(">BBH", first, 0x80 | 126, size)
    return head + key + bytes(byte ^ key[n % 4] for n, byte in enumerate(payload))


class Client:
    """A raw client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> str:
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of a plain answer."""
        status, *lines = (await self.head()).strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(status.split()[1]), headers, body

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        sent = {"Host": "gateway.test", **{name.replace("_", "-"): value for name, value in headers.items()}}
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        self.send(f"{method} {path} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return await self.answer()

    async def frame(self) -> tuple[int, bytes]:
        first, size = await self.reader.readexactly(2)
        if size == 126:
            size = int.from_bytes(await self.reader.readexactly(2))
        elif size == 127:
            size = int.from_bytes(await self.reader.readexactly(8))
        return first & 0xF, await self.reader.readexactly(size)

    async def close_code(self) -> int:
        """Return the code of the next close frame, and answer it."""
        opcode, payload = await self.frame()
        assert opcode == 8, (opcode, payload)
        self.send(masked(8, payload[:2]))
        return int.from_bytes(payload[:2])

    async def chunk(self) -> bytes:
        """Return the next chunk of a body; b'' is its end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def closed(self) -> bool:
        """Wait for the end of the connection; return whether nothing came before it."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True

    def abort(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def gateway(
    routes: Sequence[HttpRoute] = (),
    *,
    forward: Forward | None = None,
    accepts: Callable[[], bool] = lambda: True,
    known: bool = True,
    **settings: Any,
) -> AsyncIterator[Gateway]:
    made = Gateway(known=known)
    with running_wheel() as wheel:
        config = SocketsConfig(**{"port": 0, "node": "here", "messages": 10**9, **settings})
        serving = serve(config, made.make, routes, wheel=wheel, forward=forward, accepts=accepts)
        async with serving as made.sockets:
            made.port = int(made.sockets.url.rpartition(":")[2])
            try:
                yield made
            finally:
                for client in made.clients:
                    client.abort()
        assert made.sockets.connections == 0
