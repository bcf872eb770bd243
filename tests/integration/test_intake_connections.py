"""Connections that send nothing or little: closed early, and never enough of them to exclude other clients."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from aiohttp import web

from pushsvc.api.config import ApiConfig
from pushsvc.api.http.connections import most_connections
from pushsvc.runtime.parts import raise_file_limit

from .test_intake_kit import Service, answer, call, running

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b'{"to":{"tokens":[{"platform":"apns","token":"' + b"8f3c" * 16 + b'"}]},"notification":{"title":"x"}}'
POST = b"POST /v1/push HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pusher\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)
pytestmark = pytest.mark.usefixtures("both_ways")


@pytest.fixture(scope="module", params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both kinds of loop: they differ in how connections end."""
    return "asyncio", {"loop_factory": request.param}


def quick(most: int = 10_000, *, first_request: float = 15.0) -> ApiConfig:
    return ApiConfig(port=0, first_request=first_request, max_connections=most)


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def with_streams(most: int) -> AsyncIterator[tuple[Service, Callable[[], Awaitable[Stream]]]]:
    opened: list[asyncio.StreamWriter] = []
    async with running(quick(most)) as service:

        async def connect() -> Stream:
            stream = await asyncio.open_connection(*service.address)
            opened.append(stream[1])
            return stream

        try:
            yield service, connect
        finally:
            for writer in opened:
                writer.close()


@pytest.mark.parametrize("begun", [b"", GET[:-2], b"GET"])
async def test_who_sends_no_request_is_closed_long_before_who_has_sent_one(begun: bytes) -> None:
    async with running(quick(first_request=0.3)) as service:
        reader, writer = await asyncio.open_connection(*service.address)
        writer.write(GET)
        assert (await answer(reader)).status == 200
        silent_reader, silent_writer = await asyncio.open_connection(*service.address)
        silent_writer.write(begun)
        async with asyncio.timeout(20):
            assert await silent_reader.read() == b""
        writer.write(GET)
        assert (await answer(reader)).status == 200
        writer.close()
        silent_writer.close()


async def test_silent_connections_give_way_to_new_ones() -> None:
    async with with_streams(20) as (service, connect):
        reader, writer = await connect()
        writer.write(GET)
        assert (await answer(reader)).status == 200
        silent = [await connect() for _ in range(100)]
        assert (await call(service, "GET", "/healthz", key=None)).status == 200
        # The oldest silent ones are gone, and who has sent a request before is still there.
        async with asyncio.timeout(20):
            assert await silent[0][0].read() == b""
        writer.write(GET)
        assert (await answer(reader)).status == 200


async def test_of_those_that_have_sent_requests_the_longest_idle_goes_first() -> None:
    async with with_streams(8) as (service, connect):
        streams = [await connect() for _ in range(8)]
        clock = asyncio.get_running_loop().time
        for reader, writer in [*streams[1:], streams[0]]:
            writer.write(GET)
            assert (await answer(reader)).status == 200
            answered_at = clock()
            while clock() == answered_at:  # the loop's clock counts milliseconds
                await asyncio.sleep(0.001)
        assert (await call(service, "GET", "/healthz", key=None)).status == 200
        async with asyncio.timeout(20):
            assert await streams[1][0].read() == b""
        for reader, writer in [*streams[2:], streams[0]]:
            writer.write(GET)
            assert (await answer(reader)).status == 200


async def test_busy_connections_are_never_closed_for_a_new_one() -> None:
    async with with_streams(4) as (service, connect):
        service.store.gate = asyncio.Event()
        busy = [await connect() for _ in range(4)]
        for _, writer in busy:
            writer.write(POST)
        async with asyncio.timeout(20):
            while service.store.waiting < 4:
                await asyncio.sleep(0.005)
            late, _ = await connect()
            assert await late.read() == b""
        service.store.gate.set()
        for reader, _ in busy:
            assert (await answer(reader)).status == 202


async def test_a_connection_is_closed_after_an_idle_time_and_not_while_it_is_busy() -> None:
    async with running(ApiConfig(port=0, keepalive_timeout=1.0)) as service:
        service.store.gate = asyncio.Event()
        reader, writer = await asyncio.open_connection(*service.address)
        for _ in range(2):
            writer.write(POST)
            async with asyncio.timeout(20):
                while not service.store.waiting:
                    await asyncio.sleep(0.005)
            await asyncio.sleep(1.2)
            service.store.gate.set()
            assert (await answer(reader)).status == 202
            service.store.waiting = 0
            service.store.gate.clear()
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def test_a_connection_is_closed_after_an_idle_time_whatever_aiohttp_begins_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = web.RequestHandler.__init__

    def as_in_3_14_0(self: web.RequestHandler, *args: Any, **kw: Any) -> None:
        begin(self, *args, **kw)
        self._keepalive = False

    monkeypatch.setattr(web.RequestHandler, "__init__", as_in_3_14_0)
    async with running(ApiConfig(port=0, keepalive_timeout=0.3)) as service:
        reader, writer = await asyncio.open_connection(*service.address)
        for _ in range(2):
            writer.write(GET)
            assert (await answer(reader)).status == 200
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


def test_there_are_never_more_than_the_files_allow() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
        assert (most_connections(10_000), most_connections(10)) == (750, 10)
        raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
