"""What devices report about pushes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from ...model.push import Platform
from ...model.status import Event as Event

EVENTS: tuple[Event, ...] = ("arrived", "shown", "opened", "dismissed")


class EventReport(Struct, frozen=True):
    """A device's report about a push, whichever channel the push arrived by."""

    push_id: str
    device_id: str
    event: Event


class EventCounts(Struct, frozen=True):
    """The number of devices that have reported each event."""

    arrived: int = 0
    shown: int = 0
    opened: int = 0
    dismissed: int = 0


class LiveEvents(Protocol):
    """What devices report about pushes."""

    async def report(self, app: str, reports: Sequence[EventReport], *, log: bool = False) -> list[Platform | None]:
        """Count the reports of devices. Returns for each the platform of its device where it was counted: it was the
        first of its push, device and event, and both are known. With `log`, each that counts is appended to the log of
        the webhooks of kind `event` in the same atomic step."""

    async def events(self, app: str, push_ids: Sequence[str]) -> list[EventCounts]:
        """Return the counts of each push."""
