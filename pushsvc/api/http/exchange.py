"""A request as its handler sees it, and what the handler replies. The dispatcher makes the one and sends the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct
from yarl import URL

from ...model.access import ApiKey
from ..ports import ServedApp
from .idempotency import Once


class Caller(Struct, frozen=True):
    """Who calls: an app, and the key that was shown."""

    app: ServedApp
    key: ApiKey


class Request(Struct, frozen=True):
    """A request that was let in, read and found right."""

    caller: Caller | None
    """None only of calls that ask for no key."""
    params: Mapping[str, Any]
    """The values of the path, the query and the declared headers, by name."""
    url: URL
    now: int
    """Unix milliseconds, when all of it had arrived."""
    gone: Callable[[], bool]
    """Whether the client has closed its connection."""
    trusted: bool = True
    """Whether the caller may see what the scopes of the call are for; False only where a call answers others less."""
    once: Once | None = None
    """The idempotency key under which the call is made."""
    lines: bool = False
    """Whether the body has a document a line."""

    @property
    def app(self) -> ServedApp:
        """The app of the caller, of calls that ask for a key."""
        assert self.caller is not None
        return self.caller.app

    @property
    def key(self) -> ApiKey:
        """The key of the caller, of calls that ask for one."""
        assert self.caller is not None
        return self.caller.key


class Reply(Struct, frozen=True):
    """What a handler answers with. The route table has the media type and the headers of each status."""

    body: bytes | Struct | None = None
    """A struct is sent as JSON, bytes as they are."""
    status: int = 200
    headers: Mapping[str, str] = {}
    refused: int = 0
    """How many pushes of the call were refused: they do not count against its limits."""


NO_CONTENT: Final = Reply(status=204)
