"""The server beneath the calls: broken requests, bodies that come slowly or not at all, and draining."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
import pytest
import uvloop
from structlog.testing import capture_logs

from pushsvc import telemetry
from pushsvc.api.config import ApiConfig
from pushsvc.api.http.connections import Connection
from pushsvc.api.server import serve
from pushsvc.errors import ConfigError

from .test_intake_kit import (
    ALERT,
    Answer,
    Service,
    Store,
    answer,
    call,
    eventually,
    raw,
    running,
)

BODY = msgspec.json.encode(ALERT)
pytestmark = pytest.mark.usefixtures("no_traceback", "both_ways")
HEAD = b"POST /v1/push HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pusher\r\n"


@pytest.fixture(scope="module", params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both kinds of loop: they differ in how connections end."""
    return "asyncio", {"loop_factory": request.param}


def sized(body: bytes) -> bytes:
    return HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def in_one_chunk(body: bytes) -> bytes:
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def check(answer: Answer, status: int, kind: str) -> None:
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert (answer.json["status"], answer.json["type"]) == (status, f"/docs/guide/reference/errors.md#{kind}")


# --- what is not HTTP -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status", "kind"),
    [
        (b"hello\r\n\r\n", 400, "malformed-request"),
        (b"BREW /v1/push HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed-request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "malformed-request"),
        (b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n", 400, "malformed-request"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400, "malformed-request"),
        (b"GET http://[::1/healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed-request"),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400, "malformed-request"),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "malformed-request"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431, "headers-too-large"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "headers-too-large"),
        (b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 200 + b"\r\n", 431, "headers-too-large"),
    ],
    ids=lambda value: None,
)
async def test_what_cannot_be_read_is_a_problem_document_too(
    data: bytes, status: int, kind: str, service: Service
) -> None:
    check(await raw(service, data), status, kind)
    assert service.store.pushes == {}


@pytest.mark.parametrize("path", [b"//", b"/%ff", b"/%", b"/\xff", b"/..", b"/v1/push/%00", b"*", b"http://y/nowhere"])
async def test_odd_paths_are_4xx(path: bytes, service: Service) -> None:
    found = await raw(service, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pusher\r\n\r\n")
    assert found.status in (400, 404)
    assert found.headers["content-type"] == "application/problem+json"


async def test_expectations(service: Service) -> None:
    length = f"Content-Length: {len(BODY)}\r\n".encode()
    check(await raw(service, HEAD + length + b"Expect: tea\r\n\r\n"), 417, "expectation-failed")
    # It is ignored in HTTP/1.0, where nothing may come before the final answer.
    old = HEAD.replace(b"HTTP/1.1", b"HTTP/1.0")
    assert (await raw(service, old + length + b"Expect: 100-continue\r\n\r\n" + BODY)).status == 202
    reader, writer = await asyncio.open_connection(*service.address)
    writer.write(HEAD + length + b"Expect: 100-continue\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(BODY)
    assert (await answer(reader)).status == 202
    writer.close()
    await writer.wait_closed()


# --- bodies -----------------------------------------------------------------------------------------


async def test_a_body_in_chunks_without_a_length_is_taken(service: Service) -> None:
    reader, writer = await asyncio.open_connection(*service.address)
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for start in range(0, len(BODY), 7):
        part = BODY[start : start + 7]
        writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0)
    assert service.store.pushes == {}
    writer.write(b"0\r\n\r\n")
    assert (await answer(reader)).status == 202
    assert len(service.store.pushes) == 1
    writer.close()
    await writer.wait_closed()


async def test_chunks_that_are_none_are_400(service: Service) -> None:
    found = await raw(service, HEAD + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n")
    assert found.status == 400
    assert found.headers["content-type"] == "application/problem+json"
    assert service.store.pushes == {}


async def test_a_body_in_chunks_is_bounded_as_well() -> None:
    async with running(ApiConfig(port=0, body_limit=100_000)) as service:
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        check(await raw(service, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3), 413, "content-too-large")
        check(await raw(service, HEAD + b"Content-Length: 100001\r\n\r\n"), 413, "content-too-large")
        assert service.store.pushes == {}


async def test_a_slow_body_is_taken_and_one_that_never_ends_is_408() -> None:
    async with running(ApiConfig(port=0, body_timeout=0.5)) as service:
        reader, writer = await asyncio.open_connection(*service.address)
        writer.write(HEAD + f"Content-Length: {len(BODY)}\r\n\r\n".encode())
        writer.write(BODY[:20])
        # Another client is answered meanwhile.
        assert (await call(service, "GET", "/healthz", key=None)).status == 200
        writer.write(BODY[20:])
        assert (await answer(reader)).status == 202
        writer.close()
        await writer.wait_closed()

        service.store.pushes.clear()
        check(await raw(service, HEAD + b"Content-Length: 500\r\n\r\n" + BODY), 408, "request-timeout")
        assert service.store.pushes == {}


@pytest.mark.parametrize("framing", [b"Content-Length: 500\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1f4\r\n"])
@pytest.mark.parametrize("abort", [False, True], ids=["closes", "resets"])
async def test_a_client_that_goes_mid_body_leaves_nothing_behind(framing: bytes, abort: bool, service: Service) -> None:
    with capture_logs() as logs:
        _, writer = await asyncio.open_connection(*service.address)
        writer.write(HEAD + framing + BODY)
        await writer.drain()
        # The server must have begun with it.
        await call(service, "GET", "/healthz", key=None)
        if abort:
            writer.transport.abort()
        else:
            writer.close()
        await eventually(lambda: any(entry.get("status") == 499 for entry in logs))
    assert service.store.pushes == {}
    assert [entry for entry in logs if entry["log_level"] not in ("debug", "info")] == []


async def test_a_client_that_goes_while_its_push_is_written_is_still_accepted_once(service: Service) -> None:
    service.store.gate = asyncio.Event()
    _, writer = await asyncio.open_connection(*service.address)
    writer.write(sized(BODY))
    await writer.drain()
    await call(service, "GET", "/healthz", key=None)
    writer.transport.abort()
    service.store.gate.set()
    await eventually(lambda: len(service.store.pushes) == 1)


async def test_requests_in_one_segment_are_answered_in_order(service: Service) -> None:
    reader, writer = await asyncio.open_connection(*service.address)
    writer.write(sized(BODY) + sized(b"{}") + sized(BODY) + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert [(await answer(reader)).status for _ in range(4)] == [202, 422, 202, 200]
    assert len(service.store.pushes) == 2
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_beyond_what_is_buffered_are_read_to_their_ends(chunked: bool) -> None:
    """Reading pauses and goes on in the middle of each."""
    body = BODY + b" " * 3_000_000
    framed = sized(body)
    if chunked:
        pieces = [body[start : start + 1000] for start in range(0, len(body), 1000)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        framed = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    async with running() as service:
        reader, writer = await asyncio.open_connection(*service.address)
        writer.write(framed * 3 + sized(BODY))
        assert [(await answer(reader)).status for _ in range(4)] == [202] * 4
        writer.close()
        await writer.wait_closed()


async def test_a_refusal_before_the_body_leaves_the_connection_usable(service: Service) -> None:
    reader, writer = await asyncio.open_connection(*service.address)
    writer.write(sized(BODY).replace(b"pusher", b"nobody") + sized(BODY))
    assert [(await answer(reader)).status for _ in range(2)] == [401, 202]
    writer.close()
    await writer.wait_closed()


# --- binding and draining ---------------------------------------------------------------------------


@pytest.mark.parametrize("framed", [sized, in_one_chunk])
async def test_draining_answers_what_is_under_way_and_closes_the_rest(framed: Callable[[bytes], bytes]) -> None:
    config = ApiConfig(port=0, shutdown_timeout=20)
    service = Service(Store(gate=asyncio.Event()))
    assert service.store.gate is not None
    server = serve(service.app(config), config)
    service.url = await server.__aenter__()
    idle_reader, idle_writer = await asyncio.open_connection(*service.address)
    reader, writer = await asyncio.open_connection(*service.address)
    writer.write(framed(BODY))
    await call(service, "GET", "/healthz", key=None)
    ending = asyncio.ensure_future(server.__aexit__(None, None, None))
    # The idle connection is closed at once, the busy one is waited for.
    assert await asyncio.wait_for(idle_reader.read(), 20) == b""
    assert not ending.done()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*service.address)
    service.store.gate.set()
    last = await answer(reader)
    # https://www.rfc-editor.org/rfc/rfc9112#section-9.6-7
    assert (last.status, last.headers["connection"]) == (202, "close")
    await asyncio.wait_for(ending, 20)
    assert await reader.read() == b""
    assert len(service.store.pushes) == 1
    for each in (idle_writer, writer):
        each.close()


class Tracer:
    """Chooses every request, and notes how spans ended."""

    carried = bytes(telemetry.traces.CARRIED)

    def __init__(self) -> None:
        self.ended: list[tuple[Mapping[str, str | int], str]] = []

    def begin(self, parent: telemetry.traces.Parent | None = None) -> Tracer:
        return self

    def note(self, names: telemetry.traces.Names, texts: tuple[str, ...], numbers: tuple[float, ...] = ()) -> None:
        self.names = names

    def end(self, alike: telemetry.traces.Alike) -> None:
        assert alike.names is self.names
        self.ended.append((dict(alike.attributes), alike.error))

    def record(self, span: telemetry.traces.Recorded, parent: bytes) -> None:
        raise AssertionError("nothing is below the span of the request")

    def close(self) -> None:
        raise AssertionError("it is not ours to close")


@pytest.mark.parametrize("seconds", [0.2, 0.0])
async def test_draining_is_bounded(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    tracer = Tracer()
    monkeypatch.setattr(telemetry.traces, "tracer", tracer)

    config = ApiConfig(port=0, shutdown_timeout=seconds)
    service = Service(Store(gate=asyncio.Event()))
    async with serve(service.app(config), config) as service.url:
        reader, writer = await asyncio.open_connection(*service.address)
        writer.write(sized(BODY))
        await call(service, "GET", "/healthz", key=None)
    assert await reader.read() == b""
    assert service.store.pushes == {}
    writer.close()
    # The trace of a request that was cut off has its root.
    ((about, cause),) = tracer.ended
    assert cause == "CancelledError"
    assert (about["http.route"], about["pushsvc.app"]) == ("/v1/push", "shop")
    assert "http.response.status_code" not in about


async def test_draining_waits_once_for_a_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What serves and dispatches has its time to drain after this."""
    loop, full = asyncio.get_running_loop(), asyncio.Event()
    pause = Connection.pause_writing

    def pause_writing(self: Connection) -> None:
        pause(self)
        full.set()

    monkeypatch.setattr(Connection, "pause_writing", pause_writing)
    config, service = ApiConfig(port=0, shutdown_timeout=2.0), Service(Store())
    async with serve(service.app(config), config) as service.url:
        _, writer = await asyncio.open_connection(*service.address, limit=1)
        writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
        await full.wait()
        begun = loop.time()
    took = loop.time() - begun
    writer.transport.abort()
    assert 1.9 <= took < 3.9


async def test_an_address_that_is_taken_is_a_configuration_error() -> None:
    async with running() as service:
        host, port = service.address
        config = ApiConfig(host=host, port=port)
        with pytest.raises(ConfigError, match=f"server.port: 127.0.0.1:{port} is in use by another process"):
            async with serve(service.app(config), config):
                pass
    with pytest.raises(ConfigError, match="cannot listen on"):
        async with serve(service.app(config), ApiConfig(host="192.0.2.1", port=0)):
            pass


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="this system has no SO_REUSEPORT")
async def test_two_processes_may_share_a_port() -> None:
    shared = ApiConfig(port=0, reuse_port=True)
    async with running(shared) as first:
        again = ApiConfig(port=first.address[1], reuse_port=True)
        async with running(again) as second:
            assert second.url == first.url


async def test_ipv6_addresses_are_bracketed() -> None:
    if not socket.has_ipv6:
        pytest.skip("this system has no IPv6")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this system has no IPv6 loopback")
    async with running(ApiConfig(host="::1", port=0)) as service:
        assert service.url.startswith("http://[::1]:")
        assert (await call(service, "GET", "/healthz", key=None)).status == 200


@pytest.mark.parametrize(
    ("line", "headers", "status", "connection", "length"),
    [
        ("GET /healthz HTTP/1.1", "", "HTTP/1.1 200 OK", None, "15"),
        ("GET /healthz HTTP/1.1", "Connection: close\r\n", "HTTP/1.1 200 OK", "close", "15"),
        ("GET /healthz HTTP/1.0", "", "HTTP/1.0 200 OK", None, "15"),
        ("GET /healthz HTTP/1.0", "Connection: keep-alive\r\n", "HTTP/1.0 200 OK", "keep-alive", "15"),
        ("HEAD /healthz HTTP/1.1", "", "HTTP/1.1 200 OK", None, "15"),
        ("OPTIONS /healthz HTTP/1.1", "", "HTTP/1.1 204 No Content", None, None),
    ],
)
async def test_the_head_of_an_answer(
    line: str, headers: str, status: str, connection: str | None, length: str | None, service: Service
) -> None:
    """As RFC 9110 and RFC 9112 have it: the version of the request, the length of what follows, what becomes of the
    connection, the date."""
    reader, writer = await asyncio.open_connection(*service.address)
    writer.write(f"{line}\r\nHost: x\r\n{headers}\r\n".encode())
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if "HEAD" not in line and length:
            assert await reader.readexactly(int(length)) == b'{"status":"ok"}'
    first, *lines = head.strip().split("\r\n")
    found = dict(each.split(": ", 1) for each in lines)
    assert (first, found.get("Connection"), found.get("Content-Length")) == (status, connection, length)
    assert abs(parsedate_to_datetime(found["Date"]).timestamp() - time.time()) < 60
    assert found["Server"] == "pushsvc"
    if first.startswith("HTTP/1.1") and connection is None:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answer(reader)).status == 200
    writer.close()
    await writer.wait_closed()
