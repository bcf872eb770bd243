"""Administration over the store and the configuration: implements `ports.admin.Administration` for the API."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from msgspec import Raw

from ..errors import Conflict
from ..model.finding import Explained
from ..model.instants import instant
from ..model.push import Platform, Push, Route
from ..model.routing import CARRIERS, path_of, platform_of
from ..ports.admin import (
    AnswerCounts,
    AppStats,
    CheckFinding,
    CleanupAnswer,
    CleanupCount,
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
from ..ports.figures import SLOT
from ..ports.preview import Preview
from ..ports.store import Store
from ..ports.webhooks import DeadBatch
from ..providers import REGISTRY
from ..providers.live.render import LIMIT as LIVE_LIMIT
from ..rules.freeze import Answers, slots_around
from ..settings import Settings
from ..stages import cleanup, feedback, webhooks
from ..stages.webhooks import WebhookConfig
from .app_stats import AppStatsReader
from .check import check_running
from .conditions import StoreConditions
from .figures import Current
from .flow_history import FlowHistory
from .plans import cleanup_plan, feedback_config, routes_of, webhook_configs
from .providers import explain
from .webhook_states import webhook_states

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
                    *(shown.size, shown.limit, None if push.audience else sum(targets), Raw(shown.override)),
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
        return WebhookStates(await webhook_states(self._settings, self._store, app, details=True))

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
