"""The calls about the service itself: alive, ready, measured, described. None needs a key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET

from .. import telemetry
from ..errors import Fault, Unavailable
from . import answers, docs
from .problems import RETRY_AFTER, SERVER
from .routes import JSON

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
        notes: Callable[[], Awaitable[list[str]]] | None = None,
        document: dict[str, Any],
    ) -> None:
        self._ready = ready
        self._metrics = metrics
        self._held = held
        self._frozen = frozen
        self._notes = notes
        self._openapi = msgspec.json.encode(document)
        self._page = docs.render(document).encode()

    async def get_healthz(self, _: web.Request) -> web.Response:
        """`GET /healthz`: the process answers."""
        return web.Response(body=answers.encode(answers.Health("ok")), headers=_NO_STORE)

    async def get_readyz(self, _: web.Request) -> web.Response:
        """`GET /readyz`: 503 names each part that is not ready. A held or frozen route is named, but accepting goes
        on."""
        failing = await self._ready()
        if failing:
            parts = ", ".join(failing)
            faults = [Fault(name, why) for name, why in failing.items()]
            raise Unavailable(f"Not ready: {parts}.", faults=faults, retry_after=RETRY_AFTER)
        held = dict(await self._held()) if self._held is not None else {}
        frozen = dict(await self._frozen()) if self._frozen is not None else {}
        notes = await self._notes() if self._notes is not None else []
        body = answers.encode(answers.Health("ready", held or UNSET, frozen or UNSET, notes or UNSET))
        return web.Response(body=body, headers=_NO_STORE)

    async def get_metrics(self, _: web.Request) -> web.Response:
        """`GET /metrics`."""
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
