"""A pool without a network, in virtual time: connections that the server has no use for are reported and replaced."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Literal

import pytest

from pushsvc.net.http2 import frames, transport
from pushsvc.net.http2.connection import Connection
from pushsvc.net.http2.exchange import Answer, Response
from pushsvc.net.http2.hpack_fields import HTTPS, POST, authority, path
from pushsvc.net.http2.transport import STUCK, Pool

from .test_http2_connection import GREETING, Wire
from .virtual_time import VirtualLoop, until

LOOP = VirtualLoop
FIELDS = POST + HTTPS + authority("localhost") + path("/")
OK = b"\x88"
TIMEOUT = 10.0


class Server(Wire):
    """Answers each request and each PING after 20 ms, and grants no more to send than the protocol begins with."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._loop, self._connection, self._begun = asyncio.get_running_loop(), connection, False
        self._reader = frames.FrameReader()

    def say(self, data: bytes) -> None:
        if not self.closed:
            self._connection.data_received(data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        data = bytes(data)
        if not self._begun:
            self._begun, data = True, data.removeprefix(frames.PREFACE)
        for kind, flags, stream, payload in self._reader.feed(data):
            if kind == frames.DATA and flags & frames.END_STREAM:
                self._reply(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, OK))
            elif kind == frames.PING and not flags & frames.ACK:
                self._reply(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _reply(self, data: bytes) -> None:
        self._loop.call_later(0.02, self.say, data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._loop.call_soon(self._connection.connection_lost, None)

    abort = close


@pytest.mark.parametrize("cause", ["no data", "no streams"])
async def test_connections_without_room_and_without_requests_are_reported_and_replaced(
    monkeypatch: pytest.MonkeyPatch, cause: Literal["no data", "no streams"]
) -> None:
    loop, servers, answers = asyncio.get_running_loop(), list[Server](), list[Answer]()

    async def dial(origin: Any, context: Any, make: Any, timeout: float, proxy: Any = None) -> Connection:
        made: Connection = make()
        servers.append(server := Server(made))
        made.connection_made(server)
        server.say(GREETING)
        return made

    monkeypatch.setattr(transport, "dial", dial)
    async with Pool(
        "https://localhost", ssl=ssl.create_default_context(), request_timeout=TIMEOUT, clock=loop.time
    ) as pool:
        await until(lambda: len(servers) == 2 and pool.room)
        asked = 0
        while pool.room and asked < 1000:  # never beyond the room, as a dispatcher does
            pool.submit(FIELDS, b"x" * 900, None, lambda _, answer: answers.append(answer))
            asked += 1
            await asyncio.sleep(0.05)
            if cause == "no streams" and asked == 5:
                for server in servers:
                    server.say(frames.settings({frames.MAX_CONCURRENT_STREAMS: 0}))
        await until(lambda: all(len(connection.streams.open) == 0 for connection in pool._alive), 60.0)
        stuck_at = loop.time()
        await until(lambda: pool.trouble, 2 * TIMEOUT + STUCK)
        assert "takes no requests" in pool.trouble
        await until(lambda: pool.room, 3 * TIMEOUT)
        assert loop.time() - stuck_at < 3 * TIMEOUT
        assert pool.trouble == ""
        answered = len(answers)
        pool.submit(FIELDS, b"x" * 900, None, lambda _, answer: answers.append(answer))
        await until(lambda: len(answers) > answered)
        assert isinstance(answers[-1], Response)
        assert pool.stats.connections_opened > 2


async def test_what_waits_in_the_pool_is_answered_in_time_by_a_server_that_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, took = asyncio.get_running_loop(), list[float]()

    class Silent(Server):
        def _reply(self, data: bytes) -> None:
            """Answer nothing."""

    async def dial(origin: Any, context: Any, make: Any, timeout: float, proxy: Any = None) -> Connection:
        made: Connection = make()
        made.connection_made(server := Silent(made))
        server.say(GREETING)
        server.say(frames.settings({frames.MAX_CONCURRENT_STREAMS: 1}))
        return made

    monkeypatch.setattr(transport, "dial", dial)
    context = ssl.create_default_context()
    async with Pool("https://localhost", ssl=context, connections=1, request_timeout=TIMEOUT, clock=loop.time) as pool:
        await until(lambda: pool.room)
        for seconds in (0.0, 1.0):  # the second request waits in the pool: there is one stream
            await asyncio.sleep(seconds)
            asked_at = loop.time()
            pool.submit(FIELDS, b"x", asked_at, lambda asked_at, _: took.append(loop.time() - asked_at))
        await until(lambda: len(took) == 2)
    assert max(took) < 1.1 * TIMEOUT
