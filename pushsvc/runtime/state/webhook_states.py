"""The state of an app's webhooks, read from the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import structs

from ...model.instants import instant
from ...ports.admin import DeadBatchRow, WebhookCallRow, WebhookState
from ...ports.store import Store
from ...ports.webhooks import DeadBatch, Standing, WebhookCallNote, Webhooks
from ...settings.schema import Settings
from ...stages.webhooks.config import WebhookConfig
from ...stages.webhooks.trouble import troubles_of
from ..plans import webhook_configs

NEWEST: Final = 20
"""Dead batches of a webhook that are shown."""


async def webhook_states(settings: Settings, store: Store, app: str, *, details: bool = False) -> list[WebhookState]:
    """Return the states of the app's webhooks, with their calls if `details` are asked for."""
    found = []
    for of in store.webhook_logs:
        config = webhook_configs(settings, of.kind).get(app)
        if config is None:
            continue
        standing = await of.standing(app, config.place)
        dead, calls = [], []
        if details:
            dead = (await of.dead(app))[: -NEWEST - 1 : -1]
            calls = await of.calls(app)
        found.append(webhook_state(app, of, config, standing, dead, calls, store.clock()))
    return found


async def dead_batches(store: Store, app: str, since: int | None, until: int | None) -> list[DeadBatchRow]:
    """Return the dead batches of all webhooks of an app whose last event was recorded in a span (Unix ms)."""
    return [_row(each) for of in store.webhook_logs for each in await of.dead(app, since=since, until=until)]


def _row(batch: DeadBatch) -> DeadBatchRow:
    return DeadBatchRow(**{**structs.asdict(batch), "at": instant(batch.at)})


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
        trouble="; ".join(each.text for each in troubles_of(app, standing, now)),
        dead_batches=[_row(each) for each in dead],
        calls=[WebhookCallRow(**{**structs.asdict(call), "at": instant(call.at)}) for call in calls],
    )
