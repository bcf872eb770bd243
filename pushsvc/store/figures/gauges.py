"""Figures for `/metrics` and `pushsvc stats`, in one pipelined call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from redis.exceptions import ResponseError

from ...errors import StoreError
from ...model.push import LANES, Lane, Platform
from ...ports.figures import AppGauges, Gauges
from .. import keys
from ..config import StoreConfig
from ..link.link import AT_ONCE, Link, ScriptCall
from ..revoke.suppression import Suppression


def pending_of(counters: Mapping[bytes, Any]) -> int:
    """Return the number of deliveries that have not ended: the sum of all fields but `<platform>:retry` and
    `<platform>:ack`, which are a part of them."""
    return sum(int(count) for field, count in counters.items() if not field.endswith((b":retry", b":ack")))


async def read_gauges(link: Link, config: StoreConfig, routes: Mapping[str, Sequence[Platform]], now: int) -> Gauges:
    """Return the present figures of these apps and platforms. `now` is in Unix ms."""
    asked = [
        (app, _questions(app, shard, platforms))
        for app, platforms in routes.items()
        for shard in range(config.shards_of(app))
    ]
    answers = iter(await link.many([command for _, commands in asked for command in commands], errors=True))
    read: dict[str, list[list[Any]]] = {app: [] for app in routes}
    for app, commands in asked:
        read[app].append([next(answers) for _ in commands])
    oldest = await _oldest(link, config, routes, now)
    return Gauges(apps={app: _sum_up(read[app], platforms, oldest[app]) for app, platforms in routes.items()})


async def _oldest(
    link: Link, config: StoreConfig, routes: Mapping[str, Sequence[Platform]], now: int
) -> dict[str, dict[Lane, float]]:
    """Return the age in seconds of the oldest delivery in each lane of each app."""
    places = [(app, shard) for app, platforms in routes.items() if platforms for shard in range(config.shards_of(app))]
    found: dict[str, dict[Lane, float]] = {app: {} for app in routes}
    calls: list[ScriptCall] = [("oldest", _waiting(app, shard, routes[app]), [now, *LANES]) for app, shard in places]
    answers = [each for at in range(0, len(calls), AT_ONCE) for each in await link.scripts(calls[at : at + AT_ONCE])]
    for (app, _), since in zip(places, answers, strict=True):
        for lane, at in zip(LANES, since, strict=True):
            if at:
                found[app][lane] = max(found[app].get(lane, 0.0), (now - int(at)) / 1000)
    return found


def _waiting(app: str, shard: int, platforms: Sequence[Platform]) -> list[str]:
    return [
        key
        for platform in platforms
        for key in (
            *(keys.lane(app, shard, platform, lane) for lane in LANES),
            keys.retries(app, shard, platform),
        )
    ]


async def read_memory(link: Link) -> float:
    """Return the used memory as a share of `maxmemory`; in a cluster, that of the fullest node that is asked. NaN if no
    maximum is set or this user may not read it."""
    try:
        answer = await link.call("INFO", "memory", errors=True)
    except StoreError:
        return math.nan
    if isinstance(answer, ResponseError):
        return math.nan
    nodes = [answer] if "used_memory" in answer else list(answer.values())
    shares = [int(node["used_memory"]) / int(node["maxmemory"]) for node in nodes if int(node.get("maxmemory", 0))]
    return max(shares, default=math.nan)


def _questions(app: str, shard: int, platforms: Sequence[Platform]) -> list[tuple[Any, ...]]:
    return [
        ("HGETALL", keys.pending(app, shard)),
        ("XLEN", keys.dead(app, shard)),
        ("XLEN", keys.receipts(app, shard)),
        ("XLEN", keys.events(app, shard)),
        ("XLEN", keys.quarantine(app, shard)),
        *(Suppression.counting(app, shard, platform) for platform in platforms),
    ]


def _sum_up(shards: Sequence[Sequence[Any]], platforms: Sequence[Platform], oldest: dict[Lane, float]) -> AppGauges:
    def number(place: int) -> int:
        return sum(int(shard[place]) for shard in shards if not isinstance(shard[place], Exception))

    def counted(field: str) -> int:
        return sum(int(shard[0].get(field.encode(), 0)) for shard in shards if isinstance(shard[0], dict))

    return AppGauges(
        pending={platform: {lane: counted(f"{platform}:{lane}") for lane in LANES} for platform in platforms},
        retry_pending={platform: counted(f"{platform}:retry") for platform in platforms},
        ack_pending={platform: counted(f"{platform}:ack") for platform in platforms},
        scheduled=counted("scheduled"),
        suppressed={platform: number(5 + at) for at, platform in enumerate(platforms)},
        dead_letters=number(1),
        receipts=number(2),
        events=number(3),
        quarantined=number(4),
        oldest=oldest,
        by_shard=[pending_of(shard[0]) if isinstance(shard[0], dict) else 0 for shard in shards],
    )
