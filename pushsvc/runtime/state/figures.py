"""How the metrics are set that are read from Redis when `/metrics` is requested."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final

from ... import telemetry
from ...model.push import LANES
from ...ports.cleanup import CleanupRecord
from ...ports.conditions import SEVERITIES, Condition
from ...ports.figures import Gauges
from ...ports.store import Store
from ...ports.webhooks import Standing, Webhooks
from ...ports.work import Worker
from ...settings.schema import Settings
from ...stages import feedback
from ..plans import feedback_config, routes_of, webhook_configs

PARTS = ("serve", "dispatch", "feedback", "jobs")
"""The parts of every service, each of one process or more. `live` is one where an app has a live channel."""
_FROM_REDIS: Final[Mapping[telemetry.Figure, Sequence[tuple[str, ...]]]] = {
    telemetry.QUEUE_PENDING: [(lane,) for lane in LANES],
    telemetry.QUEUE_COUNTED: [()],
    telemetry.OLDEST_PENDING: [(lane,) for lane in LANES],
    telemetry.RETRY_PENDING: [()],
    telemetry.LIVE_WAITING: [()],
    telemetry.DEAD_LETTERS: [],
    telemetry.SCHEDULED: [],
    telemetry.RECEIPTS_WAITING: [],
    telemetry.WORKERS: [(part,) for part in PARTS],
    telemetry.PRUNING_FROZEN: [],
    telemetry.WEBHOOK_LAG: [],
    telemetry.WEBHOOK_DEAD: [],
    telemetry.CLEANUP_REMOVED: [],
    telemetry.CLEANUP_ENDED: [()],
    telemetry.REDIS_MEMORY: [()],
}
"""The figures that are read from Redis, each with the series that always exist."""


def show_redis_away() -> None:
    """Set what is read from Redis to NaN, so that old figures are not taken for present ones; `redis` is the only
    condition that is known."""
    telemetry.REDIS_UP.show({(): 0})
    for figure, always in _FROM_REDIS.items():
        figure.unknown(always)
    telemetry.CONDITIONS.show({("redis", SEVERITIES["redis"], ""): 1})


def show_gauges(gauges: Gauges) -> None:
    """Set the metrics of the queue."""
    telemetry.QUEUE_PENDING.show({(lane,): count for lane, count in gauges.pending.items()})
    telemetry.OLDEST_PENDING.show({(lane,): age for lane, age in gauges.oldest.items()})
    telemetry.RECEIPTS_WAITING.show({(app,): each.receipts for app, each in gauges.apps.items()})
    telemetry.RETRY_PENDING.show({(): gauges.retry_pending})
    telemetry.LIVE_WAITING.show({(): gauges.ack_pending})
    telemetry.DEAD_LETTERS.show({(app,): each.dead_letters for app, each in gauges.apps.items()})
    telemetry.SCHEDULED.show({(app,): each.scheduled for app, each in gauges.apps.items()})


def show_workers(settings: Settings, workers: Iterable[Worker]) -> None:
    """Set the number of living processes of each part."""
    living = Counter(worker.part for worker in workers)
    parts = (*PARTS, "live") if any(app.live for app in settings.apps.values()) else PARTS
    telemetry.WORKERS.show({(part,): living[part] for part in parts})


def show_frozen(settings: Settings, frozen: Collection[str]) -> None:
    """Set the alarm of each route; that of a removed route ends."""
    alarms = {(route.app, route.platform): float(route.name in frozen) for route in routes_of(settings)}
    telemetry.PRUNING_FROZEN.show(alarms)


def show_conditions(settings: Settings, found: Iterable[Condition]) -> None:
    """Set the number of conditions of each kind, of the service and of each app."""
    counts = Counter((each.kind, each.severity, each.app) for each in found)
    known = {(kind, severity, app) for kind, severity in SEVERITIES.items() for app in ("", *settings.apps)}
    telemetry.CONDITIONS.show({labels: counts[labels] for labels in known | counts.keys()})


def show_webhooks(*logs: Mapping[str, Standing]) -> None:
    """Set the metrics of each app's webhook from its standings in each log; those of a removed webhook end."""
    now = time.time()
    lags: dict[tuple[str], float] = {}
    dead: Counter[tuple[str]] = Counter()
    for app, each in (item for standings in logs for item in standings.items()):
        lag = 0.0 if each.waiting_since is None else now - each.waiting_since / 1000
        lags[app,] = max(lags.get((app,), 0.0), lag)
        dead[app,] += each.dead
    telemetry.WEBHOOK_LAG.show(lags)
    telemetry.WEBHOOK_DEAD.show(dead)


def show_cleanups(record: CleanupRecord) -> None:
    """Set the metrics of all cleanups, whichever process ran them."""
    telemetry.CLEANUP_REMOVED.show(record.total)
    telemetry.CLEANUP_ENDED.show({(): record.ended_at / 1000})


async def frozen_routes(settings: Settings, store: Store) -> dict[str, str]:
    """Return the routes whose pruning is frozen now, as `app/platform` with the reason."""
    frozen = await feedback.frozen_routes(store.answers, routes_of(settings), feedback_config(settings), store.clock())
    return {route.name: freeze.why for route, freeze in frozen.items()}


async def webhook_standings(settings: Settings, of: Webhooks) -> dict[str, Standing]:
    """Return the state of each configured webhook in one log of events, by app."""
    return await of.standings({app: config.place for app, config in webhook_configs(settings, of.kind).items()})


async def serve_part_metrics(stack: AsyncExitStack, settings: Settings, part: str) -> None:
    """Start the listener for `/metrics` of a part without an HTTP API, where one is configured. It shows what its
    processes count; figures of the whole service are the API's."""
    port = settings.metrics.port_of(part)
    if port is not None:
        await stack.enter_async_context(telemetry.serve_metrics(settings.metrics.host, port))
