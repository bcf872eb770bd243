"""A GET by the standard library: what is sent, and what is made of each answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from pushsvc.cli.get import get


async def served(answer: bytes, ask: Any) -> tuple[bytes, Any]:
    """Return the head of the request to a server with this answer, and what `ask` makes of it at its URL."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        result = await ask(f"http://127.0.0.1:{port}")
    return heads[0], result


def run(main: Coroutine[Any, Any, tuple[bytes, Any]]) -> tuple[list[str], Any]:
    head, result = asyncio.run(main)
    return head.decode().split("\r\n"), result


def test_it_sends_the_path_as_it_is_written_and_the_headers() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\xc3\xbcber"
    lines, result = run(served(answer, lambda url: get(f"{url}/a%40b/ü?x=%3D", {"Authorization": "Bearer k"})))
    assert lines[0] == "GET /a%40b/%C3%BC?x=%3D HTTP/1.1"
    assert "Authorization: Bearer k" in lines
    assert result == (200, "über")


def test_a_redirect_is_an_answer_and_nobody_else_gets_the_key() -> None:
    elsewhere = b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    lines, result = run(served(elsewhere, get))
    assert lines[0] == "GET / HTTP/1.1"
    assert result == (301, "")


@pytest.mark.parametrize("answer", [b"", b"+PONG\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"])
def test_what_is_no_answer_is_an_error_of_the_network(answer: bytes) -> None:
    with pytest.raises(OSError, match=r"."):
        run(served(answer, get))


@pytest.mark.parametrize("text", ["", "push.example.com", "ftp://x/", "http://", "http://x:port/"])
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        asyncio.run(get(text))
