"""Where simulated phones get their connect tokens: signed here with the app's secret, or asked for at the API."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from ...client import AsyncClient, ClientError, Refused, Unreachable
from ...client.retries import PASSING
from ...errors import PushsvcError
from ...live.protocol.tokens import issue
from .fleet import TokenRefused

_AT_A_TIME = 16
"""Devices that are registered at a time."""


class NoGateway(PushsvcError):
    """The API has no endpoint for devices."""


class SecretTokens:
    """Signs tokens with the secret of the app. Its `repr` does not show it."""

    def __init__(self, app: str, secret: str, ttl: float = 86_400.0) -> None:
        self._app = app
        self._secret = secret
        self._ttl = ttl
        self._numbers = itertools.count(1)

    async def token(self, device: str) -> str:
        name = f"simulated-{next(self._numbers)}"
        return issue(self._app, device, self._secret, now=time.time(), ttl=self._ttl, token_id=name)


class _Endpoint(Struct, frozen=True):
    transport: str
    endpoint: str


class _Answer(Struct, frozen=True):
    token: str
    endpoints: list[_Endpoint] = []


class ApiTokens:
    """Registers devices at the API, and asks it for their tokens."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def register(self, devices: Iterable[str], document: Mapping[str, Any]) -> None:
        """Register devices, each with this document. Raises `ClientError`."""
        waiting = iter(devices)

        async def some() -> None:
            for device in waiting:
                await self._client.request("PUT", _path(device), document)

        await asyncio.gather(*(some() for _ in range(_AT_A_TIME)))

    async def gateway(self, device: str) -> str:
        """Return the URL of the WebSocket that the API names to a device. Raises `ClientError`, and `NoGateway`."""
        for each in (await self._ask(device)).endpoints:
            if each.transport == "websocket":
                return each.endpoint
        raise NoGateway("the API names no WebSocket to devices: set `live.endpoints`, or give the URL yourself")

    async def token(self, device: str) -> str:
        try:
            return (await self._ask(device)).token
        except ClientError as error:
            if isinstance(error, Unreachable) or (isinstance(error, Refused) and error.status in PASSING):
                raise OSError(str(error)) from None
            raise TokenRefused(f"the API gives no token for the device {device}: {error}") from None

    async def _ask(self, device: str) -> _Answer:
        answer = await self._client.request("POST", f"{_path(device)}/token", {})
        return msgspec.json.decode(answer.body, type=_Answer)


def _path(device: str) -> str:
    return f"/v1/devices/{quote(device, safe='')}"
