"""Routes that have waiting deliveries although no configuration in use contains them.

Nothing in Redis lists the apps: a process asks for those of its configuration. So each process writes down the routes
of its configuration (`ps:routes`) before it accepts anything for them, and routes that are written there and not
configured are examined. If nothing was removed, this costs one command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from ...model.push import LANES, Route
from ...ports.work import RemovedRoute
from .. import keys
from ..config import StoreConfig
from ..link.link import Link
from .workers import RedisWorkers


async def read_removed(
    link: Link, config: StoreConfig, workers: RedisWorkers, configured: Collection[Route], *, anywhere: bool
) -> list[RemovedRoute]:
    """Return the routes with something waiting that are not `configured`. Those that a living dispatcher serves are
    left out unless `anywhere` is False: while processes change to another configuration one after the other, a route
    is removed once the last has dropped it.
    """
    known = await workers.routes()
    kept = set(configured)
    if known <= kept:
        return []
    if anywhere:
        served = {name for worker in await workers.living() if worker.part == "dispatch" for name in worker.serves}
        kept |= {route for route in known if route.name in served}
    gone = known - kept
    headless = {route.app for route in gone} - {route.app for route in kept}
    places = [(app, shard) for app in sorted({route.app for route in gone}) for shard in range(config.shards_of(app))]
    answers = iter(await link.many([command for place in places for command in _questions(*place)]))
    waiting: Counter[Route] = Counter()
    pushes: Counter[str] = Counter()
    for app, _ in places:
        _add(app, next(answers), waiting)
        pushes[app] += sum(next(answers) for _ in range(1 + len(LANES)))
    return [
        RemovedRoute(route, waiting[route], pushes[route.app] if route.app in headless else 0)
        for route in sorted({route for route in waiting if route not in kept} | gone)
        if waiting[route] > 0 or (route.app in headless and pushes[route.app] > 0)
    ]


def _questions(app: str, shard: int) -> list[tuple[str, str]]:
    return [
        ("HGETALL", keys.pending(app, shard)),
        ("ZCARD", keys.scheduled(app, shard)),
        *(("ZCARD", keys.expansions(app, shard, lane)) for lane in LANES),
    ]


def _add(app: str, counters: Mapping[bytes, Any], waiting: Counter[Route]) -> None:
    for field, count in counters.items():
        platform, _, lane = field.decode().partition(":")
        if lane in LANES:
            waiting[Route(app, platform)] += int(count)
