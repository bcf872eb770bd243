"""Broadcast channels for the API: an account is opened at the first call, and closed after some time without calls.

Channels are made a few times a day. So a permanent connection in every process of the API would be idle, and a
connection a call would make a hundred of them for a hundred channels made in a row, which Apple treats as an attack. An
account whose section or files have changed is opened again at the next call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, Self

from .. import telemetry
from ..errors import BadGateway, Conflict, CredentialError
from ..ports.channels import ChannelAccount
from ..providers import REGISTRY
from ..settings.schema import AppSettings
from .opened import Closing, Opened, mark_of

IDLE: Final = 300.0
"""Seconds without a call after which an account is closed."""


class _Opened(Opened[ChannelAccount]):
    """An account with the number of its users."""

    calls = 0
    """Calls in progress."""
    closing: asyncio.TimerHandle | None = None
    """Closes the account after some time without calls."""


class OpenedChannels:
    """Implements `ports.channels.Channels`, while its `async with` block lasts. `apps` returns the present
    configuration."""

    def __init__(
        self, apps: Callable[[], Mapping[str, AppSettings]], *, request_timeout: float, idle: float = IDLE
    ) -> None:
        self._apps = apps
        self._request_timeout = request_timeout
        self._idle = idle
        self._open: dict[str, _Opened] = {}
        self._closing = Closing()
        self._opening = asyncio.Lock()
        self._log = telemetry.get_logger("channels")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for app in list(self._open):
            self._close(app)
        await self._closing.wait()

    @asynccontextmanager
    async def of(self, app: str) -> AsyncIterator[ChannelAccount]:
        """Open the app's account for the block. Raises `Conflict` where it has none, and `BadGateway` where it cannot
        be opened."""
        async with self._opening:
            opened = await self._find(app)
            opened.calls += 1
            if opened.closing is not None:
                opened.closing.cancel()
                opened.closing = None
        try:
            yield opened.account
        finally:
            opened.calls -= 1
            if not opened.calls and self._open.get(app) is opened:
                opened.closing = asyncio.get_running_loop().call_later(self._idle, self._close, app)

    async def _find(self, app: str) -> _Opened:
        settings = self._apps().get(app)
        accounts = settings.providers if settings is not None else {}
        for platform, kind in REGISTRY.items():  # the account in production is before that of the sandbox
            open_channels = kind.open_channels
            if open_channels is None or platform not in accounts:
                continue
            config = accounts[platform]
            mark = mark_of(config)
            found = self._open.get(app)
            if found is not None and found.mark == mark:
                return found
            if found is not None:
                self._close(app)
            try:
                opened = open_channels(config, request_timeout=self._request_timeout)
                self._open[app] = await _Opened.open(mark, opened)
            except CredentialError as error:
                self._log.error("account_refused", app=app, platform=platform, error=str(error))
                text = f"The app's {platform} credentials cannot be used; `pushsvc check` says why."
                raise BadGateway(text) from None
            return self._open[app]
        raise Conflict(f"{app} has no provider with broadcast channels: add [apps.{app}.apns] to the configuration.")

    def _close(self, app: str) -> None:
        """Close an account after its requests in flight."""
        opened = self._open.pop(app)
        if opened.closing is not None:
            opened.closing.cancel()
        self._closing.begin(opened, f"close-channels:{app}")
