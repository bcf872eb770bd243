"""Reads all conditions of the service from the store: what `/readyz`, `stats`, the metrics and the log show of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from msgspec import structs

from ... import telemetry
from ...background import in_background, pulse
from ...errors import StoreError, StoreUnavailable
from ...model.instants import instant
from ...ports.conditions import Condition, Kind, condition, ordered
from ...ports.expansion import FailingExpansion
from ...ports.figures import EMPTIED_REMEDY, Gauges, Held
from ...ports.provider import CREDENTIAL, REMOVED
from ...ports.queue import NOTE
from ...ports.store import Store
from ...ports.work import Worker
from ...rules.bound import Bound
from ...settings.schema import Settings
from ...stages.webhooks.trouble import troubles_of
from ..reload import Current
from .figures import (
    frozen_routes,
    show_cleanups,
    show_conditions,
    show_frozen,
    show_gauges,
    show_redis_away,
    show_webhooks,
    show_workers,
    webhook_standings,
)
from .workers import REPORTS, read_unserved

MEMORY_FULL: Final = 0.95
"""The share of Redis' memory from which on writes may be refused at any time."""
ANSWERS: Final = 3.0
"""Seconds in which Redis must give the answers that all conditions are read from."""
ANSWER: Final = 1.5
"""Seconds in which Redis must answer a question of one step, or it counts as away: less than a scraper and a prober
wait for `/metrics` and `/readyz`, which say then what is the matter."""
GAUGES_EVERY = 1.0
"""Seconds for which figures read from Redis are used, however often `/metrics` is scraped."""
LOOK: Final = 2.0
"""Seconds between two looks for the log."""
START: Final = 15.0
"""Seconds that the other parts have to start beside this process until they are logged as missing."""


async def read_conditions(settings: Settings, store: Store, gauges: Gauges | None = None) -> list[Condition]:
    """Return all conditions, the critical ones first. Raises `StoreUnavailable`, which is the condition `redis`."""
    if gauges is None:
        gauges = await store.gauges({app: tuple(each.accounts) for app, each in settings.apps.items()})
    processes, reports, used, frozen, feedback, events = await asyncio.gather(
        store.workers.known(),
        store.reports(),
        store.memory_ratio(),
        frozen_routes(settings, store),
        webhook_standings(settings, store.webhooks),
        webhook_standings(settings, store.event_webhooks),
    )
    refused, emptied_at, failing = await asyncio.gather(
        store.pushes.refused(), store.emptied(), store.expansions.failing(settings.apps)
    )
    living = [worker for worker in processes if worker.lives]
    waiting = {
        f"{app}/{platform}": sum(lanes.values())
        for app, each in gauges.apps.items()
        for platform, lanes in each.pending.items()
    }
    found = [
        *held(reports, waiting),
        *(
            structs.replace(each, waiting=waiting.get(each.what))
            for each in await read_unserved(settings, store, processes)
        ),
        *silent(processes),
        *full(settings, {app: sum(each.by_shard) for app, each in gauges.apps.items()}, refused),
        *emptied(emptied_at),
        *memory(used),
        *configuration(living),
        *audiences(failing),
        *quarantine({app: each.quarantined for app, each in gauges.apps.items()}),
    ]
    for route, why in frozen.items():
        remedy = (
            "compare `reason` in `pushsvc_deliveries_total` with the account; if the tokens are dead, release it "
            "in the console, or set `feedback.prune_anyway`"
        )
        app = route.partition("/")[0]
        found.append(condition("frozen", route, f"{why}, so nothing is pruned", remedy, app=app))
    now = store.clock()
    for standings, about in ((feedback, ""), (events, "for events of devices: ")):
        for app, standing in standings.items():
            own = troubles_of(app, standing, now)
            found += [structs.replace(each, cause=f"{about}{each.cause}") for each in own]
    return ordered(found)


def held(reports: Mapping[str, Held], waiting: Mapping[str, int]) -> Iterator[Condition]:
    """Yield what dispatchers report: routes that do not send, and notes of those that do."""
    for field, each in reports.items():
        name = field.removeprefix(NOTE)
        app = name.partition("/")[0]
        if each.note:
            remedy = "fix the file that it names; it is then read again automatically"
            yield condition("account", name, each.why, remedy, since=each.since, app=app)
            continue
        reason, cause, remedy = parts_of(each.why)
        yield condition(
            "held", name, cause, remedy, since=each.since, app=app, reason=reason, waiting=waiting.get(name)
        )


def parts_of(why: str) -> tuple[str, str, str]:
    """Return the short reason, the cause and the remedy of a held route, as `stages.dispatch.watch` composes them:
    `reason: cause: remedy`, or `reason: remedy` where the provider's own word is the cause."""
    reason, _, rest = why.partition(": ")
    if why.startswith(CREDENTIAL):
        # The remedy of a `CredentialError` stands in brackets.
        cause, opens, remedy = why.removesuffix(")").rpartition(" (")
        again = "the account is tried again every minute"
        return (reason, cause, f"{remedy}; {again}") if opens else (reason, why, f"see `pushsvc check`; {again}")
    if why.startswith(REMOVED) or ": " not in rest:
        cause, _, remedy = rest.partition(": ")
        if remedy:
            return reason, f"{reason}: {cause}", remedy
        return reason, reason, rest or "see `pushsvc check` and the provider's status page"
    # The provider's own words stand in brackets, and may contain a colon.
    start = max(rest.rfind("): "), 0)
    at = rest.index(": ", start)
    return reason, f"{reason}: {rest[:at]}", rest[at + 2 :]


def silent(processes: Iterable[Worker]) -> Iterator[Condition]:
    """Yield the processes that hang, or that ended without saying so."""
    for each in processes:
        if not each.lives:
            cause = f"`pushsvc {each.part}` (process {each.consumer}) gives no sign of life"
            remedy = "restart it if it hangs; other processes take over its work"
            yield condition("silent", f"{each.part} {each.consumer}", cause, remedy, since=each.last_sign)


def full(settings: Settings, waits: Mapping[str, int], refused: Iterable[Bound] = ()) -> Iterator[Condition]:
    """Yield the queue, and the apps, whose pushes are refused with 429: each push, or those that were too large for
    what was left, which `refused` has of late. A higher limit ends that at once. `waits` has the waiting deliveries by
    app."""
    lately = {each.who: each for each in refused}

    def reached(who: str, waiting: int, most: int, removed: int = 0) -> Bound | None:
        if waiting >= most:
            return Bound(who, waiting, most, removed)
        last = lately.get(who)
        return None if last is None or last.waits + last.refused <= most else last

    total, most = sum(waits.values()), settings.queue.max_pending
    removed = sum(count for app, count in waits.items() if app not in settings.apps)
    if bound := reached("", total, most, removed):
        remedy = "check in `pushsvc stats` what fills it, scheduled pushes included; raise `queue.max_pending`"
        yield condition("full", "queue", bound.text, remedy, reason="queue", waiting=total)
    for app, share in settings.queue_shares().items():
        if share < most and (bound := reached(app, waits.get(app, 0), share)):
            remedy = "check in `pushsvc stats` what waits, scheduled pushes included; raise `limits.max_pending`"
            yield condition("full", app, bound.text, remedy, app=app, reason="share", waiting=waits.get(app, 0))


def emptied(since: int | None) -> Iterator[Condition]:
    """Yield that Redis came back empty, for as long as `Figures.emptied` names a time."""
    if since is not None:
        cause = "Redis came back without its data: the pushes, devices and API keys that it had are gone"
        yield condition("emptied", "redis", cause, EMPTIED_REMEDY, since=since)


def memory(ratio: float) -> Iterator[Condition]:
    """Yield the memory of Redis, if it is full. NaN, where no limit is set, is not."""
    if ratio >= MEMORY_FULL:
        cause = f"Redis uses {ratio:.0%} of its memory, so pushes are refused or soon will be"
        yield condition("memory", "redis", cause, "raise its `maxmemory`, or let less wait: `queue.max_pending`")


def configuration(living: Iterable[Worker]) -> Iterator[Condition]:
    """Yield what processes report of the configuration on disk."""
    refused = [worker for worker in living if worker.refused_since is not None]
    if refused:
        parts = ", ".join(sorted({worker.part for worker in refused}))
        since = min(worker.refused_since or 0 for worker in refused)
        cause = f"the change on disk was refused; the previous one is still in use ({parts})"
        # A process of an earlier version does not report why.
        remedy = "see `reload_refused` in the log, or `pushsvc check`"
        if whys := sorted({worker.refusal for worker in refused if worker.refusal}):
            cause, remedy = f"{cause}: {'; '.join(whys)}", "correct it; it is then read again automatically"
        yield condition("reload", "configuration", cause, remedy, since=since)
    sections = sorted({section for worker in living for section in worker.restart})
    if sections:
        changed = ", ".join(f"[{name}]" for name in sections)
        cause = f"{changed} changed on disk"
        yield condition("restart", "configuration", cause, "restart to apply it, or undo the change")


def audiences(failing: Sequence[FailingExpansion]) -> Iterator[Condition]:
    """Yield the apps with pushes whose audience cannot be expanded."""
    for app in sorted({each.app for each in failing}):
        own = [each for each in failing if each.app == app]
        first = min(own, key=lambda each: each.since)
        more = f" and {len(own) - 1} more" if len(own) > 1 else ""
        cause = f"the devices of push {first.push_id}{more} cannot be looked up ({first.why}), so they are sent nothing"
        remedy = "see `expansion_failed` in the log of `jobs`; it is tried again at least every ten minutes"
        yield condition("audience", app, cause, remedy, since=first.since, app=app, reason=first.why)


def quarantine(counts: Mapping[str, int]) -> Iterator[Condition]:
    """Yield the apps with records that could not be read and were set aside."""
    for app, count in counts.items():
        if count:
            records = "1 record that cannot be read is" if count == 1 else f"{count} records that cannot be read are"
            cause = f"{records} set aside, and what they hold is not sent or reported"
            remedy = "return to the version that wrote them, see `entry_quarantined` in the log and the runbook"
            yield condition("quarantine", app, cause, remedy, app=app)


class StoreConditions:
    """`ports.conditions.Conditions` over the store. Where Redis goes away between two calls, the next one says so. The
    figures for the metrics are read at most every `GAUGES_EVERY` seconds."""

    def __init__(self, current: Current, store: Store) -> None:
        self._current = current
        self._store = store
        self._good_until = 0.0
        self._first: dict[tuple[str, str], str] = {}
        """When this process first saw a condition of which nothing has recorded the beginning."""

    async def ready(self) -> Mapping[str, str]:
        """Return the parts that are not ready: `redis`, or none."""
        try:
            async with _within_answer():
                await self._store.pushes.ping()
        except StoreUnavailable as error:
            self._away(error)
            return {"redis": str(error)}
        _answered()
        return {}

    async def held(self) -> Mapping[str, str]:
        with suppress(StoreUnavailable):
            return await self._store.held()
        return {}

    async def now(self) -> Sequence[Condition]:
        try:
            async with asyncio.timeout(ANSWERS):
                return await self._read()
        except (StoreUnavailable, TimeoutError) as error:
            cause = str(error) or f"Redis is not available: it has not answered for {ANSWERS} s"
            remedy = "restore Redis; all parts then continue automatically"
            return self._dated([condition("redis", "redis", cause, remedy)])

    async def _read(self, gauges: Gauges | None = None) -> list[Condition]:
        return self._dated(await read_conditions(self._current.settings, self._store, gauges))

    def _away(self, error: StoreUnavailable) -> None:
        telemetry.REDIS.away("gauges", error)
        self._good_until = 0.0
        show_redis_away()

    def _dated(self, found: list[Condition]) -> list[Condition]:
        now = instant(int(time.time() * 1000))
        self._first = {(each.kind, each.what): self._first.get((each.kind, each.what), now) for each in found}
        return [
            each if each.since is not None else structs.replace(each, since=self._first[each.kind, each.what])
            for each in found
        ]

    async def metrics(self) -> bytes:
        """Return the metrics of this process, and those that are read from Redis."""
        telemetry.QUEUE_LIMIT.show({(): self._current.settings.queue.max_pending})
        if time.monotonic() >= self._good_until:
            try:
                async with _within_answer():
                    with suppress(StoreUnavailable):  # any answer will do, even that Redis takes no writes
                        await self._store.pushes.ping()
                await self._show()
            except StoreUnavailable as error:
                self._away(error)
            else:
                _answered()
                self._good_until = time.monotonic() + GAUGES_EVERY
        return telemetry.exposition()

    async def _show(self) -> None:
        settings, store = self._current.settings, self._store
        gauges = await store.gauges({app: tuple(each.accounts) for app, each in settings.apps.items()})
        show_gauges(gauges)
        telemetry.QUEUE_COUNTED.show({(): store.pushes.pending})
        show_workers(settings, await store.workers.living())
        conditions = await self._read(gauges)
        show_conditions(settings, conditions)
        show_frozen(settings, {each.what for each in conditions if each.kind == "frozen"})
        show_webhooks(*[await webhook_standings(settings, log) for log in store.webhook_logs])
        show_cleanups(await store.cleanups.record())
        telemetry.REDIS_MEMORY.show({(): await store.memory_ratio()})


def _answered() -> None:
    telemetry.REDIS_UP.show({(): 1})
    telemetry.REDIS.end("gauges")


@asynccontextmanager
async def _within_answer() -> AsyncIterator[None]:
    """Raise `StoreUnavailable` where the block takes longer than `ANSWER`."""
    try:
        async with asyncio.timeout(ANSWER):
            yield
    except TimeoutError:
        raise StoreUnavailable(f"Redis is not available: it has not answered for {ANSWER} s") from None


async def _read_logged(settings: Settings, store: Store) -> list[Condition]:
    """Return the conditions of the kinds in `_LOGS`. Raises `StoreUnavailable`."""
    processes, used, total, refused = await asyncio.gather(
        store.workers.known(), store.memory_ratio(), store.pushes.recount(settings.apps), store.pushes.refused()
    )
    waits = {app: store.pushes.pending_of(app) for app in settings.apps}
    removed = {"": total - sum(waits.values())}
    return [
        *await read_unserved(settings, store, processes),
        *silent(processes),
        *full(settings, waits | removed, refused),
        *memory(used),
    ]


_LOGS: Final[Mapping[Kind, telemetry.StateLog]] = {
    "unserved": telemetry.StateLog("serve", "unserved", "unserved_still", "served_again", level="error"),
    "full": telemetry.StateLog("serve", "queue_full", "queue_still_full", "queue_has_room", level="error"),
    "memory": telemetry.StateLog("serve", "memory_full", "memory_still_full", "memory_free", level="error"),
    "silent": telemetry.StateLog("serve", "process_silent", "process_still_silent", "processes_back"),
}
"""The log of the conditions that only a look at the whole service shows. Others are logged where they arise."""


@asynccontextmanager
async def watching(store: Store, current: Current, *, start: float = START) -> AsyncIterator[None]:
    """Log while the block lasts what is seen in two looks in a row, since a restart takes a moment; what is unserved
    only after `start` seconds, since a first start takes longer on a loaded machine."""

    async def watch() -> None:
        started = time.monotonic() + start
        before: set[tuple[str, str]] = set()
        while True:
            await pulse(min(LOOK, REPORTS * store.workers.lifetime))
            with suppress(StoreError):
                found = await _read_logged(current.settings, store)
                for kind, log in _LOGS.items():
                    if kind == "unserved" and time.monotonic() < started:
                        continue
                    own = {each.what: each.cause for each in found if each.kind == kind}
                    lasting = {what: cause for what, cause in own.items() if (kind, what) in before}
                    if lasting:
                        log.begin("", **{str(kind): lasting})
                    else:
                        log.end()
                before = {(each.kind, each.what) for each in found}

    async with in_background(watch(), "conditions"):
        yield
