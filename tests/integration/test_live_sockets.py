"""The sockets of the live gateway, by raw clients: what is answered, what is refused, how connections end."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from pushsvc import telemetry
from pushsvc.errors import InvalidRequest
from pushsvc.live.peer import Request
from pushsvc.live.sockets.connection import HttpConnection
from pushsvc.live.sockets.emulation import new_session
from pushsvc.live.sockets.http import HttpAnswer, HttpRoute
from pushsvc.live.sockets.strangers import Strangers
from pushsvc.live.sockets.transports import ENDS_AFTER
from pushsvc.model.live import denied

from .live_rig import LOOP as LOOP, Client, Session, gateway, masked, upgrade_request

CONNECT = b'{"id":1,"connect":{"token":"very-secret"}}'


async def _echo(request: Request) -> HttpAnswer:
    echo = {"path": request.path, "query": request.query, "params": request.params, "body": request.body.decode()}
    return HttpAnswer(json.dumps(echo).encode())


async def _refuse(request: Request) -> HttpAnswer:
    raise InvalidRequest("No.")


async def _crash(request: Request) -> HttpAnswer:
    raise RuntimeError(f"quotes {request.body!r}")


ROUTES = [
    HttpRoute("GET", "/v1/live/messages/{id}", _echo),
    HttpRoute("POST", "/v1/live/ack", _echo),
    HttpRoute("POST", "/refuse", _refuse),
    HttpRoute("POST", "/crash", _crash),
]


@asynccontextmanager
async def counting(kind: str, times: int = 1) -> AsyncIterator[None]:
    """Check that the block counts a kind of fault so many times, and no other; none where `kind` is empty."""

    def counted() -> dict[str, float]:
        (metric,) = telemetry.LIVE_FAULTS.collect()
        return {each.labels["kind"]: each.value for each in metric.samples if each.name.endswith("_total")}

    before = counted()
    yield
    after = counted()
    added = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    assert added == ({kind: times} if kind else {})


# --- WebSocket ------------------------------------------------------------------------------------------


async def test_a_websocket_carries_messages_both_ways_however_they_are_cut() -> None:
    async with gateway() as live:
        client = await live.upgrade()
        data = (
            masked(1, b"one") + masked(1, b"tw", final=False) + masked(9, b"ping") + masked(0, b"o") + masked(2, b"3")
        )
        for n in range(len(data)):
            client.send(data[n : n + 1])
            await asyncio.sleep(0)
        assert [await client.frame() for _ in range(4)] == [(1, b"one"), (10, b"ping"), (1, b"two"), (1, b"3")]
        client.send(data + data)
        assert [(await client.frame())[1] for _ in range(8)] == [b"one", b"ping", b"two", b"3"] * 2
        session = await live.session()
        assert (session.transport.name, session.transport.format, session.transport.session) == (
            "websocket",
            "json",
            "",
        )
        assert not session.transport.frame_pings


async def test_frames_that_come_with_the_upgrade_are_read() -> None:
    async with gateway() as live:
        client = await live.connect()
        client.send(upgrade_request() + masked(1, CONNECT) + masked(1, b"x")[:3])
        await client.head()
        assert await client.frame() == (1, CONNECT)
        client.send(masked(1, b"x")[3:])
        assert await client.frame() == (1, b"x")


@pytest.mark.parametrize(
    ("query", "headers", "opcode"),
    [
        ("?format=protobuf", {}, 2),
        ("?cf_protocol=protobuf", {}, 2),
        ("", {"Sec_WebSocket_Protocol": "centrifuge-protobuf"}, 2),
        ("", {"Sec_WebSocket_Protocol": "other, centrifuge-json"}, 1),
        ("?format=json", {}, 1),
    ],
)
async def test_the_format_is_asked_for_in_the_url_or_as_a_subprotocol(
    query: str, headers: dict[str, str], opcode: int
) -> None:
    async with gateway() as live:
        client = await live.upgrade(query, **headers)
        client.send(masked(2, b"\x02\x08\x01"))
        assert await client.frame() == (opcode, b"\x02\x08\x01")
        assert (await live.session()).transport.format == ("protobuf" if opcode == 2 else "json")


async def test_pings_of_websocket_are_for_those_who_ask() -> None:
    async with gateway() as live:
        client = await live.upgrade("?cf_ws_frame_ping_pong=true")
        session = await live.session()
        assert session.transport.frame_pings
        session.transport.ping()
        assert await client.frame() == (9, b"")
        client.send(masked(10) + masked(1, b"x"))
        await client.frame()
        assert session.pongs == 1


async def test_a_close_frame_is_answered_and_its_end_is_clean() -> None:
    async with gateway() as live:
        client = await live.upgrade()
        client.send(masked(8, (1000).to_bytes(2) + b"bye") + masked(1, b"more"))
        assert await client.frame() == (8, (1000).to_bytes(2))
        assert await client.closed()
        session = await live.session()
        await session.end.wait()
        assert (session.ended, session.transport.code, session.messages) == ([True], 1000, [])
        session.transport.write(b"nothing")
        session.transport.close(3001, "nothing")
        assert session.transport.code == 1000
        assert live.sockets.connections == 0


async def test_an_end_without_a_close_frame_is_not_clean() -> None:
    async with gateway() as live:
        (await live.upgrade()).abort()
        client = await live.upgrade()
        client.writer.close()
        for session in [await live.session(0), await live.session(1)]:
            await session.end.wait()
            assert (session.ended, session.transport.code) == ([False], 1006)


async def test_the_session_ends_a_connection_with_its_code() -> None:
    async with gateway() as live:
        client = await live.upgrade()
        session = await live.session()
        session.transport.write(b"last")
        session.transport.close(4501, "replaced")
        session.transport.close(3001, "again")
        client.send(masked(1, b"late"))
        assert await client.frame() == (1, b"last")
        assert await client.frame() == (8, (4501).to_bytes(2) + b"replaced")
        assert session.ended == []
        client.send(masked(8, (4501).to_bytes(2)))
        assert await client.closed()
        await session.end.wait()
        assert (session.ended, session.transport.code, session.messages) == ([True], 4501, [])


async def test_a_client_that_does_not_answer_the_close_frame_is_cut() -> None:
    async with gateway(close_within=0.2) as live:
        client = await live.upgrade()
        session = await live.session()
        session.transport.close(3012, "no pong")
        await session.end.wait()
        assert session.ended == [True]
        assert await client.frame() == (8, (3012).to_bytes(2) + b"no pong")
        await client.closed()


@pytest.mark.parametrize(
    ("sent", "code", "kind"),
    [
        (b"\x81\x00", 1002, "frame"),
        (b"\xc1\x80\x00\x00\x00\x00", 1002, "frame"),
        (masked(1, b"\xff"), 1007, "frame"),
        (b"\x82\xff" + (1 << 40).to_bytes(8), 1009, "oversized"),
        (masked(1, b"fail: very-secret"), 1011, ""),  # ours
    ],
)
async def test_a_fault_ends_its_own_connection_only(sent: bytes, code: int, kind: str) -> None:
    async with gateway() as live, counting(kind):
        other = await live.upgrade()
        client = await live.upgrade()
        with capture_logs() as logs:
            client.send(masked(1, b"before") + sent)
            assert await client.frame() == (1, b"before")
            assert await client.close_code() == code
            assert await client.closed()
        assert "very-secret" not in str(logs)
        assert [line["error"] for line in logs] == (["RuntimeError"] if code == 1011 else [])
        other.send(masked(1, b"still here"))
        assert await other.frame() == (1, b"still here")


def buffered(session: Session) -> int:
    """Bytes that wait because the client does not read."""
    connection: Any = session.transport
    size: int = connection._io.get_write_buffer_size()
    return size


async def test_a_slow_reader_is_asked_to_pause_and_then_cut() -> None:
    async with gateway(buffer_soft=32_768, buffer_hard=262_144, close_within=30.0) as live:
        client = await live.upgrade()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        session = await live.session()
        sent = 0
        while not session.transport.paused:
            session.transport.write(b"x" * 10_000)
            sent += 10_000
            await asyncio.sleep(0)
            assert sent < 100_000_000
        assert session.ended == []
        assert buffered(session) > 32_768
        while not session.ended:
            session.transport.write(b"x" * 10_000)
            await asyncio.sleep(0)
            assert buffered(session) < 400_000
        assert (session.ended, session.transport.code) == ([False], 3008)
        # It still learns why, if it reads in time.
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        kinds = []
        while 8 not in kinds:
            kind, payload = await client.frame()
            kinds.append(kind)
        assert payload == (3008).to_bytes(2) + b"slow"


async def test_a_reader_that_catches_up_goes_on() -> None:
    async with gateway(buffer_soft=32_768) as live:
        client = await live.upgrade()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        session = await live.session()
        count = 0
        while not session.transport.paused:
            session.transport.write(b"x" * 10_000)
            count += 1
            await asyncio.sleep(0)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(count):
            assert len((await client.frame())[1]) == 10_000
        assert session.resumes >= 1
        assert (session.transport.paused, session.ended) == (False, [])


async def test_pongs_do_not_pile_up_for_a_client_that_does_not_read() -> None:
    async with gateway(buffer_soft=16_384) as live:
        client = await live.upgrade()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        session = await live.session()
        while not session.transport.paused:
            session.transport.write(b"x" * 10_000)
            await asyncio.sleep(0)
        before = buffered(session)
        for _ in range(1000):
            client.send(masked(9, b"p" * 125))
        client.send(masked(1, b""))
        session.echo = False
        while not session.messages:
            await asyncio.sleep(0.01)
        assert buffered(session) <= before


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /connection/websocket HTTP/1.1\r\nHost: g\r\n\r\n", 426),
        (upgrade_request().replace(b"-Version: 13", b"-Version: 7"), 426),
        (upgrade_request().replace(b"GET", b"POST"), 405),
        (upgrade_request().replace(b"websocket\r\n", b"h2c\r\n"), 426),
        (upgrade_request(Origin="https://elsewhere.example"), 403),
        (upgrade_request(Sec_WebSocket_Key="twice"), 400),
    ],
)
async def test_a_wrong_upgrade_is_answered_with_a_problem(sent: bytes, status: int) -> None:
    async with gateway() as live, counting("" if status in (403, 405) else "handshake"):
        client = await live.connect()
        client.send(sent)
        answered, headers, body = await client.answer()
        assert (answered, headers["content-type"]) == (status, "application/problem+json")
        assert json.loads(body)["status"] == status
        assert live.sessions == []


@pytest.mark.parametrize(
    ("origin", "allowed", "enters"),
    [
        (None, (), True),
        ("https://gateway.test", (), True),
        ("https://shop.example", (), False),
        ("https://shop.example", ("https://shop.example",), True),
        ("https://a.shop.example", ("https://*.shop.example",), True),
        ("https://shop.example.evil.test", ("https://*.shop.example", "https://shop.example"), False),
        ("null", (), False),
        ("null", ("*",), True),
    ],
)
async def test_pages_enter_by_their_origin(origin: str | None, allowed: tuple[str, ...], enters: bool) -> None:
    headers = {} if origin is None else {"Origin": origin}
    async with gateway(allowed_origins=allowed) as live:
        client = await live.connect()
        client.send(upgrade_request(**headers))
        assert (" 101 " in await client.head()) == enters
        for path, body in (("/connection/http_stream", CONNECT), ("/emulation", b"{}")):
            client = await live.connect()
            client.send(
                f"POST {path} HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: {len(body)}\r\n".encode()
                + "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
                + b"\r\n"
                + body
            )
            head = await client.head()
            assert (" 403 " not in head) == enters
            granted = f"Access-Control-Allow-Origin: {origin}" in head
            assert granted == (enters and origin is not None)


# --- HTTP streaming, SSE and emulation -------------------------------------------------------------------


async def test_http_streaming_with_emulation() -> None:
    async with gateway() as live:
        client = await live.connect()
        client.send(b"POST /connection/http_stream HTTP/1.1\r\nHost: g\r\nContent-Length: 42\r\n\r\n" + CONNECT)
        head = await client.head()
        assert "HTTP/1.1 200 OK" in head
        for line in ("X-Accel-Buffering: no", "Cache-Control: no-store, no-transform", "Transfer-Encoding: chunked"):
            assert line in head
        assert "Content-Encoding" not in head
        assert await client.chunk() == CONNECT + b"\n"
        session = await live.session()
        assert (session.transport.name, session.transport.format) == ("http_stream", "json")
        assert len(session.transport.session) >= 22
        other = await live.connect()
        reported = {"session": session.transport.session, "node": "here", "data": '{"id":2}\n{"id":3}'}
        assert (await other.ask("POST", "/emulation", json.dumps(reported).encode()))[0] == 204
        assert await client.chunk() == b'{"id":2}\n{"id":3}\n'
        session.transport.write(b'{"push":{"disconnect":{"code":3001}}}')
        session.transport.close(3001, "shutdown")
        assert not live.sockets.deliver(session.transport.session, b"late")
        assert (await client.chunk()).startswith(b'{"push"')
        ended_at = asyncio.get_running_loop().time()
        assert await client.chunk() == b""
        assert await client.closed()
        # Old versions of centrifuge-js stay away where the end comes together with the message that announces it.
        assert asyncio.get_running_loop().time() - ended_at > ENDS_AFTER - 0.1
        await session.end.wait()
        assert session.ended == [True]
        assert (await other.ask("POST", "/emulation", json.dumps(reported).encode()))[0] == 404


async def test_http_streaming_in_protobuf() -> None:
    async with gateway() as live:
        client = await live.connect()
        client.send(
            b"POST /connection/http_stream HTTP/1.1\r\nHost: g\r\nContent-Type: application/octet-stream\r\n"
            b"Content-Length: 3\r\n\r\n\x02\x08\n"
        )
        assert "Content-Type: application/octet-stream" in await client.head()
        assert await client.chunk() == b"\x02\x08\n"
        session = await live.session()
        assert session.transport.format == "protobuf"
        key = session.transport.session.encode()
        body = b"\x0a\x04here\x12%b%b\x1a\x02\x00\x01" % (bytes((len(key),)), key)
        other = await live.connect()
        answered = await other.ask("POST", "/emulation", body, Content_Type="application/octet-stream")
        assert answered[0] == 204
        assert await client.chunk() == b"\x00\x01"


async def test_sse_has_its_connect_command_in_the_url_which_no_log_shows() -> None:
    with capture_logs() as logs:
        async with gateway() as live:
            client = await live.connect()
            client.send(f"GET /connection/sse?cf_connect={quote(CONNECT)} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
            head = await client.head()
            assert "Content-Type: text/event-stream" in head
            assert "X-Accel-Buffering: no" in head
            assert await client.chunk() == b"\r\n"
            assert await client.chunk() == b"data: " + CONNECT + b"\n\n"
            session = await live.session()
            assert session.transport.name == "sse"
            session.transport.write(b"{}\n{}")
            assert await client.chunk() == b"data: {}\ndata: {}\n\n"
            assert "very-secret" not in repr(session.request)
            bad = await live.connect()
            assert (await bad.ask("GET", "/connection/sse"))[0] == 400
            bad = await live.connect()
            assert (await bad.ask("GET", f"/nowhere?cf_connect={quote(CONNECT)}"))[0] == 404
    assert "very-secret" not in str(logs)


async def test_a_proxy_that_speaks_http_1_0_gets_a_stream_without_chunks() -> None:
    async with gateway() as live:
        client = await live.connect()
        client.send(b"POST /connection/http_stream HTTP/1.0\r\nContent-Length: 42\r\n\r\n" + CONNECT)
        head = await client.head()
        assert "Transfer-Encoding" not in head
        assert await client.reader.readexactly(43) == CONNECT + b"\n"
        (await live.session()).transport.close(3001, "shutdown")
        assert await client.closed()


async def test_a_stream_whose_client_has_gone_is_lost() -> None:
    async with gateway() as live:
        client = await live.connect()
        client.send(b"POST /connection/http_stream HTTP/1.1\r\nHost: g\r\nContent-Length: 42\r\n\r\n" + CONNECT)
        session = await live.session()
        client.abort()
        await session.end.wait()
        assert session.ended == [False]
        assert not live.sockets.deliver(session.transport.session, b"x")


async def test_emulation_is_forwarded_to_the_gateway_of_the_session() -> None:
    forwarded: list[tuple[str, str, bytes]] = []

    async def forward(node: str, session: str, data: bytes) -> bool:
        forwarded.append((node, session, data))
        return node == "there"

    genuine, forged = new_session(b"of all gateways"), new_session(b"of nobody")
    async with gateway(forward=forward, session_key=b"of all gateways") as live, counting("session", 8):
        client = await live.connect()
        for node, session, status in [
            ("there", genuine, 204),
            ("gone", genuine, 404),
            ("here", genuine, 404),
            ("", genuine, 404),
            ("there", "", 404),
            ("there", "s", 404),
            ("there", "\u00e4", 404),
            ("there", forged, 404),
            ("there", genuine[:-1], 404),
        ]:
            body = json.dumps({"session": session, "node": node, "data": "{}"}).encode()
            assert (await client.ask("POST", "/emulation", body))[0] == status
        assert forwarded == [("there", genuine, b"{}"), ("gone", genuine, b"{}")]
        assert live.sessions == []


async def test_a_message_that_is_too_large_is_refused_on_every_way() -> None:
    async with gateway(message_bytes=100) as live, counting("oversized", 3):
        stream = await live.connect()
        stream.send(b"POST /connection/http_stream HTTP/1.1\r\nHost: g\r\nContent-Length: 42\r\n\r\n" + CONNECT)
        session = await live.session()
        client = await live.connect()
        asked = {"session": session.transport.session, "node": "here", "data": "x" * 101}
        assert (await client.ask("POST", "/emulation", json.dumps(asked).encode()))[0] == 413
        for path in ("/connection/http_stream", "/connection/sse"):
            assert (await client.ask("POST", path, b"x" * 101))[0] == 413
        assert session.messages == [CONNECT]
        assert len(live.sessions) == 1


@pytest.mark.parametrize("body", [b"", b"[]", b'{"session":1,"data":"x"}', b'{"session":"s","data":{"id":1}}', b"\xff"])
async def test_a_body_that_is_no_emulation_is_refused(body: bytes) -> None:
    async with gateway() as live, counting("request", 2):
        client = await live.connect()
        assert (await client.ask("POST", "/emulation", body))[0] == 400
        octets = {"Content_Type": "application/octet-stream"}
        assert (await client.ask("POST", "/emulation", b"\x1a\x7f" + body, **octets))[0] == 400


async def test_a_preflight_is_answered() -> None:
    async with gateway(ROUTES, allowed_origins=("https://shop.example",)) as live:
        client = await live.connect()
        for path, method in [
            ("/connection/http_stream", "POST"),
            ("/emulation", "POST"),
            ("/v1/live/messages/1", "GET"),
        ]:
            status, headers, _ = await client.ask("OPTIONS", path, Origin="https://shop.example")
            assert status == 204
            assert method in headers["access-control-allow-methods"]
            assert headers["access-control-allow-headers"] == "Authorization, Content-Type"
            assert headers["access-control-allow-origin"] == "https://shop.example"
            assert (await client.ask("OPTIONS", path, Origin="https://evil.example"))[0] == 403


# --- plain requests --------------------------------------------------------------------------------------


async def test_plain_requests_and_their_problems() -> None:
    async with gateway(ROUTES) as live:
        client = await live.connect()
        status, _, body = await client.ask("GET", "/v1/live/messages/a%2Fb?since=1&since=2&x=%C3%A9")
        assert (status, json.loads(body)["params"]) == (200, {"id": "a/b"})
        assert json.loads(body)["query"] == {"since": "1", "x": "é"}
        assert json.loads((await client.ask("POST", "/v1/live/ack", b"{}"))[2])["body"] == "{}"
        for method, path, expected in [
            ("GET", "/nowhere", "not-found"),
            ("DELETE", "/v1/live/ack", "method-not-allowed"),
            ("POST", "/refuse", "invalid-request"),
            ("GET", "/v1/live/messages/%ff", "malformed-request"),
        ]:
            status, headers, body = await client.ask(method, path)
            document = json.loads(body)
            assert document["type"] == f"/docs/guide/reference/errors.md#{expected}"
            assert document["status"] == status
            assert headers["content-type"] == "application/problem+json"
            assert headers["x-request-id"]
        assert (await client.ask("GET", "/nowhere", X_Request_Id="mine"))[1]["x-request-id"] == "mine"
        assert "POST" in (await client.ask("GET", "/v1/live/ack"))[1]["allow"]
        with capture_logs() as logs:
            status, _, body = await client.ask("POST", "/crash", b"my-secret")
        assert status == 500
        assert json.loads(body)["instance"] in str(logs)
        assert "my-secret" not in str(logs) + body.decode()
        client.send(b"HEAD /v1/live/messages/1 HTTP/1.1\r\nHost: g\r\n\r\n")
        assert "HTTP/1.1 200 OK" in await client.head()
        # Nothing follows the head, and the connection is still good.
        assert (await client.ask("GET", "/v1/live/messages/2"))[0] == 200


async def test_requests_that_are_sent_ahead_are_answered_in_order() -> None:
    async with gateway(ROUTES) as live:
        client = await live.connect()
        for n in range(3):
            client.send(f"GET /v1/live/messages/{n} HTTP/1.1\r\nHost: g\r\n\r\n".encode())
        client.send(upgrade_request() + masked(1, b"hello"))
        for n in range(3):
            assert json.loads((await client.answer())[2])["params"] == {"id": str(n)}
        assert " 101 " in await client.head()
        assert await client.frame() == (1, b"hello")


BAD = {
    "no http": (b"\x16\x03\x01\x00\x00hello\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "length and chunks": (
        b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "long url": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: g\r\n\r\n", 431),
    "endless header": (b"GET / HTTP/1.1\r\nHost: g\r\nX: " + b"a" * 40_000, 431),
    "many headers": (b"GET / HTTP/1.1\r\nHost: g\r\n" + b"X: y\r\n" * 10_000 + b"\r\n", 431),
    "long body": (b"POST /v1/live/ack HTTP/1.1\r\nHost: g\r\nContent-Length: 999999\r\n\r\n", 413),
    "absurd length": (b"POST /v1/live/ack HTTP/1.1\r\nHost: g\r\nContent-Length: " + b"9" * 19 + b"\r\n\r\n", 413),
    "long body in chunks": (
        b"POST /v1/live/ack HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"8000\r\n" + b"a" * 0x8000 + b"\r\n") * 5,
        413,
    ),
    "query": (b"GET /v1/live/messages/1?x=%ff HTTP/1.1\r\nHost: g\r\n\r\n", 400),
    "parameters": (b"GET /v1/live/messages/1?" + b"a=1&" * 100 + b" HTTP/1.1\r\nHost: g\r\n\r\n", 400),
    "ahead": (b"POST /v1/live/ack HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\r\n" * 30, 400),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_cannot_be_read_is_said_and_ends_the_connection(name: str) -> None:
    sent, status = BAD[name]

    async with gateway(ROUTES) as live, counting("http" if status == 400 else "oversized"):
        client = await live.connect()
        client.send(sent)
        answered, body = 200, b""
        while answered == 200:
            answered, headers, body = await client.answer()
        assert (answered, json.loads(body)["status"]) == (status, status)
        assert headers["x-request-id"]
        assert await client.closed()


async def test_a_slow_request_is_ended_also_if_bytes_keep_coming() -> None:
    async with gateway(request_within=0.3) as live:
        silent = await live.connect()
        slow = await live.connect()

        async def drip() -> None:
            for byte in b"GET /" + b"a" * 1000:
                slow.send(bytes((byte,)))
                await asyncio.sleep(0.02)

        task = asyncio.create_task(drip())
        assert (await slow.answer())[0] == 408
        assert await silent.closed()
        task.cancel()


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    released = asyncio.Event()

    async def wait(request: Request) -> HttpAnswer:
        await released.wait()
        return HttpAnswer(b"{}")

    async with gateway([HttpRoute("GET", "/wait", wait)], keep_alive=0.2, request_within=0.3) as live:
        client = await live.connect()
        client.send(b"GET /wait HTTP/1.1\r\nHost: g\r\n\r\n")
        await asyncio.sleep(0.7)
        released.set()
        assert (await client.answer())[0] == 200
        assert await client.closed()


async def test_a_handler_whose_client_has_gone_is_cancelled() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(request: Request) -> HttpAnswer:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return HttpAnswer()

    async with gateway([HttpRoute("GET", "/wait", wait)]) as live:
        client = await live.connect()
        client.send(b"GET /wait HTTP/1.1\r\nHost: g\r\n\r\n")
        await started.wait()
        client.abort()
        await cancelled.wait()


async def test_a_body_is_asked_for_with_100() -> None:
    async with gateway(ROUTES) as live:
        client = await live.connect()
        client.send(b"POST /v1/live/ack HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert " 100 " in await client.head()
        client.send(b"{}")
        assert (await client.answer())[0] == 200


# --- bounds, memory and drain ----------------------------------------------------------------------------


async def test_denied_networks_are_closed_unread() -> None:
    for deny, enters in [(("127.0.0.0/8",), False), (("10.0.0.0/8", "::1/128"), True)]:
        async with gateway(ROUTES, deny_networks=denied(deny).networks) as live:
            client = await live.connect()
            client.send(b"GET /v1/live/messages/1 HTTP/1.1\r\nHost: g\r\n\r\n")
            if enters:
                assert (await client.answer())[0] == 200
            else:
                assert await client.closed()


async def test_the_address_that_a_proxy_forwards_is_that_of_the_client() -> None:
    networks = denied(["203.0.113.0/24"]).networks
    for proxies, forwarded, status in [
        ((), "203.0.113.7", 200),
        (("127.0.0.1",), "198.51.100.1", 200),
        (("127.0.0.1",), "198.51.100.1, 203.0.113.7", 403),
    ]:
        async with gateway(ROUTES, deny_networks=networks, proxies=denied(proxies).networks) as live:
            client = await live.connect()
            head = f"GET /v1/live/messages/1 HTTP/1.1\r\nHost: g\r\nX-Forwarded-For: {forwarded}\r\n\r\n"
            client.send(head.encode())
            found, _, body = await client.answer()
            assert found == status
            assert (b"/docs/guide/reference/errors.md#address-denied" in body) == (status == 403)


async def test_a_full_gateway_says_so_to_new_sessions_and_then_closes_unread() -> None:
    async with gateway(max_connections=8) as live:
        clients = [await live.upgrade() for _ in range(9)]
        assert [session.request.full for session in live.sessions] == [False] * 8 + [True]
        assert await (await live.connect()).closed()
        clients[0].abort()
        await live.sessions[0].end.wait()
        await live.upgrade()


async def test_what_read_the_request_is_freed_when_the_connection_is_open() -> None:
    def readers() -> int:
        return sum(type(each) is HttpConnection for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        async with gateway() as live:
            before = readers()
            for query in ("", "?format=protobuf"):
                client = await live.upgrade(query)
                client.send(masked(1, b"x"))
                await client.frame()
            assert live.sockets.connections == 2
            assert readers() == before
    finally:
        gc.enable()


async def test_a_drain_accepts_nothing_more_and_spreads_the_ends() -> None:
    async with gateway(ROUTES) as live:
        idle = await live.connect()
        assert (await idle.ask("GET", "/v1/live/messages/1"))[0] == 200
        clients = [await live.upgrade() for _ in range(20)]
        ended: list[float] = []

        async def leave(client: Client) -> None:
            assert await client.close_code() == 3001
            ended.append(asyncio.get_running_loop().time())
            await client.closed()

        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(leave(client))
            group.create_task(live.sockets.drain(1.0))
        assert await idle.closed()
        assert max(ended) - min(ended) > 0.5
        assert live.sockets.connections == 0
        with pytest.raises(OSError):  # noqa: PT011  # refused, or reset by the kernel
            await live.upgrade()


async def test_connections_wait_in_the_kernel_while_there_is_enough_to_do() -> None:
    enough = False

    async def one_turn_more(client: Client) -> None:
        """Whatever has come to the gateway before this message has been taken by the time of its answer."""
        client.send(masked(1, b"turn"))
        assert await client.frame() == (1, b"turn")

    async with gateway(accepts=lambda: not enough) as live:
        first = await live.upgrade()
        enough = True
        second = await live.upgrade()  # the one by which it is noticed
        waiting = [await live.connect() for _ in range(20)]
        for client in waiting:
            client.send(upgrade_request())
        for client in (first, second) * 3:
            await one_turn_more(client)
        assert (live.sockets.paused, live.sockets.connections, len(live.sessions)) == (True, 2, 2)
        enough = False
        for client in waiting:
            assert (await client.head()).startswith("HTTP/1.1 101 ")
        assert (live.sockets.paused, live.sockets.connections) == (False, 22)


async def test_connections_that_wait_in_the_kernel_are_informed_of_the_end() -> None:
    async with gateway(accepts=lambda: False) as live:
        clients = [await live.upgrade(), *[await live.connect() for _ in range(20)]]
        for client in clients[1:]:
            client.send(upgrade_request())

        async def is_informed(client: Client, *, opened: bool) -> None:
            assert opened or (await client.head()).startswith("HTTP/1.1 101 ")
            assert await client.close_code() == 3001
            await client.closed()

        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(is_informed(client, opened=client is clients[0]))
            group.create_task(live.sockets.drain(0.1))
        with pytest.raises(OSError):  # noqa: PT011  # refused, or reset by the kernel
            await live.upgrade()


async def test_a_half_open_connection_is_cut_by_its_session() -> None:
    async with gateway(close_within=0.2) as live:
        client = await live.upgrade()
        session = await live.session()
        # Nothing is read and nothing is answered, as by a phone that is gone without a FIN.
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        session.transport.abort()
        await session.end.wait()
        assert (session.ended, session.transport.code) == ([False], 1006)


async def test_an_address_that_is_taken_is_reported() -> None:
    from pushsvc.errors import ConfigError

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="in use"):
            async with gateway(port=taken.getsockname()[1]):
                pass


async def test_strangers_of_one_network_leave_room_for_others() -> None:
    async with gateway(known=False, local_strangers=3) as live:
        clients = [await live.upgrade() for _ in range(2)] + [await live.connect()]
        assert await (await live.connect()).closed()
        live.sessions[0].transport.known()
        clients.append(await live.upgrade())
        assert await (await live.connect()).closed()
        for client in clients:
            client.abort()
        for session in live.sessions:
            await session.end.wait()
        await live.upgrade()


async def test_strangers_behind_a_proxy_are_counted_by_their_own_addresses() -> None:
    async with gateway(known=False, strangers=1, proxies=denied(["127.0.0.1"]).networks) as live:
        await live.upgrade(X_Forwarded_For="198.51.100.1")
        await live.upgrade(X_Forwarded_For="198.51.100.2")
        client = await live.connect()
        client.send(upgrade_request(X_Forwarded_For="198.51.100.1"))
        assert (await client.answer())[0] == 429
        for request in (
            b"GET /connection/sse?cf_connect={} HTTP/1.1\r\n",
            b"POST /connection/http_stream HTTP/1.1\r\nContent-Length: 0\r\n",
        ):
            client = await live.connect()
            client.send(request + b"Host: g\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n")
            assert (await client.answer())[0] == 429
        assert live.sockets._shared.sessions == {}, "nothing is kept of what is refused"


async def test_a_stranger_sends_short_messages_only() -> None:
    async with gateway(known=False, first_bytes=100) as live:
        client = await live.upgrade()
        session = await live.session()
        session.transport.known()
        client.send(masked(1, b"x" * 101))
        assert (await client.frame())[1] == b"x" * 101
        stranger = await live.upgrade()
        stranger.send(masked(1, b"x" * 101))
        assert await stranger.close_code() == 1009


async def test_bodies_that_are_read_slowly_have_a_bound_together() -> None:
    async with gateway(bodies=150, request_within=60.0) as live:
        slow, other = await live.connect(), await live.connect()
        head = b"POST /emulation HTTP/1.1\r\nHost: g\r\nContent-Length: 200\r\n\r\n"
        slow.send(head + b"x" * 100)
        while not live.sockets._shared.bodies:
            await asyncio.sleep(0)
        other.send(head + b"x" * 100)
        assert (await other.answer())[0] == 503
        slow.abort()
        while live.sockets._shared.bodies:
            await asyncio.sleep(0)
        body = json.dumps({"session": "s", "data": ""}).encode()
        assert (await (await live.connect()).ask("POST", "/emulation", body))[0] == 404


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_strangers_are_counted_by_network(address: str, network: str) -> None:
    strangers = Strangers(1, 2)
    assert strangers.enter(address) == network
    assert strangers.enter(address) == ""
    strangers.leave(network)
    assert len(strangers) == 0
    assert strangers.enter(address) == network


def test_a_proxy_of_this_machine_has_the_strangers_of_many_networks() -> None:
    strangers = Strangers(1, 2)
    for address in ("127.0.0.1", "::1", "192.0.2.1"):
        own = [bool(strangers.enter(address)) for _ in range(3)]
        assert own == ([True, False, False] if address == "192.0.2.1" else [True, True, False])


async def test_a_client_that_sends_without_end_is_read_with_pauses_and_others_are_not() -> None:
    async with gateway(messages=50) as live:
        loud, other = await live.upgrade(), await live.upgrade()
        for session in live.sessions:
            session.echo = False
        loud.send(b"".join(masked(1, b"%d" % each) for each in range(120)))
        first = await live.session()
        while len(first.messages) < 120:
            await asyncio.sleep(0)
        loud.send(masked(1, b"later") * 100)
        other.send(masked(1, b"now"))
        while not live.sessions[1].messages:
            await asyncio.sleep(0)
        assert len(first.messages) == 120, "what was read at once is handled, and nothing is read for a second"
        while len(first.messages) < 220:
            await asyncio.sleep(0.01)
        loud.send(masked(1, b"x" * 30_000))
        while len(first.messages) < 221:
            await asyncio.sleep(0.01)
        first.transport.abort()
        await first.end.wait()
        while len(live.sockets._shared.wheel):  # the end of the pause, which finds the connection gone
            await asyncio.sleep(0.01)
