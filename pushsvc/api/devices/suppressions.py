"""The call that lifts a suppression."""

from __future__ import annotations

from aiohttp import web

from ...errors import NotFound
from ...model.identity import recognised
from ...ports.feedback import Suppressions
from ..http.auth import Gate
from ..http.problems import SERVER
from ..http.query import read as read_query
from ..routes import CALL


class SuppressionCalls:
    """The handler, by its name in the route table."""

    def __init__(self, *, suppressions: Suppressions, gate: Gate) -> None:
        self._suppressions = suppressions
        self._gate = gate

    async def delete_suppression(self, request: web.Request) -> web.Response:
        """`DELETE /v1/suppressions/{platform}/{token}`: 204 once pushes to it are sent again."""
        call = CALL["delete_suppression"]
        app = await self._gate.enter(request, call.scopes)
        read_query(request.query.items(), call.params)
        platform, token = request.match_info["platform"], request.match_info["token"]
        if not await self._suppressions.remove(app.name, [(platform, recognised(platform, token))]):
            raise NotFound("This token is not suppressed.")
        return web.Response(status=204, headers={"Server": SERVER, "Cache-Control": "no-store"})
