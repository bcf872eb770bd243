"""Requests that are read without aiohttp's parser mean the same as to the parser, whatever was sent and however it was
cut: the same requests, the same answers, and the same connection afterwards."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, strategies as st

from pushsvc.api.config import ApiConfig
from pushsvc.api.http.connections import Connection, Connections
from pushsvc.api.http.incoming import read_body
from pushsvc.api.http.problems import respond
from pushsvc.api.http.request import ApiRequest
from pushsvc.api.http.response import Response
from pushsvc.errors import RequestError

CONFIG = ApiConfig(body_limit=300, body_timeout=60.0)
PROBE = b"GET /probe HTTP/1.1\r\nHost: x\r\n\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Parsed(Connection):
    """A connection that leaves every request to the parser."""

    def _take(self, data: bytes) -> bool:
        return False


async def outcome(kind: type[Connection], pieces: list[tuple[bytes, int]]) -> tuple[Any, ...]:
    """Return what a connection of this kind makes of the pieces, and of a further request after them."""
    seen: list[Any] = []

    async def handle(request: ApiRequest) -> Response:
        headers = [(name.lower(), value) for name, value in request.headers.items() if name.lower() != "content-length"]
        url, exists = request.rel_url, request.body_exists
        about = (request.method, request.raw_path, str(url), url.path, request.query_string, request.version, headers)
        seen.append((about, exists, request.keep_alive))
        await asyncio.sleep(0)
        try:
            body = await read_body(request, CONFIG, request.headers.get("Content-Encoding"))
        except RequestError as error:
            return respond(error)
        seen.append(body)
        response = Response(200, request.method.encode() + b" " + body)
        if request.method == "DELETE":
            response.force_close()
        return response

    loop = asyncio.get_running_loop()
    make_request = partial(ApiRequest, loop=loop, client_max_size=CONFIG.body_limit)
    handler: Any = handle
    server = web.Server(handler, request_factory=make_request)
    connections = Connections(server, CONFIG)
    connection = kind(connections, server, CONFIG)
    transport = Transport()
    connection.connection_made(transport)
    await asyncio.sleep(0)
    found = []
    for data, turns in [*pieces, (b"", 40), (PROBE, 40)]:
        if data and not transport.closed:
            connection.data_received(data)
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns == 40:
            found.append((len(transport.written), transport.closed, connection.idle, len(seen)))
    connection.connection_lost(None)
    await asyncio.sleep(0)
    await server.shutdown(0.01)
    written = re.sub(rb"(X-Request-Id: |Date: )[^\r]*", rb"\1", transport.written)
    return written, seen, found


def agree(sent: list[tuple[bytes, int]]) -> None:
    """Both ways make the same of these pieces, each with the turns of the loop that follow it."""

    async def both() -> list[tuple[Any, ...]]:
        return [await outcome(kind, sent) for kind in (Connection, Parsed)]

    whole, parsed = asyncio.run(both())
    assert whole == parsed


# --- what may be odd about a request ----------------------------------------------------------------

FIRST = [
    *(
        "GET /a?b=c HTTP/1.1",
        "HEAD /%41?x HTTP/1.1",
        "PUT /a#b HTTP/1.1",
        "DELETE /a?b#c HTTP/1.1",
        "DELETE /a HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    ),
    *(
        "POST  /a HTTP/1.1",
        "POST /a  HTTP/1.1",
        "POST /a b HTTP/1.1",
        "post /a HTTP/1.1",
        "BREW /a HTTP/1.1",
        "POST /a",
    ),
    *("CONNECT /a HTTP/1.1", "CONNECT a:1 HTTP/1.1", "PRI * HTTP/2.0", "POST a HTTP/1.1", "POST http://y/z HTTP/1.1"),
    *("POST /a HTTP/1.0", "POST /a HTTP/1.2", "POST /a http/1.1", "POST /a HTTP/1.1 ", "POST /?a?b HTTP/1.1", " "),
    *(
        "POST //a HTTP/1.1",
        "POST /\x7f HTTP/1.1",
        "POST /\xe4 HTTP/1.1",
        "",
        "\r\nPOST /a HTTP/1.1",
        "POST /a\tHTTP/1.1",
    ),
    *("GET /" + "".join(map(chr, range(0x21, 0x7F))) + " HTTP/1.1", "GET /" + "a" * 8000 + " HTTP/1.1"),
]
LINES = [
    *(
        "Transfer-Encoding: chunked",
        "transfer-encoding: x",
        "Transfer-Encoding: identity",
        "Transfer-Encoding : chunked",
    ),
    *("Connection: close", "connection: CLOSE", "Connection: keep-alive", "Connection: Keep-Alive", "Connection: x"),
    *("Connection: keep-alive, close", "Proxy-Connection: close", "Connection: upgrade\r\nUpgrade: websocket"),
    *("Connection: Upgrade\r\nUpgrade: h2c", "Upgrade: websocket", "Sec-WebSocket-Key1: x", "Expect: 100-continue"),
    *("Host: y", "host: x", "Content-Length: 2", "Content-Length: 3", "CONTENT-LENGTH: 2", "Content-Length : 2"),
    *(
        "X : a",
        " X: a",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X:",
        "X: ",
        "X:a",
        "X:\t a\tb \t",
        "X: a\x00b",
        "X\x00: a",
        "X: \xff",
    ),
    *(
        "X\xe4: a",
        "X: a\nY: b",
        "X: a\rY: b",
        "X",
        ": a",
        "X@: a",
        "X: \x0b",
        "X: \x7f",
        "!#$%&'*+.^_`|~9: a",
        "Cookie: a=b",
    ),
    *(
        "X-Request-Id: a",
        "X: b\r\nX: c",
        "Content-Type: a\r\ncontent-type: b",
        "User-Agent: a\r\nUser-Agent: b",
        "X-0: 1",
    ),
    *("X: " + "a" * 8000, "X: " + "a" * 9000, "\r\n".join(f"Y-{n}: x" for n in range(90)), "Content-Encoding: gzip"),
    "\r\n".join(f"Y-{n}: x" for n in range(130)),
]
LENGTHS = [
    "05",
    "+2",
    "2 ",
    " 2",
    "2, 2",
    "2,2",
    "0x2",
    "-1",
    "9999999999",
    "99999999999999999999",
    "2\x0b",
    "",
    "1e1",
    "2 2",
]
BODIES = ["", "{}", "a", "0\r\n\r\n", "5\r\nabcde\r\n0\r\n\r\n", PROBE.decode(), "x" * 299, "x" * 301]


def request(first: str = "POST /v1/push HTTP/1.1", *lines: str, body: str = "{}", length: str | None = None) -> bytes:
    """Return a request with these lines behind those that every one has."""
    size = str(len(body)) if length is None else length
    head = [first, "Host: x", "X-0: 0", f"Content-Length: {size}", *lines, "", ""]
    return ("\r\n".join(head) + body).encode("latin-1")


ODD = [
    *(request(first) for first in FIRST),
    *(request("POST /v1/push HTTP/1.1", line, body=body) for line in LINES for body in ("{}", BODIES[4])),
    *(request(length=length) for length in LENGTHS),
    *(request(body=body) for body in BODIES),
    b"POST / HTTP/1.1\r\nX: y\r\nContent-Length: 2\r\n\r\n{}",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n",
    request().replace(b"X-0: 0", b"X-0: 1"),
    request() + b"\r\n",
    request() * 2,
]


@pytest.mark.parametrize("turns", [0, 1, 2, 20])
@pytest.mark.parametrize("cut", ["", "before the next", "in the head", "after the head", "in the body", "short"])
def test_both_ways_agree_on_each_oddity(cut: str, turns: int) -> None:
    for odd in ODD:
        end = len(odd) - len(odd.partition(b"\r\n\r\n")[2])
        places = {"in the head": end // 2, "after the head": end, "in the body": (end + len(odd)) // 2}
        pieces = [odd]
        if cut in places:
            pieces = [odd[: places[cut]], odd[places[cut] :]]
        elif cut == "short":
            pieces = [odd[: end // 2]]
        sent = [request(), *pieces, request(body="[2]"), request()]
        if cut == "before the next":
            sent[1:3] = [odd + sent[2]]
        agree([(piece, turns) for piece in sent])


def test_a_connection_returns_to_the_short_way() -> None:
    """A body in a piece of its own, chunks, or requests in one piece: what is read by the parser, and what is not."""
    taken: list[bytes] = []

    class Counted(Connection):
        def _take(self, data: bytes) -> bool:
            done = super()._take(data)
            taken.append(data) if done else None
            return done

    chunked = request("POST /a HTTP/1.1", body="").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    first, second, third = (request(f"POST /{n} HTTP/1.1") for n in range(3))
    sent = [first, second[:-1], second[-1:], third, first + second, third, chunked + b"0\r\n\r\n", first]
    asyncio.run(outcome(Counted, [(piece, 20) for piece in sent]))
    assert taken == [first, third, third]


# --- and of whatever else ---------------------------------------------------------------------------


@st.composite
def pieces(draw: st.DrawFn) -> list[tuple[bytes, int]]:
    """Return requests, most of them whole, and others cut at any byte or several in one, each with the turns of the
    loop that follow it."""
    odd = st.sampled_from(ODD)
    usual = st.builds(request, body=st.sampled_from(BODIES))
    sent = draw(st.lists(st.one_of(usual, odd, st.binary(max_size=5)), min_size=1, max_size=4))
    if draw(st.booleans()):
        number = draw(st.integers(0, len(sent) - 1))
        place = draw(st.integers(0, len(sent[number])))
        sent[number] = (
            sent[number][:place] + draw(st.binary(max_size=2)) + sent[number][place + draw(st.integers(0, 2)) :]
        )
    data = b"".join(sent)
    ends = accumulate(map(len, sent))
    kept = [end for end in ends if draw(st.integers(0, 5))]
    places = [0, *sorted([*kept, *draw(st.lists(st.integers(0, len(data)), max_size=3))]), len(data)]
    return [(data[start:end], draw(st.sampled_from([20, 20, 20, 0, 1, 2, 3]))) for start, end in pairwise(places)]


@given(pieces())
def test_both_ways_agree_on_whatever_is_sent(sent: list[tuple[bytes, int]]) -> None:
    agree(sent)
