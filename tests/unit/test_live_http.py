"""The pure parts of the live gateway's HTTP: origins, routes, queries, and the bodies of `/emulation`."""

from __future__ import annotations

import asyncio
import json
from unittest.mock import Mock
from urllib.parse import quote, urlencode

import pytest
from hypothesis import example, given, strategies as st

from pushsvc.errors import MalformedBody, MethodNotAllowed, NotFound, TooManyRequests, Unauthorized
from pushsvc.live.peer import Request
from pushsvc.live.sockets.config import SocketsConfig
from pushsvc.live.sockets.emulation import read_json, read_protobuf
from pushsvc.live.sockets.http import HttpAnswer, HttpRoute, Router, answer_bytes, problem_answer, read_query
from pushsvc.live.sockets.origins import origin_rule
from pushsvc.live.sockets.shared import Shared
from pushsvc.live.sockets.transports import WebSocketTransport
from pushsvc.live.wheel import Wheel
from pushsvc.model.live import denied
from pushsvc.net.websocket.frames import TEXT, client_frame
from pushsvc.problems import MalformedRequest

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "enters"),
    [
        ("", "push.example", (), True),
        ("https://push.example", "push.example", (), True),
        ("HTTPS://Push.Example", "push.example", (), True),
        ("https://push.example:8443", "push.example:8443", (), True),
        ("https://push.example:8443", "push.example", (), False),
        ("ftp://push.example", "push.example", (), False),
        ("https://", "", (), False),
        ("null", "push.example", (), False),
        ("https://[::1", "push.example", (), False),
        ("https://shop.example", "push.example", ("https://shop.example",), True),
        ("http://shop.example", "push.example", ("https://shop.example",), False),
        ("https://shopXexample", "push.example", ("https://shop.example",), False),
        ("https://a.b.shop.example", "push.example", ("https://*.shop.example",), True),
        ("https://shop.example", "push.example", ("https://*.shop.example",), False),
        ("https://evil.test/.shop.example", "push.example", ("https://*.shop.example",), False),
        ("file://", "push.example", ("*",), True),
        ("null", "push.example", ("null",), True),
    ],
)
def test_origins(origin: str, host: str, allowed: tuple[str, ...], enters: bool) -> None:
    assert origin_rule(allowed)(origin, host) == enters


async def _handler(request: Request) -> HttpAnswer:
    return HttpAnswer()


ROUTER = Router(
    HttpRoute(method, path, _handler)
    for method, path in [
        ("GET", "/healthz"),
        ("GET", "/v1/live/history"),
        ("POST", "/v1/live/ack"),
        ("GET", "/v1/live/messages/{id}"),
        ("DELETE", "/v1/live/messages/{id}"),
    ]
)


def _ask(method: str, path: str) -> Request:
    return Request(method=method, path=path)


@given(TEXTS.filter(bool))
def test_a_parameter_of_the_path_is_what_was_quoted(name: str) -> None:
    route, request = ROUTER.find(_ask("GET", f"/v1/live/messages/{quote(name, safe='')}"))
    assert (route.path, request.params) == ("/v1/live/messages/{id}", {"id": name})


def test_routes() -> None:
    assert ROUTER.find(_ask("HEAD", "/healthz"))[0].method == "GET"
    assert ROUTER.find(_ask("DELETE", "/v1/live/messages/1"))[0].method == "DELETE"
    assert ROUTER.methods("/v1/live/messages/1") == ["DELETE", "GET", "HEAD", "OPTIONS"]
    for path in ("/", "/v1/live/messages/", "/v1/live/messages/1/2", "/v1/live/messages/{id}/", "/healthz/"):
        with pytest.raises(NotFound):
            ROUTER.find(_ask("GET", path))
    assert ROUTER.methods("/connection/websocket") == ["GET", "OPTIONS"]
    with pytest.raises(MethodNotAllowed, match="OPTIONS, POST"):
        ROUTER.find(_ask("GET", "/v1/live/ack"))
    with pytest.raises(MalformedRequest):
        ROUTER.find(_ask("GET", "/v1/live/messages/%ff"))


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/connection/websockets", "did you mean `/connection/websocket`?"),
        ("/connection/http-stream", "did you mean `/connection/http_stream`?"),
        ("/V1/live/message/7", "did you mean `/v1/live/messages/{id}`?"),
        ("/live/history/", "did you mean `/v1/live/history`?"),
        (
            "/",
            "known: /connection/http_stream, /connection/sse, /connection/websocket, /healthz, /v1/live/ack, "
            "/v1/live/history, /v1/live/messages/{id}",
        ),
    ],
)
def test_an_unknown_path_is_refused_with_those_that_may_be_meant(path: str, hint: str) -> None:
    with pytest.raises(NotFound) as caught:
        ROUTER.methods(path)
    assert caught.value.detail == f"There is nothing at this path; {hint}"


@given(st.dictionaries(TEXTS, TEXTS, max_size=5))
def test_a_query_is_read_as_it_was_written(params: dict[str, str]) -> None:
    assert read_query(urlencode(params)) == params


def test_a_query_that_cannot_be_read_is_refused() -> None:
    assert read_query("a=1&a=2&b") == {"a": "1", "b": ""}
    for query in ("a=%ff", "&".join("a=1" for _ in range(65))):
        with pytest.raises(MalformedRequest):
            read_query(query)


def _field(number: int, value: bytes) -> bytes:
    size, out = len(value), bytearray((number << 3 | 2,))
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(out) + bytes((size,)) + value


@given(TEXTS, TEXTS, st.binary(max_size=300), st.permutations([0, 1, 2]))
def test_an_emulation_request_in_protobuf(node: str, session: str, data: bytes, order: list[int]) -> None:
    fields = [_field(1, node.encode()), _field(2, session.encode()), _field(3, data)]
    assert read_protobuf(b"".join(fields[n] for n in order)) == (node, session, data)


@given(st.binary(max_size=40))
@example(b"\x1a" + b"\xff" * 30 + b"\x00")
def test_no_bytes_are_more_than_a_malformed_body(body: bytes) -> None:
    for read in (read_protobuf, read_json):
        try:
            node, session, data = read(body)
        except MalformedBody:
            continue
        assert isinstance(node + session, str)
        assert len(data) <= len(body)


@given(TEXTS, TEXTS, TEXTS)
def test_an_emulation_request_in_json(node: str, session: str, data: str) -> None:
    body = json.dumps({"session": session, "node": node, "data": data}).encode()
    assert read_json(body) == (node, session, data.encode())


def test_a_lone_surrogate_is_a_malformed_body() -> None:
    with pytest.raises(MalformedBody):
        read_json(b'{"session":"s","data":"\\ud800"}')


def test_an_answer_has_its_length_and_a_204_none() -> None:
    full = answer_bytes(HttpAnswer(b"{}"), headers={"Vary": "Origin"}, keep_alive=True, has_body=True)
    assert full.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nVary: Origin\r\n" in full
    assert full.endswith(b"Content-Length: 2\r\n\r\n{}")
    assert answer_bytes(HttpAnswer(b"{}"), headers={}, keep_alive=False, has_body=False).endswith(b"close\r\n\r\n")
    assert b"Content-" not in answer_bytes(HttpAnswer(status=204), headers={}, keep_alive=True, has_body=True)


def test_a_refusal_says_how_to_authenticate() -> None:
    answer = problem_answer(Unauthorized("The token has expired."))
    assert (answer.status, answer.headers) == (401, {"WWW-Authenticate": 'Bearer realm="pushsvc"'})


def test_a_problem_says_when_to_come_back() -> None:
    answer = problem_answer(TooManyRequests("Later.", retry_after=7))
    assert (answer.status, answer.headers, answer.media_type) == (429, {"Retry-After": "7"}, "application/problem+json")
    assert json.loads(answer.body) == {
        "type": "/docs/guide/reference/errors.md#too-many-requests",
        "title": "Too many requests",
        "status": 429,
        "detail": "Later.",
    }


def test_a_request_shows_nothing_secret() -> None:
    request = Request(method="GET", path="/x", query={"cf_connect": "secret"}, headers={"authorization": "secret"})
    assert "secret" not in repr(request)


def test_denied_networks() -> None:
    async def refused(deny: tuple[str, ...], address: str) -> bool:
        config = SocketsConfig(deny_networks=denied(deny).networks)
        return Shared(config, Wheel(lambda: 0.0), lambda transport, request: None, []).is_refused(address)  # type: ignore[arg-type, return-value]

    for deny, address, expected in [
        ((), "203.0.113.7", False),
        (("203.0.113.0/24",), "203.0.113.7", True),
        (("203.0.113.0/24",), "::ffff:203.0.113.7", True),
        (("203.0.113.9",), "203.0.113.7", False),
        (("2001:db8::/32",), "2001:db8::1%eth0", True),
        (("2001:db8::/32",), "", False),
    ]:
        assert asyncio.run(refused(deny, address)) == expected


@pytest.mark.parametrize(("a_second", "least", "most"), [(40, 400, 400), (200, 400, 510), (100_000, 500, 510)])
def test_of_a_client_that_sends_too_much_its_share_of_each_second_is_read(a_second: int, least: int, most: int) -> None:
    async def heard_in_ten_seconds() -> int:
        now, heard, io = 0.0, 0, Mock(spec=asyncio.Transport)
        shared = Shared(SocketsConfig(messages=50), Wheel(lambda: now), lambda transport, request: Mock(), [])
        transport = WebSocketTransport(shared, io, "json", frame_pings=False)
        while now < 10.0:
            transport.data_received(client_frame(TEXT, b"{}", bytes(4)))
            heard += 1
            now += 1 / a_second + io.pause_reading.call_count  # a second, after which it is read again
            io.reset_mock()
        return heard

    assert least <= asyncio.run(heard_in_ten_seconds()) <= most
