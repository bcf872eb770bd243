"""Lean phones for the benchmarks of the live channel, in a process of its own; the same ones for every server.

    python -m tests.bench.live_phones '{"secret": "..", "app": "demo"}'

They speak the JSON format over WebSocket, as the official clients do, answer pings, and acknowledge each publication by
an RPC. A command is a line of JSON on standard input, and its answer is one on standard output:

    {"connect": [first, count, host, port]}   answers when all are connected
    {"watch": count}                          answers when so many more publications were acknowledged

Tokens hold the claims of both servers. A publication has in its data `"t"`, the nanoseconds of the machine's monotonic
clock at its POST.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import hmac
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

import msgspec
import uvloop

from pushsvc.runtime.parts import raise_file_limit

_UPGRADE: Final = (
    b"GET /connection/websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n"
)
_NO_PORT: Final = 24
"""IP_BIND_ADDRESS_NO_PORT of Linux."""
_OF_ADDRESS: Final = 20_000
"""Connections from one address: its ports are fewer than 28,000."""
_DIALS: Final = 64
"""Connects under way at a time."""
PATIENCE: Final = 300.0
"""Seconds in which a command is answered."""
_MARK: Final = b'"t":"'


class _Publication(msgspec.Struct):
    offset: int


class _Push(msgspec.Struct):
    pub: _Publication


class _Reply(msgspec.Struct):
    push: _Push


_offset_of = msgspec.json.Decoder(_Reply).decode


def masked(text: bytes) -> bytes:
    """Return a client's frame. Its key is zero, which a server takes off as any other."""
    size = len(text)
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2)
    return head + bytes(4) + text


_PONG: Final = masked(b"{}")


class Phone(asyncio.Protocol):
    """One connection."""

    __slots__ = ("commands", "connected", "fleet", "io", "is_open", "rest", "token")

    def __init__(self, fleet: Fleet, token: str) -> None:
        self.fleet = fleet
        self.token = token
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.commands = 1
        self.is_open = False
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.io = cast(asyncio.Transport, transport)
        self.fleet.phones.add(self)
        self.io.write(_UPGRADE)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fleet.phones.discard(self)
        self.fleet.note()

    def data_received(self, data: bytes) -> None:
        data = self.rest + data if self.rest else data
        if not self.is_open:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self.rest = head
                return
            assert b" 101 " in head, head
            self.is_open = True
            self.io.write(masked(b'{"id":1,"connect":{"token":"%s"}}' % self.token.encode()))
            self.token = ""
        at, end_of_data = 0, len(data)
        while end_of_data - at >= 2:
            size, start = data[at + 1], at + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                size = int.from_bytes(data[at + 2 : start])
            if start + size > end_of_data or start > end_of_data:
                break
            if data[at] == 0x81:
                for line in data[start : start + size].split(b"\n"):
                    self.take(line)
            at = start + size
        self.rest = data[at:]

    def take(self, line: bytes) -> None:
        """Take one reply."""
        fleet = self.fleet
        if line == b"{}":
            self.io.write(_PONG)
        elif (mark := line.find(_MARK)) >= 0:
            begin = mark + len(_MARK)
            fleet.delays.append(time.monotonic_ns() - int(line[begin : line.index(b'"', begin)]))
            self.commands += 1
            offset = _offset_of(line).push.pub.offset
            self.io.write(masked(b'{"id":%d,"rpc":{"method":"ack","data":{"ack":%d}}}' % (self.commands, offset)))
        elif b'"error"' in line or b'"disconnect"' in line:
            print(line.decode(), file=sys.stderr, flush=True)
            os._exit(1)
        elif line.startswith(b'{"id":1,'):
            self.connected.set_result(None)
        elif line.startswith(b'{"id":'):
            fleet.acked += 1
            fleet.note()


class Fleet:
    """All phones of the process."""

    def __init__(self, app: str, secret: str) -> None:
        self.phones: set[Phone] = set()
        self.acked = 0
        self.delays: list[int] = []
        self._app, self._secret = app, secret.encode()
        self._changed = asyncio.Event()

    def note(self) -> None:
        """Something has changed that may be waited for."""
        self._changed.set()

    def token(self, device: str) -> str:
        """Return a token for either server: of ours by `app`, of the other by the channel."""
        now = int(time.time())
        claims = {"sub": device, "app": self._app, "channels": [f"device:{device}"], "iat": now, "exp": now + 86_400}
        parts = [_base64(json.dumps(each).encode()) for each in ({"alg": "HS256", "typ": "JWT"}, claims)]
        signed = b".".join(parts)
        return (signed + b"." + _base64(hmac.digest(self._secret, signed, "sha256"))).decode()

    async def connect(self, first: int, count: int, host: str, port: int) -> dict[str, Any]:
        """Connect so many phones."""
        loop, numbers = asyncio.get_running_loop(), iter(range(first, first + count))
        began = time.monotonic()

        async def dial() -> None:
            for number in numbers:
                own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                own.setblocking(False)
                own.setsockopt(socket.IPPROTO_IP, _NO_PORT, 1)
                own.bind((f"127.1.0.{1 + number // _OF_ADDRESS}", 0))
                await loop.sock_connect(own, (host, port))
                token = self.token(f"d{number}")
                _, phone = await loop.create_connection(lambda token=token: Phone(self, token), sock=own)  # type: ignore[misc]  # mypy cannot infer it
                await phone.connected

        await asyncio.gather(*(dial() for _ in range(_DIALS)))
        gc.collect()
        gc.freeze()
        return {"seconds": time.monotonic() - began}

    async def watch(self, count: int) -> dict[str, Any]:
        """Wait for acknowledged publications, and return how long each took from its POST, in nanoseconds."""
        while self.acked < count:
            await self._change()
        delays, self.delays = self.delays, []
        self.acked -= count
        return {"delays": delays, "last": time.monotonic_ns()}

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims of a token, unchecked."""
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return claims


async def obey(app: str, secret: str) -> None:
    """Obey commands until standard input ends."""
    raise_file_limit()
    fleet = Fleet(app, secret)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        ((name, value),) = json.loads(line).items()
        match name:
            case "connect":
                answer = await fleet.connect(*value)
            case _:
                answer = await fleet.watch(value)
        print(json.dumps(answer), flush=True)


class Phones:
    """The handle of such a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def send(self, **command: Any) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def answer(self) -> dict[str, Any]:
        """Wait for the answer."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await self._process.stdout.readline()
        assert line, "the phones have ended"
        found: dict[str, Any] = json.loads(line)
        return found

    async def call(self, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.send(**command)
        return await self.answer()


@asynccontextmanager
async def open_phones(app: str, secret: str, count: int = 1) -> AsyncIterator[Sequence[Phones]]:
    """Start so many processes of phones."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "tests.bench.live_phones", json.dumps({"app": app, "secret": secret})]
    processes = [
        await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 26) for _ in range(count)
    ]
    try:
        yield [Phones(process) for process in processes]
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()


if __name__ == "__main__":
    uvloop.run(obey(**json.loads(sys.argv[1])))
