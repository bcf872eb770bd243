"""Fan-out: makes the deliveries of an audience and puts them into the lanes, page by page.

A step reads a part of the audience, numbers the devices that the push reaches, and writes their chunks together with
the place where the next step begins, atomically. So a killed process has written a step or has not, and the next
process continues there: no device is left out or numbered twice. While a step is written the next page is read. Only
the cursor is kept from one step to the next, whatever the size of the audience.

Sending begins with the first step. A step that finds few devices reads on, so that an expression that fits one device
in a thousand makes chunks of a useful size; after `PAGES` pages it ends, and the cursor moves all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Literal, NamedTuple

from msgspec import Struct

from ...model.codec import decode_audience
from ...model.devices import Audience, ByWhere, Device, ToAll
from ...model.routing import RouteTable
from ...ports.expansion import Expansions
from ...ports.registry import Registry
from ...rules.audience import is_served, reached, targets_of
from ...rules.channels import NO_LIVE, ChannelRules, paths_of
from ...rules.where import Predicate
from ...telemetry import ACCEPTED, traces

PAGE: Final = 2000
"""Devices of one page: some milliseconds of Redis' time to read, and as many to write."""
ENOUGH: Final = 1000
"""The number of devices with which a step is written."""
PAGES: Final = 16


class Run(Struct, frozen=True):
    made: int
    """The number of deliveries that were made."""
    end: Literal["done", "paused", "full", "left"]
    """Why it ended. `paused`: time was up. `full`: the queue is full. `left`: the push is cancelled or over, or another
    process works on it."""
    late: bool = False
    """Whether its time to live was over when all devices were found: at least some deliveries then end as expired."""


async def expand(
    app: str,
    push_id: str,
    *,
    expansions: Expansions,
    registry: Registry,
    routes: RouteTable,
    lease: int,
    may_continue: Callable[[], bool],
    has_room: Callable[[int], Awaitable[bool]],
    now: Callable[[], int],
    channels: ChannelRules = NO_LIVE,
) -> Run:
    """Take steps until the audience is complete, or one of `may_continue` and `has_room` returns False. `has_room`
    receives the number of deliveries that were made here so far. Other processes leave the push alone for `lease` ms
    after each step. `now` gives Unix ms. Raises `StoreUnavailable`; what was written stays."""
    at = await expansions.load(app, push_id)
    if at is None:
        return Run(0, "left")
    audience = decode_audience(at.push.audience)
    fits, path_of = reached(at.push, audience), paths_of(at.push, routes, channels)
    reader = _AudienceReader(registry, app, audience, lambda device: is_served(device, path_of) and fits(device))
    accepted = ACCEPTED.labels(app)
    begun = at.total
    with traces.stage("expand", at.push.trace, app=app, push_id=push_id):
        reading = asyncio.ensure_future(reader.read(at.cursor))
        try:
            while True:
                if not may_continue():
                    await expansions.release(at)
                    return Run(at.total - begun, "paused")
                if not await has_room(at.total - begun):
                    await expansions.release(at)
                    return Run(at.total - begun, "full")
                devices, cursor = await reading
                if cursor is not None:
                    reading = asyncio.ensure_future(reader.read(cursor))
                further = await expansions.advance(
                    at, targets_of(devices, at.total, path_of), cursor=cursor, lease=lease
                )
                if further is None:
                    return Run(at.total - begun, "left")
                accepted.inc(len(devices))
                at = further
                if cursor is None:
                    return Run(at.total - begun, "done", now() > at.push.expires_at)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


class _Page(NamedTuple):
    devices: list[Device]
    cursor: str | None


class _AudienceReader:
    """Reads an audience, without the devices that the push does not reach."""

    def __init__(self, registry: Registry, app: str, audience: Audience, reaches: Predicate) -> None:
        self._registry = registry
        self._app = app
        self._audience = ToAll() if isinstance(audience, ByWhere) else audience
        self._reaches = reaches

    async def read(self, cursor: str) -> _Page:
        found: list[Device] = []
        for _ in range(PAGES):
            page = await self._registry.members(self._app, self._audience, after=cursor, limit=PAGE)
            found += filter(self._reaches, page.devices)
            if page.cursor is None or len(found) >= ENOUGH:
                return _Page(found, page.cursor)
            cursor = page.cursor
        return _Page(found, cursor)
