"""Figures: how much waits and is kept, which routes are held, and what waits for routes that were removed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from ..model.push import LANES, Lane, Platform, Route
from .removed import RemovedRoute


class AppGauges(Struct, frozen=True):
    """The figures of one app over all its shards. Platforms and lanes without deliveries are included, with 0."""

    pending: dict[Platform, dict[Lane, int]]
    """Deliveries accepted and not ended, by lane; those that wait for a retry among them."""
    retry_pending: dict[Platform, int]
    """Deliveries that wait for the time of their retry."""
    scheduled: int
    """Deliveries of pushes that wait for their time; not pending yet."""
    entries: dict[Platform, dict[Lane, int]]
    """Entries in the lanes' streams, those being worked on included."""
    in_flight: dict[Platform, dict[Lane, int]]
    """Entries taken and not finished."""
    consumers: dict[Platform, dict[Lane, int]]
    """The number of members of the lanes' consumer groups: the maximum of all shards, which have the same ones."""
    suppressed: dict[Platform, int]
    dead_letters: int
    receipts: int
    """Receipts that feedback has not recorded."""
    events: int
    quarantined: int
    """Entries that could not be decoded."""
    by_shard: list[int]
    """Deliveries that have not ended, in each shard; those that are scheduled among them."""

    @property
    def total_pending(self) -> int:
        return sum(count for lanes in self.pending.values() for count in lanes.values())


class Gauges(Struct, frozen=True):
    """Where everything stands."""

    apps: dict[str, AppGauges]

    @property
    def pending(self) -> dict[Lane, int]:
        """Deliveries of all apps that have not ended, by lane."""
        everything = [lanes for app in self.apps.values() for lanes in app.pending.values()]
        return {lane: sum(lanes[lane] for lanes in everything) for lane in LANES}

    @property
    def retry_pending(self) -> int:
        """Deliveries of all apps that wait for the time of their retry."""
        return sum(count for app in self.apps.values() for count in app.retry_pending.values())

    @property
    def scheduled(self) -> int:
        """Deliveries of all apps that wait for the time of their push."""
        return sum(app.scheduled for app in self.apps.values())


class Figures(Protocol):
    """Numbers and states of the whole service, as the store knows them."""

    async def gauges(self, routes: Mapping[str, Sequence[Platform]]) -> Gauges:
        """Return the figures of these apps at these platforms, and of removed routes for which something waits."""
        ...

    async def held(self) -> dict[str, str]:
        """Return the routes that a dispatcher holds now: `app/platform` and why."""
        ...

    async def notes(self) -> dict[str, str]:
        """Return what living dispatchers report about routes that do send: `app/platform` and the text."""
        ...

    async def removed(self, configured: Collection[Route], *, anywhere: bool = True) -> list[RemovedRoute]:
        """Return the routes for which something waits that are not `configured` any more, nor served by a living
        dispatcher; with `anywhere` False those that a living dispatcher serves are returned too."""
        ...

    async def memory_ratio(self) -> float:
        """Return the store's used memory as a share of its limit; NaN where it has none."""
        ...
