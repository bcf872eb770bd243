"""Limits that the server sets: streams at once, windows, frame sizes, and all of them changed in mid-flight.

`h2` on the server's side counts every window byte for byte and ends the connection of a client that oversteps one.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pushsvc.net.http2.transport import Failure

from .transport_server import LOOP as LOOP, Peer, both_loops, client, serve, statuses, until


def body_of(name: object, size: int) -> bytes:
    return random.Random(str(name)).randbytes(size)


async def test_no_more_streams_than_the_server_allows_and_at_once_when_it_allows_more(tmp_path: Path) -> None:
    """Apple's way: 1 until the first good answer, then many; 1 again after a rejection (jchambers/pushy#732)."""
    async with serve(tmp_path, max_concurrent_streams=1) as server:
        held: list[int] = []
        hold = False

        def script(peer: Peer, stream: int) -> None:
            name = peer.requests[stream][":path"]
            if hold:
                held.append(stream)
            elif name == "/raise":
                peer.settings(max_concurrent_streams=1000)
                peer.answer(stream)
            elif name == "/reject":
                peer.settings(max_concurrent_streams=1)
                peer.answer(stream, 400)
            else:
                peer.answer(stream)

        server.requested = script
        async with client(server, window=1500) as mine:
            rooms: list[int] = []
            mine.pool.on_room(lambda: rooms.append(mine.pool.room))
            await mine.up()
            (peer,) = server.peers
            assert mine.pool.room == 1
            assert statuses(await mine.send(*(f"a{n}" for n in range(50)))) == {200: 50}
            assert peer.most_open == 1

            for _ in range(3):
                assert statuses(await mine.send(f"raise{_}".rstrip("012"))) == {200: 1}
                mine.answers.clear()
                await until(lambda: mine.pool.room == 1000)
                hold = True
                mine.submit(*(f"b{n}" for n in range(1200)))
                await until(lambda: len(held) == 1000)
                assert mine.pool.room == 0
                peer.settings(max_concurrent_streams=1)  # with 1000 open and 200 waiting
                hold = False
                for stream in held:
                    peer.answer(stream)
                held.clear()
                assert statuses(await mine.answered(*(f"b{n}" for n in range(1200)))) == {200: 1200}
                mine.answers.clear()
                peer.most_open = 0
                assert statuses(await mine.send("reject")) == {400: 1}
                assert statuses(await mine.send(*(f"c{n}" for n in range(50)))) == {200: 50}
                assert peer.most_open == 1
                mine.answers.clear()
            assert len(server.peers) == 1
            assert rooms, "the waker was never called"
            assert min(rooms) > 0
        assert not server.faults


async def test_a_limit_of_none_at_all_is_waited_out(tmp_path: Path) -> None:
    async with serve(tmp_path, max_concurrent_streams=0) as server, client(server, request_timeout=5.0) as mine:
        await until(lambda: mine.pool.stats.connections_opened)
        mine.submit("a", "b")
        assert mine.pool.room == 0
        await until(lambda: server.peers)
        assert not server.peers[0].requests
        server.peers[0].settings(max_concurrent_streams=10)
        assert statuses(await mine.answered("a", "b")) == {200: 2}


async def test_the_window_caps_a_server_without_a_limit(tmp_path: Path) -> None:
    async with serve(tmp_path, max_concurrent_streams=2**32 - 1) as server, client(server, window=7) as mine:
        await mine.up()
        assert mine.pool.room == 7
        assert statuses(await mine.send(*range(100))) == {200: 100}
        assert server.peers[0].most_open <= 7


def late(delay: float) -> Callable[[Peer, int, int], None]:
    def credit(peer: Peer, stream: int, size: int) -> None:
        def grant() -> None:
            if peer not in peer.server.gone:
                peer.h2.acknowledge_received_data(size, stream)
                peer.flush()

        asyncio.get_running_loop().call_later(delay, grant)

    return credit


def only_when_spent(peer: Peer, stream: int, size: int) -> None:
    """A miserly server: it grants nothing before the whole connection window is used up."""
    window = peer.h2.inbound_flow_control_window
    if window == 0:
        peer.h2.increment_flow_control_window(65_535)


@pytest.mark.parametrize("initial_window", [65_535, 1000, 0])
@both_loops
async def test_300_bodies_of_3_kb_with_late_window_updates(tmp_path: Path, initial_window: int) -> None:
    async with serve(tmp_path, initial_window_size=initial_window) as server:
        server.credit = late(0.01)
        if not initial_window:  # then every stream waits for credit of its own
            server.greeted = lambda peer: None
        async with client(server) as mine:
            await mine.up()
            (peer,) = server.peers
            names = [str(number) for number in range(300)]
            for name in names:
                mine.submit(name, body=body_of(name, 3072))
            if not initial_window:
                await until(lambda: len(peer.requests) == 300)
                streams = list(peer.requests)
                random.Random(7).shuffle(streams)
                for stream in streams:
                    peer.h2.increment_flow_control_window(3072, stream)
                peer.flush()
            assert statuses(await mine.answered(*names)) == {200: 300}
            arrived = {peer.requests[stream][":path"]: bytes(body) for stream, body in peer.bodies.items()}
            assert arrived == {f"/{name}": body_of(name, 3072) for name in names}
        assert not server.faults
        assert len(server.peers) == 1


async def test_a_server_that_grants_nothing_before_all_is_spent(tmp_path: Path) -> None:
    """A client that waited until a whole body fits would wait forever."""
    async with serve(tmp_path) as server:
        server.credit = only_when_spent
        async with client(server) as mine:
            await mine.up()
            names = [str(number) for number in range(100)]
            for name in names:
                mine.submit(name, body=body_of(name, 3001))
            # 300,100 bytes are no multiple of the window, but the last ones need no further grant.
            assert statuses(await mine.answered(*names)) == {200: 100}
            assert [bytes(body) for body in server.peers[0].bodies.values()] == [body_of(n, 3001) for n in names]
        assert not server.faults


async def test_a_shut_stream_holds_up_no_other(tmp_path: Path) -> None:
    async with serve(tmp_path, initial_window_size=100) as server:
        server.credit = lambda peer, stream, size: peer.h2.increment_flow_control_window(size)
        async with client(server) as mine:
            await mine.up()
            mine.submit("large", body=body_of("large", 101))
            assert statuses(await mine.send(*range(200), body=b"x" * 100)) == {200: 200}
            assert "large" not in mine.answers
            (peer,) = server.peers
            peer.h2.increment_flow_control_window(1, 1)
            peer.flush()
            assert statuses(await mine.answered("large")) == {200: 1}
            assert peer.bodies[1] == body_of("large", 101)
        assert not server.faults


async def test_settings_changed_in_mid_flight(tmp_path: Path) -> None:
    """Windows shrink below what is in use (RFC 9113 6.9.2: negative windows) and grow, and the limit with them."""
    async with serve(tmp_path, initial_window_size=1 << 20) as server:
        draw = random.Random(11)

        def script(peer: Peer, stream: int) -> None:
            if stream % 14 == 1:
                peer.settings(
                    initial_window_size=draw.choice([0, 10, 4000, 65_535, 1 << 20]),
                    max_concurrent_streams=draw.choice([1, 5, 1000]),
                )
            peer.answer(stream)

        def credit(peer: Peer, stream: int, size: int) -> None:
            peer.h2.increment_flow_control_window(size)
            peer.h2.increment_flow_control_window(size, stream)

        server.requested, server.credit = script, credit
        async with client(server) as mine:
            await mine.up()
            (peer,) = server.peers
            names = [str(number) for number in range(400)]
            for name in names:
                mine.submit(name, body=body_of(name, 10 + int(name) * 40))
            ticking = True

            def open_up() -> None:  # a stream that was opened under a window of 0 needs to be granted some
                for stream in peer.open:
                    if stream not in peer.h2.streams or peer.h2.streams[stream].closed:
                        continue
                    if peer.h2.remote_flow_control_window(stream) < 100:
                        peer.h2.increment_flow_control_window(5000, stream)
                peer.flush()
                if ticking:
                    asyncio.get_running_loop().call_later(0.01, open_up)

            open_up()
            assert statuses(await mine.answered(*names)) == {200: 400}
            ticking = False
            arrived = {peer.requests[stream][":path"]: bytes(body) for stream, body in peer.bodies.items()}
            assert arrived == {f"/{name}": body_of(name, 10 + int(name) * 40) for name in names}
        assert not server.faults
        assert len(server.peers) == 1


async def test_a_body_that_never_gets_credit_times_out_and_frees_its_stream(tmp_path: Path) -> None:
    async with serve(tmp_path, initial_window_size=10, max_concurrent_streams=1) as server:
        server.credit = lambda peer, stream, size: None
        async with client(server, request_timeout=0.3) as mine:
            await mine.up()
            mine.submit("stuck", body=b"x" * 100)
            assert await mine.answered("stuck") == [Failure("timeout", maybe_sent=True)]
            assert statuses(await mine.send("fine", body=b"x" * 10)) == {200: 1}
            assert server.peers[0].resets == {1: 8}
        assert not server.faults


async def test_a_connection_whose_window_stays_shut_is_replaced(tmp_path: Path) -> None:
    async with serve(tmp_path, initial_window_size=1 << 20) as server:
        server.credit = lambda peer, stream, size: None
        async with client(server, request_timeout=0.2) as mine:
            await mine.up()
            mine.submit("all", body=b"x" * 65_536)
            assert await mine.answered("all") == [Failure("timeout", maybe_sent=True)]
            early = 0
            while mine.pool.stats.connections_opened == 1:  # the PING's answer delays it, not forever
                early += 1
                assert early < 10
                (answer,) = await mine.send(f"early{early}")
                if mine.pool.stats.connections_opened == 1:
                    # The second is the answer while the connection has gone, and the next one is not up yet.
                    assert answer in (Failure("timeout", maybe_sent=False), Failure("unreachable", maybe_sent=False))
            await mine.up()
            assert statuses(await mine.send("later")) == {200: 1}
        assert not server.faults


async def test_an_answer_before_the_body_was_heard_out(tmp_path: Path) -> None:
    async with serve(tmp_path, initial_window_size=1000) as server:
        server.credit = lambda peer, stream, size: peer.answer(stream, 413) if stream in peer.open else None
        async with client(server) as mine:
            await mine.up()
            mine.submit("large", body=b"x" * 5000)
            assert statuses(await mine.answered("large")) == {413: 1}
            await until(lambda: server.peers[0].resets == {1: 8})
            assert mine.pool.stats.in_flight == 0


@pytest.mark.parametrize("largest", [16_384, 20_000, 1 << 20])
async def test_frames_are_as_large_as_the_server_allows(tmp_path: Path, largest: int) -> None:
    async with serve(tmp_path, max_frame_size=largest, initial_window_size=1 << 20) as server:
        pieces: list[int] = []

        def credit(peer: Peer, stream: int, size: int) -> None:
            pieces.append(size)
            peer.h2.acknowledge_received_data(size, stream)

        server.credit = credit
        async with client(server) as mine:
            await mine.up()
            mine.submit("large", body=body_of("large", 60_000))
            assert statuses(await mine.answered("large")) == {200: 1}
            assert server.peers[0].bodies[1] == body_of("large", 60_000)
            assert max(pieces) == min(largest, 60_000)
        assert not server.faults


async def test_header_blocks_longer_than_a_frame(tmp_path: Path) -> None:
    async with serve(tmp_path) as server, client(server) as mine:
        await mine.up()
        name = "x" * 40_000
        for body in (b"", b"{}"):
            mine.submit(name, body=body)
            assert statuses(await mine.answered(name)) == {200: 1}
            mine.answers.clear()
        assert server.peers[0].requests[1][":path"] == f"/{name}"
        assert not server.faults


async def test_a_transport_that_takes_no_more_stops_the_pool_and_starts_it_again(tmp_path: Path) -> None:
    async with serve(tmp_path, initial_window_size=1 << 24) as server:
        server.greeted = lambda peer: peer.h2.increment_flow_control_window(1 << 30)
        async with client(server, request_timeout=30) as mine:
            await until(lambda: mine.pool.room == 1000)
            (peer,) = server.peers
            await mine.send("first")
            peer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            peer.transport.pause_reading()
            names = [str(number) for number in range(200)]
            for name in names:
                mine.submit(name, body=body_of(name, 100_000))
                await asyncio.sleep(0)
            assert mine.pool.room == 0, "20 MB were taken though nobody reads"
            assert len(mine.pool._waiting) > 100
            peer.transport.resume_reading()
            assert statuses(await mine.answered(*names)) == {200: 200}
            arrived = {peer.requests[stream][":path"]: bytes(body) for stream, body in peer.bodies.items()}
            assert all(arrived[f"/{name}"] == body_of(name, 100_000) for name in names)
        assert not server.faults
