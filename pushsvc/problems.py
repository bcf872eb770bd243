"""The document that says why a request is refused (RFC 9457), of the API and of the live gateway alike. Pure."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from .errors import RequestError

MEDIA_TYPE: Final = "application/problem+json"
TYPE_BASE: Final = "urn:pushsvc:problem:"


class RequestTimeout(RequestError):
    """The request or its body did not arrive in time."""

    status, type, title = 408, "request-timeout", "The body did not arrive in time"


class HeadersTooLarge(RequestError):
    """The request line or a header is too long."""

    status, type, title = 431, "headers-too-large", "The request line or a header is too long"


class MalformedRequest(RequestError):
    """The bytes are not HTTP/1.1."""

    status, type, title = 400, "malformed-request", "The request is not valid HTTP"


class InternalError(RequestError):
    """A fault of pushsvc."""

    status, type, title = 500, "internal-error", "A fault of pushsvc"


class ProblemFault(Struct, frozen=True):
    """One fault of a document, with its place."""

    path: Annotated[str, Meta(examples=["to.tokens[3].token"])]
    message: str


class Problem(Struct, frozen=True, omit_defaults=True):
    """An RFC 9457 problem document."""

    type: Annotated[str, Meta(examples=[f"{TYPE_BASE}invalid-request"], extra_json_schema={"format": "uri"})]
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    errors: Annotated[list[ProblemFault], Meta(description="Every fault at once, at most 1,000.")] = msgspec.field(
        default_factory=list
    )
    instance: Annotated[str | None, Meta(description="With 500: the id under which the log knows more.")] = None


encode = msgspec.json.Encoder().encode


def problem(error: RequestError, *, instance: str | None = None) -> Problem:
    """Return the document that says `error`."""
    faults = [ProblemFault(fault.path, fault.message) for fault in error.faults]
    return Problem(TYPE_BASE + error.type, error.title, error.status, error.detail, errors=faults, instance=instance)
