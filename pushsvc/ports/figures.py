"""Figures of the service: what waits and is stored, which routes are held, and what waits for removed routes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from ..model.push import LANES, Lane, Platform, Route
from .work import RemovedRoute


class AppGauges(Struct, frozen=True):
    """The figures of one app over all its shards. Platforms and lanes without deliveries are included, with 0."""

    pending: dict[Platform, dict[Lane, int]]
    """Deliveries accepted and not ended, by lane, including those that wait for a retry or for a device."""
    retry_pending: dict[Platform, int]
    """Deliveries that wait for the time of their retry."""
    ack_pending: dict[Platform, int]
    """Deliveries that wait until a device acknowledges them, by the channel that is to carry them on, if any."""
    scheduled: int
    """Deliveries of pushes that wait for their time; these are not pending yet."""
    suppressed: dict[Platform, int]
    dead_letters: int
    receipts: int
    """Receipts that feedback has not processed yet."""
    events: int
    quarantined: int
    """Entries that could not be decoded."""
    by_shard: list[int]
    """Deliveries that have not ended, in each shard, including scheduled ones."""
    oldest: dict[Lane, float] = {}
    """The age in seconds of the oldest delivery in each lane that could be sent now; a retry counts from when it is
    due. Lanes without one are left out."""

    @property
    def total_pending(self) -> int:
        return sum(count for lanes in self.pending.values() for count in lanes.values())


class Gauges(Struct, frozen=True):
    apps: dict[str, AppGauges]

    @property
    def pending(self) -> dict[Lane, int]:
        """Deliveries of all apps that have not ended, by lane."""
        everything = [lanes for app in self.apps.values() for lanes in app.pending.values()]
        return {lane: sum(lanes[lane] for lanes in everything) for lane in LANES}

    @property
    def oldest(self) -> dict[Lane, float]:
        """The age in seconds of the oldest delivery of all apps in each lane that could be sent now, or 0."""
        return {lane: max((app.oldest.get(lane, 0.0) for app in self.apps.values()), default=0.0) for lane in LANES}

    @property
    def retry_pending(self) -> int:
        return sum(count for app in self.apps.values() for count in app.retry_pending.values())

    @property
    def ack_pending(self) -> int:
        """Deliveries of all apps that wait until a device acknowledges them."""
        return sum(count for app in self.apps.values() for count in app.ack_pending.values())


SLOT: Final = 10
"""The seconds in which the flow of an app is counted together."""
KEPT: Final = 86_400
"""The seconds for which the flow of an app is kept."""


class FlowNote(Struct, frozen=True):
    process: str
    """A name that no other process has."""
    mark: str
    """A name that no other note of the process has."""
    slot: int
    counts: Mapping[str, Mapping[str, int]]
    """By app and name."""


class Flow(Protocol):
    """What flows through the service, counted by all processes together, for the rates of the last hours. Names are
    texts with colons, such as `ended:apns:sent`. The number of a slot is its instant in Unix seconds, divided by
    `SLOT`."""

    @property
    def slot(self) -> int:
        """Return the present slot."""

    async def note(self, note: FlowNote) -> None:
        """Add counts to their slot. A process repeats a note without an answer before it makes another one: what was
        added nevertheless is not added again."""

    async def note_waiting(self, apps: Collection[str]) -> None:
        """Note in the present slot how many deliveries of these apps wait in each lane now, as `waiting:<lane>`."""

    async def read(self, app: str, first: int, last: int) -> dict[int, dict[str, int]]:
        """Return what was noted in the slots from `first` to `last`, both included, by slot and name."""


class Held(Struct, frozen=True):
    """What a dispatcher reports of a route."""

    why: str
    since: int
    """In Unix ms."""
    note: bool = False
    """Whether the route does send, and this is a note for the operator."""


EMPTIED_REMEDY: Final = (
    "restore a backup, or make the API keys again (`pushsvc keys new`); see that Redis keeps an append-only file "
    "(`pushsvc check`)"
)


class Figures(Protocol):
    async def gauges(self, routes: Mapping[str, Sequence[Platform]]) -> Gauges:
        """Return the figures of these apps at these platforms, and of removed routes that still have deliveries."""

    async def held(self) -> dict[str, str]:
        """Return the routes that a dispatcher holds now, as `app/platform` with the reason."""

    async def reports(self) -> dict[str, Held]:
        """Return all that dispatchers report of routes, by `app/platform`, or `app/platform/part`; notes with the
        prefix `queue.NOTE`."""

    async def removed(self, configured: Collection[Route], *, anywhere: bool = True) -> list[RemovedRoute]:
        """Return the routes with waiting deliveries that are neither `configured` nor served by a living dispatcher.
        With `anywhere` False, those that a living dispatcher serves are returned too."""

    async def memory_ratio(self) -> float:
        """Return the store's used memory as a share of its limit, or NaN where it has no limit."""

    async def emptied(self) -> int | None:
        """Return when a running process found that the store had lost all its data, in Unix ms; None where none did.
        That is over once the store has an API key, since someone made one or restored a backup, and a day later at the
        latest, as where all keys are in the configuration. Where every process has started after the loss, the store is
        like a new one, and this is None."""
