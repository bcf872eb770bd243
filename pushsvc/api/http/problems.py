"""Makes an RFC 9457 problem document of every refusal. Handlers raise errors; they never build an error answer. An
unexpected error answers 500 with an id that is in the log too, and neither contains anything of the body."""

from __future__ import annotations

import re
import traceback
import uuid
from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

import structlog
from structlog.typing import FilteringBoundLogger

from ...errors import (
    MalformedBody,
    MethodNotAllowed,
    NotFound,
    RequestError,
    Unavailable,
)
from ...problems import (
    MEDIA_TYPE,
    HeadersTooLarge,
    InternalError,
    MalformedRequest,
    Problem,
    encode,
    problem,
)
from .request import ApiRequest
from .response import Response

SERVER: Final = "pushsvc"
ACCEPT_ENCODING: Final = "gzip, deflate"
"""The supported codings of bodies."""
RETRY_AFTER: Final = 1  # Seconds; Redis is usually away for a failover or a restart.

_PLAIN_PATH: Final = re.compile(r"(?:/(?:v1|[a-z-]{1,16})){1,4}/?").fullmatch

_log: FilteringBoundLogger = structlog.get_logger("intake")


class UnsupportedMediaType(RequestError):
    """The body is of an unsupported type."""

    status, type, title = 415, "unsupported-media-type", "The type of the body is not supported"


class UnsupportedCoding(UnsupportedMediaType):
    """The body has an unsupported coding; the answer names the supported ones (RFC 9110, section 15.5.16)."""


class ExpectationFailed(RequestError):
    """The `Expect` header cannot be met."""

    status, type, title = 417, "expectation-failed", "The Expect header cannot be met"


class ClientGone(RequestError):
    """The client closed the connection before its body was complete. It never receives the answer; 499 is nginx's
    status."""

    status, type, title = 499, "client-gone", "The client closed the connection"


class AnswerUnread(ClientGone):
    """The client closed the connection while it waited for the end of a push that was accepted."""


class Challenge(RequestError):
    """A refusal with a `WWW-Authenticate` header, whose value is `challenge`."""

    challenge: str


def answer(problem: Problem, headers: Mapping[str, str]) -> Response:
    sent = {"Content-Type": MEDIA_TYPE, "Server": SERVER, "Cache-Control": "no-store", **headers}
    return Response(problem.status, encode(problem), sent)


def respond(error: RequestError, *, headers: Mapping[str, str] | None = None, instance: str | None = None) -> Response:
    sent = dict(headers or {})
    if isinstance(error, Challenge):
        sent["WWW-Authenticate"] = error.challenge
    elif isinstance(error, UnsupportedCoding):
        sent["Accept-Encoding"] = ACCEPT_ENCODING
    if (seconds := wait_of(error)) is not None:
        sent["Retry-After"] = str(seconds)
    return answer(problem(error, instance=instance), sent)


def wait_of(error: RequestError) -> int | None:
    """Return the seconds after which another try may succeed; None where it would be refused again."""
    if error.status not in (429, 503):
        return None
    return RETRY_AFTER if error.retry_after is None else error.retry_after


def away() -> Unavailable:
    """Return the refusal for a Redis that cannot be reached, or has not confirmed in time."""
    return Unavailable(
        "Redis cannot be reached, or its answer was lost. Try again. The call may have been accepted nevertheless; "
        "with an `Idempotency-Key` a repeat sends nothing twice.",
        retry_after=RETRY_AFTER,
    )


def no_such_call(method: str, path: str, allowed: Collection[str], near: str) -> Response:
    """Return the answer at a path without this method; `OPTIONS` of a known path is answered with its methods. `near`
    is what there is one step below or above it. A path is named only where no part of it can be a token."""
    also = f" There is {near}." if near else ""
    if not allowed:
        shown = path if _PLAIN_PATH(path) else "this path"
        if path.startswith("/v1/v1/"):
            also = " Give the URL of the service without /v1: each call adds it."
        return respond(NotFound(f"There is nothing at {shown}; see /docs.{also}"))
    allow = {"Allow": ", ".join(sorted({*allowed, "OPTIONS"}))}
    if method == "OPTIONS":
        return Response(204, headers={**allow, "Server": SERVER})
    return respond(MethodNotAllowed(f"Allowed here: {allow['Allow']}.{also}"), headers=allow)


def crash(request: ApiRequest, error: BaseException) -> Response:
    """Log an error and answer 500."""
    failure, instance = failed(error, request_id=request.id, method=request.method)
    return respond(failure, instance=instance)


def failed(error: BaseException, *, request_id: str, **about: object) -> tuple[InternalError, str]:
    """Log an unexpected error without its text, which may quote the body. Returns its refusal, and the id that its
    problem document shares with the log."""
    instance = f"urn:uuid:{uuid.uuid4()}"
    _log.error(
        "request_failed",
        instance=instance,
        request_id=request_id,
        error=type(error).__name__,
        where="".join(traceback.format_tb(error.__traceback__)[-8:]),
        **about,
    )
    return InternalError("An internal error occurred; it is in the log with this id."), instance


def check_path(raw: str) -> None:
    """Raise `MalformedRequest` where the percent-encoding of a path or query is not UTF-8. Otherwise two URLs would be
    one name, and an erasure of `Jos%E9` would answer that it is done."""
    try:
        unquote_to_bytes(raw.encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError:
        raise MalformedRequest("The percent-encoding of the path or the query is not UTF-8 (é is `%C3%A9`).") from None


# --- what goes wrong before there is a request -------------------------------------------------------

_TOO_LONG: Final = re.compile("too (?:long|large|many)|got more than", re.IGNORECASE)


def unreadable(error: BaseException | None) -> RequestError:
    """Return the refusal for bytes that aiohttp's parser could not read."""
    if type(error).__name__ == "LineTooLong" or _TOO_LONG.search(str(error)):
        return HeadersTooLarge(
            "The request line or a header is longer than 8,190 bytes, or there are too many headers."
        )
    return MalformedRequest("The request could not be read as HTTP/1.1.")


def body_error(error: Exception) -> RequestError:
    """Return the refusal for a body with a broken transfer coding or compression."""
    return MalformedBody(f"The body could not be read: {type(error).__name__}.")
