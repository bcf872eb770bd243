"""A request as it was read from its connection, with its id, and its caller once that is known."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple

from aiohttp import web
from multidict import istr

from ...net.request_id import HEADER, request_id
from .exchange import Caller

REQUEST_ID: Final = istr(HEADER)


class ParsedHead:
    """What was parsed of the head of a request: once for all requests that have the same head."""

    __slots__ = ("bearer", "place", "received")

    def __init__(self) -> None:
        self.place: Any = None
        """Where it is in the route table."""
        self.bearer = ""
        """The SHA-256 of its API key."""
        self.received: Parameters | None = None


class Parameters(NamedTuple):
    """What a call takes of the head of its request."""

    params: Mapping[str, Any]
    """The values of path, query and declared headers, by name."""
    lines: bool
    """Whether the body has one document a line."""
    coded: str | None
    """The value of `Content-Encoding`."""


class ApiRequest(web.BaseRequest):
    """A request to the API. To look at aiohttp's own store for what belongs to a request costs several times more."""

    caller: Caller | None = None
    """Set by authentication, for the log and the metric."""

    @cached_property
    def id(self) -> str:
        """The id of the request."""
        return request_id(self.headers.get(REQUEST_ID))

    @cached_property
    def parsed(self) -> ParsedHead:
        """What was parsed of its head."""
        return ParsedHead()

    @property
    def keep_alive(self) -> bool:
        """Whether the connection is kept after the answer: as the client asks for, until the server stops."""
        return super().keep_alive and not self._protocol._close

    def gone(self) -> bool:
        """Return whether the client has closed its connection."""
        return self.transport is None

    @property
    def app(self) -> str:
        """The name of the caller's app, empty without one."""
        return "" if self.caller is None else self.caller.app.name
