"""The conditions that `/readyz` and `/metrics` show, read from the store at each request."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from .. import telemetry
from ..errors import StoreUnavailable
from ..model.instants import instant
from ..ports.store import Store
from .figures import Current, StoreFigures, frozen_routes, webhook_troubles
from .reload import refused_since, unapplied
from .workers import read_unserved

REFUSED = (
    "the changed configuration was refused and an older one runs: see `reload_refused` in the log, or `pushsvc check`"
)


class StoreConditions:
    """The conditions of a service. Where Redis goes away between two calls, the next `ready` reports it."""

    def __init__(self, current: Current, store: Store) -> None:
        self._current = current
        self._store = store
        self._figures = StoreFigures(current, store)

    async def ready(self) -> Mapping[str, str]:
        """Return the parts that are not ready: `redis`, or none."""
        why = await self._figures.away()
        return {"redis": why} if why else {}

    async def held(self) -> Mapping[str, str]:
        """Return the routes that do not send now."""
        with suppress(StoreUnavailable):
            return await self._store.held()
        return {}

    async def frozen(self) -> Mapping[str, str]:
        """Return the routes that prune no device now."""
        with suppress(StoreUnavailable):
            return await frozen_routes(self._current.settings, self._store)
        return {}

    async def unserved(self) -> Mapping[str, str]:
        """Return the routes and parts that no living process serves."""
        with suppress(StoreUnavailable):
            return await read_unserved(self._current.settings, self._store, await self._store.workers.living())
        return {}

    async def notes(self) -> list[str]:
        """Return notes for the operator: refused reloads and those that wait for a restart, notes of routes, and
        webhooks in trouble."""
        since = refused_since()
        found = [] if since is None else [f"{REFUSED}, since {instant(int(since * 1000))}"]
        if sections := unapplied():
            found.append(f"changed on disk, in use only after a restart: {', '.join(f'[{name}]' for name in sections)}")
        with suppress(StoreUnavailable):
            found += [f"{route}: {text}" for route, text in sorted((await self._store.notes()).items())]
            troubles = await webhook_troubles(self._current.settings, self._store)
            found += [f"webhook of {app}: {text}" for app, text in sorted(troubles.items())]
        return found

    async def metrics(self) -> bytes:
        """Return the metrics of this process, and those that are read from Redis."""
        await self._figures.refresh()
        return telemetry.exposition()
