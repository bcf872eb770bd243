"""Webhooks: which feedback events are to be told next, by whom, and which could not be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from msgspec import Struct

from ..model.status import FeedbackEvent


class Batch(Struct, frozen=True):
    """Events that are told in one call. A repeat of the call has the same events under the same id."""

    id: str
    """Of the whole, for the receiver to know a repeat by. Without a full stop."""
    events: Sequence[tuple[str, FeedbackEvent]]
    attempts: int = 0
    """Calls that were made for it so far."""
    failures: int = 0
    """Calls to this receiver that failed in a row, those of earlier batches included."""
    again: bool = False
    """It had been given up; somebody has asked for it again."""

    @property
    def oldest(self) -> int:
        """When its first event was recorded, Unix ms."""
        return int(self.events[0][0].partition("-")[0])


class DeadBatch(Struct, frozen=True):
    """A batch that was given up. Its events are not copied: they are kept as long as all feedback events are."""

    id: str
    after: str
    """Of events, the id of the last one before it .."""
    last: str
    """.. and of its last one."""
    events: int
    """How many it had."""
    attempts: int
    reason: str
    """Why the last call failed."""
    at: int
    """When it was given up, Unix ms."""


class Standing(Struct, frozen=True):
    """Where the webhook of one app stands."""

    cursor: str = ""
    """The id of the last event that was told or given up; before the first one a place in front of it, or empty."""
    waiting_since: int | None = None
    """When the oldest event that is to be told was recorded, Unix ms."""
    attempts: int = 0
    """Calls made for the batch under way."""
    failures: int = 0
    """Calls that failed in a row."""
    reason: str = ""
    """Why the last of them did, or why it could not even be called."""
    failing_since: int | None = None
    """When the first of them did, or when it could not be called for the first time, Unix ms."""
    due_in: int = 0
    """Milliseconds until the next call; also those for which whoever works on it is believed to live."""
    off: bool = False
    """The receiver has said that it wants no more calls (410)."""
    dead: int = 0
    """Batches that were given up."""
    asked: int = 0
    """Those of them that somebody has asked for again."""


class WebhookClaim(Protocol):
    """The webhook of one app, while nobody else works on it.

    Each method that changes something is False, and has changed nothing, where somebody else has taken it over.
    """

    async def next(self, most: int) -> Batch | None:
        """What is to be told next: of the batches that were asked for again the first, else the one under way, else
        up to `most` events, which become the one under way. One under way that has more is cut. None: nothing."""
        ...

    async def told(self, batch: Batch) -> bool:
        """The receiver has it."""
        ...

    async def failed(self, batch: Batch, reason: str, *, wait: float) -> bool:
        """It is to be repeated in `wait` seconds. The claim is let go."""
        ...

    async def bury(self, batch: Batch, reason: str) -> bool:
        """Give it up: keep it as a dead batch, and go on behind it."""
        ...

    async def halve(self, batch: Batch, reason: str) -> bool:
        """The receiver finds it too large. Next comes its first half, as a batch of its own, and for a while no call
        has more events than that."""
        ...

    async def drop_asked(self) -> bool:
        """Forget which dead batches were asked for again. They stay."""
        ...

    async def switch_off(self, reason: str) -> bool:
        """Nothing more is to be told at this place, until it is another or somebody resumes it."""
        ...

    async def rest(self, wait: float, reason: str = "") -> bool:
        """Let the claim go; nobody takes it up for `wait` seconds. `reason` says why it could not even be called."""
        ...


class Webhooks(Protocol):
    """The webhooks of all apps. `place` stands for where one leads: a new place is not off because the old one was, nor
    does it wait for what the old one has asked for."""

    async def due(self, app: str, place: str) -> bool:
        """Whether there is something to tell now, and nobody at work on it."""
        ...

    def claimed(self, app: str, place: str, *, lease: float) -> AbstractAsyncContextManager[WebhookClaim | None]:
        """Have it for the block, or None where somebody else has, or it is to rest. The claim is renewed meanwhile;
        when this process dies, others may have it after `lease` seconds."""
        ...

    async def standings(self, places: Mapping[str, str]) -> dict[str, Standing]:
        """Where the webhooks of these apps stand, each with its place: two round trips, however many there are."""
        ...

    async def standing(self, app: str, place: str) -> Standing:
        """Where the webhook of one app stands."""
        ...

    async def dead(self, app: str, *, since: int | None = None, until: int | None = None) -> list[DeadBatch]:
        """In order. Those whose last event was recorded in that span, Unix ms, `until` exclusive."""
        ...

    async def ask_again(self, app: str, batches: Sequence[DeadBatch]) -> int:
        """Tell these dead batches again, at once, also where the place had been off. How many there still are."""
        ...

    async def asked(self, app: str) -> list[str]:
        """Ids of the dead batches that were asked for again and have not been tried, in order."""
        ...

    async def resume(self, app: str) -> None:
        """Try again now, whatever the receiver has said."""
        ...
