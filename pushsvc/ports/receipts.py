"""Receipts of deliveries in, feedback events out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from ..model.delivery import Receipt
from ..model.status import FeedbackEvent
from .entries import EntryRef as EntryRef
from .entries import News as News
from .entries import Taken as Taken


class EventPage(Struct, frozen=True):
    """Feedback events in order, each with its id."""

    events: list[tuple[str, FeedbackEvent]]
    missing_to: str = ""
    """Where retention removed events that follow the cursor: the id of the last one of them."""


class ReceiptLog(Protocol):
    """Receipts in, suppression and feedback events out."""

    async def take(self, app: str, *, limit: int, wait_ms: int) -> list[tuple[str, Receipt]]:
        """Receipts with their entry ids, own unacknowledged ones and those of dead consumers first."""
        ...

    async def record(self, app: str, done: Sequence[tuple[str, Receipt, FeedbackEvent | None]]) -> None:
        """One atomic step: append the events, suppress where the action is `suppressed`, acknowledge the receipts."""
        ...

    async def events(self, app: str, *, after: str, limit: int) -> EventPage: ...
