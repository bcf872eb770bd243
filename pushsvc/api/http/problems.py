"""Sends every refusal as an RFC 9457 problem document. `boundary` is the one middleware: it turns errors into problems,
counts the request and logs it. Handlers raise errors; they never build an error answer. An unexpected error answers 500
with an id that is in the log too, and neither contains anything of the body."""

from __future__ import annotations

import itertools
import os
import re
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import structlog
from aiohttp import web
from multidict import istr
from structlog.typing import FilteringBoundLogger

from ... import telemetry
from ...errors import (
    ContentTooLarge,
    MalformedBody,
    MethodNotAllowed,
    NotFound,
    RequestError,
    StoreUnavailable,
    Unavailable,
)
from ...problems import (
    MEDIA_TYPE,
    TYPE_BASE,
    HeadersTooLarge,
    InternalError,
    MalformedRequest,
    Problem,
    encode,
    problem,
)

SERVER: Final = "pushsvc"
ACCEPT_ENCODING: Final = "gzip, deflate"
"""The supported codings of bodies."""
REQUEST_ID: Final = istr("X-Request-Id")
RETRY_AFTER: Final = 1  # Seconds; Redis is usually away for a failover or a restart.

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


class Challenge(RequestError):
    """A refusal with a `WWW-Authenticate` header, whose value is `challenge`."""

    challenge: str


def answer(problem: Problem, headers: dict[str, str]) -> web.Response:
    """Return the response with `problem`."""
    sent = {"Content-Type": MEDIA_TYPE, "Server": SERVER, "Cache-Control": "no-store", **headers}
    return web.Response(status=problem.status, body=encode(problem), headers=sent)


def respond(error: RequestError, *, headers: dict[str, str] | None = None, instance: str | None = None) -> web.Response:
    """Return the response for `error`, with its headers."""
    sent = dict(headers or {})
    if isinstance(error, Challenge):
        sent["WWW-Authenticate"] = error.challenge
    elif isinstance(error, UnsupportedCoding):
        sent["Accept-Encoding"] = ACCEPT_ENCODING
    if error.status in (429, 503):
        sent["Retry-After"] = str(RETRY_AFTER if error.retry_after is None else error.retry_after)
    return answer(problem(error, instance=instance), sent)


def away() -> Unavailable:
    """Return the refusal for a Redis that cannot be reached, or has not confirmed in time."""
    return Unavailable(
        "Redis cannot be reached, or its answer was lost. Try again. The call may have been accepted nevertheless; "
        "with an `Idempotency-Key` a repeat sends nothing twice.",
        retry_after=RETRY_AFTER,
    )


def translate(request: web.BaseRequest, error: web.HTTPException) -> web.Response:
    """Return a refusal of aiohttp as a problem; `OPTIONS` of a known path is answered with the allowed methods."""
    match error:
        case web.HTTPMethodNotAllowed():
            methods = sorted({*error.allowed_methods, "OPTIONS"})
            allow = {"Allow": ", ".join(methods)}
            if request.method == "OPTIONS":
                return web.Response(status=204, headers={**allow, "Server": SERVER})
            return respond(MethodNotAllowed(f"Allowed here: {allow['Allow']}."), headers=allow)
        case web.HTTPNotFound():
            return respond(NotFound("There is nothing at this path; see /docs."))
        case web.HTTPRequestEntityTooLarge():
            return respond(ContentTooLarge("The body is too large."))
        case _:
            # Other refusals of aiohttp have their status, with the phrase of HTTP for it.
            title = HTTPStatus(error.status).phrase
            return answer(Problem(TYPE_BASE + title.lower().replace(" ", "-"), title, error.status, title), {})


def crash(request: web.BaseRequest, error: BaseException, request_id: str) -> web.Response:
    """Log an error without its text, which may quote the body, and answer 500."""
    instance = f"urn:uuid:{uuid.uuid4()}"
    _log.error(
        "request_failed",
        method=request.method,
        instance=instance,
        request_id=request_id,
        error=type(error).__name__,
        where="".join(traceback.format_tb(error.__traceback__)[-8:]),
    )
    return respond(InternalError("An internal error occurred; it is in the log with this id."), instance=instance)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

APP: Final = web.RequestKey("pushsvc.app", str)
"""Where authentication stores the app's name on the request, for the log and the metric."""


def boundary(unread: Callable[[web.Request], None]) -> Any:
    """Return the middleware around every call. aiohttp's own type for it is private. `unread` is called with each
    request whose body was not read completely when it is answered."""
    children: dict[tuple[str, str, int], Any] = {}
    names: dict[tuple[str, Any], str] = {}
    clock = time.perf_counter

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = clock()
        request_id = request_id_of(request)
        response: web.StreamResponse
        try:
            raw = request.raw_path
            if "%" in raw or not raw.isascii():
                check_path(raw)
            response = await handler(request)
        except RequestError as error:
            response = respond(error)
        except StoreUnavailable:
            response = respond(away())
        except web.HTTPException as error:
            response = translate(request, error)
        except Exception as error:
            response = crash(request, error, request_id)
        resource = request.match_info.route.resource
        # Unknown paths are one route, or a scanner would make a metric of each.
        route = names.get((request.method, resource))
        if route is None:
            route = f"{_method(request)} {resource.canonical}" if resource is not None else "unmatched"
            if resource is not None:
                names[request.method, resource] = route
        app = request.get(APP, "")
        status = response.status
        child = children.get((app, route, status))
        if child is None:
            child = children[app, route, status] = telemetry.REQUESTS.labels(app, route, str(status))
        child.inc()
        say = _log.debug if status < 400 else _log.info
        ms = (clock() - started) * 1000
        say("request", method=request.method, route=route, status=status, ms=ms, app=app, request_id=request_id)
        response.headers[REQUEST_ID] = request_id
        if not request.content.is_eof():
            unread(request)
        return response

    return middleware


def _method(request: web.Request) -> str:
    # aiohttp answers HEAD where GET is served: it is the same call.
    return "GET" if request.method == "HEAD" else request.method


# --- the request's id and path ------------------------------------------------------------------------

_OWN_ID: Final = re.compile(r"[!-~]{1,128}")


_PROCESS: Final = os.urandom(8).hex()
_numbers = itertools.count()


def new_request_id() -> str:
    """Return an id for a request without one: the id of this process with a counter, which costs next to nothing."""
    return f"{_PROCESS}{next(_numbers) & 0xFFFF_FFFF:08x}"


def request_id_of(request: web.BaseRequest) -> str:
    """Return the caller's `X-Request-Id` if it has up to 128 visible ASCII characters, otherwise a new one."""
    given = request.headers.get(REQUEST_ID)
    return given if given is not None and _OWN_ID.fullmatch(given) else new_request_id()


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
