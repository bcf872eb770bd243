"""The accounts at the providers, opened for a dispatcher and exchanged under it when the configuration changes.

The new connections are opened first; then the route sends by them, and the old ones end when what is in flight on
them has been answered. An account that cannot be opened leaves the old one at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self, TypeAlias

from msgspec import Struct

from . import telemetry
from .dispatch import Dispatcher
from .errors import CredentialError
from .model import Route
from .ports import Provider
from .providers import REGISTRY
from .reload import Stamp, files_of, stamp_of
from .settings import AppSettings

Mark: TypeAlias = tuple[Struct, Stamp]
"""What an account was opened with: its section, and how its files were then."""


class _Account:
    def __init__(self, mark: Mark, opened: AbstractAsyncContextManager[Provider], provider: Provider) -> None:
        self.mark = mark
        self.opened = opened
        self.provider = provider

    async def close(self) -> None:
        """Let what is in flight end, then close."""
        await self.opened.__aexit__(None, None, None)


class Accounts:
    """Open while its `async with` block lasts."""

    def __init__(self, *, request_timeout: float) -> None:
        self._request_timeout = request_timeout
        self._open: dict[Route, _Account] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._log = telemetry.get_logger("dispatch")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        closing = [account.close() for account in self._open.values()]
        self._open.clear()
        await asyncio.gather(*closing, *self._closing, return_exceptions=True)

    @property
    def providers(self) -> list[Provider]:
        """The open ones."""
        return [account.provider for account in self._open.values()]

    async def open_all(self, apps: Mapping[str, AppSettings]) -> None:
        """At the start: every account, or `CredentialError`."""
        for route, mark in _wanted(apps).items():
            self._open[route] = await self._open_one(route, mark)

    async def follow(self, apps: Mapping[str, AppSettings], dispatcher: Dispatcher) -> None:
        """Bring a running dispatcher to these apps. What cannot be opened is logged, and stays as it was."""
        wanted = _wanted(apps)
        for route in [route for route in self._open if route not in wanted]:
            account = self._open.pop(route)
            await dispatcher.remove(route)
            await account.close()
            self._log.info("route_removed", app=route.app, platform=route.platform)
        for route, mark in wanted.items():
            before = self._open.get(route)
            if before is not None and before.mark == mark:
                continue
            try:
                account = await self._open_one(route, mark)
            except CredentialError as error:
                self._log.error("account_refused", app=route.app, platform=route.platform, error=str(error))
                continue
            self._open[route] = account
            if before is None:
                dispatcher.add(account.provider)
                self._log.info("route_added", app=route.app, platform=route.platform)
            else:
                dispatcher.replace(account.provider)
                closing = asyncio.create_task(before.close(), name=f"close:{route.app}/{route.platform}")
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
                self._log.info("route_reopened", app=route.app, platform=route.platform)

    async def _open_one(self, route: Route, mark: Mark) -> _Account:
        config = mark[0]
        kind = REGISTRY[route.platform]
        for finding in kind.check(config):
            if finding.expires is not None:
                telemetry.CREDENTIAL_EXPIRY.labels(route.app, route.platform).set(finding.expires)
        opened = kind.open_provider(route, config, request_timeout=self._request_timeout)
        return _Account(mark, opened, await opened.__aenter__())


def _wanted(apps: Mapping[str, AppSettings]) -> dict[Route, Mark]:
    return {
        Route(name, platform): (config, stamp_of(files_of(config)))
        for name, app in apps.items()
        for platform, config in app.providers.items()
    }
