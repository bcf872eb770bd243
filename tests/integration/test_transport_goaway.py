"""Connections that end: GOAWAY in all its forms, loss, rotation, renewal, closing. Nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pushsvc.net.http2 import silence, transport
from pushsvc.net.http2.transport import Failure

from .transport_server import LOOP as LOOP, Peer, client, serve, statuses, until


@pytest.mark.parametrize("connections", [1, 2])
@pytest.mark.parametrize("graceful", [False, True], ids=["at once", "in two steps"])
async def test_goaway_with_256_in_flight(tmp_path: Path, connections: int, graceful: bool) -> None:
    """The server processes up to the 50th and says so; the others go again elsewhere, each exactly once."""
    async with serve(tmp_path) as server:
        waiting: list[int] = []

        def leave(peer: Peer, stream: int) -> None:
            if peer is not server.peers[0]:
                peer.answer(stream)
                return
            waiting.append(stream)
            if len(waiting) == 256 // connections:
                last = sorted(waiting)[49]
                if graceful:
                    peer.go_away(2**31 - 1)
                peer.go_away(last, 0, b'{"reason":"Shutdown"}')
                for open_stream in waiting:
                    if open_stream <= last:
                        peer.answer(open_stream)

        server.requested = leave
        async with client(server, connections=connections) as mine:
            await until(lambda: mine.pool.room == 1000 * connections)
            names = [str(number) for number in range(256)]
            assert statuses(await mine.send(*names)) == {200: 256}
            assert sorted(server.processed) == sorted(f"/{name}" for name in names)
            assert set(server.processed.values()) == {1}
            stats = mine.pool.stats
            assert stats.resubmitted == 256 // connections - 50
            assert stats.goaways == (2 if graceful else 1)
            assert stats.last_goaway == "0 Shutdown"
            await until(lambda: server.peers[0] in server.gone)
            assert stats.connections_lost == 0
            await until(lambda: mine.pool.room == 1000 * connections)
        assert not server.faults


async def test_between_the_two_steps_of_a_graceful_goaway_nothing_new_is_sent(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:

        def script(peer: Peer, stream: int) -> None:
            if peer is not server.peers[0]:
                peer.answer(stream)
            elif stream == 3:
                peer.go_away(2**31 - 1)

        server.requested = script
        async with client(server) as mine:
            await mine.up()
            mine.submit("a", "b")
            await until(lambda: mine.pool.stats.goaways)
            assert statuses(await mine.send("c", "d")) == {200: 2}
            first = server.peers[0]
            assert list(first.requests) == [1, 3]
            assert first not in server.gone
            first.go_away(3)
            first.answer(1)
            first.answer(3)
            assert statuses(await mine.answered("a", "b")) == {200: 2}
            await until(lambda: first in server.gone)
            assert first.goaway is not None  # we said goodbye as well
            assert first.goaway.error_code == 0
            assert mine.pool.stats.resubmitted == 0


async def test_streams_below_the_last_one_are_lost_with_the_connection_but_those_above_are_not(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:

        def script(peer: Peer, stream: int) -> None:
            if peer is not server.peers[0]:
                peer.answer(stream)
            elif stream == 9:
                peer.go_away(5, 2)
                peer.transport.close()

        server.requested = script
        async with client(server) as mine:
            await mine.up()
            answers = await mine.send("a", "b", "c", "d", "e")
            assert statuses(answers[:3]) == {("connection_lost", True): 3}
            assert statuses(answers[3:]) == {200: 2}
            assert server.processed == {"/d": 1, "/e": 1}


async def test_what_comes_back_goes_first_and_whole(tmp_path: Path) -> None:
    """Of the third body only a part was sent: it goes again from its first byte, and before what came later."""
    async with serve(tmp_path, max_concurrent_streams=3) as server:
        server.credit = lambda peer, stream, size: None
        server.requested = lambda peer, stream: peer.answer(stream) if peer is not server.peers[0] else None
        async with client(server) as mine:
            await mine.up()
            bodies = {name: name.encode() * 30_000 for name in "abcdef"}
            for name, body in bodies.items():
                mine.submit(name, body=body)
            (first,) = server.peers
            await until(lambda: sum(map(len, first.bodies.values())) == 65_535)
            server.credit = lambda peer, stream, size: peer.h2.acknowledge_received_data(size, stream)
            first.go_away(0)
            assert statuses(await mine.answered(*bodies)) == {200: 6}
            second = server.peers[1]
            arrived = [(second.requests[stream][":path"], bytes(body)) for stream, body in second.bodies.items()]
            assert arrived == [(f"/{name}", body) for name, body in bodies.items()]
        assert not server.faults


async def test_a_lost_connection_leaves_what_was_not_written_to_the_next(tmp_path: Path) -> None:
    async with serve(tmp_path, max_concurrent_streams=3) as server:

        def script(peer: Peer, stream: int) -> None:
            if peer is not server.peers[0]:
                peer.answer(stream)
            elif stream == 5:
                peer.transport.abort()

        server.requested = script
        async with client(server) as mine:
            await mine.up()
            names = [str(number) for number in range(10)]
            assert statuses(await mine.send(*names)) == {("connection_lost", True): 3, 200: 7}
            assert mine.pool.stats.connections_lost == 1
            assert mine.pool.stats.connections_opened == 2


async def test_a_server_that_only_says_goaway_is_not_hammered(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:
        server.greeted = lambda peer: (peer.flush(), peer.go_away(0, 11, b"ENHANCE YOUR CALM"))[1]  # type: ignore[func-returns-value]  # a lambda of two calls
        async with client(server, request_timeout=0.6) as mine:
            (answer,) = await mine.send("a")
            assert isinstance(answer, Failure)
            assert not answer.maybe_sent
            assert len(server.peers) < 30
            assert mine.pool.stats.last_goaway == "11 ENHANCE YOUR CALM"
            assert "GOAWAY 11" in mine.pool.trouble or mine.pool.room


async def test_debug_data_that_is_not_a_plain_reason_is_not_kept(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:
        debug = iter(
            [b"token " + b"ab" * 32, b'{"reason":["x"]}', b"\xff\x00", b"[" * 5000, b'{"reason":"' + b"x" * 99]
        )
        server.requested = lambda peer, stream: (peer.answer(stream), peer.go_away(stream, 0, next(debug)))[0]  # type: ignore[func-returns-value]  # a lambda of two calls
        async with client(server) as mine:
            for number in range(5):
                assert statuses(await mine.send(number)) == {200: 1}
                await until(lambda number=number: mine.pool.stats.goaways == number + 1)  # type: ignore[misc]  # a default binds the loop's variable
                assert mine.pool.stats.last_goaway == "0"


async def test_stream_ids_run_out(tmp_path: Path) -> None:
    async with serve(tmp_path) as server, client(server) as mine:
        await mine.up()
        (connection,) = mine.pool._up
        # The server's library counts on from whatever it sees first, as the protocol allows.
        connection.streams.next_stream = 2**31 - 1 - 8
        mine.pool.changed()
        assert mine.pool.room == 5
        assert statuses(await mine.send(*range(20))) == {200: 20}
        assert [max(peer.requests) for peer in server.peers] == [2**31 - 1, 29]
        await until(lambda: server.peers[0] in server.gone)
        assert not server.faults


async def test_renew_drains_the_old_and_uses_the_new(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:

        def script(peer: Peer, stream: int) -> None:
            if not peer.requests[stream][":path"].startswith("/slow"):
                peer.answer(stream)

        server.requested = script
        async with client(server, connections=2) as mine:
            await until(lambda: mine.pool.room == 2000)
            mine.submit("slow1", "slow2", "slow3", "slow4")
            await until(lambda: sum(len(peer.requests) for peer in server.peers) == 4)
            old = list(server.peers)
            mine.pool.renew()
            assert mine.pool.room == 0
            assert "connections are being renewed" in mine.pool.trouble
            assert statuses(await mine.send("a", "b", "c")) == {200: 3}
            assert sum(len(peer.requests) for peer in old) == 4
            for peer in old:
                for stream in list(peer.open):
                    peer.answer(stream)
            assert statuses(await mine.answered("slow1", "slow2", "slow3", "slow4")) == {200: 4}
            await until(lambda: all(peer in server.gone for peer in old))
            await until(lambda: mine.pool.stats.connections_opened == 4)
            mine.pool.renew(server.certificates.client())
            assert statuses(await mine.send("d")) == {200: 1}
        assert not server.faults


async def test_a_connection_that_was_being_made_while_the_pool_was_renewed_is_not_used(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:
        server.connected = lambda peer: peer.transport.pause_reading() if len(server.peers) == 1 else peer.greet()
        async with client(server) as mine:
            await until(lambda: server.peers)
            mine.pool.renew()
            server.peers[0].greet()
            server.peers[0].transport.resume_reading()
            assert statuses(await mine.send("a")) == {200: 1}
            first, second = server.peers
            assert not first.requests
            assert second.requests
            await until(lambda: first in server.gone)


async def test_closing_lets_what_is_in_flight_end(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:
        server.requested = lambda peer, stream: None
        async with client(server, request_timeout=5.0) as mine:
            await mine.up()
            mine.submit("slow")
            (peer,) = server.peers
            await until(lambda: peer.requests)
            closing = asyncio.gather(mine.pool.aclose(), mine.pool.aclose())
            await asyncio.sleep(0)
            assert await mine.send("late") == [Failure("closing", maybe_sent=False)]
            assert not closing.done()
            peer.answer(1)
            await closing
            assert statuses(await mine.answered("slow")) == {200: 1}
            await until(lambda: peer in server.gone)
            assert peer.goaway is not None
            assert peer.goaway.last_stream_id == 0


async def test_closing_does_not_wait_for_ever(tmp_path: Path) -> None:
    async with serve(tmp_path, max_concurrent_streams=1) as server:
        server.requested = lambda peer, stream: None
        async with client(server, request_timeout=0.3) as mine:
            await mine.up()
            mine.submit("sent", "waiting")
            await until(lambda: server.peers[0].requests)
            await mine.pool.aclose()
            sent, waiting = mine.answers["sent"], mine.answers["waiting"]
            assert isinstance(sent, Failure)
            assert isinstance(waiting, Failure)
            assert (sent.maybe_sent, waiting.maybe_sent) == (True, False)


async def test_a_peer_that_died_without_a_word(tmp_path: Path) -> None:
    """Requests time out and nothing at all arrives: a PING asks, and its silence closes the connection."""
    async with serve(tmp_path) as server:

        def die(peer: Peer, stream: int) -> None:
            if peer is server.peers[0]:
                peer.transport.pause_reading()
            else:
                peer.answer(stream)

        server.requested = die
        async with client(server, request_timeout=0.3) as mine:
            await mine.up()
            assert await mine.send("a") == [Failure("timeout", maybe_sent=True)]
            await until(lambda: mine.pool.stats.dead_peers)
            await mine.up()
            assert statuses(await mine.send("b")) == {200: 1}
            assert len(server.peers) == 2


async def test_a_peer_that_is_merely_slow_answers_the_ping_and_keeps_its_connection(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:
        server.requested = lambda peer, stream: None
        async with client(server, request_timeout=0.2) as mine:
            await mine.up()
            assert await mine.send("a", "b") == [Failure("timeout", maybe_sent=True)] * 2
            await mine.up()
            server.requested = lambda peer, stream: peer.answer(stream)
            assert statuses(await mine.send("c")) == {200: 1}
            assert (mine.pool.stats.dead_peers, len(server.peers)) == (0, 1)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that soon doubts whether its server is there."""
    monkeypatch.setattr(transport, "LISTEN", 0.01)
    monkeypatch.setattr(silence, "DOUBT", 0.05)


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_says_nothing_is_known_long_before_its_requests_time_out(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:
        server.requested = lambda peer, stream: peer.transport.pause_reading()
        async with client(server) as mine:
            await mine.up()
            assert mine.pool.silence == 0.0
            mine.submit("a")
            await until(lambda: mine.pool.silence > 0.3)
            assert (mine.answers, mine.pool.stats.dead_peers) == ({}, 0)
            assert mine.pool.room > 0, "it is said, and nothing is cut"
            server.peers[0].answer(1)
            assert statuses(await mine.answered("a")) == {200: 1}
            await until(lambda: mine.pool.silence == 0.0)


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_is_slow_and_answers_pings_is_not_silent(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:
        server.requested = lambda peer, stream: None
        async with client(server) as mine:
            await mine.up()
            (connection,) = mine.pool._up
            mine.submit("a")
            await until(lambda: server.peers[0].open)
            # Nothing but our PINGs makes it talk.
            await until(lambda: connection.last_received > connection.asked_at + 0.3)
            await until(lambda: mine.pool.silence == 0.0)
            assert mine.pool.room > 0
            server.peers[0].answer(1)
            assert statuses(await mine.answered("a")) == {200: 1}


@pytest.mark.usefixtures("impatient")
async def test_of_a_silent_server_idle_connections_are_replaced_too(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:

        def fall_silent(peer: Peer, stream: int) -> None:
            for each in server.peers[:2]:
                each.transport.pause_reading()

        server.requested = fall_silent
        async with client(server, connections=2, request_timeout=0.4) as mine:
            await until(lambda: len(mine.pool._up) == 2)
            assert await mine.send("a") == [Failure("timeout", maybe_sent=True)]
            await until(lambda: mine.pool.stats.dead_peers == 2)
            await until(lambda: mine.pool.stats.connections_opened == 4)
            await until(lambda: mine.pool.silence == 0.0)


async def test_an_idle_connection_is_asked_now_and_then(tmp_path: Path) -> None:
    async with serve(tmp_path) as server, client(server, ping_after=0.05, request_timeout=0.5) as mine:
        await mine.up()
        (connection,) = mine.pool._up
        first = connection.last_received
        await until(lambda: connection.last_received > first + 0.1)  # nothing but our PINGs makes it talk
        assert mine.pool.stats.dead_peers == 0
        assert mine.pool.stats.connections_opened == 1
        server.peers[0].transport.pause_reading()
        await until(lambda: mine.pool.stats.dead_peers == 1)
        await until(lambda: mine.pool.stats.connections_opened == 2)
