"""An answer: its status line, its headers and its body, encoded at once and sent in one write. aiohttp's own responses
took a tenth of the time of a push for this."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from aiohttp import HttpVersion10, HttpVersion11

from .request import REQUEST_ID, ApiRequest

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


@lru_cache(maxsize=1)
def _dated(second: int) -> str:
    """Return the header `Date`."""
    return f"Date: {formatdate(second, usegmt=True)}\r\n"


@lru_cache(maxsize=256)
def _first_line(version: tuple[int, int], status: int) -> str:
    return f"HTTP/{version[0]}.{version[1]} {status} {_PHRASES.get(status, '')}\r\n"


class Common:
    """The headers that many answers have in common."""

    __slots__ = ("fields", "lines")

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.fields = fields
        self.lines = _lines(fields)


def _lines(headers: Mapping[str, str]) -> str:
    """Return headers as they are sent. Raises `ValueError` for one that contains the end of a line."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header of the answer contains the end of a line")
    return lines


_NONE: Final = Common({})


class Response:
    """An answer. aiohttp's loop calls `prepare`, then `write_eof`, and keeps the connection by `keep_alive`."""

    __slots__ = ("_request", "_sent", "body", "common", "headers", "keep_alive", "status")

    def __init__(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] = MappingProxyType({}), common: Common = _NONE
    ) -> None:
        """Create an answer with these headers, which replace those of the same name in `common`."""
        self.status = status
        self.body = body
        self.headers = headers
        self.common = common
        self.keep_alive: bool | None = None
        """Whether the connection is kept; None: as the client asks for."""
        self._sent = False

    def force_close(self) -> None:
        """Close the connection after this answer."""
        self.keep_alive = False

    async def prepare(self, request: ApiRequest) -> None:
        """Get ready to answer this request."""
        self._request = request

    async def write_eof(self) -> None:
        """Send the answer, unless it was streamed. Raises `ConnectionError` where the client has gone."""
        if data := self.encoded(self._request):
            await self._request.writer.write_eof(data)

    def encoded(self, request: ApiRequest) -> bytes:
        """Return what is sent to answer this request, which is nothing more where the answer was streamed. Raises
        `ValueError` for a header that contains the end of a line."""
        if self._sent:
            return b""
        body, length = self.body, ""
        if self.status in (204, 304):  # https://www.rfc-editor.org/rfc/rfc9110#section-8.6
            body = b""
        elif body or request.method != "HEAD":
            length = f"Content-Length: {len(body)}\r\n"
        return self._head(request, length) + (b"" if request.method == "HEAD" else body)

    async def stream(self, request: ApiRequest, pieces: AsyncGenerator[bytes]) -> None:
        """Send the answer with these pieces as its body, until there are no more, or the client has left."""
        writer, chunked = request.writer, request.version >= HttpVersion11
        if not chunked:
            self.force_close()
        self._sent = True
        async with aclosing(pieces):
            with suppress(ConnectionError):
                await writer.write(self._head(request, "Transfer-Encoding: chunked\r\n" if chunked else ""))
                if request.method == "HEAD":
                    return
                if chunked:
                    writer.enable_chunking()
                async for piece in pieces:
                    await writer.write(piece)
                await writer.write_eof()

    def _head(self, request: ApiRequest, framing: str) -> bytes:
        """Return the head of the answer, once it is known what becomes of the connection."""
        headers, common, version = self.headers, self.common, request.version
        if self.keep_alive is None:
            self.keep_alive = request.keep_alive
        if headers.keys().isdisjoint(common.fields):
            lines = common.lines + _lines(headers)
        else:
            lines = _lines({**common.fields, **headers})
        if not self.keep_alive:
            closing = "" if version == HttpVersion10 else "Connection: close\r\n"
        else:
            closing = "Connection: keep-alive\r\n" if version == HttpVersion10 else ""
        first = _first_line(version, self.status)
        return f"{first}{lines}{REQUEST_ID}: {request.id}\r\n{framing}{_dated(int(time.time()))}{closing}\r\n".encode()
