"""The rows of the route table: the parameters, callers, answers and handler of each call. Router, dispatcher and
OpenAPI document are made from these rows, so that they cannot disagree: a scope, a parameter or a header of a row is
the one that is enforced, and there is no other way to a handler."""

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
    """A successful answer of a call."""

    status: int
    description: str
    body: Any = None
    """A struct, or None where `media` describes the body."""
    media: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    """The headers, each with a description."""
    no_store: bool = True
    """Whether it is sent with `Cache-Control: no-store`."""


class Document(Struct, Generic[D], frozen=True):
    """The body of a call, and its handlers."""

    schema: type
    """The schema in the OpenAPI document; of a batch, the schema of one element."""
    read: Callable[[bytes, Request], D]
    """Decodes the body. Raises `MalformedBody`, or `InvalidRequest` with every fault."""
    handle: Callable[[ApiPorts, Request, D], Awaitable[Reply]]
    again: Callable[[ApiPorts, Request, bytes], Awaitable[Reply]] | None = None
    """Replies to a repeat with an idempotency key, from the body of the first answer."""
    lines: str = ""
    """The media type for several documents, one a line; as JSON, they are a list."""
    optional: bool = False
    """Whether the body may be empty."""


@dataclass(frozen=True)
class Call:
    """A method of a path."""

    name: str
    """The operation id."""
    method: str
    path: str
    does: Handler | Document[Any]
    """The handler, or the body with its handler."""
    summary: str
    answer: Answer
    also: tuple[Answer, ...] = ()
    """Other successful answers."""
    description: str = ""
    scopes: tuple[Scope, ...] = ()
    """The scopes, one of which a key needs; empty where the call needs no key."""
    others: Literal["refused", "local", "answered"] = "refused"
    """The treatment of callers without such a key: they are refused, or refused unless the API listens only on its own
    machine, or get an answer with less in it."""
    params: tuple[QueryParam, ...] = ()
    names: tuple[PathParam, ...] = ()
    headers: tuple[HeaderParam, ...] = ()
    limited: bool = False
    """Whether the call counts against the limits of app and key; a batch counts each of its documents."""
    raises: tuple[type[RequestError], ...] = ()
    """The refusals of the handler, in addition to those of every call of this kind."""
    in_document: bool = True
    """Whether the OpenAPI document includes it."""

    @cached_property
    def document(self) -> Document[Any] | None:
        """The body of the call, or None."""
        return self.does if isinstance(self.does, Document) else None

    @cached_property
    def many(self) -> bool:
        """Whether the call is a batch."""
        return isinstance(self.does, Document) and bool(self.does.lines)

    @cached_property
    def keyed(self) -> bool:
        """Whether the call always needs a key."""
        return bool(self.scopes) and self.others == "refused"

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """Every successful answer."""
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


def rows(*scopes: Scope, under: str = "", **shared: Any) -> Callable[..., Call]:
    """Return what makes rows: of the method with the path below `under` (`GET keys/{name}`), the operation id, the
    handler, the summary, the answer, and what more a row has beside what all `shared`."""

    def row(place: str, name: str, does: Handler | Document[Any], summary: str, answer: Answer, **more: Any) -> Call:
        method, _, path = place.partition(" ")
        return Call(name, method, under + path, does, summary, answer, **{"scopes": scopes, **shared, **more})

    return row


_KEYED: Final = {Unauthorized, Forbidden, Unavailable, InternalError}
_BODY: Final = {MalformedBody, RequestTimeout, ContentTooLarge, UnsupportedMediaType}

CURSOR: Final = QueryParam("cursor", "The `cursor` of the previous page.")
LIMIT: Final = QueryParam("limit", "The maximum number of items.", least=1, most=1000, default=100)
