"""The RFC 9457 problem documents with which the API and the live gateway refuse requests. Pure."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from .errors import RequestError

MEDIA_TYPE: Final = "application/problem+json"
TYPE_BASE: Final = "/docs/guide/reference/errors.md#"
"""The page of the guide that explains each problem, which the API serves."""


class RequestTimeout(RequestError):
    """The request or its body did not arrive in time."""

    status, type, title = 408, "request-timeout", "The body did not arrive in time"


class HeadersTooLarge(RequestError):
    """The request line or a header is too long."""

    status, type, title = 431, "headers-too-large", "The request line or a header is too long"


class MalformedRequest(RequestError):
    """The request is not valid HTTP/1.1."""

    status, type, title = 400, "malformed-request", "The request is not valid HTTP"


class InternalError(RequestError):
    """An internal error."""

    status, type, title = 500, "internal-error", "An internal error of pushsvc"


class ProblemFault(Struct, frozen=True):
    """One fault of a document, with its place."""

    path: Annotated[str, Meta(examples=["to.tokens[3].token"])]
    message: str


class Problem(Struct, frozen=True, omit_defaults=True):
    """An RFC 9457 problem document."""

    type: Annotated[str, Meta(examples=[f"{TYPE_BASE}invalid-request"], extra_json_schema={"format": "uri-reference"})]
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    errors: Annotated[list[ProblemFault], Meta(description="Every fault at once, at most 1,000.")] = msgspec.field(
        default_factory=list
    )
    instance: Annotated[str | None, Meta(description="With 500: the id of the error in the log.")] = None
    retry_after: Annotated[
        int | None,
        Meta(
            description="For a push of a batch, with 429 and 503: the seconds after which another try may succeed, "
            "which the header `Retry-After` has of a call."
        ),
    ] = None


encode = msgspec.json.Encoder().encode


def problem(error: RequestError, *, instance: str | None = None, retry_after: int | None = None) -> Problem:
    """Return the problem document of `error`."""
    return Problem(
        TYPE_BASE + error.type,
        error.title,
        error.status,
        error.detail,
        errors=[ProblemFault(fault.path, fault.message) for fault in error.faults],
        instance=instance,
        retry_after=retry_after,
    )
