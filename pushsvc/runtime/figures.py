"""What `/metrics` shows of Redis, brought up to date when somebody looks."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack

from .. import feedback, telemetry, webhooks
from ..ports.cleanup import CleanupRecord
from ..ports.webhooks import Standing
from ..settings import Settings
from ..store import Gauges, Store, Worker
from .plans import feedback_config, routes_of, webhook_configs

PARTS = ("serve", "dispatch", "feedback", "jobs")
"""Of the service, each a process or more."""
GAUGES_EVERY = 2.0
"""Seconds that the figures read from Redis are good for, however often `/metrics` is scraped."""


class Current:
    """The configuration as it is now."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


def exposition(current: Current, store: Store) -> Callable[[], Awaitable[None]]:
    """A step that brings the gauges that live in Redis up to date, at most every `GAUGES_EVERY` seconds."""
    read_at = 0.0

    async def refresh() -> None:
        nonlocal read_at
        if time.monotonic() - read_at < GAUGES_EVERY:
            return
        read_at = time.monotonic()
        show_gauges(await store.gauges({app: tuple(each.providers) for app, each in current.settings.apps.items()}))
        telemetry.QUEUE_LIMIT.set(current.settings.queue.max_pending)
        show_workers(await store.workers.living())
        show_frozen(current.settings, await frozen_routes(current.settings, store))
        show_webhooks(await webhook_standings(current.settings, store))
        show_cleanups(await store.cleanups.record())

    return refresh


def show_gauges(gauges: Gauges) -> None:
    """Set the metrics that are read from Redis."""
    for lane, count in gauges.pending.items():
        telemetry.QUEUE_PENDING.labels(lane).set(count)
    telemetry.RETRY_PENDING.set(gauges.retry_pending)
    telemetry.show(telemetry.DEAD_LETTERS, {(app,): each.dead_letters for app, each in gauges.apps.items()})
    telemetry.show(telemetry.SCHEDULED, {(app,): each.scheduled for app, each in gauges.apps.items()})


def show_workers(workers: Iterable[Worker]) -> None:
    """Set how many processes of each part live."""
    living = Counter(worker.part for worker in workers)
    for part in PARTS:
        telemetry.WORKERS.labels(part).set(living[part])


def show_frozen(settings: Settings, frozen: Mapping[str, str]) -> None:
    """Set the alarm of each route; that of a route which is gone ends."""
    alarms = {
        (route.app, route.platform): float(f"{route.app}/{route.platform}" in frozen) for route in routes_of(settings)
    }
    telemetry.show(telemetry.PRUNING_FROZEN, alarms)


def show_webhooks(standings: Mapping[str, Standing]) -> None:
    """Set the metrics of each app's webhook that are read from Redis; those of a webhook that is gone end."""
    now = time.time()
    lags = {
        (app,): 0.0 if each.waiting_since is None else max(0.0, now - each.waiting_since / 1000)
        for app, each in standings.items()
    }
    telemetry.show(telemetry.WEBHOOK_LAG, lags)
    telemetry.show(telemetry.WEBHOOK_DEAD, {(app,): each.dead for app, each in standings.items()})


def show_cleanups(record: CleanupRecord) -> None:
    """Set the metrics of what cleanups have done, whichever process ran them."""
    for (app, what), count in record.total.items():
        telemetry.CLEANUP_REMOVED.labels(app, what).set(count)
    telemetry.CLEANUP_ENDED.set(record.ended_at / 1000)


async def frozen_routes(settings: Settings, store: Store) -> dict[str, str]:
    """The routes whose pruning is frozen now, `app/platform` and why."""
    frozen = await feedback.frozen_routes(store.answers, routes_of(settings), feedback_config(settings), store.clock())
    return {f"{route.app}/{route.platform}": freeze.why for route, freeze in frozen.items()}


async def webhook_standings(settings: Settings, store: Store) -> dict[str, Standing]:
    """Where the webhook of each app that has one stands."""
    return await store.webhooks.standings({app: config.place for app, config in webhook_configs(settings).items()})


async def webhook_troubles(settings: Settings, store: Store) -> dict[str, str]:
    """The apps whose webhooks are in trouble, and how, with the remedy."""
    now = store.clock()
    standings = await webhook_standings(settings, store)
    return {app: text for app, each in standings.items() if (text := webhooks.trouble_of(app, each, now))}


async def serve_part_metrics(stack: AsyncExitStack, current: Current, part: str, store: Store) -> None:
    """The listener for `/metrics` of a part without an HTTP API, where one is configured."""
    settings = current.settings
    port = settings.metrics.port_of(part)  # type: ignore[arg-type]  # all callers pass a literal
    if port is not None:
        await stack.enter_async_context(
            telemetry.serve_metrics(settings.metrics.host, port, refresh=exposition(current, store))
        )
