"""The transport against a server of another make: answers whole and cut up, silence, resets, faults of the server."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import cast

import pytest
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, PriorityFrame, PushPromiseFrame

from pushsvc.net.http2.transport import Answer, Failure, Response

from .paused import PausedLoop, paused
from .transport_server import LOOP as LOOP, Client, Peer, both_loops, client, serve, statuses, until


def held(peer: Peer, stream: int) -> None:
    """A script: answer nothing."""


@both_loops
async def test_each_request_gets_its_own_answer(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:

        def echo(peer: Peer, stream: int) -> None:
            name = peer.requests[stream][":path"]
            peer.answer(stream, 200 if len(name) % 2 else 410, b"body of " + name.encode(), {"apns-id": name})

        server.requested = echo
        async with client(server, connections=2) as mine:
            await until(lambda: mine.pool.room == 2000)
            names = [f"n{number}" for number in range(2000)]
            for name, answer in zip(names, await mine.send(*names), strict=True):
                assert isinstance(answer, Response)
                assert answer.status == (410 if len(name) % 2 else 200)
                assert answer.body == f"body of /{name}".encode()
                assert answer.headers == {"apns-id": f"/{name}"}
            assert mine.pool.stats.in_flight == 0
            assert mine.pool.stats.answers == 2000
        assert set(server.processed.values()) == {1}
        assert len(server.processed) == 2000
        assert len(server.peers) == 2
        assert min(len(peer.requests) for peer in server.peers) > 300, "one connection did all the work"
        assert not server.faults


async def test_the_request_arrives_as_it_was_given(tmp_path: Path) -> None:
    async with serve(tmp_path) as server, client(server) as mine:
        await mine.up()
        await mine.send("a", body=b"hello")
        await mine.send("b", body=b"")
        (peer,) = server.peers
        assert peer.requests[1] == {
            ":method": "POST",
            ":scheme": "https",
            ":authority": f"localhost:{server.port}",
            ":path": "/a",
            "apns-topic": "com.example.shop",
        }
        assert [bytes(peer.bodies[stream]) for stream in (1, 3)] == [b"hello", b""]
        assert not server.faults


async def test_an_error_flood_never_stalls_the_connection(tmp_path: Path) -> None:
    """A library that returns no credit stops after 65,535 bytes of error bodies; this is many times that."""
    body = b'{"reason":"BadDeviceToken"}' * 50

    async with serve(tmp_path) as server:
        server.requested = lambda peer, stream: peer.answer(stream, 400, body)
        async with client(server, window=500, receive_window=65_535) as mine:
            await mine.up()
            answers = await mine.send(*range(2_000))
            assert statuses(answers) == {400: 2_000}
            assert all(isinstance(answer, Response) and answer.body == body for answer in answers)
        assert len(server.peers) == 1
        assert not server.faults


async def test_frames_may_come_a_byte_at_a_time(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:
        server.dribble = True
        server.requested = lambda peer, stream: peer.answer(stream, 403, b'{"reason":"Forbidden"}', {"a": "b"})
        async with client(server) as mine:
            await mine.up()
            for answer in await mine.send(*range(5)):
                assert answer == Response(403, b'{"reason":"Forbidden"}', {"a": "b"})


async def test_all_that_may_surround_an_answer(tmp_path: Path) -> None:
    """Informational heads, padding, trailers, CONTINUATION, priority, PING and frames that nobody knows."""
    async with serve(tmp_path) as server:

        def elaborate(peer: Peer, stream: int) -> None:
            peer.frame(PingFrame(0, b"01234567"))
            peer.frame(PriorityFrame(stream, depends_on=0, stream_weight=3))
            peer.raw(b"\x00\x00\x01\xfa\xff" + stream.to_bytes(4, "big") + b"?")
            peer.h2.send_headers(stream, [(":status", "103"), ("link", "</style.css>")])
            peer.h2.send_headers(stream, [(":status", "503"), ("retry-after", "7"), ("long", "x" * 40_000)])
            peer.h2.send_data(stream, b"half", pad_length=200)
            peer.h2.send_data(stream, b"", pad_length=3)
            peer.h2.send_data(stream, b" and half", pad_length=0)
            peer.h2.send_headers(stream, [("trailer", "t")], end_stream=True)
            peer.flush()

        server.requested = elaborate
        async with client(server) as mine:
            await mine.up()
            for answer in await mine.send(*range(3)):
                assert isinstance(answer, Response)
                assert (answer.status, answer.body) == (503, b"half and half")
                assert answer.headers == {"retry-after": "7", "long": "x" * 40_000}
        assert not server.faults


@pytest.mark.parametrize("resized", [True, False], ids=["said so", "silent"])
async def test_a_server_that_keeps_a_dynamic_table_after_all(tmp_path: Path, resized: bool) -> None:
    """We announce a table of size 0. One server says that it goes back to 4096, one never heard us."""
    async with serve(tmp_path) as server:

        def disobey(peer: Peer, stream: int) -> None:
            if stream == 1:
                if not resized:
                    peer.h2.encoder.table_size_changes = []
                peer.h2.encoder.header_table_size = 4096
                if not resized:
                    peer.h2.encoder.table_size_changes = []
            peer.answer(stream, 429 if stream % 3 else 200, b"", {"reason": f"r{stream % 5}", "retry-after": "9"})

        server.requested = disobey
        async with client(server) as mine:
            await mine.up()
            for number in range(200):
                (answer,) = await mine.send(number)
                stream = 2 * number + 1
                assert isinstance(answer, Response)
                assert answer.status == (429 if stream % 3 else 200)
                assert answer.headers == {"reason": f"r{stream % 5}", "retry-after": "9"}
            assert mine.pool.stats.connections_opened == 1


async def test_a_silent_stream_times_out_and_its_neighbours_do_not(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:

        def mostly(peer: Peer, stream: int) -> None:
            if not peer.requests[stream][":path"].startswith("/silent"):
                peer.answer(stream)

        server.requested = mostly
        async with client(server, request_timeout=0.5) as mine:
            await mine.up()
            mine.submit("silent")
            for round_ in range(20):
                assert statuses(await mine.send(*(f"{round_}-{n}" for n in range(10)))) == {200: 10}
                await asyncio.sleep(0.03)
            assert await mine.answered("silent") == [Failure("timeout", maybe_sent=True)]
            (peer,) = server.peers
            await until(lambda: peer.resets)
            assert peer.resets == {1: 8}  # CANCEL
            peer.raw(HeadersFrame(1, b"\x88", flags=["END_HEADERS", "END_STREAM"]).serialize())  # too late
            assert statuses(await mine.send("after")) == {200: 1}
            stats = mine.pool.stats
            assert (stats.timeouts, stats.connections_opened, stats.in_flight) == (1, 1, 0)


@paused
async def test_what_was_answered_in_a_pause_of_the_process_is_read_before_it_times_out(tmp_path: Path) -> None:
    loop = cast(PausedLoop, asyncio.get_running_loop())
    async with serve(tmp_path) as server, client(server, request_timeout=10.0) as mine:

        def answer(peer: Peer, stream: int) -> None:
            peer.answer(stream)
            loop.selector.pause = 15.0

        server.requested = answer
        await mine.up()
        assert statuses(await mine.send("a")) == {200: 1}
        mine.submit("b")
        await mine.pool.aclose()
        assert statuses(await mine.answered("b")) == {200: 1}


@paused
async def test_a_ping_that_was_answered_in_a_pause_of_the_process_keeps_its_connection(tmp_path: Path) -> None:
    loop = cast(PausedLoop, asyncio.get_running_loop())
    async with serve(tmp_path) as server, client(server, request_timeout=0.3) as mine:
        server.requested = held
        await mine.up()
        mine.submit("silent")
        (peer,) = server.peers
        await until(lambda: peer.requests)
        receive = peer.data_received

        def answer(data: bytes) -> None:
            receive(data)
            loop.selector.pause = 1.0

        peer.data_received = answer  # type: ignore[method-assign]
        assert await mine.answered("silent") == [Failure("timeout", maybe_sent=True)]
        await until(lambda: mine.pool.room)
        assert (mine.pool.stats.dead_peers, mine.pool.stats.connections_opened) == (0, 1)


async def test_resets(tmp_path: Path) -> None:
    """REFUSED_STREAM says that nothing was processed, so the request goes again; any other code leaves it open."""
    async with serve(tmp_path) as server:
        seen: Counter[str] = Counter()

        def reset(peer: Peer, stream: int) -> None:
            name = peer.requests[stream][":path"]
            seen[name] += 1
            if name.startswith("/always") or (name.startswith("/refused") and seen[name] < 3):
                peer.reset(stream, 7)
            elif name.startswith("/error"):
                peer.reset(stream, 2)
            elif name.startswith("/begun"):
                peer.h2.send_headers(stream, [(":status", "200")])
                peer.h2.send_data(stream, b"not the wh")
                peer.reset(stream, 2)
            else:
                peer.answer(stream)

        server.requested = reset
        async with client(server, connections=2) as mine:
            await mine.up()
            names = [f"{kind}{n}" for n in range(5) for kind in ("refused", "always", "error", "begun", "fine")]
            assert statuses(await mine.send(*names)) == {200: 10, ("reset", False): 5, ("reset", True): 10}
            assert {seen[f"/always{n}"] for n in range(5)} == {9}, "offered again, but not for ever"
            assert {seen[f"/error{n}"] for n in range(5)} == {1}
            assert mine.pool.stats.connections_opened == 2
        assert set(server.processed.values()) == {1}


async def test_a_body_without_end_is_cut_off(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:

        def gush(peer: Peer, stream: int) -> None:
            if "just" in peer.requests[stream][":path"]:
                peer.answer(stream, 200, b"x" * 65_536)
                return
            peer.h2.send_headers(stream, [(":status", "200")])
            for size in (30_000, 30_000, 5_537):
                for start in range(0, size, 15_000):
                    peer.h2.send_data(stream, b"x" * min(15_000, size - start))
            peer.flush()

        server.requested = gush
        async with client(server) as mine:
            await mine.up()
            just, beyond = await mine.send("just", "beyond")
            assert just == Response(200, b"x" * 65_536, {})
            assert beyond == Failure("response_too_large", maybe_sent=True)
            await until(lambda: server.peers[0].resets == {3: 8})  # CANCEL
            assert statuses(await mine.send("just-again")) == {200: 1}


BREAKS: dict[str, Frame | bytes] = {
    "a frame too large": b"\x00\x40\x01\x00\x00\x00\x00\x00\x01" + b"x" * 16_385,
    "push": PushPromiseFrame(1, 2, b"\x82", flags=["END_HEADERS"]),
    "a stream never opened": DataFrame(9999, b"x"),
    "a header block that is none": HeadersFrame(1, b"\xff\xff\xff\xff\xff\xff\xff\xff", flags=["END_HEADERS"]),
    "a torn header block": HeadersFrame(1, b"\x00\x0aabc", flags=["END_HEADERS"]),
    "frames between header and continuation": HeadersFrame(1, b"\x88").serialize() + PingFrame(0, b"x" * 8).serialize(),
    "padding longer than its frame": b"\x00\x00\x02\x00\x08\x00\x00\x00\x01\xffx",
    "a window beyond its limit": b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x7f\xff\xff\xff",
    "settings to no purpose": b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" * 5000,
    "pings to no purpose": PingFrame(0, b"x" * 8).serialize() * 5000,
    "a header block too long": HeadersFrame(1, b"\x88" + b"\x00" * 16_000).serialize()
    + (b"\x00\x3e\x80\x09\x00\x00\x00\x00\x01" + b"\x00" * 16_000) * 5,
}


@pytest.mark.parametrize("fault", BREAKS)
async def test_a_server_that_breaks_the_protocol_loses_the_connection_and_no_request_its_answer(
    tmp_path: Path, fault: str
) -> None:
    async with serve(tmp_path) as server:
        broken = BREAKS[fault]

        def attack(peer: Peer, stream: int) -> None:
            if len(server.peers) > 1:
                peer.answer(stream)
            elif stream == 5:
                peer.raw(broken if isinstance(broken, bytes) else broken.serialize())

        server.requested = attack
        async with client(server) as mine:
            await mine.up()
            assert statuses(await mine.send("a", "b", "c")) == {("protocol_error", True): 3}
            await until(lambda: server.peers[0] in server.gone)
            assert statuses(await mine.send("d")) == {200: 1}
            assert mine.pool.stats.protocol_errors == 1
            assert mine.pool.stats.connections_opened == 2


async def test_a_malformed_answer_costs_its_stream_only(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:
        malformed = {
            "/headless": DataFrame(1, b"x").serialize(),
            "/no-status": HeadersFrame(1, b"\x10\x01a\x01b", flags=["END_HEADERS", "END_STREAM"]).serialize(),
            "/odd-status": HeadersFrame(1, b"\x08\x032x0", flags=["END_HEADERS", "END_STREAM"]).serialize(),
            "/only-100": HeadersFrame(1, b"\x08\x03100", flags=["END_HEADERS", "END_STREAM"]).serialize(),
            "/twice": HeadersFrame(1, b"\x88", flags=["END_HEADERS"]).serialize() * 2,
        }

        def answer(peer: Peer, stream: int) -> None:
            raw = malformed.get(peer.requests[stream][":path"])
            if raw is None:
                peer.answer(stream)
            else:
                peer.raw(raw.replace(b"\x00\x00\x00\x01", stream.to_bytes(4, "big")))

        server.requested = answer
        async with client(server) as mine:
            await mine.up()
            names = [name[1:] for name in malformed]
            answers = await mine.send(*names, *(f"fine{n}" for n in range(20)))
            assert statuses(answers) == {("protocol_error", True): len(names), 200: 20}
            assert mine.pool.stats.connections_opened == 1
            await until(lambda: len(server.peers[0].resets) == len(names))


async def test_a_callback_that_raises_harms_nobody_else(tmp_path: Path) -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with serve(tmp_path) as server, client(server) as mine:
        await mine.up()

        def raising(name: str, answer: Answer) -> None:
            raise RuntimeError(name)

        mine.submit("before")
        mine.pool.submit(_fields(mine), b"", "mine", raising)
        assert statuses(await mine.send("after")) == {200: 1}
        assert await mine.answered("before")
        assert [str(context["exception"]) for context in complaints] == ["mine"]


async def test_callbacks_may_submit_more(tmp_path: Path) -> None:
    async with serve(tmp_path) as server, client(server, window=3) as mine:
        await mine.up()
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def again(left: int, answer: Answer) -> None:
            assert answer == Response(200, b"", {})
            if left:
                mine.pool.submit(_fields(mine), b"", left - 1, again)
            else:
                finished.set_result(None)

        mine.pool.submit(_fields(mine), b"", 300, again)
        await asyncio.wait_for(finished, 20)
        assert len(server.peers[0].requests) == 301


def _fields(mine: Client) -> bytes:
    return mine._first + b"\x14\x01/"
