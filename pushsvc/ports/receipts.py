"""Receipts of deliveries, and the feedback events made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from ..model.delivery import Receipt
from ..model.status import FeedbackEvent

E = TypeVar("E")


class EventPage(Struct, Generic[E], frozen=True):
    """Events of one log in order, each with its id."""

    events: list[tuple[str, E]]
    missing_to: str = ""
    """The id of the last event after the cursor that retention has removed, or empty. Others before it may be kept."""


class ReceiptLog(Protocol):
    """The log of receipts, from which feedback makes suppressions and feedback events."""

    async def take(self, app: str, *, limit: int, wait_ms: int) -> list[tuple[str, Receipt]]:
        """Return receipts with their entry ids, beginning with unacknowledged ones of this consumer and of dead
        ones."""

    async def record(self, app: str, done: Sequence[tuple[str, Receipt, FeedbackEvent | None]]) -> None:
        """Append the events, suppress where the action is `suppressed`, and acknowledge the receipts, in one atomic
        step."""

    async def events(self, app: str, *, after: str, limit: int) -> EventPage[FeedbackEvent]: ...
