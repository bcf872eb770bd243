"""Requests of HTTP/1.1 as values, the table of their handlers, and the bytes of an answer. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Final, TypeAlias
from urllib.parse import parse_qsl, unquote

import msgspec
from msgspec import Struct

from ...errors import MethodNotAllowed, NotFound, RequestError, TooManyRequests, Unauthorized, Unavailable
from ...problems import MEDIA_TYPE, MalformedRequest, encode, problem
from ...wording import did_you_mean
from ..peer import Request

WEBSOCKET: Final = "/connection/websocket"
HTTP_STREAM: Final = "/connection/http_stream"
SSE: Final = "/connection/sse"
STREAMS: Final = {WEBSOCKET: ["GET", "OPTIONS"], HTTP_STREAM: ["OPTIONS", "POST"], SSE: ["GET", "OPTIONS", "POST"]}
"""The paths at which a request becomes a long connection, with their methods."""


class HttpAnswer(Struct, frozen=True):
    """The answer to a plain request."""

    body: bytes = b""
    status: int = 200
    media_type: str = "application/json"
    headers: dict[str, str] = {}


Handler: TypeAlias = Callable[[Request], Awaitable[HttpAnswer]]
"""Answers a request or raises a `RequestError`. It is cancelled when the client has gone."""


class HttpRoute(Struct, frozen=True):
    """A method and a path with its handler; a segment in braces is a parameter: `/v1/live/messages/{id}`."""

    method: str
    path: str
    handler: Handler


class Router:
    """The handlers of plain requests."""

    def __init__(self, routes: Iterable[HttpRoute]) -> None:
        self._routes: dict[str, dict[str, HttpRoute]] = {}
        for route in routes:
            self._routes.setdefault(route.path, {})[route.method] = route
        self._templates = [path.split("/") for path in self._routes if "{" in path]

    def methods(self, path: str) -> list[str]:
        """Return the methods of a path, sorted. Raises `NotFound` with the paths that it may be meant for."""
        if path in STREAMS:
            return STREAMS[path]
        methods = {*self._methods(path)[0], "OPTIONS"}
        return sorted({*methods, "HEAD"} if "GET" in methods else methods)

    def find(self, request: Request) -> tuple[HttpRoute, Request]:
        """Return the route of a request, and the request with its parameters.

        Raises `NotFound` or `MethodNotAllowed`.
        """
        methods, params = self._methods(request.path)
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            raise MethodNotAllowed(f"Allowed here: {', '.join(self.methods(request.path))}.")
        return route, msgspec.structs.replace(request, params=params) if params else request

    def _methods(self, path: str) -> tuple[dict[str, HttpRoute], dict[str, str]]:
        found = self._routes.get(path)
        if found is not None and "{" not in path:
            return found, {}
        segments = path.split("/")
        for template in self._templates:
            if len(template) == len(segments) and all(
                segments[n] == part or (part[:1] == "{" and segments[n]) for n, part in enumerate(template)
            ):
                params = {part[1:-1]: _unquote(segments[n]) for n, part in enumerate(template) if part[:1] == "{"}
                return self._routes["/".join(template)], params
        raise NotFound(f"There is nothing at this path; {did_you_mean(path, [*STREAMS, *self._routes])}")


def read_query(query: str) -> dict[str, str]:
    """Return the parameters of a query; the first of a repeated one counts. Raises `MalformedRequest`."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=64)
    except ValueError:
        raise MalformedRequest("The query is not percent-encoded UTF-8, or has too many parameters.") from None
    return dict(reversed(pairs))


def _unquote(segment: str) -> str:
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise MalformedRequest("The path is not percent-encoded UTF-8.") from None


def problem_answer(
    error: RequestError, *, headers: Mapping[str, str] | None = None, instance: str | None = None
) -> HttpAnswer:
    """Return the answer with `error` as a problem document."""
    sent = dict(headers or {})
    if isinstance(error, TooManyRequests | Unavailable):
        sent["Retry-After"] = str(1 if error.retry_after is None else error.retry_after)
    elif isinstance(error, Unauthorized):  # https://www.rfc-editor.org/rfc/rfc9110#section-15.5.2
        sent["WWW-Authenticate"] = 'Bearer realm="pushsvc"'
    return HttpAnswer(encode(problem(error, instance=instance)), error.status, MEDIA_TYPE, sent)


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Return the status line and the header section of an answer."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode("latin-1")


def answer_bytes(answer: HttpAnswer, *, headers: Mapping[str, str], keep_alive: bool, has_body: bool) -> bytes:
    """Return an answer as it is sent; without its body for HEAD."""
    sent = {"Server": "pushsvc", "Cache-Control": "no-store", **headers, **answer.headers}
    if answer.status != 204:
        sent["Content-Type"] = answer.media_type
        sent["Content-Length"] = str(len(answer.body))
    if not keep_alive:
        sent["Connection"] = "close"
    return head(answer.status, sent) + (answer.body if has_body else b"")
