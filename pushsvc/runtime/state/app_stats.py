"""The state of an app as `GET /v1/admin/stats` shows it, read from the store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import structs

from ...model.instants import instant
from ...model.push import LANES, Route
from ...model.routing import CARRIERS, platform_of
from ...ports.admin import (
    AnswerCounts,
    AppStats,
    Cause,
    CleanupState,
    LaneFigures,
    PartState,
    Process,
    QueueState,
    Rates,
    ReloadState,
    RouteState,
    live_state,
)
from ...ports.cleanup import CleanupRecord
from ...ports.conditions import Condition
from ...ports.figures import SLOT, AppGauges
from ...ports.store import Store
from ...ports.work import Worker
from ...rules.freeze import SLOT_MS, Answers
from ...settings.schema import Settings
from ..providers import expiry_of
from ..reload import Current
from .conditions import StoreConditions
from .figures import PARTS
from .flow import quantile, summed
from .verdict import verdict_of
from .webhook_states import webhook_states

LATELY: Final = 3
"""Complete slots of the flow from which present rates are made: half a minute."""
TOOK: Final = 30
"""Slots over which the times of providers are summed: five minutes."""
ANSWERED: Final = 60
"""Slots of recent answers, and of deliveries that failed: ten minutes."""
READ_AGAIN: Final = 60.0
"""Seconds after which the expiry of a credential is read again."""
_HOUR: Final = 3_600_000


class AppStatsReader:
    def __init__(self, current: Current, store: Store, conditions: StoreConditions) -> None:
        self._current = current
        self._store = store
        self._conditions = conditions
        self._expiries: dict[Route, tuple[object, float, str | None]] = {}
        """By route its account, when its credential was last read, and when that expires."""

    @property
    def _settings(self) -> Settings:
        return self._current.settings

    async def read(self, app: str, known: Sequence[Condition] | None = None) -> AppStats:
        """Return the state of an app. `known` are all conditions, where the caller has read them."""
        settings, store = self._settings, self._store
        accounts = tuple(settings.apps[app].accounts)
        now = store.clock()
        slot = now // (1000 * SLOT)
        gauges, workers, flow, causes = await asyncio.gather(
            store.gauges({app: accounts}),
            store.workers.living(),
            store.flow.read(app, slot - ANSWERED, slot),
            self._causes(app, known),
        )
        hooks, record, devices, schedules, upcoming = await asyncio.gather(
            webhook_states(settings, store, app),
            store.cleanups.record(),
            store.registry.count(app),
            store.pushes.due(app),
            store.pushes.due(app, now + _HOUR),
        )
        at = now // SLOT_MS
        answers = await asyncio.gather(*(store.answers.read(app, each, at - ANSWERED, at) for each in accounts))
        own = gauges.apps[app]
        rates = rates_of(flow, slot)
        lanes = lanes_of(own, flow, slot)
        took = summed(counts for place, counts in flow.items() if place >= slot - TOOK)
        frozen = {name: cause for cause in causes if cause.kind == "frozen" for name in cause.routes}
        routes = [
            self._route(Route(app, account), own, causes, frozen, workers, flow, slot, took, sum_answers(counted))
            for account, counted in zip(accounts, answers, strict=True)
        ]
        live = None if settings.apps[app].live is None else await live_state(store.live, app)
        return AppStats(
            app=app,
            at=instant(now),
            verdict=verdict_of(causes, lanes=lanes, rates=rates, now=now),
            lanes=lanes,
            routes=routes,
            workers=parts_of(settings, workers),
            queue=QueueState(
                own.total_pending,
                settings.queue_shares()[app],
                next((cause.cause for cause in causes if cause.kind == "full"), ""),
                sum(own.by_shard),
            ),
            retrying=sum(own.retry_pending.values()),
            unacknowledged=sum(own.ack_pending.values()),
            scheduled=own.scheduled,
            schedules=schedules,
            scheduled_next_hour=upcoming,
            dead_letters=own.dead_letters,
            receipts=own.receipts,
            events=own.events,
            quarantined=own.quarantined,
            suppressed=sum(own.suppressed.values()),
            devices=devices,
            rates=rates,
            live=live,
            webhooks=hooks,
            cleanup=cleanup_of(record, app),
            reload=reload_of(self._current),
        )

    def _route(
        self,
        route: Route,
        gauges: AppGauges,
        causes: Sequence[Cause],
        frozen: Mapping[str, Cause],
        workers: Sequence[Worker],
        flow: Mapping[int, Mapping[str, int]],
        slot: int,
        took: Counter[str],
        answers: AnswerCounts,
    ) -> RouteState:
        stops = [cause for cause in causes if cause.kind in ("held", "unserved") and route.name in cause.routes]
        why = next(iter(stops), None)
        platform = platform_of(route.platform)
        state = "sending" if why is None else "unserved" if why.kind == "unserved" else "held"
        if why is not None and why.reason == "throttled":
            state = "throttled"
        return RouteState(
            route=route.name,
            platform=platform,
            state=state,  # type: ignore[arg-type]  # one of the four
            since=why.since if why else None,
            reason=why.cause if why else "",
            remedy=why.remedy if why else "",
            frozen=frozen[route.name].cause if route.name in frozen else "",
            waiting=sum(gauges.pending[route.platform].values()),
            lanes=dict(gauges.pending[route.platform]),
            retrying=gauges.retry_pending[route.platform],
            unacknowledged=gauges.ack_pending[route.platform],
            workers=sum(worker.part == "dispatch" and route.name in worker.serves for worker in workers),
            sent_rate=rate_of(flow, slot, f"ended:{platform}:sent"),
            failed_rate=rate_of(flow, slot, f"ended:{platform}:failed"),
            p50=quantile(took, platform, 0.5),
            p99=quantile(took, platform, 0.99),
            answers=answers,
            failed=sum(counts.get(f"ended:{platform}:failed", 0) for counts in flow.values()),
            expires_at=self._expiry(route),
        )

    def _expiry(self, route: Route) -> str | None:
        """Return when the credential of a route expires. Its files are read once a minute at most."""
        if route.platform in CARRIERS:
            return None
        config, now = self._settings.apps[route.app].accounts[route.platform], time.monotonic()
        known = self._expiries.get(route)
        if known is None or known[0] is not config or now - known[1] > READ_AGAIN:
            at = expiry_of(route.platform, config)
            known = self._expiries[route] = (config, now, None if at is None else instant(int(at * 1000)))
        return known[2]

    async def _causes(self, app: str, known: Sequence[Condition] | None) -> list[Cause]:
        """Return the conditions that concern the app, or the whole service."""
        return [
            Cause(**structs.asdict(each), routes=[each.what] if each.what.startswith(f"{app}/") else [])
            for each in (await self._conditions.now() if known is None else known)
            if each.app in ("", app)
        ]


def rate_of(flow: Mapping[int, Mapping[str, int]], slot: int, name: str) -> float | None:
    """Return what was counted a second in the last complete slots before `slot`; None where nothing was noted in any of
    them."""
    slots = [flow[each] for each in range(slot - LATELY, slot) if each in flow]
    return sum(each.get(name, 0) for each in slots) / (SLOT * LATELY) if slots else None


def rates_of(flow: Mapping[int, Mapping[str, int]], slot: int) -> Rates:
    """Return the present rates over all platforms."""
    platforms = sorted({name.split(":")[1] for each in flow.values() for name in each if name.startswith("ended:")})

    def of(outcome: str) -> float | None:
        rates = [rate_of(flow, slot, f"ended:{platform}:{outcome}") for platform in platforms or [""]]
        known = [rate for rate in rates if rate is not None]
        return sum(known) if known else None

    return Rates(rate_of(flow, slot, "accepted"), of("sent"), of("failed"), of("invalid"))


def lanes_of(gauges: AppGauges, flow: Mapping[int, Mapping[str, int]], slot: int) -> list[LaneFigures]:
    """Return the lanes of an app. What comes in is what goes out and what more waits than before."""
    found = []
    for lane in LANES:
        waiting = sum(lanes.get(lane, 0) for lanes in gauges.pending.values())
        out = rate_of(flow, slot, f"out:{lane}")
        levels = [flow[each].get(f"waiting:{lane}") for each in range(slot - LATELY - 1, slot) if each in flow]
        known = [level for level in levels if level is not None]
        grown = (known[-1] - known[0]) / (SLOT * (len(known) - 1)) if len(known) > 1 else None
        found.append(
            LaneFigures(
                lane=lane,
                waiting=waiting,
                oldest_age=gauges.oldest.get(lane),
                in_rate=None if out is None or grown is None else max(0.0, out + grown),
                out_rate=out,
                through_in=waiting / out if waiting and out else None,
            )
        )
    return found


def sum_answers(slots: Mapping[int, Answers]) -> AnswerCounts:
    whole = sum(slots.values(), Answers())
    return AnswerCounts(whole.sent, whole.dead, whole.suspect)


def parts_of(settings: Settings, workers: Sequence[Worker]) -> list[PartState]:
    parts = (*PARTS, "live") if any(app.live for app in settings.apps.values()) else PARTS
    found: dict[str, list[Process]] = {part: [] for part in parts}
    for worker in workers:
        found.setdefault(worker.part, []).append(Process(worker.consumer, instant(worker.last_sign)))
    return [PartState(part, len(processes), processes) for part, processes in found.items()]


def cleanup_of(record: CleanupRecord, app: str) -> CleanupState:
    """Return the state of the cleanups as one app sees it."""
    return CleanupState(
        running=record.place is not None,
        began_at=instant(record.began_at) if record.began_at else None,
        ended_at=instant(record.ended_at) if record.ended_at else None,
        removed={what: count for (of, what), count in sorted(record.removed.items()) if of == app and count},
    )


def reload_of(current: Current) -> ReloadState:
    """Return the state of this process's configuration."""
    since, at = current.refused_since, current.applied_at
    return ReloadState(
        since is None,
        None if at is None else instant(at),
        None if since is None else instant(since),
        list(current.unapplied),
    )
