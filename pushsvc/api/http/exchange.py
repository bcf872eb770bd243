"""A request as its handler sees it, and what the handler replies. The dispatcher makes the one and sends the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct
from yarl import URL

from ...model.access import ApiKey
from ..ports import NO_APP, ServedApp
from .idempotency import Once


class Caller(Struct, frozen=True):
    """Who calls: an app, and the key that was shown."""

    app: ServedApp
    key: ApiKey
    trusted: bool = True
    """Whether it has a scope of the call; without one it is let in only where a call answers others less."""


NOBODY: Final = Caller(NO_APP, ApiKey("", "", "", ()))
"""Who showed no key, where none is asked for."""
STRANGER: Final = Caller(NO_APP, NOBODY.key, trusted=False)
"""Who showed no key that is good for the call, where others are answered less."""


class Request(Struct, frozen=True):
    """A request that was let in, read and found right."""

    app: ServedApp
    """The app of the caller; `NO_APP` only of calls that can be made without a key."""
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


class Reply(Struct, frozen=True):
    """What a handler answers with. The route table has the media type and the headers of each status."""

    body: bytes | Struct | None = None
    """A struct is sent as JSON, bytes as they are."""
    status: int = 200
    headers: Mapping[str, str] = {}
    refused: int = 0
    """How many pushes of the call were refused: they do not count against its limits."""
    repeated: bool = False
    """Whether it repeats the answer to an earlier call with the same idempotency key: then nothing counts."""


NO_CONTENT: Final = Reply(status=204)
