"""Where simulated phones get their connect tokens: signed here with the app's secret, or asked for at the API."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import Struct

from ...errors import PushsvcError
from ...live.protocol.tokens import issue
from ...net.urls import exact_url
from .fleet import TokenRefused

_AT_A_TIME = 16
"""Devices that are registered at a time."""


class ApiRefused(PushsvcError):
    """The API did not take a device, or has no endpoint for it."""


class SecretTokens:
    """Signs tokens with the secret of the app. Its `repr` does not show it."""

    def __init__(self, app: str, secret: str, ttl: float = 86_400.0) -> None:
        self._app = app
        self._secret = secret
        self._ttl = ttl
        self._numbers = itertools.count(1)

    async def token(self, device: str) -> str:
        """Return a token."""
        name = f"simulated-{next(self._numbers)}"
        return issue(self._app, device, self._secret, now=time.time(), ttl=self._ttl, token_id=name)


class _Endpoint(Struct, frozen=True):
    transport: str
    endpoint: str


class _Answer(Struct, frozen=True):
    token: str
    endpoints: list[_Endpoint] = []


class ApiTokens:
    """Registers devices at the API, and asks it for their tokens. The session has the key."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")

    async def register(self, devices: Iterable[str], document: Mapping[str, Any]) -> None:
        """Register devices, each with this document. Raises `ApiRefused`, and `OSError` if the API does not answer."""
        waiting = iter(devices)

        async def some() -> None:
            for device in waiting:
                status, body = await self._call("PUT", self._path(device), document)
                if status not in (200, 201):
                    raise ApiRefused(f"PUT {self._path(device)} answered {status}: {body.decode(errors='replace')}")

        await asyncio.gather(*(some() for _ in range(_AT_A_TIME)))

    async def gateway(self, device: str) -> str:
        """Return the URL of the WebSocket that the API names to a device. Raises as `token` does, and `ApiRefused`."""
        for each in (await self._ask(device)).endpoints:
            if each.transport == "websocket":
                return each.endpoint
        raise ApiRefused("the API names no WebSocket to devices: set `live.endpoints`, or give the URL yourself")

    async def token(self, device: str) -> str:
        """Return a token."""
        return (await self._ask(device)).token

    async def _ask(self, device: str) -> _Answer:
        status, body = await self._call("POST", f"{self._path(device)}/token", {})
        if status >= 500 or status == 429:
            raise OSError(f"the API answered {status}")
        try:
            return msgspec.json.decode(body, type=_Answer)
        except msgspec.MsgspecError:
            raise TokenRefused(f"the API gives no token for the device {device}: it answered {status}") from None

    def _path(self, device: str) -> str:
        return f"/v1/devices/{quote(device, safe='')}"

    async def _call(self, method: Literal["PUT", "POST"], path: str, document: Mapping[str, Any]) -> tuple[int, bytes]:
        try:
            async with self._session.request(method, exact_url(self._url + path), json=document) as answer:
                return answer.status, await answer.read()
        except aiohttp.ClientError as error:
            raise OSError(str(error) or type(error).__name__) from None
