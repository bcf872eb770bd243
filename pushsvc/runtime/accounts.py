"""The accounts at the providers, opened for a dispatcher and replaced when the configuration changes.

New connections are opened first; then the route uses them, and the old ones are closed when their requests in flight
have been answered. An account that cannot be opened leaves the old one at work, with a note.

Where there is no old one, as at the start, that route alone is held: its deliveries wait, and the other routes go on.

What could not be opened is tried again when the configuration is read, and regularly: the cause may have passed without
a change of a file, as a lack of file descriptors does.

An account that is removed from the configuration while deliveries wait leaves a held route for as long as they wait:
their `ttl` ends them, a cancel reaches them, and reports of held routes show them. When the account is back they are
sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Final, Self

from .. import telemetry
from ..errors import CredentialError
from ..model.delivery import Delivery
from ..model.push import Route
from ..ports.provider import CREDENTIAL, REMOVED, OnOutcome, Provider, Uplink
from ..ports.store import Store
from ..ports.work import RemovedRoute
from ..providers import REGISTRY, live
from ..settings.live import AppLive
from ..settings.schema import AppSettings
from ..stages.dispatch.dispatcher import Dispatcher
from .opened import Closing, Mark, Opened, mark_of
from .providers import expiry_of, unforeseen
from .state.removal import removal_of

CLOSE: Final = 1.0
"""Seconds that the connections may take to close when the process stops."""


class _Shut:
    """A provider (`ports.provider.Provider`) without an account, which sends nothing and has the reason as its
    `trouble`."""

    room = 0
    silence = 0.0
    parts: Mapping[str, Uplink] = {}
    refused = ""

    def __init__(self, route: Route, trouble: str) -> None:
        self.route = route
        self.trouble = trouble

    def submit(self, delivery: Delivery, on_outcome: OnOutcome) -> None:
        raise AssertionError("there is no room")

    def on_room(self, wake: Callable[[], None]) -> None:
        """Do nothing, since there never is room."""

    def remedy(self, reason: str) -> str:
        return ""

    async def aclose(self) -> None:
        """Do nothing, since nothing was opened."""


class Accounts:
    """The accounts of a dispatcher, open while the `async with` block lasts."""

    def __init__(self, store: Store, *, request_timeout: float) -> None:
        """Open accounts for a dispatcher of this store, where the live channel has its streams."""
        self._store = store
        self._request_timeout = request_timeout
        self._open: dict[Route, Opened[Provider]] = {}
        self._removed: dict[Route, _Shut] = {}
        """Routes without an account for which deliveries wait."""
        self._refused: dict[Route, str] = {}
        """Why accounts could not be opened, or replaced, when this was tried last."""
        self._lock = asyncio.Lock()
        """Serialises the tasks that add routes to the dispatcher and remove them."""
        self._closing = Closing()
        self._expiring: set[Route] = set()
        """Routes whose credential is shown to expire."""
        self._log = telemetry.get_logger("dispatch")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close what is open. The dispatcher has drained: a request that is still in flight has had its time, and is
        not waited for, because nothing records its answer."""
        closing = [account.close() for account in self._open.values()]
        self._open.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE):
                await asyncio.gather(*closing, self._closing.wait(), return_exceptions=True)

    @property
    def providers(self) -> list[Provider]:
        return [account.account for account in self._open.values()]

    async def open_all(self, apps: Mapping[str, AppSettings]) -> None:
        """Open every account at the start. An account that cannot be opened holds only its own route."""
        for route, mark in _wanted(apps).items():
            try:
                self._open[route] = await self._open_one(route, mark)
            except CredentialError as error:
                self._open[route] = _refusal(route, mark, self._refuse(route, error))

    async def hold(self, removed: Sequence[RemovedRoute], apps: Container[str], dispatcher: Dispatcher) -> None:
        """Hold these routes without an account, and stop holding earlier ones. `apps` are those of the
        configuration."""
        async with self._lock:
            found = {each.route: f"{REMOVED}{removal_of(each, apps)}" for each in removed}
            for route in [route for route in self._removed if route not in found]:
                del self._removed[route]
                await dispatcher.remove(route)
            for route, trouble in found.items():
                if route in self._removed:
                    self._removed[route].trouble = trouble
                elif route not in self._open:  # otherwise it came back after the check
                    provider = self._removed[route] = _Shut(route, trouble)
                    dispatcher.add(provider)

    async def follow(
        self, apps: Mapping[str, AppSettings], dispatcher: Dispatcher, waiting: Mapping[Route, str]
    ) -> None:
        """Bring a running dispatcher to these apps. An account that cannot be opened is logged and noted, and stays as
        it was. `waiting` has the report about each removed route for which deliveries wait."""
        async with self._lock:
            await self._follow(apps, dispatcher, waiting)

    async def _follow(
        self, apps: Mapping[str, AppSettings], dispatcher: Dispatcher, waiting: Mapping[Route, str]
    ) -> None:
        wanted = _wanted(apps)
        for route in [route for route in self._open if route not in wanted]:
            account = self._open.pop(route)
            dispatcher.notes.pop(route, None)
            await dispatcher.remove(route)
            await account.close()
            self._show_expiry(route, None)
            if why := waiting.get(route):
                self._log.warning("route_removed", app=route.app, platform=route.platform, why=why)
            else:
                self._log.info("route_removed", app=route.app, platform=route.platform)
        self._refused.clear()  # what is refused again is logged again
        for route, mark in wanted.items():
            before = self._open.get(route)
            if before is not None and before.mark == mark and not isinstance(before.account, _Shut):
                dispatcher.notes.pop(route, None)  # a fault in between was undone
            else:
                await self._reopen(route, mark, dispatcher)

    async def try_refused(self, apps: Mapping[str, AppSettings], dispatcher: Dispatcher) -> bool:
        """Try again to open the accounts of these apps that could not be opened when they were tried last. Returns
        whether one is open now."""
        async with self._lock:
            asked = {route: mark for route, mark in _wanted(apps).items() if route in self._refused}
            for route, mark in asked.items():
                await self._reopen(route, mark, dispatcher)
            return not asked.keys() <= self._refused.keys()

    async def _reopen(self, route: Route, mark: Mark, dispatcher: Dispatcher) -> None:
        """Open an account for a route that has none, or another one. One that cannot be opened changes nothing that
        sends."""
        before = self._open.get(route)
        try:
            account = await self._open_one(route, mark)
        except CredentialError as error:
            trouble = self._refuse(route, error)
            if before is not None and isinstance(before.account, _Shut):
                before.account.trouble = trouble
                return
            if before is not None:
                dispatcher.notes[route] = f"sends by its earlier account: {trouble}"
                return
            account = _refusal(route, mark, trouble)
        else:
            self._refused.pop(route, None)
            dispatcher.notes.pop(route, None)
        self._open[route] = account
        if self._removed.pop(route, None) is not None:
            dispatcher.replace(account.account)
            self._log.info("route_added", app=route.app, platform=route.platform)
        elif before is None:
            dispatcher.add(account.account)
            self._log.info("route_added", app=route.app, platform=route.platform)
        else:
            dispatcher.replace(account.account)
            self._closing.begin(before, f"close:{route.name}")
            self._log.info("route_reopened", app=route.app, platform=route.platform)

    def _refuse(self, route: Route, error: CredentialError) -> str:
        """Return the trouble of a route whose account cannot be opened. It is logged once a reload."""
        if self._refused.get(route) != str(error):
            self._log.error("account_refused", app=route.app, platform=route.platform, error=str(error))
        self._refused[route] = str(error)
        return f"{CREDENTIAL}{error}"

    def _show_expiry(self, route: Route, expires: float | None) -> None:
        """Show when the account's credential expires; the series of an account without an expiry, or of a removed one,
        ends."""
        if expires is not None:
            telemetry.CREDENTIAL_EXPIRY.labels(route.app, route.platform).set(expires)
            self._expiring.add(route)
        elif route in self._expiring:
            self._expiring.discard(route)
            telemetry.forget(telemetry.CREDENTIAL_EXPIRY, route.app, route.platform, value=float("inf"))

    async def _open_one(self, route: Route, mark: Mark) -> Opened[Provider]:
        """Open an account. Raises `CredentialError` whatever is wrong with it: no account stops the others."""
        try:
            return await self._try_one(route, mark)
        except CredentialError:
            raise
        except Exception as error:
            raise unforeseen(error, f"apps.{route.app}.{route.platform}") from error

    async def _try_one(self, route: Route, mark: Mark) -> Opened[Provider]:
        config = mark[0]
        if isinstance(config, AppLive):
            return await Opened.open(mark, self._open_live(route, config))
        kind = REGISTRY[route.platform]
        self._show_expiry(route, expiry_of(route.platform, config))
        clock = self._store.seconds
        opened = kind.open_provider(route, config, request_timeout=self._request_timeout, ttl_clock=clock)
        return await Opened.open(mark, opened)

    def _open_live(self, route: Route, config: AppLive) -> AbstractAsyncContextManager[Provider]:
        store = self._store
        return live.open_provider(
            route, live=store.live, arrivals=store.arrivals, ack_within=config.ack_within, clock=store.clock
        )


def _refusal(route: Route, mark: Mark, trouble: str) -> Opened[Provider]:
    return Opened(mark, AsyncExitStack(), _Shut(route, trouble))


def _wanted(apps: Mapping[str, AppSettings]) -> dict[Route, Mark]:
    return {
        Route(name, platform): mark_of(config)
        for name, app in apps.items()
        for platform, config in app.accounts.items()
    }
