"""The operator in the store of a configuration."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from ..model.access import ApiKey, Scope
from ..model.devices import Device
from ..model.instants import instant
from ..model.rates import Rate
from ..ports.admin import KeyRow, WebhookState, key_row, key_rows
from ..ports.erasure import Erasure
from ..ports.keyring import make_key
from ..ports.letters import DeadFilter, DeadRow
from ..settings import Settings
from .failed import PAGE
from .operator import DEVICE_FIELDS, INSTANTS, Failed, MadeKey, require_free, require_stored


class StoreOperator:
    """Works in the store of a configuration."""

    def __init__(self, settings: Settings, apps: Sequence[str]) -> None:
        self.apps = apps
        self._settings = settings

    async def keys(self) -> list[KeyRow]:
        from ..runtime import open_running_store

        async with open_running_store(self._settings) as store:
            rows = await key_rows(store.keys, self._configured())
        return [row for row in rows if row.app in self.apps]

    def _configured(self) -> list[ApiKey]:
        return [
            ApiKey(key.name, app.name, key.sha256, key.scopes, intake=key.intake)
            for app in self._settings.apps.values()
            for key in app.keys
        ]

    def _configured_rows(self) -> list[KeyRow]:
        return [key_row(key, "configuration") for key in self._configured()]

    async def make_key(self, app: str, name: str, scopes: tuple[Scope, ...], intake: Rate | None) -> MadeKey:
        from ..runtime import open_configured_store

        text, key = make_key(app, name, scopes, intake, now=int(time.time() * 1000))
        row = key_row(key, "store")
        require_free(self._configured_rows(), app, name)
        async with open_configured_store(self._settings) as store:
            if not await store.keys.add(key):
                require_free([row], app, name)
        return MadeKey(text, key.sha256, row)

    async def revoke_key(self, app: str, name: str) -> bool:
        from ..runtime import open_existing_store

        require_stored(self._configured_rows(), app, name)
        async with open_existing_store(self._settings) as store:
            return await store.keys.revoke(name, app)

    async def failed(self, which: DeadFilter, limit: int) -> Failed:
        from ..runtime import open_running_store

        found: list[tuple[str, DeadRow]] = []
        async with open_running_store(self._settings) as store:
            matched = sum([await store.dead.count(app, which) for app in self.apps])
            for app in self.apps:
                cursor: str | None = ""
                while cursor is not None and len(found) < limit:
                    most = min(PAGE, limit - len(found))
                    rows, cursor = await store.dead.page(app, which, cursor=cursor, limit=most)
                    found += [(app, row) for row in rows]
        return Failed(matched, found)

    async def webhooks(self) -> list[tuple[str, WebhookState]]:
        from ..runtime import open_running_store
        from ..runtime.webhook_states import webhook_states

        async with open_running_store(self._settings) as store:
            return [(app, each) for app in self.apps for each in await webhook_states(self._settings, store, app)]

    async def resume_webhooks(self, app: str) -> None:
        from ..runtime import open_existing_store

        async with open_existing_store(self._settings) as store:
            for log in (store.webhooks, store.event_webhooks):
                await log.resume(app)

    async def device(self, device_id: str) -> list[dict[str, Any]]:
        from ..runtime import open_running_store

        async with open_running_store(self._settings) as store:
            return [
                _shown(app, device, store.token_hash(device.platform)(device.token))
                for app in self.apps
                if (device := await store.registry.get(app, device_id)) is not None
            ]

    async def delete_device(self, app: str, device_id: str) -> bool:
        from ..runtime import open_existing_store

        async with open_existing_store(self._settings) as store:
            if self._settings.apps[app].live is not None:
                await store.live.revoke(app, device_id)
            return await store.registry.remove(app, device_id)

    async def erase_user(self, app: str, user: str, wait: float) -> Erasure:
        from ..runtime import eraser, open_existing_store

        async with open_existing_store(self._settings) as store:
            return await eraser(store).erase(app, user, wait=wait)


def _shown(app: str, device: Device, token_hash: str) -> dict[str, Any]:
    known = {**msgspec.structs.asdict(device), "token_hash": token_hash}
    for name in INSTANTS:
        known[name] = instant(known[name]) if known[name] else None
    return {"app": app, **{name: known[name] for name in DEVICE_FIELDS}}
