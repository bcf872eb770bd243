"""What an operator looks at and does, with two ways to it that give the same: the administration of a running service,
or its store.

The API is used where its URL and a key with the scope `admin` are known, a service answers there, and the key's app is
the only one that a command is about. Otherwise, and as long as nothing runs, it is the store of the configuration. A
service that answers that its Redis is away is the last word: the store is not tried after it.

A service that was named by `--url` must answer, and the key must be of the app: nothing else is meant then. So it is
with a key and `PUSHSVC_URL` for a command that changes something, since the store may be that of another service.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer
from msgspec import Struct

from ...errors import ConfigError, PushsvcError
from ...model.access import Scope
from ...model.devices import Device
from ...model.push import JsonObject
from ...model.rates import Rate
from ...ports.admin import AppStats, DeadBatchRow, KeyRow, WebhookState, WebhookTest
from ...ports.cleanup import Removed
from ...ports.conditions import Condition
from ...ports.erasure import Erasure
from ...ports.letters import DeadFilter, DeadRow, ReplaySpec, ReplayStatus
from ...ports.pushes import PushFilter
from ...ports.registry import PrunedFilter
from ..access import checked, key_of, key_variable
from ..output import Missing
from ..pushes.failed import PAGE, apps_of
from ..running import run

if TYPE_CHECKING:
    from ...api.admin.document import FailedGroups
    from ...api.devices.importing import Taken
    from ...settings.schema import Settings
    from ...stages.cleanup import Progress
    from ..state import State


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class KeyExists(PushsvcError):
    """The app already has a key of this name."""


class OtherApp(PushsvcError):
    """The key for the service that was named is of another app than the command is about."""


class MadeKey(Struct, frozen=True):
    """A new key with its text, which is shown once."""

    text: str
    sha256: str
    row: KeyRow
    store: str
    """Where it is kept: the address of the store, or that of the service."""

    def __repr__(self) -> str:
        return f"MadeKey({self.row!r})"


class Failed(Struct, frozen=True):
    """Dead letters with their apps, how many match, and the reasons of each app."""

    matched: int
    reasons: Mapping[str, FailedGroups]
    rows: list[tuple[str, DeadRow]]


class PushTrouble(Struct, frozen=True):
    """Why deliveries of a push were not sent, or are not now."""

    held: Mapping[str, str]
    """The routes that do not send while deliveries wait, with the reason."""
    ends: Mapping[tuple[str, str, str], int]
    """How many deliveries ended other than as `sent`, by outcome, platform and reason, in the first page of rows."""


class ServiceState(Struct, frozen=True):
    """The state of the apps, and what should be known of the service."""

    apps: Sequence[AppStats]
    conditions: Sequence[Condition]
    away: str = ""
    """Why this is an earlier state, because the service does not answer; empty: it is the present one."""


class Pages(Protocol[T_co]):
    """Returns a page of up to `limit` items, and the cursor of the next one, or None after the last."""

    def __call__(self, *, cursor: str, limit: int) -> Awaitable[tuple[Sequence[T_co], str | None]]: ...


async def paged(pages: Pages[T], limit: int = sys.maxsize) -> list[T]:
    """Return up to `limit` items, from as many pages as that takes."""
    found: list[T] = []
    cursor: str | None = ""
    while cursor is not None and len(found) < limit:
        more, cursor = await pages(cursor=cursor, limit=min(PAGE, limit - len(found)))
        found += more
    return found


class ExportedDevices(Struct, frozen=True):
    """Some of the devices of an app, and the part of all that was read with them, from 0 to 1."""

    devices: Sequence[Device]
    done: float


class CleanedUp(Struct, frozen=True):
    """What a cleanup has removed, or would remove."""

    removed: Removed
    left: str = ""
    """What becomes of the rest, where it was interrupted; empty: it is complete."""
    elsewhere: str | None = None
    """The process that cleans up already, so that nothing was done; empty where it is not known."""


class Operator(Protocol):
    """The acts and looks of an operator."""

    @property
    def apps(self) -> Sequence[str]:
        """Return the apps that the command is about."""

    async def keys(self) -> list[KeyRow]: ...

    async def make_key(self, app: str, name: str, scopes: tuple[Scope, ...], intake: Rate | None) -> MadeKey:
        """Make a key. Raises `KeyExists`."""

    async def revoke_key(self, app: str, name: str) -> bool:
        """Revoke a key of the store, and return whether there was one. Raises `ConfigError` for one of the
        configuration."""

    def states(self, every: float) -> AsyncGenerator[ServiceState, None]:
        """Yield the state, again every `every` seconds."""

    async def pushes(self, which: PushFilter, limit: int) -> list[JsonObject]:
        """Return pushes, the newest first, as `GET /v1/admin/pushes` shows them, each with its app."""

    async def schedules(self, limit: int) -> list[JsonObject]:
        """Return pushes that wait for their time, the next first."""

    async def push(self, push_id: str) -> JsonObject | None:
        """Return a push as `GET /v1/admin/pushes/{id}` shows it, with its app."""

    async def trouble(self, push_id: str) -> PushTrouble:
        """Return why deliveries of a push were not sent."""

    async def cancel(self, push_id: str) -> JsonObject | None:
        """Cancel what has not been sent, and return the status document. Raises `Conflict` where nothing is left."""

    async def failed(self, which: DeadFilter, limit: int) -> Failed: ...

    async def matched(self, which: DeadFilter) -> Mapping[str, int]:
        """Return the number of dead letters of each app."""

    async def replay(self, spec: ReplaySpec) -> ReplayStatus:
        """Request a replay."""

    def replaying(self, app: str, job: str, every: float) -> AsyncGenerator[ReplayStatus | None, None]:
        """Yield the state of a replay, again every `every` seconds."""

    async def stop_replay(self, job: str) -> ReplayStatus | None:
        """Stop a replay, whatever app it is of."""

    async def clean_up(
        self, *, share: float, dry_run: bool, stop: asyncio.Event, show: Callable[[Progress], None]
    ) -> CleanedUp:
        """Remove what is no longer needed, or count it, until `stop`. `share` is of the time that it may use."""

    def importing(self, app: str) -> AbstractAsyncContextManager[Callable[[Sequence[Any]], Awaitable[Sequence[Taken]]]]:
        """Open what writes up to 500 devices of a file at a time, and returns what became of each."""

    def exporting(self, app: str, *, tombstones: bool) -> AsyncGenerator[ExportedDevices, None]:
        """Yield all devices of an app, with `tombstones` the pruned ones too."""

    async def pruned(self, which: PrunedFilter) -> Mapping[str, int]:
        """Return the number of tombstones of each app."""

    def restoring(self, which: PrunedFilter) -> AsyncGenerator[tuple[str, int], None]:
        """Restore tombstones step by step. Yields after each the app, and how many were restored."""

    async def unsuppress(self, app: str, platform: str, token: str) -> bool:
        """Lift the suppression of a token, and return whether there was one."""

    async def webhooks(self) -> list[tuple[str, WebhookState]]: ...

    async def test_webhook(self, app: str) -> WebhookTest:
        """Call a webhook without events."""

    async def resume_webhooks(self, app: str) -> None: ...

    async def dead_batches(self, since: int | None, until: int | None) -> list[tuple[str, DeadBatchRow]]:
        """Return the batches of each app that were given up, of a span of time (Unix ms)."""

    async def redeliver(self, app: str, since: int | None, until: int | None) -> None:
        """Ask for these to be delivered again."""

    def redelivering(self, app: str, every: float) -> AsyncGenerator[int, None]:
        """Yield how many of them were not tried yet, again every `every` seconds."""

    async def device(self, device_id: str) -> list[dict[str, Any]]:
        """Return the device of each app that has it, as the command shows it."""

    async def delete_device(self, app: str, device_id: str) -> bool: ...

    async def erase_user(self, app: str, user: str, wait: float) -> Erasure:
        """Erase a user, waiting up to `wait` seconds until nothing is left."""


@asynccontextmanager
async def open_operator(
    context: typer.Context, app: str, url: str = "", key: str = "", *, changes: bool = False
) -> AsyncIterator[Operator]:
    """Open the way to what belongs to an app, by default to every app of the configuration, which need not be readable
    where a service is named with a key. `changes`: the command changes something there. Raises `ConfigError` for an
    unknown app, `ClientError` and `OtherApp` where only the service that was named is meant; ends with wrong usage (2)
    where there is no key for it."""
    state: State = context.obj
    text = key_of(key, app)
    settings = configuration(state, needed=not (url and text))
    by_option = bool(url) and named_by_option(context)
    strict = by_option or (changes and bool(url))
    if by_option and not text:
        raise Missing(f"No API key for {url}: set {key_variable(app)}, or give --key; without --url the store is used.")
    if text and (where := url or _configured_url(state, settings)):
        from .api import open_api

        async with open_api(checked(where, text), strict=strict) as api:
            configured = [] if isinstance(settings, ConfigError) else list(settings.apps)
            wanted = [app] if app else configured
            if api is not None and (not wanted or wanted == api.apps):
                yield api
                return
            # Below, an app that the configuration lacks is refused with the most similar name.
            if strict and api is not None and (by_option or {*configured} >= {*wanted}):
                raise _other_app(where, api.apps[0], app, wanted, by_name="app" in context.params)
    if isinstance(settings, ConfigError):
        raise settings
    from .store import StoreOperator

    yield StoreOperator(settings, apps_of(settings, app))


def operate(
    context: typer.Context,
    app: str,
    url: str,
    key: str,
    act: Callable[[Operator], Awaitable[T]],
    *,
    changes: bool = False,
) -> T:
    """Run one act on what `open_operator` opens, and return its result."""

    async def main() -> T:
        async with open_operator(context, app, url, key, changes=changes) as operator:
            return await act(operator)

    return run(main())


def not_sent(rows: Iterable[JsonObject]) -> dict[tuple[str, str, str], int]:
    """Return how many deliveries were not sent, by outcome, platform and reason, the most frequent first."""
    counts = Counter((row["outcome"], row["platform"], row["reason"]) for row in rows if row["outcome"] != "sent")
    return dict(counts.most_common())


def _other_app(url: str, owner: str, app: str, wanted: Sequence[str], *, by_name: bool) -> OtherApp:
    """Return the refusal of a key of another app; `by_name` is whether the command has the option --app."""
    own = f"give a key of {app} by {key_variable(app)} or --key, or " if app else f"name it by --app {owner}, or "
    return OtherApp(
        f"the key for {url} is of the app {owner}, and this command is about {', '.join(wanted)}: "
        f"{own if by_name else ''}leave out --url and PUSHSVC_URL to use the store of the configuration"
    )


def named_by_option(context: typer.Context) -> bool:
    """Return whether the service is named by --url, not by the environment."""
    source = context.get_parameter_source("url")
    return source is not None and source.name == "COMMANDLINE"


def configuration(state: State, *, needed: bool) -> Settings | ConfigError:
    """Return the configuration, or why it cannot be read; raises that where it is `needed`."""
    try:
        return state.settings()
    except ConfigError as error:
        if needed:
            raise
        return error


def _configured_url(state: State, settings: Settings | ConfigError) -> str:
    return "" if isinstance(settings, ConfigError) or not settings.server.port else state.server_url()


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
