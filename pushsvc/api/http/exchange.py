"""A request as its handler sees it, and the handler's reply."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

from msgspec import Struct
from yarl import URL

from ...model.access import ApiKey
from ...telemetry.traces import OpenSpan
from ..ports import NO_APP, ServedApp
from .idempotency import Once


class Caller(Struct, frozen=True):
    """The caller: an app and its key."""

    app: ServedApp
    key: ApiKey
    trusted: bool = True
    """Whether the key has a scope of the call. A caller without one is only admitted where a call then answers less."""
    unchecked: bool = False
    """Whether its key could not be checked because the store is away."""
    session: bool = False
    """Whether it is a person who has signed in to the console with the key."""


KEYLESS: Final = Caller(NO_APP, ApiKey("", "", "", ()))
"""A caller without a key, where none is needed."""
UNTRUSTED: Final = Caller(NO_APP, KEYLESS.key, trusted=False)
"""A caller without a valid key, where a call then answers less."""
UNCHECKED: Final = Caller(NO_APP, KEYLESS.key, trusted=False, unchecked=True)
"""A caller whose key cannot be checked, where a call then answers less."""


class Request(Struct, frozen=True):
    """A request that was admitted, read and validated."""

    app: ServedApp
    """The app of the caller; `NO_APP` only for calls that need no key."""
    params: Mapping[str, Any]
    """The values of the path, the query and the declared headers, by name."""
    url: URL
    now: int
    """When the request had arrived completely, in Unix ms."""
    gone: Callable[[], bool]
    """Returns whether the client has closed its connection."""
    trusted: bool = True
    """Whether the caller may see everything; False only where a call answers less."""
    unchecked: bool = False
    """Whether the caller's key could not be checked because the store is away."""
    once: Once | None = None
    """The idempotency key of the call."""
    lines: bool = False
    """Whether the body has one document a line."""
    key: ApiKey = KEYLESS.key
    """The key of the caller."""
    session: bool = False
    """Whether the caller has signed in to the console with it."""
    span: OpenSpan | None = None
    """Its span, below which are those of its pushes; None: it is not traced."""
    id: str = ""
    """The id of the request, which the answer and each line of the log carry."""


class Reply(Struct, frozen=True):
    """A handler's reply. The route table has the media type and the headers of each status."""

    body: bytes | Struct | None = None
    """The body: a struct is sent as JSON, bytes as they are."""
    status: int = 200
    headers: Mapping[str, str] = {}
    refused: int = 0
    """The number of refused pushes of the call, which do not count against its limits."""
    repeated: bool = False
    """Whether it repeats the answer to an earlier call with the same idempotency key, so that nothing counts."""
    pieces: AsyncGenerator[bytes] | None = None
    """A body without an end: each piece is sent when it is there, until the client leaves or the server stops."""


NO_CONTENT: Final = Reply(status=204)
