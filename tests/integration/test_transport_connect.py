"""Getting a connection and getting it back: refused, untrusted, not HTTP/2, silent, gone and returned."""

from __future__ import annotations

import asyncio
import gc
import ssl
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pushsvc.net.http2 import transport
from pushsvc.net.http2.transport import Failure, Pool

from .ports import free_ports
from .transport_server import (
    LOOP as LOOP,
    Certificates,
    Client,
    Peer,
    ScriptedServer,
    WatchedUvloop,
    both_loops,
    client,
    serve,
    statuses,
    until,
)


@both_loops
async def test_nobody_listens_and_then_somebody_does(tmp_path: Path) -> None:
    server = ScriptedServer(Certificates(tmp_path))
    server.port = free_ports()
    async with client(server, request_timeout=0.2) as mine:
        await until(lambda: mine.pool.stats.connects_failed >= 2)
        assert "connection refused" in mine.pool.trouble
        assert mine.pool.room == 0
        assert await mine.send("a") == [Failure("unreachable", maybe_sent=False)]
        await server.start()
        await mine.up()
        assert mine.pool.trouble == ""
        assert statuses(await mine.send("b")) == {200: 1}
        await server.stop()
        await until(lambda: mine.pool.trouble)
        await until(lambda: "connection refused" in mine.pool.trouble)
        await server.start()
        mine.submit("c")  # may be overdue before the connection is back
        await mine.up()
        assert statuses(await mine.send("d")) == {200: 1}
    await server.stop()


async def test_an_outage_is_no_flood_of_log_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BACKOFF", (0.001, 0.001))

    server = ScriptedServer(Certificates(tmp_path))
    server.port = free_ports()
    with capture_logs() as logs:
        async with client(server, connections=1) as mine:
            await until(lambda: mine.pool.stats.connects_failed >= 20)
    failed = [line["failures"] for line in logs if line["event"] == "http2_connect_failed"]
    assert failed[:5] == [1, 2, 4, 8, 16]


Break = Callable[[ScriptedServer], object]


def says_nothing(server: ScriptedServer) -> None:
    server.connected = lambda peer: setattr(peer, "data_received", lambda data: None)


def hangs_up(server: ScriptedServer) -> None:
    server.connected = lambda peer: peer.transport.close()


def speaks_http1(server: ScriptedServer) -> None:
    server.connected = lambda peer: peer.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def starts_with_a_ping(server: ScriptedServer) -> None:
    server.connected = lambda peer: peer.raw(b"\x00\x00\x08\x06\x00\x00\x00\x00\x0001234567")


def offers(*protocols: str) -> Break:
    return lambda server: setattr(server, "protocols", list(protocols))


@pytest.mark.parametrize(
    ("fault", "trouble"),
    [
        (offers("http/1.1"), "does not speak HTTP/2"),
        (offers(), "does not speak HTTP/2"),
        (says_nothing, "accepts the connection, but has not answered within 0.3 s"),
        (hangs_up, "closed the connection before it sent its SETTINGS"),
        (speaks_http1, "breaks the HTTP/2 protocol"),
        (starts_with_a_ping, "first frame is not SETTINGS"),
    ],
)
@both_loops
async def test_trouble_names_what_is_wrong_with_the_server(tmp_path: Path, fault: Break, trouble: str) -> None:
    server = ScriptedServer(Certificates(tmp_path))
    fault(server)
    await server.start()
    async with client(server, connect_timeout=0.3, request_timeout=0.2) as mine:
        await until(lambda: trouble in mine.pool.trouble, lambda: mine.pool.trouble)
        assert mine.pool.trouble.startswith(f"localhost:{server.port}: ")
        assert await mine.send("a") == [Failure("unreachable", maybe_sent=False)]
        assert mine.pool.stats.connections_opened == 0
    await until(lambda: len(server.gone) == len(server.peers))
    await server.stop()


@both_loops
async def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:
        async with client(server, ssl=ssl.create_default_context()) as mine:
            await until(lambda: "certificate verify failed: " in mine.pool.trouble, lambda: mine.pool.trouble)
            assert "issuer" in mine.pool.trouble or "self-signed" in mine.pool.trouble
        async with Pool(f"https://127.0.0.2:{server.port}", ssl=server.certificates.client()) as other:
            await until(lambda: other.trouble and "not connected yet" not in other.trouble)
            assert other.room == 0


async def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:
        context = server.certificates.client()
        pool = Pool(f"https://localhost.localdomain:{server.port}", ssl=context)
        pool._origin = type(pool._origin)("127.0.0.1", server.port)
        async with pool:
            await until(lambda: pool.room)  # the certificate names this address
        pool = Pool(f"https://ip6-localhost.invalid:{server.port}", ssl=context)
        async with pool:
            await until(lambda: "name look-up failed" in pool.trouble)


@both_loops
async def test_failed_connects_are_spread_out(tmp_path: Path) -> None:
    """Full jitter at its longest: 0.1 s, 0.2 s, 0.4 s, ... and never at once."""
    server = ScriptedServer(Certificates(tmp_path))
    server.port = free_ports()
    async with client(server, random=lambda: 1.0) as mine:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await until(lambda: mine.pool.stats.connects_failed == 4)
        assert loop.time() - start > 0.65


@both_loops
async def test_connections_that_are_taken_and_dropped_are_spread_out_as_well(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:

        def drop(peer: Peer) -> None:
            peer.flush()
            peer.transport.close()

        server.greeted = drop
        async with client(server, random=lambda: 1.0) as mine:
            loop = asyncio.get_running_loop()
            start = loop.time()
            await until(lambda: mine.pool.stats.connections_opened == 4)
            assert loop.time() - start > 0.65
            await until(lambda: "the connection ended" in mine.pool.trouble)


async def test_rooms_wakers_are_called_once_an_iteration(tmp_path: Path) -> None:
    async with serve(tmp_path, max_concurrent_streams=2) as server, client(server, connections=3) as mine:
        calls: list[int] = []
        mine.pool.on_room(lambda: calls.append(mine.pool.room))
        await until(lambda: mine.pool.room == 6)
        calls.clear()
        mine.pool.changed()
        mine.pool.changed()
        assert not calls, "it was above 0 before"
        assert statuses(await mine.send(*range(6))) == {200: 6}
        await until(lambda: mine.pool.room == 6)
        assert 1 <= len(calls) <= 6


async def test_more_than_there_is_room_for_waits_its_turn(tmp_path: Path) -> None:
    async with serve(tmp_path, max_concurrent_streams=10) as server, client(server, connections=2) as mine:
        mine.submit(*range(500))  # before any connection is up
        assert mine.pool.room == 0
        assert statuses(await mine.answered(*range(500))) == {200: 500}
        assert max(peer.most_open for peer in server.peers) <= 10


async def test_a_clock_of_ones_own(tmp_path: Path) -> None:
    now, looks = 0.0, 0

    def clock() -> float:
        nonlocal looks
        looks += 1
        return now

    async with serve(tmp_path) as server:

        def script(peer: Peer, stream: int) -> None:
            if stream > 1:
                peer.answer(stream)

        server.requested = script
        async with client(server, clock=clock, request_timeout=0.05) as mine:
            await mine.up()
            mine.submit("silent")
            assert statuses(await mine.send("a")) == {200: 1}
            before = looks
            await until(lambda: looks > before + 3)  # the sweep comes by and finds that no time has passed
            assert "silent" not in mine.answers
            now = 1.0
            assert await mine.answered("silent") == [Failure("timeout", maybe_sent=True)]


@pytest.mark.parametrize(
    "origin", ["http://localhost", "localhost", "https://", "https://a/b", "https://u@a", "https://a?b"]
)
def test_an_origin_that_is_none(origin: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        Pool(origin, ssl=ssl.create_default_context())


@pytest.mark.parametrize("wrong", [{"connections": 0}, {"window": 0}, {"request_timeout": 0}])
def test_sizes_that_make_no_pool(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a pool needs"):
        Pool("https://localhost", ssl=ssl.create_default_context(), **wrong)  # type: ignore[arg-type]  # all of them numbers


@pytest.mark.parametrize("loop_factory", [LOOP, WatchedUvloop])
def test_a_pool_leaves_nothing_open(tmp_path: Path, loop_factory: Any) -> None:
    async def main() -> None:
        async with serve(tmp_path) as server:
            async with Pool(server.origin, ssl=server.certificates.client(), connections=3) as pool:
                await until(lambda: pool.room)
                assert statuses(await Client(pool, server).send(*range(10))) == {200: 10}
            assert pool.room == 0
            await pool.aclose()
            async with Pool(server.origin, ssl=server.certificates.client()):
                pass  # closed while it connects
            says_nothing(server)
            async with Pool(server.origin, ssl=server.certificates.client()):
                seen = len(server.peers)
                await until(lambda: len(server.peers) > seen)
            await until(lambda: len(server.gone) == len(server.peers))
            await asyncio.sleep(0)
            assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
        gc.collect()


def test_the_provider_names_are_all_there() -> None:
    assert transport.POST == b"\x83"
    assert transport.HTTPS == b"\x87"
