"""Compressed bodies: inflated only for a caller with a key, never further than the limit, never without their end."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from pushsvc.api.config import ApiConfig
from pushsvc.api.http.connections import Connection

from .test_intake_kit import ALERT, LOOP as LOOP, Answer, Service, answer, call, raw, running, running_in_thread

pytestmark = pytest.mark.usefixtures("no_traceback", "both_ways")
BODY = msgspec.json.encode(ALERT)
LINES = b"\n".join([BODY] * 20)
GZIP = {"Content-Encoding": "gzip"}


def problem(found: Answer) -> tuple[int, str]:
    return found.status, found.json["type"].rpartition("#")[2]


def raw_deflate(body: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(body) + deflater.flush()


def named(value: str | bytes) -> str:
    """Compressed bytes hold the time, so they are no name of a test."""
    return value if isinstance(value, str) else f"{len(value)} bytes"


@pytest.mark.parametrize(
    ("reported", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY[:50]) + gzip.compress(BODY[50:])),
        ("identity, gzip", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("identity", BODY),
        ("", BODY),
    ],
    ids=named,
)
async def test_what_is_compressed_whole_is_taken(reported: str, body: bytes, service: Service) -> None:
    assert (await call(service, "POST", "/v1/push", body, headers={"Content-Encoding": reported})).status == 202


@pytest.mark.parametrize("reported", ["br", "zstd", "aes128gcm", "gzip, gzip", "\xe9"])
async def test_other_codings_are_415_and_the_answer_says_which_are_taken(reported: str, service: Service) -> None:
    found = await call(service, "POST", "/v1/push", BODY, headers={"Content-Encoding": reported})
    assert problem(found) == (415, "unsupported-media-type")
    assert found.headers["accept-encoding"] == "gzip, deflate"
    assert service.store.pushes == {}


def flushed(body: bytes) -> bytes:
    """Gzip that ends at a flush, as if the sender had died after it."""
    deflater = zlib.compressobj(1, wbits=31)
    return deflater.compress(body) + deflater.flush(zlib.Z_SYNC_FLUSH)


WHOLE = gzip.compress(LINES)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", WHOLE[: len(WHOLE) // 2]),
        ("gzip", flushed(BODY + b"\n")),
        ("gzip", WHOLE[:-8]),
        ("gzip", WHOLE[:-1]),
        ("gzip", WHOLE[:-8] + bytes(4) + WHOLE[-4:]),
        ("gzip", WHOLE[:-4] + bytes(4)),
        ("gzip", WHOLE + b"rest"),
        ("gzip", WHOLE + WHOLE[:-3]),
        ("gzip", gzip.compress(b"") * 300),
        ("gzip", b""),
        ("gzip", LINES),
        ("deflate", zlib.compress(LINES)[:-4]),
        ("deflate", zlib.compress(LINES)[:-1]),
        ("deflate", zlib.compress(LINES) + b"rest"),
        ("deflate", raw_deflate(LINES)[:-2]),
        ("deflate", b"none"),
        ("deflate", b""),
    ],
    ids=named,
)
async def test_what_is_broken_or_cut_off_is_400_and_nothing_of_it_is_accepted(
    coding: str, body: bytes, service: Service
) -> None:
    headers = {"Content-Encoding": coding, "Content-Type": "application/x-ndjson"}
    found = await call(service, "POST", "/v1/push/batch", body, headers=headers)
    assert problem(found) == (400, "malformed-body")
    assert service.store.pushes == {}
    assert (await call(service, "GET", "/healthz")).status == 200


def test_a_body_cut_anywhere_is_never_accepted() -> None:
    with running_in_thread() as service:

        @settings(max_examples=60, deadline=None)
        @given(st.sampled_from([gzip.compress, zlib.compress, raw_deflate]), st.integers(0, 10_000))
        def check(compress: object, place: int) -> None:
            assert callable(compress)
            whole = compress(LINES)
            reported = "gzip" if compress is gzip.compress else "deflate"
            headers = {"Content-Encoding": reported, "Content-Type": "application/x-ndjson"}
            cut = whole[: place % len(whole)]
            assert asyncio.run(call(service, "POST", "/v1/push/batch", cut, headers=headers)).status == 400

        check()
        assert service.store.pushes == {}


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_the_limit_of_a_body_is_that_of_what_it_inflates_to(coding: str) -> None:
    async with running(ApiConfig(port=0, body_limit=100_000)) as service:
        compress = gzip.compress if coding == "gzip" else zlib.compress
        headers = {"Content-Encoding": coding}
        fits = BODY + b" " * (100_000 - len(BODY))
        assert (await call(service, "POST", "/v1/push", compress(fits), headers=headers)).status == 202
        found = await call(service, "POST", "/v1/push", compress(fits + b" "), headers=headers)
        assert problem(found) == (413, "content-too-large")


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """Some 300 KB that inflate to 300 MB."""
    deflater = zlib.compressobj(9, wbits=31)
    return b"".join(deflater.compress(bytes(1_000_000)) for _ in range(300)) + deflater.flush()


@pytest.mark.parametrize(
    ("path", "key", "status"), [("/nowhere", None, 404), ("/v1/push", None, 401), ("/v1/push", "full", 413)]
)
async def test_a_bomb_costs_nothing(bomb: bytes, path: str, key: str | None, status: int, service: Service) -> None:
    # Inflating it takes a second of this thread; what it takes here is measured as work, not as time that passes.
    before = time.thread_time()
    assert (await call(service, "POST", path, bomb, key=key, headers=GZIP)).status == status
    assert time.thread_time() - before < 0.25


@pytest.mark.parametrize("key", [None, "pusher"])
@pytest.mark.parametrize("path", [b"/v1/push", b"/nowhere", b"/healthz"])
@pytest.mark.parametrize("reported", [b"gzip", b"deflate", b"br", b"zstd"])
async def test_bytes_that_are_none_leave_no_traceback(
    reported: bytes, path: bytes, key: str | None, service: Service
) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Encoding: " + reported + b"\r\n"
    head += b"" if key is None else f"Authorization: Bearer {key}\r\n".encode()
    found = await raw(service, head + b"Content-Length: 7\r\n\r\nnotgzip")
    assert found.status in (400, 401, 404, 405, 415)
    # The same in chunks, the last of which is broken: it is thrown away after the answer.
    assert (await raw(service, head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nnot\r\nnonsense")).status < 500


async def test_what_follows_an_answer_is_bounded() -> None:
    async with running(ApiConfig(port=0, body_limit=1_000_000)) as service:
        reader, writer = await asyncio.open_connection(*service.address)
        writer.write(b"POST /v1/push HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        assert (await answer(reader)).status == 401
        sent = 0
        try:
            while sent < 100_000_000:
                writer.write(bytes(100_000))
                await writer.drain()
                sent += 100_000
        except ConnectionError:
            pass
        # The buffers of two sockets are some megabytes.
        assert sent < 50_000_000
        writer.close()


async def test_a_body_that_goes_on_behind_its_answer_leaves_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop hands over several pieces in one turn: the connection is closed before the first of them is read."""
    received = Connection.data_received

    def in_pieces(self: Connection, data: bytes) -> None:
        received(self, data[:1])
        received(self, data[1:])

    monkeypatch.setattr(Connection, "data_received", in_pieces)
    async with running(ApiConfig(port=0, body_limit=100_000)) as service:
        reader, writer = await asyncio.open_connection(*service.address)
        writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        assert (await answer(reader)).status == 404
        writer.write(bytes(1_000_000))
        async with asyncio.timeout(20):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
        await call(service, "GET", "/healthz", key=None)  # by then the closed connection has been left
