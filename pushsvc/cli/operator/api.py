"""The operator over the API of a running service, for the app of a key."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from urllib.parse import urlencode

import msgspec

from ...api.admin.document import FailedGroups, KeyList, NewKey
from ...api.devices.document import Erased
from ...api.devices.importing import BadLine, Imported, read_device
from ...api.devices.tombstones import Restored
from ...api.letters.document import DeadLetter, ReplayAccepted
from ...api.rules import Rules
from ...client import ClientError, Refused, Unreachable
from ...client.retries import PASSING
from ...errors import SILENT_REDIS, Conflict, Fault, PushsvcError, StoreUnavailable, Unauthorized, Unavailable
from ...model.access import Scope
from ...model.devices import Device
from ...model.instants import instant, parse_instant
from ...model.push import JsonObject
from ...model.rates import Rate
from ...ports.admin import (
    AppStats,
    Cause,
    CheckAnswer,
    CheckFinding,
    CleanupAnswer,
    CleanupCount,
    DeadBatches,
    DeadBatchRow,
    KeyRow,
    WebhookState,
    WebhookStates,
    WebhookTest,
)
from ...ports.conditions import Condition
from ...ports.erasure import Erasure
from ...ports.letters import DeadFilter, DeadRow, ReplaySpec, ReplayStatus
from ...ports.pushes import PushFilter
from ...ports.registry import PrunedFilter
from ..access import Access
from ..process import print_message
from ..pushes.failed import PAGE
from .calls import ApiCalls, ApiPage, narrow_by, open_calls, other_version, push_path, quoted
from .operator import (
    CleanedUp,
    ExportedDevices,
    Failed,
    MadeKey,
    PushTrouble,
    ServiceState,
    not_sent,
    paged,
    require_free,
    require_stored,
)

if TYPE_CHECKING:
    from ...api.devices.importing import Taken
    from ...stages.cleanup import Progress

T = TypeVar("T")

SOON: Final = 1.0
"""Seconds in which a service answers the first question, or it is asked whether it is ready as well."""
LOOK: Final = 0.5
"""Seconds between two looks at a cleanup."""
BODY: Final = 1024 * 1024
"""Bytes of devices that are sent at once; one device is always sent."""
DEVICE_FIELDS: Final = (*(name for name in Device.__struct_fields__ if name != "token"), "token_hash")
"""What a command shows of a device: all but its token."""


class NoJobs(PushsvcError):
    """Nothing runs that would clean up."""


@asynccontextmanager
async def open_api(at: Access, *, strict: bool) -> AsyncIterator[ApiOperator | None]:
    """Open the API. Yields None where no service answers there or it refuses the key, unless it is `strict`:
    then it raises `ClientError`. Raises `StoreUnavailable` where the service answers that its Redis is away: the
    store itself would only fail later."""
    async with open_calls(at) as api:
        try:
            # The key of the call is among the keys of its app.
            rows = (await _first(api)).keys
        except ClientError as error:
            if _is_away(error):
                raise StoreUnavailable(f"{at.url} answers that its Redis is not available", SILENT_REDIS) from None
            if strict:
                raise
            rows = []
            if isinstance(error, Refused) and error.status == Unauthorized.status:
                print_message(f"{at.url} refuses the API key; this is from the store of the configuration")
        yield ApiOperator(api, rows[0].app) if rows else None


async def _first(api: ApiCalls) -> KeyList:
    """Return the answer to the first question of a command. Raises `ClientError`; where the question takes longer than
    `SOON`, also what `/readyz` refuses, which knows of a silent Redis sooner than a question that waits for it."""
    asking = asyncio.create_task(api.get("/v1/admin/keys", KeyList))
    tasks: list[asyncio.Task[Any]] = [asking]
    try:
        if not (await asyncio.wait(tasks, timeout=SOON))[0]:
            ready = asyncio.create_task(api.known("GET", "/readyz"))
            tasks.append(ready)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done() and (refused := ready.exception()) is not None and _is_away(refused):
                raise refused
        return await asking
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_away(error: BaseException) -> bool:
    """Return whether a service answers that what it needs, which is Redis, is away."""
    return isinstance(error, Refused) and error.problem.type.endswith(f"#{Unavailable.type}")


async def check_service(at: Access, *, online: bool) -> list[CheckFinding]:
    """Return what a running service finds about the app of the key, and what all apps share. Raises `ClientError`."""
    async with open_calls(at) as api:
        found = await api.get(f"/v1/admin/check{'?online=true' if online else ''}", CheckAnswer)
    return found.findings


class ApiOperator:
    """Works over the API, for the app of its key."""

    def __init__(self, api: ApiCalls, app: str) -> None:
        self.apps = [app]
        self._api = api

    async def keys(self) -> list[KeyRow]:
        return (await self._api.get("/v1/admin/keys", KeyList)).keys

    async def make_key(self, app: str, name: str, scopes: tuple[Scope, ...], intake: Rate | None) -> MadeKey:
        require_free(await self.keys(), app, name)
        asked: dict[str, object] = {"name": name, "scopes": scopes}
        if intake is not None:
            asked["intake"] = str(intake)
        made = await self._api.post("/v1/admin/keys", NewKey, asked)
        row = KeyRow(made.app, made.name, made.scopes, made.intake, made.created_at, "store")
        return MadeKey(made.key, made.sha256, row, self._api.url)

    async def revoke_key(self, app: str, name: str) -> bool:
        require_stored(await self.keys(), app, name)
        return await self._api.deleted(f"/v1/admin/keys/{quoted(name)}")

    async def states(self, every: float) -> AsyncGenerator[ServiceState, None]:
        last: ServiceState | None = None
        while True:
            try:
                stats = await self._stats()
                last = ServiceState([stats], [_condition(cause) for cause in stats.verdict.causes])
            except (Unreachable, Refused) as error:
                # What is watched goes on when the service is back.
                if last is None or (isinstance(error, Refused) and error.status not in PASSING):
                    raise
                last = msgspec.structs.replace(last, away=f"{error}; the figures are of {last.apps[0].at}")
            yield last
            await asyncio.sleep(every)

    async def _stats(self) -> AppStats:
        return await self._api.get("/v1/admin/stats", AppStats)

    async def pushes(self, which: PushFilter, limit: int) -> list[JsonObject]:
        narrow = {name: value for name, value in msgspec.structs.asdict(which).items() if value not in (None, "")}
        for name in ("since", "until"):
            if name in narrow:
                narrow[name] = instant(narrow[name])
        return await self._pushes("/v1/admin/pushes", narrow, limit)

    async def schedules(self, limit: int) -> list[JsonObject]:
        return await self._pushes("/v1/admin/schedules", {}, limit)

    async def _pushes(self, path: str, narrow: Mapping[str, str], limit: int) -> list[JsonObject]:
        found = await paged(self._api.pages(path, narrow, ApiPage[dict[str, Any]]), limit)
        return [{"app": self.apps[0], **each} for each in found]

    async def push(self, push_id: str) -> JsonObject | None:
        found = await self._api.known("GET", f"/v1/admin/pushes/{quoted(push_id)}")
        return found and {"app": self.apps[0], **found}

    async def trouble(self, push_id: str) -> PushTrouble:
        status = await self._api.known("GET", push_path(push_id)) or {}
        page = await self._api.known("GET", f"{push_path(push_id)}/deliveries?limit={PAGE}") or {}
        return PushTrouble(status.get("held", {}), not_sent(page.get("items", ())))

    async def cancel(self, push_id: str) -> JsonObject | None:
        try:
            return await self._api.known("DELETE", push_path(push_id))
        except Refused as refused:
            if refused.status == Conflict.status:
                raise Conflict(refused.problem.detail) from None
            raise

    async def failed(self, which: DeadFilter, limit: int) -> Failed:
        matched = await self.matched(which)
        reasons = await self._api.get(f"/v1/admin/failed?{urlencode(_selecting(which))}", FailedGroups)
        found = await paged(self._api.pages("/v1/failed", _selecting(which), ApiPage[DeadLetter]), limit)
        rows = [DeadRow(**{**msgspec.structs.asdict(each), "at": parse_instant(each.at)}) for each in found]
        app = self.apps[0]
        return Failed(sum(matched.values()), {app: reasons}, [(app, row) for row in rows])

    async def matched(self, which: DeadFilter) -> Mapping[str, int]:
        counted = await self._api.post("/v1/failed/replay", ReplayAccepted, {**_selecting(which), "dry_run": True})
        return {self.apps[0]: counted.matched}

    async def replay(self, spec: ReplaySpec) -> ReplayStatus:
        asked: dict[str, object] = dict(_selecting(spec.filter))
        asked |= {name: value for name, value in (("limit", spec.limit), ("rate", spec.rate)) if value}
        job = (await self._api.post("/v1/failed/replay", ReplayAccepted, asked)).job
        if job is None or (status := await self._replay(job)) is None:
            raise Unreachable(f"the service no longer knows the replay {job} that it has accepted")
        return status

    async def replaying(self, app: str, job: str, every: float) -> AsyncGenerator[ReplayStatus | None, None]:
        while True:
            yield await self._replay(job)
            await asyncio.sleep(every)

    async def stop_replay(self, job: str) -> ReplayStatus | None:
        return await self._replay(job, "DELETE")

    async def _replay(self, job: str, method: Literal["GET", "DELETE"] = "GET") -> ReplayStatus | None:
        """Return a replay as the store has it."""
        found = await self._api.known(method, f"/v1/failed/replay/{quoted(job)}")
        if found is None:
            return None
        which = dict(found["filter"])
        for name in ("since", "until"):
            which[name] = parse_instant(which[name]) if which.get(name) else None
        spec = {"app": self.apps[0], **{name: found[name] for name in ("filter", "limit", "rate")}, "filter": which}
        times = {name: parse_instant(found[name]) for name in ("created_at", "updated_at")}
        return msgspec.convert({**found, **times, "spec": spec}, ReplayStatus)

    async def clean_up(
        self, *, share: float, dry_run: bool, stop: asyncio.Event, show: Callable[[Progress], None]
    ) -> CleanedUp:
        """See `Operator.clean_up`. `pushsvc jobs` cleans up, in its own share of the time; nothing is shown of that."""
        if dry_run:
            return await self._count_cleanup(stop)
        parts = {part.part: part.count for part in (await self._stats()).workers}
        if not parts.get("jobs"):
            raise NoJobs(
                "`pushsvc jobs`, which would clean up, is not running: start it, or give no key to clean up from here"
            )
        answer = await self._api.post("/v1/admin/cleanup", CleanupAnswer)
        if answer.state == "running":
            return CleanedUp({}, elsewhere=answer.holder)
        while not stop.is_set():
            state = (await self._stats()).cleanup
            if not state.running:
                return CleanedUp(self._of_app(state.removed))
            await asyncio.sleep(LOOK)
        return CleanedUp({}, "`pushsvc jobs` goes on with the cleanup")

    async def _count_cleanup(self, stop: asyncio.Event) -> CleanedUp:
        removed: Counter[str] = Counter()
        place: str | None = ""
        while not stop.is_set():
            asked = {"dry_run": True, **({"place": place} if place else {})}
            counted = await self._api.post("/v1/admin/cleanup", CleanupCount, asked)
            removed.update(counted.removed)
            place = counted.place
            if place is None:
                return CleanedUp(self._of_app(removed))
        return CleanedUp(self._of_app(removed), "the rest was not counted")

    def _of_app(self, counts: Mapping[str, int]) -> dict[tuple[str, str], int]:
        return {(self.apps[0], what): count for what, count in counts.items()}

    @asynccontextmanager
    async def importing(self, app: str) -> AsyncIterator[Callable[[Sequence[Any]], Awaitable[Sequence[Taken]]]]:
        yield self._import

    async def _import(self, values: Sequence[Any]) -> Sequence[Taken]:
        if not values:
            return []
        if len(values) > 1 and len(msgspec.json.encode(values)) > BODY:
            half = len(values) // 2
            return [*await self._import(values[:half]), *await self._import(values[half:])]
        found = await self._api.post("/v1/admin/devices/import", Imported, {"devices": values})
        taken: list[Taken] = [False] * len(values)
        for at in found.new:
            taken[at] = True
        for each in found.refused:
            taken[each.index] = tuple(Fault(fault.path, fault.message) for fault in each.errors)
        return taken

    async def exporting(self, app: str, *, tombstones: bool) -> AsyncGenerator[ExportedDevices, None]:
        from ...runtime.providers import addresses

        rules = Rules(app, frozenset(addresses().platforms), addresses())
        narrow = {} if tombstones else {"state": "active"}
        pages = self._api.pages("/v1/devices", narrow, ApiPage[dict[str, Any]])
        total, count = (await self._stats()).devices, 0
        cursor: str | None = ""
        while cursor is not None:
            documents, cursor = await pages(cursor=cursor, limit=PAGE)
            count += len(documents)
            try:
                devices = [read_device(each, rules, sys.maxsize) for each in documents]
            except BadLine as error:
                raise other_version(error) from None
            yield ExportedDevices(devices, count / max(total, count, 1))

    async def pruned(self, which: PrunedFilter) -> Mapping[str, int]:
        return {self.apps[0]: (await self._restore(which, dry_run=True)).left}

    async def restoring(self, which: PrunedFilter) -> AsyncGenerator[tuple[str, int], None]:
        while (step := await self._restore(which)).restored:
            yield self.apps[0], step.restored

    async def _restore(self, which: PrunedFilter, *, dry_run: bool = False) -> Restored:
        narrow = narrow_by(platform=which.platform, reason=which.reason, since=which.since, until=which.until)
        return await self._api.post("/v1/devices/restore", Restored, {**narrow, "dry_run": dry_run})

    async def unsuppress(self, app: str, platform: str, token: str) -> bool:
        return await self._api.deleted(f"/v1/suppressions/{quoted(platform)}/{quoted(token)}")

    async def webhooks(self) -> list[tuple[str, WebhookState]]:
        return [(self.apps[0], each) for each in (await self._api.get("/v1/admin/webhooks", WebhookStates)).webhooks]

    async def test_webhook(self, app: str) -> WebhookTest:
        return await self._api.post("/v1/admin/webhooks/test", WebhookTest)

    async def resume_webhooks(self, app: str) -> None:
        await self._api.post_only("/v1/admin/webhooks/resume")

    async def dead_batches(self, since: int | None, until: int | None) -> list[tuple[str, DeadBatchRow]]:
        query = urlencode(narrow_by(since=since, until=until))
        found = await self._api.get(f"/v1/admin/webhooks/failed?{query}", DeadBatches)
        return [(self.apps[0], each) for each in found.batches]

    async def redeliver(self, app: str, since: int | None, until: int | None) -> None:
        await self._api.post_only("/v1/admin/webhooks/redeliver", narrow_by(since=since, until=until))

    async def redelivering(self, app: str, every: float) -> AsyncGenerator[int, None]:
        while True:
            yield sum(state.asked for _, state in await self.webhooks())
            await asyncio.sleep(every)

    async def device(self, device_id: str) -> list[dict[str, Any]]:
        known = await self._api.known("GET", f"/v1/admin/devices/{quoted(device_id)}")
        if known is None:
            return []
        return [{"app": self.apps[0], **{name: known.get(name) for name in DEVICE_FIELDS}}]

    async def delete_device(self, app: str, device_id: str) -> bool:
        return await self._api.deleted(f"/v1/devices/{quoted(device_id)}")

    async def erase_user(self, app: str, user: str, wait: float) -> Erasure:
        until = time.monotonic() + wait
        while True:
            erased = await self._api.delete(f"/v1/users/{quoted(user)}", Erased)
            if erased.done or time.monotonic() >= until:
                removed = msgspec.structs.asdict(erased.removed)
                return Erasure(erased.erased, erased.done, removed, confirmed=not erased.warnings)


def _selecting(which: DeadFilter) -> dict[str, str]:
    return narrow_by(**msgspec.structs.asdict(which))


def _condition(cause: Cause) -> Condition:
    try:
        return msgspec.convert(cause, Condition, from_attributes=True)
    except msgspec.ValidationError as error:
        raise other_version(error) from None
