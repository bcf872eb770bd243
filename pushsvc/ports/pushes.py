"""Pushes as the API sees them: accepted, shown, cancelled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from ..model.delivery import End
from ..model.push import Push
from ..model.status import DeliveryRow, PushStatus
from .entries import EntryRef as EntryRef
from .entries import News as News
from .entries import Taken as Taken


class PushStore(Protocol):
    """Intake's side of the queue."""

    @property
    def pending(self) -> int:
        """Deliveries of all apps that have not ended, as far as is heard of them, and those that are being written."""
        ...

    def pending_of(self, app: str) -> int:
        """Those of `pending` that are the app's."""
        ...

    async def recount(self, apps: Iterable[str]) -> int:
        """`pending`, after a look at everything that waits for these apps, and for others that were removed."""
        ...

    async def accept(self, push: Push) -> None:
        """Write the push durably, whole or not at all. Concurrent calls share round trips. Counts in `pending` from its
        first step on."""
        ...

    async def accept_once(self, pushes: Sequence[Push], *, key: bytes, record: bytes) -> bytes | None:
        """Write all pushes of one call and the record under its idempotency key, in one atomic step.

        Where a record is kept already, nothing is written and that record is returned. Each push must be `beside` the
        key. A record is kept for 24 hours.
        """
        ...

    def beside(self, app: str, push_id: str, key: bytes) -> bool:
        """Whether a push of this id and the record of this key can be written in one step."""
        ...

    async def recall(self, app: str, key: bytes) -> bytes | None:
        """The record that is kept under an idempotency key, or None."""
        ...

    async def status(self, app: str, push_id: str) -> PushStatus | None: ...

    async def statuses(self, pushes: Sequence[tuple[str, str]]) -> list[PushStatus | None]:
        """Those of many pushes, each an app and an id, in one round trip."""
        ...

    async def deliveries(
        self, app: str, push_id: str, *, outcome: End | None, cursor: str, limit: int
    ) -> tuple[list[DeliveryRow], str | None] | None:
        """Rows in the order of their index, and the cursor of the next page. None: no such push."""
        ...

    async def cancel(self, app: str, push_id: str) -> PushStatus | None:
        """Cancel what has not been sent. None: no such push. Raises `Conflict` when it is already done.

        Waits up to two seconds until each dispatcher has said that it holds nothing of the push any more and how many
        of its deliveries it has in flight: those stay `queued` until they are answered, all others are `cancelled`.
        Where a dispatcher says nothing in that time (it is paused, or has died), its deliveries count as they stand
        until it speaks or another takes them over: it sends nothing once its sign of life has run out.
        Of a push that is still scheduled nothing is ever sent, and its deliveries leave no rows.
        """
        ...

    async def ping(self) -> None: ...
