"""The operator in the store of a configuration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ...errors import SILENT_REDIS, ConfigError, PushsvcError, StoreUnavailable
from ...model.access import ApiKey, Scope
from ...model.devices import as_fields
from ...model.push import JsonObject
from ...model.rates import Rate
from ...ports.admin import DeadBatchRow, KeyRow, WebhookState, WebhookTest, key_row, key_rows
from ...ports.erasure import Erasure
from ...ports.keyring import make_key
from ...ports.letters import DeadFilter, DeadRow, ReplaySpec, ReplayStatus
from ...ports.live import EventCounts
from ...ports.pushes import ListedPush, PushFilter
from ...ports.registry import PrunedFilter
from ...runtime.providers import addresses, explain
from ...runtime.store import (
    creates_store,
    open_configured_store,
    open_existing_store,
    open_running_store,
    store_place,
)
from ...settings.schema import Settings
from ..process import print_message
from ..pushes.failed import PAGE
from .operator import (
    CleanedUp,
    ExportedDevices,
    Failed,
    MadeKey,
    Pages,
    PushTrouble,
    ServiceState,
    not_sent,
    paged,
    require_free,
    require_stored,
)

if TYPE_CHECKING:
    from ...api.devices.importing import Taken
    from ...ports.store import Store
    from ...stages.cleanup import Progress
    from ...stages.webhooks.config import WebhookConfig


OPENS: Final = 4.5
"""Seconds in which a store must have answered the first questions of a command: less than the store waits for one."""


STEP: Final = 500
"""Devices that are restored in one step."""


class CleanupLost(PushsvcError):
    """Another cleanup has started, because this one showed no sign of life for too long."""


@asynccontextmanager
async def open_for_reading(settings: Settings) -> AsyncIterator[Store]:
    """Connect to the store of a configuration, within `OPENS` seconds; none is started. Raises `StoreUnavailable`."""
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(OPENS):
                store = await stack.enter_async_context(open_running_store(settings))
        except TimeoutError:
            raise StoreUnavailable(
                f"Redis is not available: it has not answered for {OPENS:g} s", SILENT_REDIS
            ) from None
        yield store


class StoreOperator:
    """Works in the store of a configuration."""

    def __init__(self, settings: Settings, apps: Sequence[str]) -> None:
        self.apps = apps
        self._settings = settings

    async def keys(self) -> list[KeyRow]:
        async with open_for_reading(self._settings) as store:
            rows = await key_rows(store.keys, self._configured())
        return [row for row in rows if row.app in self.apps]

    def _configured(self) -> list[ApiKey]:
        from ...runtime.plans import api_apps

        return [key for app in api_apps(self._settings).values() for key in app.keys]

    def _configured_rows(self) -> list[KeyRow]:
        return [key_row(key, "configuration") for key in self._configured()]

    async def make_key(self, app: str, name: str, scopes: tuple[Scope, ...], intake: Rate | None) -> MadeKey:
        text, key = make_key(app, name, scopes, intake, now=int(time.time() * 1000))
        row = key_row(key, "store")
        require_free(self._configured_rows(), app, name)
        new = creates_store(self._settings)  # alone of all commands: a key is made before the first start
        async with open_configured_store(self._settings) as store:
            if new:  # it may be the wrong place
                print_message(f"created a new store: {store_place(self._settings)}")
            if not await store.keys.add(key):
                require_free([row], app, name)
        return MadeKey(text, key.sha256, row, store_place(self._settings))

    async def revoke_key(self, app: str, name: str) -> bool:
        require_stored(self._configured_rows(), app, name)
        async with open_existing_store(self._settings) as store:
            return await store.keys.revoke(name, app)

    async def states(self, every: float) -> AsyncGenerator[ServiceState, None]:
        from ...runtime.reload import Current
        from ...runtime.state.app_stats import AppStatsReader
        from ...runtime.state.conditions import StoreConditions

        current = Current(self._settings)
        async with open_for_reading(self._settings) as store:
            conditions = StoreConditions(current, store)
            reader = AppStatsReader(current, store, conditions)
            others = self._settings.apps.keys() - {*self.apps}
            while True:
                known = await conditions.now()
                apps = [await reader.read(app, known) for app in self.apps]
                yield ServiceState(apps, [each for each in known if each.app not in others])
                await asyncio.sleep(every)

    async def pushes(self, which: PushFilter, limit: int) -> list[JsonObject]:
        found = await self._listed(lambda store, app: partial(store.pushes.recent, app, which), limit)
        return sorted(found, key=lambda row: str(row["created_at"]), reverse=True)[:limit]

    async def schedules(self, limit: int) -> list[JsonObject]:
        found = await self._listed(lambda store, app: partial(store.pushes.schedules, app), limit)
        return sorted(found, key=lambda row: str(row["send_at"]))[:limit]

    async def _listed(self, of: Callable[[Store, str], Pages[ListedPush]], limit: int) -> list[JsonObject]:
        """Return up to `limit` pushes of each app, in the order of the pages."""
        from ...api.admin.document import shown_push

        async with open_for_reading(self._settings) as store:
            found = {app: await paged(of(store, app), limit) for app in self.apps}
        return [{"app": app, **_json(shown_push(each))} for app in self.apps for each in found[app]]

    async def push(self, push_id: str) -> JsonObject | None:
        from ...api.admin.pushes import admin_push
        from ...runtime.state.previews import previewed

        preview = partial(previewed, self._settings)
        async with open_for_reading(self._settings) as store:
            for app in self.apps:
                own = self._settings.apps[app]
                live = None if own.live is None else store.live
                found = await admin_push(app, push_id, sorted(own.accounts), store.pushes, live, preview)
                if found is not None:
                    return {"app": app, **_json(found)}
        return None

    async def trouble(self, push_id: str) -> PushTrouble:
        from ...api import answers
        from ...api.pushes.holds import holds_of

        async with open_for_reading(self._settings) as store:
            for app in self.apps:
                status = await store.pushes.status(app, push_id)
                page = await store.pushes.deliveries(app, push_id, outcome=None, cursor="", limit=PAGE)
                if status is None or page is None:
                    continue
                waits = status.counts.queued or status.counts.retrying
                held = await store.held() if waits else {}
                rows = msgspec.json.decode(answers.deliveries(*page))["items"]
                return PushTrouble(await holds_of(status, held, store.pushes), not_sent(rows))
        return PushTrouble({}, {})

    async def cancel(self, push_id: str) -> JsonObject | None:
        from ...api import answers

        async with open_existing_store(self._settings) as store:
            for app in self.apps:
                if (status := await store.pushes.cancel(app, push_id)) is None:
                    continue
                events: EventCounts | msgspec.UnsetType = msgspec.UNSET
                if self._settings.apps[app].live is not None:
                    (events,) = await store.live.events(app, [push_id])
                document: JsonObject = msgspec.json.decode(answers.status(status, events))
                return document
        return None

    async def failed(self, which: DeadFilter, limit: int) -> Failed:
        from ...api.admin.document import shown_groups

        found: list[tuple[str, DeadRow]] = []
        async with open_for_reading(self._settings) as store:
            matched = sum([await store.dead.count(app, which) for app in self.apps])
            reasons = {app: shown_groups(*await store.dead.groups(app, which), explain) for app in self.apps}
            for app in self.apps:
                rows = await paged(partial(store.dead.page, app, which), limit - len(found))
                found += [(app, row) for row in rows]
        return Failed(matched, reasons, found)

    async def matched(self, which: DeadFilter) -> Mapping[str, int]:
        async with open_for_reading(self._settings) as store:
            return {app: await store.dead.count(app, which) for app in self.apps}

    async def replay(self, spec: ReplaySpec) -> ReplayStatus:
        async with open_for_reading(self._settings) as store:
            return _replay(await store.dead.request(spec))

    async def replaying(self, app: str, job: str, every: float) -> AsyncGenerator[ReplayStatus | None, None]:
        async with open_for_reading(self._settings) as store:
            while True:
                status = await store.dead.replay(app, job)
                yield status and _replay(status)
                await asyncio.sleep(every)

    async def stop_replay(self, job: str) -> ReplayStatus | None:
        async with open_for_reading(self._settings) as store:
            for app in self.apps:
                if (status := await store.dead.stop(app, job)) is not None:
                    return _replay(status)
        return None

    async def clean_up(
        self, *, share: float, dry_run: bool, stop: asyncio.Event, show: Callable[[Progress], None]
    ) -> CleanedUp:
        """See `Operator.clean_up`. It needs no other part of the service."""
        from ...runtime.plans import cleanup_plan
        from ...stages.cleanup import LOCK, Cleaned, clean

        def cleaned_up(cleaned: Cleaned) -> CleanedUp:
            return CleanedUp(cleaned.removed, "" if cleaned.place is None else "the next run removes the rest")

        opened = open_for_reading if dry_run else open_existing_store
        async with opened(self._settings) as store:
            clock = await store.cleanups.clock()

            async def look(progress: Progress) -> None:
                show(progress)

            if dry_run:  # it changes nothing, so it needs no lease
                plan = cleanup_plan(self._settings, store, clock, dry_run=True)
                return cleaned_up(await clean(plan, share=share, stopping=stop.is_set, after=look))
            async with store.locks.held(LOCK, lease=self._settings.jobs.takeover) as lost:
                if lost is None:
                    return CleanedUp({}, elsewhere=await store.locks.holder(LOCK) or "")

                async def note(progress: Progress) -> None:
                    show(progress)
                    await store.cleanups.note(progress.removed)
                    if lost():
                        raise CleanupLost(
                            "another cleanup has started meanwhile, because this one did not respond for too long"
                        )

                plan = cleanup_plan(self._settings, store, clock)
                cleaned = await clean(plan, share=share, stopping=stop.is_set, after=note)
                if cleaned.place is None:
                    await store.cleanups.finish(cleaned.removed)
                return cleaned_up(cleaned)

    @asynccontextmanager
    async def importing(self, app: str) -> AsyncIterator[Callable[[Sequence[Any]], Awaitable[Sequence[Taken]]]]:
        from ...api.devices.importing import import_devices
        from ..devices.importing import rules_of

        rules = rules_of(self._settings, app)
        async with open_existing_store(self._settings) as store:

            async def write(values: Sequence[Any]) -> Sequence[Taken]:
                return await import_devices(store.registry, rules, values, time.time_ns() // 1_000_000)

            yield write

    async def exporting(self, app: str, *, tombstones: bool) -> AsyncGenerator[ExportedDevices, None]:
        cursor: str | None = ""
        async with open_for_reading(self._settings) as store:
            while cursor is not None:
                page = await store.registry.scan(app, after=cursor, limit=PAGE)
                yield ExportedDevices(
                    [each for each in page.devices if tombstones or each.state == "active"], page.done
                )
                cursor = page.cursor

    async def pruned(self, which: PrunedFilter) -> Mapping[str, int]:
        async with open_for_reading(self._settings) as store:
            return {app: await store.registry.pruned(app, which) for app in self.apps}

    async def restoring(self, which: PrunedFilter) -> AsyncGenerator[tuple[str, int], None]:
        async with open_existing_store(self._settings) as store:
            for app in self.apps:
                while step := await store.registry.restore(app, which, limit=STEP):
                    yield app, step

    async def unsuppress(self, app: str, platform: str, token: str) -> bool:
        address = addresses().recognised(platform, token)
        async with open_existing_store(self._settings) as store:
            return await store.suppressions.remove(app, [(platform, address)]) > 0

    async def webhooks(self) -> list[tuple[str, WebhookState]]:
        from ...runtime.state.webhook_states import webhook_states

        async with open_for_reading(self._settings) as store:
            return [(app, each) for app in self.apps for each in await webhook_states(self._settings, store, app)]

    async def test_webhook(self, app: str) -> WebhookTest:
        from ...stages.webhooks.caller import trial_call

        return await trial_call(self._webhook_of(app), app, time.time_ns() // 1_000_000)

    def _webhook_of(self, app: str) -> WebhookConfig:
        from ...runtime.plans import webhook_configs

        config = webhook_configs(self._settings).get(app)
        if config is None:
            raise ConfigError(f"apps.{app}.webhook.url", "the app has no webhook", "set `url` and `secret`")
        return config

    async def dead_batches(self, since: int | None, until: int | None) -> list[tuple[str, DeadBatchRow]]:
        from ...runtime.state.webhook_states import dead_batches

        async with open_for_reading(self._settings) as store:
            return [(app, each) for app in self.apps for each in await dead_batches(store, app, since, until)]

    async def redeliver(self, app: str, since: int | None, until: int | None) -> None:
        self._webhook_of(app)
        async with open_existing_store(self._settings) as store:
            for log in store.webhook_logs:
                if batches := await log.dead(app, since=since, until=until):
                    await log.ask_again(app, batches)

    async def redelivering(self, app: str, every: float) -> AsyncGenerator[int, None]:
        async with open_for_reading(self._settings) as store:
            while True:
                yield sum([len(await log.asked(app)) for log in store.webhook_logs])
                await asyncio.sleep(every)

    async def resume_webhooks(self, app: str) -> None:
        self._webhook_of(app)
        async with open_existing_store(self._settings) as store:
            for log in store.webhook_logs:
                await log.resume(app)

    async def device(self, device_id: str) -> list[dict[str, Any]]:
        async with open_for_reading(self._settings) as store:
            return [
                {"app": app, **as_fields(device), "token_hash": store.token_hash(device.platform)(device.token)}
                for app in self.apps
                if (device := await store.registry.get(app, device_id)) is not None
            ]

    async def delete_device(self, app: str, device_id: str) -> bool:
        async with open_existing_store(self._settings) as store:
            if self._settings.apps[app].live is not None:
                await store.live.revoke(app, device_id)
            return await store.registry.remove(app, device_id)

    async def erase_user(self, app: str, user: str, wait: float) -> Erasure:
        from ...runtime.plans import eraser

        async with open_existing_store(self._settings) as store:
            return await eraser(store).erase(app, user, wait=wait)


def _json(value: object) -> JsonObject:
    """Return a document as the API answers it."""
    found: JsonObject = msgspec.json.decode(msgspec.json.encode(value))
    return found


def _replay(status: ReplayStatus) -> ReplayStatus:
    """Return a replay with what it is to move as `matched`."""
    limit = status.spec.limit
    return msgspec.structs.replace(status, matched=min(status.matched, limit)) if limit else status
