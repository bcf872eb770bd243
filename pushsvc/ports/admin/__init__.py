"""Administration: the state of an app and of the service behind it, as documents that the API answers and the command
line prints.

Every document is about one app. What all apps share (processes, cleanups, the configuration) is shown to each, without
figures of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ...model.finding import Explained
from ...model.push import Platform, Push, Route
from .acts import *
from .guards import *
from .keys import *
from .stats import *
from .webhooks import *


class Administration(Protocol):
    """The state of the service, as one app may see it, and the acts of its operator."""

    async def stats(self, app: str) -> AppStats: ...

    async def rates(self, app: str, *, span: int, step: int) -> RateHistory:
        """Return what was counted in the last `span` seconds, in steps of `step` seconds, a multiple of ten."""

    def preview(self, push: Push) -> list[PreviewedMessage]:
        """Return what each route of a push would be sent."""

    async def feedback(self, app: str) -> FeedbackState: ...

    def explain(self, platform: Platform, reason: str, status: int) -> Explained:
        """Return what the reason and the status of a failed delivery mean, and what to do about it."""

    async def release(self, route: Route, until: int) -> None:
        """Let a route prune until an instant (Unix ms) though too many of its answers are bad; 0 ends that."""

    def token_hash(self, platform: Platform) -> Callable[[str], str]:
        """Return the function that makes of a token what is shown instead."""

    async def webhooks(self, app: str) -> WebhookStates: ...

    async def test_webhook(self, app: str) -> WebhookTest:
        """Call the webhook without events. Raises `Conflict` where the app has none."""

    async def resume_webhooks(self, app: str) -> None:
        """Continue all webhooks now, whatever their receivers have answered. Raises `Conflict` where there is none."""

    async def dead_batches(self, app: str, *, since: int | None, until: int | None) -> list[DeadBatchRow]:
        """Return the dead batches whose last event was recorded in a span (Unix ms)."""

    async def redeliver(self, app: str, *, since: int | None, until: int | None, dry_run: bool) -> Redelivery:
        """Ask for the dead batches whose last event was recorded in a span (Unix ms) to be delivered again. Raises
        `Conflict` where the app has no webhook."""

    async def clean_up(self) -> CleanupAnswer: ...

    async def count_cleanup(self, app: str, place: str = "") -> CleanupCount:
        """Count what a cleanup would remove of the app, from a `place` on that an earlier count has returned."""

    async def check(self, app: str, *, online: bool = False) -> Sequence[CheckFinding]:
        """Return what a check finds. `online`: the providers are asked, and the webhook is called without events."""
