"""Administration with fixed answers, for tests of what is above it."""

from __future__ import annotations

from collections.abc import Callable

from pushsvc.errors import Conflict
from pushsvc.model.finding import Explained
from pushsvc.model.push import Push, Route
from pushsvc.ports.admin import (
    AppStats,
    CheckFinding,
    CleanupAnswer,
    CleanupCount,
    CleanupState,
    DeadBatchRow,
    FeedbackState,
    PreviewedMessage,
    QueueState,
    RateHistory,
    Rates,
    Redelivery,
    ReloadState,
    Verdict,
    WebhookStates,
    WebhookTest,
)

AT = "2026-12-01T09:00:00.000Z"


class FixedAdministration:
    """`Administration` of an app without a webhook."""

    async def stats(self, app: str) -> AppStats:
        return AppStats(
            app=app,
            at=AT,
            verdict=Verdict("ok", "All is well.", []),
            lanes=[],
            routes=[],
            workers=[],
            queue=QueueState(0, 1, ""),
            retrying=0,
            unacknowledged=0,
            scheduled=0,
            schedules=0,
            scheduled_next_hour=0,
            dead_letters=0,
            receipts=0,
            events=0,
            quarantined=0,
            suppressed=0,
            devices=0,
            rates=Rates(None, None, None, None),
            live=None,
            webhooks=[],
            cleanup=CleanupState(False, None, None, {}),
            reload=ReloadState(True, None, None, []),
        )

    async def rates(self, app: str, *, span: int, step: int) -> RateHistory:
        return RateHistory(AT, step, 0, [])

    def preview(self, push: Push) -> list[PreviewedMessage]:
        return []

    async def feedback(self, app: str) -> FeedbackState:
        return FeedbackState([], [], True, 0)

    def explain(self, platform: str, reason: str, status: int) -> Explained:
        return Explained("", "")

    async def release(self, route: Route, until: int) -> None:
        return

    def token_hash(self, platform: str) -> Callable[[str], str]:
        return lambda token: "0" * 16

    async def webhooks(self, app: str) -> WebhookStates:
        return WebhookStates([])

    async def test_webhook(self, app: str) -> WebhookTest:
        raise Conflict(f"{app} has no webhook.")

    async def resume_webhooks(self, app: str) -> None:
        raise Conflict(f"{app} has no webhook.")

    async def dead_batches(self, app: str, *, since: int | None, until: int | None) -> list[DeadBatchRow]:
        return []

    async def redeliver(self, app: str, *, since: int | None, until: int | None, dry_run: bool) -> Redelivery:
        return Redelivery(0, 0)

    async def clean_up(self) -> CleanupAnswer:
        return CleanupAnswer("requested", None)

    async def count_cleanup(self, app: str, place: str = "") -> CleanupCount:
        return CleanupCount("counted", {}, 0, True, None)

    async def check(self, app: str, *, online: bool = False) -> list[CheckFinding]:
        return [CheckFinding(f"apps.{app}", "ok", "as it should be")]
