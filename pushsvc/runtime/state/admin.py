"""Administration over the store and the configuration: implements `ports.admin.Administration` for the API."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from ...errors import Conflict
from ...model.finding import Explained
from ...model.instants import instant
from ...model.push import Platform, Push, Route
from ...model.routing import CARRIERS
from ...ports.admin import (
    AnswerCounts,
    AppStats,
    CheckFinding,
    CleanupAnswer,
    CleanupCount,
    DeadBatchRow,
    FeedbackState,
    FreezeShare,
    GuardState,
    PreviewedMessage,
    PruneCount,
    RateHistory,
    Redelivery,
    WebhookStates,
    WebhookTest,
)
from ...ports.figures import SLOT
from ...ports.store import Store
from ...ports.webhooks import DeadBatch
from ...rules.freeze import Answers, slots_around
from ...settings.schema import Settings
from ...stages import cleanup, feedback
from ...stages.webhooks.caller import trial_call
from ...stages.webhooks.config import WebhookConfig
from ..checks.check import check_running, once
from ..checks.online import check_online
from ..plans import cleanup_plan, feedback_config, routes_of, webhook_configs
from ..providers import explain
from ..reload import Current
from .app_stats import AppStatsReader
from .conditions import StoreConditions
from .flow_history import FlowHistory
from .previews import previewed
from .webhook_states import dead_batches, webhook_states

COUNTING: Final = 5.0
"""Seconds that a call may count what a cleanup would remove."""
PIECE: Final = 60
"""Slots of the flow that are read at once: ten minutes."""
PAGE: Final = 250
MOST_PAGES: Final = 80
"""Pages of feedback events that one call reads."""

_WEEK: Final = 7 * 24 * 3_600_000


class StoreAdministration:
    """The state and the acts of a service, for one of its processes."""

    def __init__(self, current: Current, store: Store, conditions: StoreConditions) -> None:
        self._current = current
        self._store = store
        self._stats = AppStatsReader(current, store, conditions)

    @property
    def _settings(self) -> Settings:
        return self._current.settings

    # --- the state --------------------------------------------------------------------------------

    async def stats(self, app: str) -> AppStats:
        return await self._stats.read(app)

    async def rates(self, app: str, *, span: int, step: int) -> RateHistory:
        last = self._store.clock() // (1000 * SLOT)  # the last step ends with the last complete slot
        points = span // step
        first = last - points * (step // SLOT)
        history = FlowHistory(first, step, points)
        for at in range(first, last, PIECE):
            history.add(await self._store.flow.read(app, at, min(at + PIECE, last) - 1))
        return history.document()

    def preview(self, push: Push) -> list[PreviewedMessage]:
        return previewed(self._settings, push)

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
        after, complete = f"{since}-0", False
        for _ in range(MOST_PAGES):
            page = await self._store.receipts.events(app, after=after, limit=PAGE)
            for _, event in page.events:
                counts[instant(event.at)[:10], event.platform, event.reason, event.action] += 1
            if complete := len(page.events) < PAGE:
                break
            after = page.events[-1][0]
        return [PruneCount(*key, count) for key, count in sorted(counts.items())], complete

    def token_hash(self, platform: Platform) -> Callable[[str], str]:
        return self._store.token_hash(platform)

    def explain(self, platform: Platform, reason: str, status: int) -> Explained:
        return explain(platform, reason, status)

    async def release(self, route: Route, until: int) -> None:
        await self._store.answers.release(route.app, route.platform, until)

    # --- webhooks ---------------------------------------------------------------------------------

    async def webhooks(self, app: str) -> WebhookStates:
        return WebhookStates(await webhook_states(self._settings, self._store, app, details=True))

    async def test_webhook(self, app: str) -> WebhookTest:
        return await trial_call(self._webhook_of(app), app, self._store.clock())

    async def resume_webhooks(self, app: str) -> None:
        self._webhook_of(app)
        for of in self._store.webhook_logs:
            await of.resume(app)

    async def dead_batches(self, app: str, *, since: int | None, until: int | None) -> list[DeadBatchRow]:
        return await dead_batches(self._store, app, since, until)

    async def redeliver(self, app: str, *, since: int | None, until: int | None, dry_run: bool) -> Redelivery:
        self._webhook_of(app)
        found: list[DeadBatch] = []
        for of in self._store.webhook_logs:
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
        holder = await self._store.locks.holder(cleanup.LOCK) or ""
        record = await self._store.cleanups.record()
        running = bool(holder) or record.place is not None
        if not running:
            await self._store.cleanups.request()
            record = await self._store.cleanups.record()
        began_at = instant(record.began_at) if record.began_at else None
        return CleanupAnswer("running" if running else "requested", began_at, holder)

    async def count_cleanup(self, app: str, place: str = "") -> CleanupCount:
        until = time.monotonic() + COUNTING
        clock = await self._store.cleanups.clock()
        plan = cleanup_plan(self._settings, self._store, clock, apps=[app], dry_run=True)
        cleaned = await cleanup.clean(plan, share=1.0, place=place, stopping=lambda: time.monotonic() > until)
        removed = {what: count for (of, what), count in sorted(cleaned.removed.items()) if count and of == app}
        return CleanupCount("counted", removed, sum(removed.values()), cleaned.place is None, cleaned.place)

    # --- checks -----------------------------------------------------------------------------------

    async def check(self, app: str, *, online: bool = False) -> list[CheckFinding]:
        found = await check_running(self._settings, self._store)
        if online:
            own = replace(self._settings, apps={app: self._settings.apps[app]})
            found = once([*found, *await check_online(own)])
        return [each for each in found if concerns(each.part, app)]


def concerns(part: str, app: str) -> bool:
    """Return whether a finding is about this app, or about what all apps share."""
    return not part.startswith("apps.") or part.split(".")[1] == app
