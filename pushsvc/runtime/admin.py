"""Administration over the store and the configuration: implements `ports.admin.Administration` for the API."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Raw, structs

from ..errors import Conflict
from ..model.finding import Explained
from ..model.instants import instant
from ..model.push import LANES, Platform, Push, Route
from ..model.routing import CARRIERS, path_of, platform_of
from ..ports.admin import (
    AnswerCounts,
    AppStats,
    Cause,
    CheckFinding,
    CleanupAnswer,
    CleanupCount,
    CleanupState,
    DeadBatchRow,
    FeedbackState,
    FreezeShare,
    GuardState,
    LaneFigures,
    PartState,
    PreviewedMessage,
    Process,
    PruneCount,
    QueueState,
    RateHistory,
    Rates,
    Redelivery,
    ReloadState,
    RouteState,
    Series,
    WebhookCallRow,
    WebhookState,
    WebhookStates,
    WebhookTest,
    live_state,
)
from ..ports.cleanup import CleanupRecord
from ..ports.figures import SLOT, AppGauges
from ..ports.preview import Preview
from ..ports.store import Store
from ..ports.webhooks import DeadBatch, Standing, WebhookCallNote, Webhooks
from ..ports.workers import Worker
from ..providers import REGISTRY
from ..providers.live.render import LIMIT as LIVE_LIMIT
from ..rules.freeze import SLOT_MS, Answers, slots_around
from ..settings import Settings
from ..stages import cleanup, feedback, webhooks
from ..stages.webhooks import WebhookConfig
from .check import check_running
from .conditions import StoreConditions
from .figures import PARTS, Current
from .flow import quantile, summed
from .plans import cleanup_plan, feedback_config, routes_of, webhook_configs
from .providers import expiry_of, explain
from .reload import applied_at, refused_since, unapplied
from .verdict import verdict_of

LATELY: Final = 3
"""Complete slots of the flow from which present rates are made: half a minute."""
TOOK: Final = 30
"""Slots over which the times of providers are summed: five minutes."""
ANSWERED: Final = 60
"""Slots of recent answers: ten minutes."""
NEWEST: Final = 20
"""Dead batches of a webhook that are shown."""
READ_AGAIN: Final = 60.0
"""Seconds after which the expiry of a credential is read again."""
COUNTING: Final = 5.0
"""Seconds that a call may count what a cleanup would remove."""

PAGE: Final = 1000
MOST_PAGES: Final = 20
"""Pages of feedback events that one call reads."""

_HOUR: Final = 3_600_000
_WEEK: Final = 7 * 24 * _HOUR


class StoreAdministration:
    """The state and the acts of a service, for one of its processes."""

    def __init__(self, current: Current, store: Store, conditions: StoreConditions) -> None:
        self._current = current
        self._store = store
        self._conditions = conditions
        self._expiries: dict[Route, tuple[object, float, str | None]] = {}
        """By route its account, when its credential was last read, and when that expires."""

    @property
    def _settings(self) -> Settings:
        return self._current.settings

    # --- the state --------------------------------------------------------------------------------

    async def stats(self, app: str) -> AppStats:
        settings, store = self._settings, self._store
        accounts = tuple(settings.apps[app].accounts)
        now = store.clock()
        slot = now // (1000 * SLOT)
        gauges, workers, flow, causes = await asyncio.gather(
            store.gauges({app: accounts}),
            store.workers.living(),
            store.flow.read(app, slot - TOOK, slot),
            self._causes(app),
        )
        hooks, record, devices, upcoming = await asyncio.gather(
            self._webhook_states(app),
            store.cleanups.record(),
            store.registry.count(app),
            store.pushes.due(app, now + _HOUR),
        )
        at = now // SLOT_MS
        answers = await asyncio.gather(*(store.answers.read(app, each, at - ANSWERED, at) for each in accounts))
        own = gauges.apps[app]
        rates = rates_of(flow, slot)
        lanes = lanes_of(own, flow, slot)
        took = summed(flow.values())
        frozen = {name: cause for cause in causes if cause.kind == "frozen" for name in cause.routes}
        routes = [
            self._route(Route(app, account), own, causes, frozen, workers, flow, slot, took, sum_answers(counted))
            for account, counted in zip(accounts, answers, strict=True)
        ]
        live = None if settings.apps[app].live is None else await store.live.gateways(app)
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
            ),
            retrying=sum(own.retry_pending.values()),
            unacknowledged=sum(own.ack_pending.values()),
            scheduled=own.scheduled,
            scheduled_next_hour=upcoming,
            dead_letters=own.dead_letters,
            receipts=own.receipts,
            events=own.events,
            quarantined=own.quarantined,
            suppressed=sum(own.suppressed.values()),
            devices=devices,
            rates=rates,
            live=None if live is None else live_state(live),
            webhooks=hooks,
            cleanup=cleanup_of(record, app),
            reload=reload_of(),
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
            retrying=gauges.retry_pending[route.platform],
            workers=sum(worker.part == "dispatch" and route.name in worker.serves for worker in workers),
            sent_rate=rate_of(flow, slot, f"ended:{platform}:sent"),
            failed_rate=rate_of(flow, slot, f"ended:{platform}:failed"),
            p50=quantile(took, platform, 0.5),
            p99=quantile(took, platform, 0.99),
            answers=answers,
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

    async def _causes(self, app: str) -> list[Cause]:
        """Return the conditions that concern the app, or the whole service."""
        return [
            Cause(**structs.asdict(each), routes=[each.what] if each.what.startswith(f"{app}/") else [])
            for each in await self._conditions.now()
            if each.app in ("", app)
        ]

    async def rates(self, app: str, *, span: int, step: int) -> RateHistory:
        last = self._store.clock() // (1000 * SLOT)  # the last step ends with the last complete slot
        points = span // step
        first = last - points * (step // SLOT)
        flow = await self._store.flow.read(app, first, last - 1)
        return history_of(flow, first, step, points)

    async def preview(self, push: Push) -> list[PreviewedMessage]:
        accounts = self._settings.apps[push.app].accounts
        found = []
        for route, message in push.messages.items():
            if route in CARRIERS:
                shown = Preview("", "", message.headers, message.body, LIVE_LIMIT, len(message.body))
            else:
                shown = REGISTRY[route].preview(
                    accounts[route], message, push_id=push.id, expires_at=push.expires_at, dry_run=push.dry_run
                )
            targets = [len(own) for path, own in push.targets.items() if route in (path_of(path)[0], *path_of(path)[1])]
            found.append(
                PreviewedMessage(
                    *(route, platform_of(route), shown.method, shown.path, shown.headers, Raw(shown.body)),
                    *(shown.size, shown.limit, None if push.audience else sum(targets)),
                )
            )
        return found

    # --- feedback ---------------------------------------------------------------------------------

    async def feedback(self, app: str) -> FeedbackState:
        store, now = self._store, self._store.clock()
        config = feedback_config(self._settings)
        policy = config.freeze
        routes = [route for route in routes_of(self._settings) if route.app == app and route.platform not in CARRIERS]
        frozen = await feedback.frozen_routes(store.answers, routes, config, now)
        released = await store.answers.released(app)
        guards = []
        for route in routes:
            span = slots_around(now, now, policy)
            answers = sum((await store.answers.read(app, route.platform, *span)).values(), Answers())
            until = max(config.prune_anyway.get(route, 0), released.get(route.platform, 0))
            freeze, total = frozen.get(route), max(1, answers.total)
            guards.append(
                GuardState(
                    route=route.name,
                    frozen=freeze is not None,
                    why="" if freeze is None else freeze.why,
                    answers=AnswerCounts(answers.sent, answers.dead, answers.suspect),
                    share=FreezeShare(answers.dead / total, answers.suspect / total),
                    limit=FreezeShare(policy.dead, policy.suspect),
                    least=FreezeShare(policy.dead_answers, policy.suspect_answers),
                    window=policy.window,
                    prune_anyway_until=instant(until) if until > now else None,
                    waits_for=""
                    if freeze is None
                    else f"a share of `{freeze.cause}` answers of at most {getattr(policy, freeze.cause):.0%}",
                )
            )
        days, complete = await self._pruned_by_day(app, now - _WEEK)
        receipts = (await store.gauges({app: ()})).apps[app].receipts
        return FeedbackState(guards, days, complete, receipts)

    async def _pruned_by_day(self, app: str, since: int) -> tuple[list[PruneCount], bool]:
        """Return the feedback events from an instant on by day, and whether all of them were counted."""
        counts: Counter[tuple[str, str, str, str]] = Counter()
        after = f"{since}-0"
        for _ in range(MOST_PAGES):
            page = await self._store.receipts.events(app, after=after, limit=PAGE)
            for _, event in page.events:
                counts[instant(event.at)[:10], event.platform, event.reason, event.action] += 1
            if len(page.events) < PAGE:
                break
            after = page.events[-1][0]
        else:
            return [PruneCount(*key, count) for key, count in sorted(counts.items())], False
        return [PruneCount(*key, count) for key, count in sorted(counts.items())], True

    def token_hash(self, platform: Platform) -> Callable[[str], str]:
        return self._store.token_hash(platform)

    def explain(self, platform: Platform, reason: str, status: int) -> Explained:
        return explain(platform, reason, status)

    async def release(self, route: Route, until: int) -> None:
        await self._store.answers.release(route.app, route.platform, until)

    # --- webhooks ---------------------------------------------------------------------------------

    async def webhooks(self, app: str) -> WebhookStates:
        return WebhookStates(await self._webhook_states(app, details=True))

    async def _webhook_states(self, app: str, *, details: bool = False) -> list[WebhookState]:
        found = []
        for of in (self._store.webhooks, self._store.event_webhooks):
            config = webhook_configs(self._settings, of.kind).get(app)
            if config is None:
                continue
            standing = await of.standing(app, config.place)
            dead, calls = [], []
            if details:
                dead = (await of.dead(app))[: -NEWEST - 1 : -1]
                calls = await of.calls(app)
            found.append(webhook_state(app, of, config, standing, dead, calls, self._store.clock()))
        return found

    async def test_webhook(self, app: str) -> WebhookTest:
        config, now, began = self._webhook_of(app), self._store.clock(), time.monotonic()
        async with webhooks.open_caller(config, app) as caller:
            answer = await caller.post(f"test_{app}_{now}", webhooks.trial_body(app, now))
        good = 200 <= answer.status < 300
        return WebhookTest(good, config.host, answer.status, answer.reason, round(time.monotonic() - began, 3))

    async def resume_webhooks(self, app: str) -> None:
        self._webhook_of(app)
        for of in (self._store.webhooks, self._store.event_webhooks):
            await of.resume(app)

    async def redeliver(self, app: str, *, since: int | None, until: int | None, dry_run: bool) -> Redelivery:
        self._webhook_of(app)
        found: list[DeadBatch] = []
        for of in (self._store.webhooks, self._store.event_webhooks):
            batches = await of.dead(app, since=since, until=until)
            if batches and not dry_run:
                await of.ask_again(app, batches)
            found += batches
        return Redelivery(len(found), sum(batch.events for batch in found))

    def _webhook_of(self, app: str) -> WebhookConfig:
        config = webhook_configs(self._settings).get(app)
        if config is None:
            raise Conflict(f"{app} has no webhook: set `url` and `secret` in [apps.{app}.webhook].")
        return config

    # --- cleanup ----------------------------------------------------------------------------------

    async def clean_up(self) -> CleanupAnswer:
        record = await self._store.cleanups.record()
        running = record.place is not None
        await self._store.cleanups.request()
        record = await self._store.cleanups.record()
        return CleanupAnswer("running" if running else "requested", instant(record.began_at))

    async def count_cleanup(self, app: str) -> CleanupCount:
        until = time.monotonic() + COUNTING
        clock = await self._store.cleanups.clock()
        plan = cleanup_plan(self._settings, self._store, clock, apps=[app], dry_run=True)
        cleaned = await cleanup.clean(plan, share=1.0, stopping=lambda: time.monotonic() > until)
        removed = {what: count for (of, what), count in sorted(cleaned.removed.items()) if count and of == app}
        return CleanupCount("counted", removed, sum(removed.values()), cleaned.place is None)

    # --- checks -----------------------------------------------------------------------------------

    async def check(self, app: str) -> list[CheckFinding]:
        found = await check_running(self._settings, self._store)
        return [each for each in found if concerns(each.part, app)]


def concerns(part: str, app: str) -> bool:
    """Return whether a finding is about this app, or about what all apps share."""
    return not part.startswith("apps.") or part.split(".")[1] == app


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
    """Return the sum of the answers of all slots."""
    whole = sum(slots.values(), Answers())
    return AnswerCounts(whole.sent, whole.dead, whole.suspect)


def parts_of(settings: Settings, workers: Sequence[Worker]) -> list[PartState]:
    """Return the living processes of each part."""
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


def reload_of() -> ReloadState:
    """Return the state of this process's configuration."""
    since, at = refused_since(), applied_at()
    return ReloadState(
        since is None,
        None if at is None else instant(int(at * 1000)),
        None if since is None else instant(since),
        list(unapplied()),
    )


def webhook_state(
    app: str,
    of: Webhooks,
    config: WebhookConfig,
    standing: Standing,
    dead: Sequence[DeadBatch],
    calls: Sequence[WebhookCallNote],
    now: int,
) -> WebhookState:
    """Return the state of a webhook at `now`, in Unix ms."""
    waiting = standing.waiting_since
    return WebhookState(
        kind=of.kind,
        host=config.host,
        state="off" if standing.off else "failing" if standing.reason else "ok",
        reason=standing.reason,
        failing_since=None if standing.failing_since is None else instant(standing.failing_since),
        failures=standing.failures,
        attempts=standing.attempts,
        waiting_since=None if waiting is None else instant(waiting),
        lag=0.0 if waiting is None else max(0.0, (now - waiting) / 1000),
        next_call_in=standing.due_in / 1000 if standing.due_in and standing.failures else None,
        cursor=standing.cursor,
        dead=standing.dead,
        asked=standing.asked,
        trouble="; ".join(each.text for each in webhooks.troubles_of(app, standing, now)),
        dead_batches=[
            DeadBatchRow(each.id, each.events, each.attempts, each.reason, instant(each.at), each.after, each.last)
            for each in dead
        ],
        calls=[WebhookCallRow(**{**structs.asdict(call), "at": instant(call.at)}) for call in calls],
    )


def history_of(flow: Mapping[int, Mapping[str, int]], first: int, step: int, points: int) -> RateHistory:
    """Return the flow in steps of seconds, from the slot `first` on."""
    slots = step // SLOT
    steps = [
        [flow[each] for each in range(at, at + slots) if each in flow]
        for at in range(first, first + points * slots, slots)
    ]
    names = sorted({name for each in flow.values() for name in each if not name.startswith("took:")})
    series = []
    for name in names:
        kind, _, rest = name.partition(":")
        if kind == "waiting":
            values = [each[-1].get(name) if each else None for each in steps]
        else:
            values = [sum(slot.get(name, 0) for slot in each) if each else None for each in steps]
        platform, _, outcome = rest.partition(":")
        if kind == "ended":
            series.append(Series(outcome, platform, "", values))
        else:
            series.append(Series(kind, "", rest, values))
    return RateHistory(instant(first * SLOT * 1000), step, points, series)
