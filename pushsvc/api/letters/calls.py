"""The calls about dead letters: list them, ask for a replay, see where it stands, stop it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web
from msgspec import Struct

from ...errors import Fault, InvalidRequest, NotFound
from ...ports.letters import DeadLetters, ReplaySpec, ReplayStatus
from ..answers import encode
from ..config import ApiConfig
from ..http.auth import Gate
from ..http.body import check_headers, read_body
from ..http.problems import SERVER
from ..http.query import read as read_query
from ..routes import CALL, JSON, Call
from .document import DeadLetterPage, ReplayAccepted, read_filter, read_replay, shown, shown_replay

JOB: Final = re.compile(r"[0-9a-f]{1,40}")


class FailedCalls:
    """The handlers, by the names of the route table."""

    def __init__(self, *, dead: DeadLetters, gate: Gate, config: ApiConfig) -> None:
        self._dead = dead
        self._gate = gate
        self._config = config

    async def get_failed(self, request: web.Request) -> web.Response:
        """`GET /v1/failed`."""
        call = CALL["get_failed"]
        app = await self._gate.enter(request, call.scopes)
        query = read_query(request.query.items(), call.params)
        faults: list[Fault] = []
        which = read_filter(query, faults)
        if faults:
            raise InvalidRequest("The query parameters do not validate.", faults=faults)
        rows, cursor = await self._dead.page(app.name, which, cursor=query["cursor"] or "", limit=query["limit"])
        return _json(200, DeadLetterPage([shown(row) for row in rows], cursor))

    async def post_replay(self, request: web.Request) -> web.Response:
        """`POST /v1/failed/replay`: 202 once the replay is in Redis; a worker takes it up."""
        app = await self._gate.enter(request, CALL["post_replay"].scopes)
        if request.query_string:
            read_query(request.query.items(), ())
        check_headers(request)
        which, limit, rate, dry_run = read_replay(await read_body(request, self._config))
        if dry_run:
            matched = await self._dead.count(app.name, which)
            return _json(202, ReplayAccepted(None, min(matched, limit) if limit else matched))
        status = await self._dead.request(ReplaySpec(app.name, which, limit, rate))
        headers = {"Location": f"/v1/failed/replay/{status.job}"}
        matched = min(status.matched, limit) if limit else status.matched
        return _json(202, ReplayAccepted(status.job, matched), headers)

    async def get_replay(self, request: web.Request) -> web.Response:
        """`GET /v1/failed/replay/{job}`."""
        return await self._about(request, CALL["get_replay"], self._dead.replay)

    async def delete_replay(self, request: web.Request) -> web.Response:
        """`DELETE /v1/failed/replay/{job}`: what it has not moved stays a dead letter."""
        return await self._about(request, CALL["delete_replay"], self._dead.stop)

    async def _about(
        self, request: web.Request, call: Call, act: Callable[[str, str], Awaitable[ReplayStatus | None]]
    ) -> web.Response:
        app = await self._gate.enter(request, call.scopes)
        read_query(request.query.items(), call.params)
        job = request.match_info["job"]
        status = await act(app.name, job) if JOB.fullmatch(job) else None
        if status is None:
            raise NotFound("No replay has this id; replays are kept for a week.")
        return _json(200, shown_replay(status))


def _json(status: int, body: Struct, headers: Mapping[str, str] | None = None) -> web.Response:
    told = {"Content-Type": JSON, "Server": SERVER, "Cache-Control": "no-store", **(headers or {})}
    return web.Response(status=status, body=encode(body), headers=told)
