"""Every refusal leaves as an RFC 9457 problem document, and all of them are made here.

`boundary` is the one middleware: it turns errors into problems, counts the request and logs it. Handlers raise; they
never build an error answer. What a handler did not raise on purpose answers 500 with an id that the log repeats, and
neither holds anything of the body.
"""

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
"""The codings of bodies that are taken."""
REQUEST_ID: Final = istr("X-Request-Id")
RETRY_AFTER: Final = 1  # Seconds; Redis is usually away for a failover or a restart.

_log: FilteringBoundLogger = structlog.get_logger("intake")


class UnsupportedMediaType(RequestError):
    """The body is of a type that is not taken."""

    status, type, title = 415, "unsupported-media-type", "The body is not of a type that is taken"


class UnsupportedCoding(UnsupportedMediaType):
    """The body is compressed in a way that is not taken; the answer says which are (RFC 9110, section 15.5.16)."""


class ExpectationFailed(RequestError):
    """An `Expect` header that cannot be met."""

    status, type, title = 417, "expectation-failed", "The Expect header cannot be met"


class ClientGone(RequestError):
    """The client closed the connection before its body was complete. Nobody reads the answer; 499 is nginx's word."""

    status, type, title = 499, "client-gone", "The client closed the connection"


class Challenge(RequestError):
    """A refusal that says how to come in: `challenge` is its `WWW-Authenticate`."""

    challenge: str


def answer(problem: Problem, headers: dict[str, str]) -> web.Response:
    """The answer that carries `problem`."""
    sent = {"Content-Type": MEDIA_TYPE, "Server": SERVER, "Cache-Control": "no-store", **headers}
    return web.Response(status=problem.status, body=encode(problem), headers=sent)


def respond(error: RequestError, *, headers: dict[str, str] | None = None, instance: str | None = None) -> web.Response:
    """The answer that says `error`, with the headers that belong to it."""
    sent = dict(headers or {})
    if isinstance(error, Challenge):
        sent["WWW-Authenticate"] = error.challenge
    elif isinstance(error, UnsupportedCoding):
        sent["Accept-Encoding"] = ACCEPT_ENCODING
    if error.status in (429, 503):
        sent["Retry-After"] = str(RETRY_AFTER if error.retry_after is None else error.retry_after)
    return answer(problem(error, instance=instance), sent)


def away() -> Unavailable:
    """Redis cannot be reached, or has not said in time that it has everything, in the words of HTTP."""
    return Unavailable(
        "Redis cannot be reached, or its answer was lost. Try again. What was posted may have been accepted; under an "
        "`Idempotency-Key` a repeat sends nothing twice.",
        retry_after=RETRY_AFTER,
    )


def translate(request: web.BaseRequest, error: web.HTTPException) -> web.Response:
    """What aiohttp refuses by itself, as a problem; `OPTIONS` of a known path is answered with what it allows."""
    match error:
        case web.HTTPMethodNotAllowed():
            methods = sorted({*error.allowed_methods, "OPTIONS"})
            allow = {"Allow": ", ".join(methods)}
            if request.method == "OPTIONS":
                return web.Response(status=204, headers={**allow, "Server": SERVER})
            return respond(MethodNotAllowed(f"Allowed here: {allow['Allow']}."), headers=allow)
        case web.HTTPNotFound():
            return respond(NotFound("There is nothing at this path; /docs shows what there is."))
        case web.HTTPRequestEntityTooLarge():
            return respond(ContentTooLarge("The body is too large."))
        case _:
            # Whatever else aiohttp may refuse by itself: its status, with HTTP's phrase for it.
            title = HTTPStatus(error.status).phrase
            return answer(Problem(TYPE_BASE + title.lower().replace(" ", "-"), title, error.status, title), {})


def crash(request: web.BaseRequest, error: BaseException, request_id: str) -> web.Response:
    """Log what went wrong without what the error says, which may quote the body, and answer 500."""
    instance = f"urn:uuid:{uuid.uuid4()}"
    _log.error(
        "request_failed",
        method=request.method,
        instance=instance,
        request_id=request_id,
        error=type(error).__name__,
        where="".join(traceback.format_tb(error.__traceback__)[-8:]),
    )
    return respond(InternalError("Something went wrong here; the log knows more under this id."), instance=instance)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

APP: Final = web.RequestKey("pushsvc.app", str)
"""Where authorisation leaves the app's name on the request, for the log and the metric."""


def boundary(unread: Callable[[web.Request], None]) -> Any:
    """The middleware around every call. aiohttp's own type for it is private.

    `unread` is told of each request whose body is not at its end when it is answered.
    """
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
        # Paths that nobody serves are one route, or a scanner would make a metric of each.
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
    """An id for a request that brings none: of this process, and counted, which costs next to nothing."""
    return f"{_PROCESS}{next(_numbers) & 0xFFFF_FFFF:08x}"


def request_id_of(request: web.BaseRequest) -> str:
    """The caller's own `X-Request-Id` where it is of up to 128 visible ASCII characters, else a new one."""
    given = request.headers.get(REQUEST_ID)
    return given if given is not None and _OWN_ID.fullmatch(given) else new_request_id()


def check_path(raw: str) -> None:
    """Raises `MalformedRequest` where the percent-encoding of a path or query is not UTF-8.

    Left as text, two URLs would be one name, and an erasure of `Jos%E9` would answer that it is done.
    """
    try:
        unquote_to_bytes(raw.encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError:
        raise MalformedRequest("The percent-encoding of the path or the query is not UTF-8 (é is `%C3%A9`).") from None


# --- what goes wrong before there is a request -------------------------------------------------------

_TOO_LONG: Final = re.compile("too (?:long|large|many)|got more than", re.IGNORECASE)


def unreadable(error: BaseException | None) -> RequestError:
    """What to say of bytes that aiohttp's parser gave up on."""
    if type(error).__name__ == "LineTooLong" or _TOO_LONG.search(str(error)):
        return HeadersTooLarge(
            "The request line or a header is longer than 8,190 bytes, or there are too many headers."
        )
    return MalformedRequest("The request could not be read as HTTP/1.1.")


def body_error(error: Exception) -> RequestError:
    """What to say of a body whose transfer coding or compression is broken."""
    return MalformedBody(f"The body could not be read: {type(error).__name__}.")
