"""The calls about broadcast channels: make one, list them, read one, delete one. Each asks the provider."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from aiohttp import web
from msgspec import Struct

from ...errors import NotFound
from ...ports.channels import Channels
from ..answers import encode
from ..config import ApiApp, ApiConfig
from ..http.auth import Gate
from ..http.body import check_headers, read_body
from ..http.problems import SERVER
from ..http.query import read as read_query
from ..routes import CALL, JSON
from .document import Channel, ChannelList, read_channel

_ID: Final = re.compile(r"[A-Za-z0-9+/=_-]{1,512}")


class ChannelCalls:
    """The handlers, by the names of the route table."""

    def __init__(self, *, channels: Channels, gate: Gate, config: ApiConfig) -> None:
        self._channels = channels
        self._gate = gate
        self._config = config

    async def post_channel(self, request: web.Request) -> web.Response:
        """`POST /v1/channels`."""
        app = await self._enter(request, "post_channel")
        check_headers(request)
        storage = read_channel(await read_body(request, self._config))
        async with self._channels.of(app.name) as account:
            made = await account.create(storage)
        headers = {"Location": f"/v1/channels/{quote(made.id, safe='')}"}
        return _json(201, Channel(made.id, made.storage), headers)

    async def get_channels(self, request: web.Request) -> web.Response:
        """`GET /v1/channels`."""
        app = await self._enter(request, "get_channels")
        async with self._channels.of(app.name) as account:
            return _json(200, ChannelList(await account.all()))

    async def get_channel(self, request: web.Request) -> web.Response:
        """`GET /v1/channels/{id}`."""
        app = await self._enter(request, "get_channel")
        channel_id = _id_of(request)
        async with self._channels.of(app.name) as account:
            found = await account.get(channel_id)
        return _json(200, Channel(found.id, found.storage))

    async def delete_channel(self, request: web.Request) -> web.Response:
        """`DELETE /v1/channels/{id}`."""
        app = await self._enter(request, "delete_channel")
        channel_id = _id_of(request)
        async with self._channels.of(app.name) as account:
            await account.delete(channel_id)
        return web.Response(status=204, headers={"Server": SERVER})

    async def _enter(self, request: web.Request, name: str) -> ApiApp:
        call = CALL[name]
        app = await self._gate.enter(request, call.scopes)
        read_query(request.query.items(), call.params)
        return app


def _id_of(request: web.Request) -> str:
    channel_id = request.match_info["id"]
    if not _ID.fullmatch(channel_id):
        raise NotFound("No channel has this id; ids are base64, percent-encoded in the path.")
    return channel_id


def _json(status: int, body: Struct, headers: Mapping[str, str] | None = None) -> web.Response:
    told = {"Content-Type": JSON, "Server": SERVER, "Cache-Control": "no-store", **(headers or {})}
    return web.Response(status=status, body=encode(body), headers=told)
