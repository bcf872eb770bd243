"""Webhooks: the events to send next, the process that sends them, and the batches that failed.

Feedback events and what devices report (`event`) have a log each, and a webhook of its own for each log: neither can
hold up or push out the other. Both call the same receiver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from msgspec import Struct

from ..model.status import DeviceEvent, EventKind, FeedbackEvent


class Batch(Struct, frozen=True):
    """Events that are sent in one call. A repeat of the call has the same events and the same id."""

    id: str
    """The id by which the receiver recognises a repeat. It contains no full stop."""
    events: Sequence[tuple[str, FeedbackEvent]] | Sequence[tuple[str, DeviceEvent]]
    attempts: int = 0
    """Calls that were made for this batch so far."""
    failures: int = 0
    """Consecutive calls to this receiver that failed, including those of earlier batches."""
    again: bool = False
    """Whether the batch was a dead batch whose redelivery was requested."""

    @property
    def oldest(self) -> int:
        """Return when its first event was recorded, in Unix ms."""
        return int(self.events[0][0].partition("-")[0])


class DeadBatch(Struct, frozen=True):
    """A batch that failed permanently. Its events are not copied: they are kept as long as all events."""

    id: str
    after: str
    """The id of the event before its first one."""
    last: str
    """The id of its last event."""
    events: int
    """The number of its events."""
    attempts: int
    reason: str
    """Why the last call failed."""
    at: int
    """When it was given up, in Unix ms."""


class Standing(Struct, frozen=True):
    cursor: str = ""
    """The id of the last event that was sent or given up; before the first one an id below it, or empty."""
    waiting_since: int | None = None
    """When the oldest event that waits was recorded, in Unix ms."""
    attempts: int = 0
    """Calls made for the current batch."""
    failures: int = 0
    """Consecutive calls that failed."""
    reason: str = ""
    """Why the last call failed, or could not be made."""
    failing_since: int | None = None
    """When the first of the consecutive failures took place, in Unix ms."""
    due_in: int = 0
    """Milliseconds until the next call, including the lease of the process that works on the webhook."""
    off: bool = False
    """Whether the receiver has answered that it wants no more calls (410)."""
    dead: int = 0
    """The number of dead batches."""
    asked: int = 0
    """The number of dead batches whose redelivery was requested."""


class WebhookCallNote(Struct, frozen=True):
    at: int
    """When it was made, in Unix ms."""
    id: str
    events: int
    attempt: int
    status: int
    """HTTP's; 0 where there was no answer."""
    reason: str
    seconds: float
    result: Literal["delivered", "failed", "halved", "given_up", "off"]


class WebhookClaim(Protocol):
    """The webhook of one app, while this process alone works on it. Each method that changes something returns False,
    and changes nothing, where another process has taken the webhook over."""

    async def next(self, most: int) -> Batch | None:
        """Return the next batch, or None: first the requested redeliveries, then the current batch, then up to `most`
        new events, which become the current batch. A current batch with more events than `most` is cut."""

    async def delivered(self, batch: Batch) -> bool:
        """Record that the receiver has accepted the batch."""

    async def failed(self, batch: Batch, reason: str, *, wait: float) -> bool:
        """Record that the call failed and is to be repeated in `wait` seconds, and end the claim."""

    async def give_up(self, batch: Batch, reason: str) -> bool:
        """Give the batch up: keep it as a dead batch, and continue after it."""

    async def halve(self, batch: Batch, reason: str) -> bool:
        """Cut a batch that the receiver finds too large. Its first half is next, and for a while no call has more
        events."""

    async def drop_asked(self) -> bool:
        """Forget the requested redeliveries; the dead batches stay."""

    async def switch_off(self, reason: str) -> bool:
        """Stop all calls to this place, until the place changes or the webhook is resumed."""

    async def note(self, call: WebhookCallNote) -> None:
        """Keep a call for the operator, with the last ones before it."""

    async def rest(self, wait: float, reason: str = "") -> bool:
        """End the claim, and let no process claim the webhook for `wait` seconds. `reason` is why no call could be
        made."""


class Webhooks(Protocol):
    """The webhooks of all apps for one log of events. `place` identifies the receiver: when it changes, the state of
    the old receiver (switched off, or a requested wait) does not apply to the new one."""

    @property
    def kind(self) -> EventKind: ...

    async def due(self, app: str, place: str) -> bool:
        """Return whether events wait and no process works on them."""

    def claimed(self, app: str, place: str, *, lease: float) -> AbstractAsyncContextManager[WebhookClaim | None]:
        """Claim a webhook for the block. Yields None where another process has it or it must wait. The claim is renewed
        meanwhile; when this process dies, others may claim the webhook after `lease` seconds."""

    async def standings(self, places: Mapping[str, str]) -> dict[str, Standing]:
        """Return the states of these apps' webhooks, given with their places, in two round trips."""

    async def standing(self, app: str, place: str) -> Standing:
        """Return the state of the webhook of one app."""

    async def dead(self, app: str, *, since: int | None = None, until: int | None = None) -> list[DeadBatch]:
        """Return dead batches in order: those whose last event was recorded from `since` until before `until`, in Unix
        ms."""

    async def calls(self, app: str) -> list[WebhookCallNote]:
        """Return the last calls of an app, the newest first."""

    async def ask_again(self, app: str, batches: Sequence[DeadBatch]) -> int:
        """Request the redelivery of these dead batches, also where the place was switched off. Returns how many still
        exist."""

    async def asked(self, app: str) -> list[str]:
        """Return the ids of the dead batches whose requested redelivery was not tried yet, in order."""

    async def resume(self, app: str) -> None:
        """Continue now, whatever the receiver has answered before."""
