"""The aiohttp application: routes the calls of the route table, with one middleware around them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import msgspec
from aiohttp import web

from . import docs, openapi
from .config import ApiApp
from .http.connections import Connection
from .http.dispatch import CallDispatcher
from .http.problems import REQUEST_ID, ExpectationFailed, boundary, request_id_of, respond
from .ports import ApiPorts
from .routes import CALLS

_PATHS = frozenset(call.path for call in CALLS)
_NAMED = re.compile(r"\{(\w+)\}")

_DISPATCHER: web.AppKey[CallDispatcher] = web.AppKey("dispatcher", CallDispatcher)


def build_app(ports: ApiPorts, apps: Mapping[str, ApiApp], *, public: bool = True) -> web.Application:
    """Return the HTTP API of these apps. `public`: figures and details of the service need no key."""
    description = openapi.build(addresses=ports.addresses, config=ports.config)
    ports = replace(ports, openapi=msgspec.json.encode(description), page=docs.render(description).encode())
    dispatcher = CallDispatcher(ports, apps, public=public)
    app = web.Application(middlewares=[boundary(_leave)], client_max_size=ports.config.body_limit)
    app[_DISPATCHER] = dispatcher

    async def stop_waiting(_: web.Application) -> None:
        ports.closing.set()
        await ports.waits.aclose()

    # Before the server waits for the requests in progress.
    app.on_shutdown.append(stop_waiting)
    for call in CALLS:
        path, handler = _pattern(call.path), dispatcher.endpoint(call)
        if call.method == "GET":
            app.router.add_get(path, handler, allow_head=True, expect_handler=_expect)
        else:
            app.router.add_route(call.method, path, handler, expect_handler=_expect)
    return app


def reload_app(app: web.Application, apps: Mapping[str, ApiApp], *, public: bool) -> None:
    """Serve these apps from the next request on, including requests on open connections."""
    app[_DISPATCHER].serve(apps, public=public)


def _pattern(path: str) -> str:
    """Return the path as a pattern of aiohttp, which excludes other calls: `batch` in `/v1/push/batch` is not a push
    id. Without this, aiohttp would allow the methods of a push at the path of the other call. A name may contain
    anything but a slash; by default aiohttp accepts no braces, which are common around GUIDs."""
    parent, _, last = path.rpartition("/")
    beside = {other.rpartition("/")[2] for other in _PATHS if other.rpartition("/")[0] == parent}
    calls = sorted(end for end in beside if not end.startswith("{"))
    others = f"(?!(?:{'|'.join(calls)})$)" if calls else ""
    return _NAMED.sub(r"{\1:[^/]+}", parent) + "/" + _NAMED.sub(rf"{{\1:{others}[^/]+}}", last)


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Answer `Expect: 100-continue` as aiohttp does, and any other expectation with a problem document."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The body of the final answer has not begun.
        request.writer.output_size = 0
        return None
    response = respond(ExpectationFailed("Only `Expect: 100-continue` is understood."))
    response.headers[REQUEST_ID] = request_id_of(request)
    response.force_close()
    return response


def _leave(request: web.Request) -> None:
    if isinstance(request.protocol, Connection):
        request.protocol.leave(request.content)
