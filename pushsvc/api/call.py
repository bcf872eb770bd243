"""The rows of the route table: what a call takes, who may make it, what it answers, and the handler that does it.

Router, dispatcher and OpenAPI document are all made from these rows, so that they cannot disagree: a scope, a
parameter or a header that stands here is the one that is enforced, and there is no other way to a handler.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from msgspec import Struct

from ..errors import (
    Conflict,
    ContentTooLarge,
    Forbidden,
    InvalidRequest,
    MalformedBody,
    RequestError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from ..model.access import Scope
from ..problems import HeadersTooLarge, InternalError, RequestTimeout
from .http.exchange import Reply, Request
from .http.idempotency import PARAM as IDEMPOTENCY_KEY
from .http.params import JSON, HeaderParam, PathParam, QueryParam
from .http.problems import UnsupportedMediaType
from .ports import ApiPorts

D = TypeVar("D")

Handler: TypeAlias = Callable[[ApiPorts, Request], Awaitable[Reply]]


class Answer(Struct, frozen=True):
    """One good answer of a call."""

    status: int
    description: str
    body: Any = None
    """A struct, or None for what `media` alone describes."""
    media: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    """Names with what they say."""
    no_store: bool = True
    """Whether it says that no cache may keep it."""


class Document(Struct, Generic[D], frozen=True):
    """The body that a call takes, and what is done with it."""

    schema: type
    """What the OpenAPI document shows; of a batch, one of the list."""
    read: Callable[[bytes, Request], D]
    """What the bytes say. Raises `MalformedBody`, or `InvalidRequest` with every fault."""
    handle: Callable[[ApiPorts, Request, D], Awaitable[Reply]]
    again: Callable[[ApiPorts, Request, bytes], Awaitable[Reply]] | None = None
    """Replies to a repeat under an idempotency key, from the body of the first answer."""
    lines: str = ""
    """The media type in which several documents are sent, one a line; then JSON is a list of them."""


@dataclass(frozen=True)
class Call:
    """One method of one path."""

    name: str
    """The operation's id."""
    method: str
    path: str
    does: Handler | Document[Any]
    """The handler; or the body, and the handler that gets it."""
    summary: str
    answer: Answer
    also: tuple[Answer, ...] = ()
    """Other good answers."""
    description: str = ""
    scopes: tuple[Scope, ...] = ()
    """Any one of them lets in; none: the call needs no key."""
    others: Literal["refused", "local", "answered"] = "refused"
    """What becomes of callers without such a key: they are refused, or refused unless the API listens on its own
    machine alone, or let in and answered less."""
    params: tuple[QueryParam, ...] = ()
    names: tuple[PathParam, ...] = ()
    headers: tuple[HeaderParam, ...] = ()
    limited: bool = False
    """Whether it counts against the limits of app and key, a batch as often as it has documents."""
    raises: tuple[type[RequestError], ...] = ()
    """What the handler refuses with, besides what every call of this kind may be refused with."""
    in_document: bool = True
    """Whether the OpenAPI document shows it."""

    @cached_property
    def document(self) -> Document[Any] | None:
        """The body that it takes."""
        return self.does if isinstance(self.does, Document) else None

    @cached_property
    def many(self) -> bool:
        """Whether it is a batch."""
        return isinstance(self.does, Document) and bool(self.does.lines)

    @cached_property
    def keyed(self) -> bool:
        """Whether it cannot be made without a key."""
        return bool(self.scopes) and self.others == "refused"

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """Every good answer."""
        return (self.answer, *self.also)

    @cached_property
    def problems(self) -> tuple[type[RequestError], ...]:
        """Every refusal, in the order of their statuses."""
        found: set[type[RequestError]] = {HeadersTooLarge, *self.raises}
        if self.keyed:
            found |= {*_KEYED, InvalidRequest}
        elif self.others == "local" and self.scopes:
            found |= _KEYED
        if self.document is not None:
            found |= _BODY
        if self.limited:
            found.add(TooManyRequests)
        if IDEMPOTENCY_KEY in self.headers:
            found.add(Conflict)
        return tuple(sorted(found, key=lambda problem: problem.status))


_KEYED: Final = {Unauthorized, Forbidden, Unavailable, InternalError}
_BODY: Final = {MalformedBody, RequestTimeout, ContentTooLarge, UnsupportedMediaType}

CURSOR: Final = QueryParam("cursor", "The `cursor` of the previous page.")
LIMIT: Final = QueryParam("limit", "The maximum number of items.", least=1, most=1000, default=100)
