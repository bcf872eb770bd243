"""The call that undoes prunes."""

from __future__ import annotations

from aiohttp import web

from ...ports.registry import Registry
from ..answers import encode
from ..config import ApiConfig
from ..http.auth import Gate
from ..http.body import check_headers, read_body
from ..http.problems import SERVER
from ..http.query import read as read_query
from ..routes import CALL, JSON
from .tombstones import MOST, Restored, read_restore


class RestoreCalls:
    """The handler, by its name in the route table."""

    def __init__(self, *, registry: Registry, gate: Gate, config: ApiConfig) -> None:
        self._registry = registry
        self._gate = gate
        self._config = config

    async def post_restore(self, request: web.Request) -> web.Response:
        """`POST /v1/devices/restore`: 200 once they are back."""
        app = await self._gate.enter(request, CALL["post_restore"].scopes)
        if request.query_string:
            read_query(request.query.items(), ())
        check_headers(request)
        which, dry_run = read_restore(await read_body(request, self._config))
        restored = 0 if dry_run else await self._registry.restore(app.name, which, limit=MOST)
        body = encode(Restored(restored, await self._registry.pruned(app.name, which)))
        headers = {"Content-Type": JSON, "Server": SERVER, "Cache-Control": "no-store"}
        return web.Response(body=body, headers=headers)
