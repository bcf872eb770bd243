"""Reads the heads of requests in their common form, so that these do without aiohttp's parser and its tasks. Pure.

A backend sends its pushes one after the other on a connection that it keeps, each in one piece and with nearly the same
head. Such a request needs no parser, no stream for its body and no task of its own: its head is compared with the one
before it.

The form is narrower than HTTP allows, and whatever is outside of it is left to aiohttp: chunks, an upgrade, a header
that occurs twice, an empty value, bytes that are not ASCII, lines without CR. So each head that is read here means the
same to both, and no request can be hidden in another one (https://www.rfc-editor.org/rfc/rfc9112#section-11.2), which a
property test checks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from aiohttp import HttpVersion11
from aiohttp.http import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, EmptyStreamReader, StreamReader
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from .request import ParsedHead

# No part is tried twice (`++`, `*+`): the time is that of one look at each byte, whatever was sent.
_HEAD: Final = re.compile(
    rb"(GET|HEAD|POST|PUT|DELETE|PATCH|OPTIONS) (/[!\"$-~]*+) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[ \t]*+[!-~][\t -~]*+(?<![\t ])\r\n)++)\r\n"
)
_FIELD: Final = re.compile(r"([^:]+):[ \t]*([^\r]+)\r\n")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*+([0-9]{1,9})\r\n", re.IGNORECASE)
_DIGITS: Final = 9
"""The maximum number of digits of a length."""
_LONGEST: Final = 8000
"""The maximum size of a head in bytes, below aiohttp's bound on a line."""
_MOST: Final = 100
"""The maximum number of headers, below aiohttp's bound."""
_OTHERS: Final = frozenset({"transfer-encoding", "upgrade", "proxy-connection", "sec-websocket-key1"})
"""Headers that change what follows the head, or what becomes of the connection."""


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Head:
    """A head, and all that differ from it only in the length of the body."""

    begin: bytes
    """What is before the digits of the length: all of a head without one."""
    end: bytes
    """What follows them."""
    message: RawRequestMessage
    """The head as aiohttp's requests have it, but without the length."""
    parsed: ParsedHead = field(default_factory=ParsedHead)

    def body_in(self, data: bytes, at: int = 0) -> tuple[int, int] | None:
        """Return where the body of the request at this place of the data begins and ends, which may be after the end of
        the data, or None where the request has another head."""
        if not data.startswith(self.begin, at):
            return None
        at += len(self.begin)
        if not self.end:
            return at, at
        close = data.find(b"\r", at, at + _DIGITS + 1)
        digits = data[at:close]
        if not digits.isdigit() or not data.startswith(self.end, close):
            return None
        at = close + len(self.end)
        return at, at + int(digits)


def read_head(data: bytes, at: int = 0) -> Head | None:
    """Return the head at this place of the data, or None where there is none of the common form."""
    found = _HEAD.match(data, at, at + _LONGEST)
    if found is None:
        return None
    fields = _FIELD.findall(found[3].decode())
    values = {name.lower(): value for name, value in fields}
    if not len(values) == len(fields) <= _MOST or "host" not in values or not _OTHERS.isdisjoint(values):
        return None
    if values.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    begin, end = found[0], b""
    if "content-length" in values:
        length = _LENGTH.search(begin)
        if length is None:
            return None
        begin, end = begin[: length.start(1)], begin[length.end(1) :]
        fields = [field for field in fields if field[0].lower() != "content-length"]
    target = found[2].decode()
    message = RawRequestMessage(
        method=found[1].decode(),
        path=target,
        version=HttpVersion11,
        headers=CIMultiDictProxy(CIMultiDict(fields)),
        raw_headers=(),
        should_close=False,
        compression=None,
        upgrade=False,
        chunked=False,
        url=_url_of(target),
    )
    return Head(begin, end, message)


@lru_cache
def _url_of(target: str) -> URL:
    path, _, query = target.partition("?")
    return URL.build(path=path, query_string=query, encoded=True)


def left_of(data: bytes, at: int) -> int | None:
    """Return how much of the last request in the data is still to come, where the first that is not known yet begins
    at `at`, or None where a head is not of the common form."""
    while at < len(data):
        head = read_head(data, at)
        body = None if head is None else head.body_in(data, at)
        if body is None:
            return None
        at = body[1]
    return at - len(data)


class Body(EmptyStreamReader):
    """A body that has arrived completely."""

    __slots__ = ("_bytes",)

    def __init__(self, data: bytes) -> None:  # what an empty one has is not looked at
        self._bytes = data

    def read_nowait(self, n: int = -1) -> bytes:
        """Return the whole body, once."""
        data, self._bytes = self._bytes, b""
        return data

    async def readany(self) -> bytes:
        """Return the whole body, once."""
        return self.read_nowait()


def body_of(data: bytes) -> StreamReader:
    """Return a body that has arrived completely as aiohttp's requests have it."""
    return Body(data) if data else EMPTY_PAYLOAD
