"""What an operator should know about a webhook, although pushes are sent without it."""

from __future__ import annotations

from typing import Final

from ...model.instants import instant
from ...ports.webhooks import Standing

LASTING: Final = 300.0
"""Seconds of failures in a row after which they are a trouble: a restart of the receiver is none."""


def trouble_of(app: str, standing: Standing, now: int) -> str:
    """Return what is wrong with the webhook of this app at `now`, in Unix ms, and the remedy; empty where
    nothing is.
    """
    said = []
    since = standing.failing_since
    if standing.off:
        said.append(
            "it is switched off because its receiver answered 410, the events wait: "
            f"`pushsvc webhooks resume --app {app}` when it takes calls again"
        )
    elif since is not None and now - since > LASTING * 1000:
        calls = f", {standing.failures:,} calls in a row" if standing.failures > 1 else ""
        said.append(f"fails since {instant(since)}{calls}, with {standing.reason}: `pushsvc webhooks test --app {app}`")
    if standing.dead:
        what = "1 batch was" if standing.dead == 1 else f"{standing.dead:,} batches were"
        said.append(
            f"{what} given up: `pushsvc webhooks failed --app {app}`, then `pushsvc webhooks redeliver --app {app}`"
        )
    return "; ".join(said)
