"""What an operator should know about a webhook, although pushes are sent without it."""

from __future__ import annotations

from typing import Final

from ...model.instants import instant
from ...ports.conditions import Condition, condition
from ...ports.webhooks import Standing

LASTING: Final = 300.0
"""Seconds of failures in a row after which they are a trouble: a restart of the receiver is none."""


def troubles_of(app: str, standing: Standing, now: int) -> list[Condition]:
    """Return what is wrong with the webhook of this app at `now`, in Unix ms."""
    found: list[Condition] = []
    since = standing.failing_since

    def add(reason: str, cause: str, remedy: str, since: int | None = None) -> None:
        found.append(condition("webhook", app, cause, remedy, since=since, app=app, reason=reason))

    if standing.off:
        cause = "it is switched off because its receiver answered 410, the events wait"
        add("off", cause, f"`pushsvc webhooks resume --app {app}` when it takes calls again", since)
    elif since is not None and now - since > LASTING * 1000:
        calls = f", {standing.failures:,} calls in a row" if standing.failures > 1 else ""
        cause = f"fails since {instant(since)}{calls}, with {standing.reason}"
        add("failing", cause, f"`pushsvc webhooks test --app {app}`", since)
    if standing.dead:
        what = "1 batch was" if standing.dead == 1 else f"{standing.dead:,} batches were"
        remedy = f"`pushsvc webhooks failed --app {app}`, then `pushsvc webhooks redeliver --app {app}`"
        add("given_up", f"{what} given up", remedy)
    return found
