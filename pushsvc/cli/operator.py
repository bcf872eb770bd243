"""What an operator looks at and does, with two ways to it that give the same: the administration of a running service,
or its store.

The API is used where its URL and a key with the scope `admin` are known, a service answers there, and the key's app is
the only one that a command is about. Otherwise, and as long as nothing runs, it is the store of the configuration. A
service that was named by `--url` must answer: nothing else is meant then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

import typer
from msgspec import Struct

from ..errors import ConfigError, PushsvcError
from ..model.access import Scope
from ..model.devices import Device
from ..model.rates import Rate
from ..ports.admin import KeyRow, WebhookState
from ..ports.erasure import Erasure
from ..ports.letters import DeadFilter, DeadRow
from .access import checked, key_of
from .failed import apps_of

if TYPE_CHECKING:
    from ..settings import Settings
    from .state import State


DEVICE_FIELDS: Final = (*(name for name in Device.__struct_fields__ if name != "token"), "token_hash")
"""What a command shows of a device: all but its token."""
INSTANTS: Final = ("registered_at", "last_seen_at", "pruned_at", "struck_at")


class KeyExists(PushsvcError):
    """The app already has a key of this name."""


class MadeKey(Struct, frozen=True):
    """A new key with its text, which is shown once."""

    text: str
    sha256: str
    row: KeyRow

    def __repr__(self) -> str:
        return f"MadeKey({self.row!r})"


class Failed(Struct, frozen=True):
    """Dead letters with their apps, and how many match."""

    matched: int
    rows: list[tuple[str, DeadRow]]


class Operator(Protocol):
    """The acts and looks of an operator."""

    @property
    def apps(self) -> Sequence[str]:
        """Return the apps that the command is about."""
        ...

    async def keys(self) -> list[KeyRow]: ...

    async def make_key(self, app: str, name: str, scopes: tuple[Scope, ...], intake: Rate | None) -> MadeKey:
        """Make a key. Raises `KeyExists`."""
        ...

    async def revoke_key(self, app: str, name: str) -> bool:
        """Revoke a key of the store, and return whether there was one. Raises `ConfigError` for one of the
        configuration."""
        ...

    async def failed(self, which: DeadFilter, limit: int) -> Failed: ...

    async def webhooks(self) -> list[tuple[str, WebhookState]]: ...

    async def resume_webhooks(self, app: str) -> None: ...

    async def device(self, device_id: str) -> list[dict[str, Any]]:
        """Return the device of each app that has it, as the command shows it."""
        ...

    async def delete_device(self, app: str, device_id: str) -> bool: ...

    async def erase_user(self, app: str, user: str, wait: float) -> Erasure:
        """Erase a user, waiting up to `wait` seconds until nothing is left."""
        ...


@asynccontextmanager
async def open_operator(context: typer.Context, app: str, url: str = "", key: str = "") -> AsyncIterator[Operator]:
    """Open the way to what belongs to an app, by default to every app of the configuration. Raises `ConfigError` for an
    unknown app."""
    state: State = context.obj
    settings = state.settings()
    named = context.get_parameter_source("url")
    strict = named is not None and named.name == "COMMANDLINE"
    if (text := key_of(key, app)) and (where := url or _configured_url(state, settings)):
        from .operator_api import open_api

        async with open_api(checked(where, text), strict=strict) as api:
            wanted = [app] if app else list(settings.apps)
            if api is not None and (not wanted or wanted == api.apps):
                yield api
                return
    from .operator_store import StoreOperator

    yield StoreOperator(settings, apps_of(settings, app))


def _configured_url(state: State, settings: Settings) -> str:
    return state.server_url() if settings.server.port else ""


def require_free(rows: Iterable[KeyRow], app: str, name: str) -> None:
    """Raise `KeyExists` where the app has a key of this name."""
    for row in rows:
        if (row.app, row.name) == (app, name):
            if row.kept_in == "configuration":
                raise KeyExists(f"the configuration has a key {name!r} of {app}: choose another name")
            raise KeyExists(f"{app} has a key {name!r} already: revoke it first or choose another name")


def require_stored(rows: Iterable[KeyRow], app: str, name: str) -> None:
    """Raise `ConfigError` where the key is in the configuration, which no command changes."""
    if any((row.app, row.name, row.kept_in) == (app, name, "configuration") for row in rows):
        raise ConfigError(
            f"apps.{app}.keys",
            f"the key {name!r} is in the configuration",
            "remove it there: running servers stop accepting it within seconds",
        )
