"""Where simulated phones get their connect tokens: signed here with the app's secret, or asked for at the API."""

from __future__ import annotations

import itertools
import time
from urllib.parse import quote

import aiohttp
import msgspec
from msgspec import Struct

from ...live.protocol.tokens import issue
from ...net.urls import exact_url
from .fleet import TokenRefused


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


class _Answer(Struct, frozen=True):
    token: str


class ApiTokens:
    """Asks the API for tokens. The session has the key."""

    def __init__(self, session: aiohttp.ClientSession, url: str, ttl: int = 0) -> None:
        self._session = session
        self._url = url
        self._body: dict[str, int] = {"ttl": ttl} if ttl else {}

    async def token(self, device: str) -> str:
        """Return a token."""
        url = exact_url(f"{self._url}/v1/devices/{quote(device, safe='')}/token")
        try:
            async with self._session.post(url, json=self._body) as answer:
                content = await answer.read()
                status = answer.status
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from None
        if status >= 500 or status == 429:
            raise OSError(f"the API answered {status}")
        try:
            return msgspec.json.decode(content, type=_Answer).token
        except msgspec.MsgspecError:
            raise TokenRefused(f"the API gives no token for the device {device}: {status}") from None
