"""What an operator should know about a webhook, although pushes are sent without it."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from ...model.instants import instant
from ...ports.webhooks import Standing

LASTING: Final = 300.0
"""Seconds of failures in a row after which they are a trouble: a restart of the receiver is none."""


class WebhookTrouble(Struct, frozen=True):
    reason: str
    """`off`, `failing` or `given_up`."""
    cause: str
    remedy: str
    since: int | None = None
    """In Unix ms."""

    @property
    def text(self) -> str:
        """Return cause and remedy as one line."""
        return f"{self.cause}: {self.remedy}"


def troubles_of(app: str, standing: Standing, now: int) -> list[WebhookTrouble]:
    """Return what is wrong with the webhook of this app at `now`, in Unix ms."""
    found = []
    since = standing.failing_since
    if standing.off:
        cause = "it is switched off because its receiver answered 410, the events wait"
        found.append(
            WebhookTrouble("off", cause, f"`pushsvc webhooks resume --app {app}` when it takes calls again", since)
        )
    elif since is not None and now - since > LASTING * 1000:
        calls = f", {standing.failures:,} calls in a row" if standing.failures > 1 else ""
        cause = f"fails since {instant(since)}{calls}, with {standing.reason}"
        found.append(WebhookTrouble("failing", cause, f"`pushsvc webhooks test --app {app}`", since))
    if standing.dead:
        what = "1 batch was" if standing.dead == 1 else f"{standing.dead:,} batches were"
        remedy = f"`pushsvc webhooks failed --app {app}`, then `pushsvc webhooks redeliver --app {app}`"
        found.append(WebhookTrouble("given_up", f"{what} given up", remedy))
    return found
