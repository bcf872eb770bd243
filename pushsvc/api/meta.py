"""The calls about the service itself: alive, ready, measured, described. None needs a key on the machine itself.

Names of apps, volumes and the providers' errors are not for strangers: where the API listens for others too, figures
and details ask for a key of the scope `admin` (see `Settings.api_is_open`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from .. import telemetry
from ..errors import Fault, RequestError, StoreUnavailable, Unavailable
from ..model.access import Scope
from . import answers, docs
from .http.auth import Gate
from .http.problems import RETRY_AFTER, SERVER
from .routes import JSON

_ADMIN: tuple[Scope, ...] = ("admin",)
_NO_STORE = {"Content-Type": JSON, "Server": SERVER, "Cache-Control": "no-store"}


class MetaCalls:
    """The handlers, by the names of the route table."""

    def __init__(
        self,
        *,
        ready: Callable[[], Awaitable[Mapping[str, str]]],
        metrics: Callable[[], Awaitable[bytes]],
        held: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
        frozen: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
        unserved: Callable[[], Awaitable[Mapping[str, str]]] | None = None,
        full: Callable[[], Mapping[str, str]] | None = None,
        notes: Callable[[], Awaitable[list[str]]] | None = None,
        gate: Gate | None = None,
        document: dict[str, Any],
    ) -> None:
        """`gate` lets in who may see figures and details; without one everybody may."""
        self._ready = ready
        self._metrics = metrics
        self._states = {"held": held, "frozen": frozen, "unserved": unserved}
        self._full = full
        self._notes = notes
        self._gate = gate
        self._openapi = msgspec.json.encode(document)
        self._page = docs.render(document).encode()

    async def get_healthz(self, _: web.Request) -> web.Response:
        """`GET /healthz`: the process answers."""
        return web.Response(body=answers.encode(answers.Health("ok")), headers=_NO_STORE)

    async def get_readyz(self, request: web.Request) -> web.Response:
        """`GET /readyz`: 503 names each part that is not ready. A held or frozen route, or one that nobody serves, is
        named, but accepting goes on. Who may not see details hears whether it is ready, and no more."""
        failing = await self._ready()
        details = await self._may_see(request)
        if failing:
            parts = ", ".join(failing)
            faults = [Fault(name, why) for name, why in failing.items()]
            if not details:
                raise Unavailable("Not ready.", retry_after=RETRY_AFTER)
            raise Unavailable(f"Not ready: {parts}.", faults=faults, retry_after=RETRY_AFTER)
        said: dict[str, Any] = {}
        if details:
            said = {name: await ask() for name, ask in self._states.items() if ask is not None}
            said["full"] = self._full() if self._full is not None else {}
            said["notes"] = await self._notes() if self._notes is not None else []
        body = answers.encode(answers.Health("ready", **{name: state for name, state in said.items() if state}))
        return web.Response(body=body, headers=_NO_STORE)

    async def _may_see(self, request: web.Request) -> bool:
        if self._gate is None:
            return True
        try:
            await self._gate.enter(request, _ADMIN)
        except (RequestError, StoreUnavailable):
            return False
        return True

    async def get_metrics(self, request: web.Request) -> web.Response:
        """`GET /metrics`."""
        if self._gate is not None:
            await self._gate.enter(request, _ADMIN)
        body = await self._metrics()
        return web.Response(body=body, headers={"Content-Type": telemetry.CONTENT_TYPE, "Server": SERVER})

    async def get_openapi(self, _: web.Request) -> web.Response:
        """`GET /openapi.json`: readable from any web page, so that tools in a browser can load it."""
        headers = {"Content-Type": JSON, "Server": SERVER, "Access-Control-Allow-Origin": "*"}
        return web.Response(body=self._openapi, headers=headers)

    async def get_docs(self, _: web.Request) -> web.Response:
        """`GET /docs`: a page without script, which loads nothing from anywhere."""
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Server": SERVER,
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
        }
        return web.Response(body=self._page, headers=headers)
