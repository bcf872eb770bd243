"""Pushes as the API sees them: accepted, shown, cancelled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from ..model.delivery import End
from ..model.devices import Audience
from ..model.push import Lane, Message, Platform, Push, PushState, Via
from ..model.status import DeliveryRow, PushStatus
from ..rules.bound import Bound


class PushFilter(Struct, frozen=True):
    """Selects pushes; an empty field does not narrow. Instants of acceptance are in Unix ms, `until` is exclusive."""

    state: PushState | None = None
    lane: Lane | None = None
    collapse: str = ""
    key: str = ""
    since: int | None = None
    until: int | None = None


class ListedPush(Struct, frozen=True):
    status: PushStatus
    lane: Lane | None = None
    """None where it is not known."""
    key: str = ""
    """The name of the API key that it was posted with; empty where it is not known."""


class DevicePush(Struct, frozen=True):
    """How the delivery of a push to a device has ended."""

    push_id: str
    created_at: int
    row: DeliveryRow


class DevicePushes(Struct, frozen=True):
    """What was found of a device among the pushes that were looked at."""

    found: list[DevicePush]
    looked: int
    """The number of pushes that were looked at."""
    unlisted: int
    """How many of these have no row of each delivery, because they have too many."""
    since: int | None
    """When the earliest of these was accepted, in Unix ms; None if there was none."""
    cursor: str | None
    """Where to go on; None once every push was looked at."""


class KeptPush(Struct, frozen=True):
    """What is left of one push."""

    listed: ListedPush
    messages: dict[Platform, Message] = {}
    """What is kept of its content, by channel: nothing of a small push that was sent."""
    audience: Audience | None = None
    """Its audience, once that has been expanded only a topic or all devices; None where none is known."""
    topic: str = ""
    """The topic that it is for, if what is left of it names one."""
    looked_up: bool = False
    """Whether its receivers are or were looked up page by page."""
    dry_run: bool | None = None
    """Whether it was a dry run; None where that is not known."""
    via: Via | None = None
    """None where it is not known."""
    ttl: int | None = None
    """The seconds for which the service tries; None where that is not known."""
    failed_at: int | None = None
    """When the first of the deliveries failed that were replayed since, in Unix ms; None: none was."""
    replayed_at: int | None = None
    """When the last of them was replayed."""


class PushLists(Protocol):
    """The pushes of an app, listed as far as their statuses are kept."""

    async def recent(
        self, app: str, which: PushFilter, *, cursor: str, limit: int
    ) -> tuple[list[ListedPush], str | None]:
        """Return pushes, the latest accepted first, and the cursor of the next page, or None after the last one. A page
        may be short or empty and still have a next one."""

    async def schedules(self, app: str, *, cursor: str, limit: int) -> tuple[list[ListedPush], str | None]:
        """Return pushes that wait for their time, the next first, and the cursor of the next page, or None after the
        last one. A page may be short and still have a next one."""

    async def kept(self, app: str, push_id: str) -> KeptPush | None:
        """Return what is left of a push, or None where there is no such push."""

    async def due(self, app: str, until: int | None = None) -> int:
        """Return the number of pushes that wait for their time, or for one before `until`, in Unix ms. Where hundreds
        of audiences are due within minutes, some that are being expanded may be among them."""


REFUSED_FOR: Final = 30.0
"""Seconds for which a refusal is reported: two looks of a scraper with the usual interval."""


class PushStore(PushLists, Protocol):
    """The queue as intake sees it."""

    @property
    def pending(self) -> int:
        """Return the number of deliveries of all apps that have not ended, as last counted, and those being written."""

    def pending_of(self, app: str) -> int:
        """Return the deliveries of one app in `pending`."""

    async def recount(self, apps: Iterable[str]) -> int:
        """Count everything that waits for these apps, and for removed ones, and return `pending`."""

    async def note_refused(self, bounds: Iterable[Bound]) -> None:
        """Note the last push that was refused for each of these bounds, for `REFUSED_FOR` seconds."""

    async def refused(self) -> list[Bound]:
        """Return what any process has noted in the last `REFUSED_FOR` seconds."""

    async def accept(self, push: Push) -> None:
        """Write the push durably, completely or not at all. Concurrent calls share round trips. The push counts in
        `pending` from the start of the call."""

    async def accept_once(self, pushes: Sequence[Push], *, key: bytes, record: bytes) -> bytes | None:
        """Write all pushes of one call and the record of its idempotency key, in one atomic step. Where the key has a
        record already, nothing is written and that record is returned. Each push must be `beside` the key. A record is
        kept for 24 hours."""

    def beside(self, app: str, push_id: str, key: bytes) -> bool:
        """Return whether a push of this id and the record of this key can be written in one step."""

    async def recall(self, app: str, key: bytes) -> bytes | None:
        """Return the record of an idempotency key, or None."""

    async def status(self, app: str, push_id: str) -> PushStatus | None: ...

    async def statuses(self, pushes: Sequence[tuple[str, str]]) -> list[PushStatus | None]:
        """Return the statuses of many pushes, each given as app and id, in a few round trips."""

    async def deliveries(
        self, app: str, push_id: str, *, outcome: End | None, cursor: str, limit: int
    ) -> tuple[list[DeliveryRow], str | None] | None:
        """Return rows in the order of their index and the cursor of the next page, or None where there is no such
        push."""

    async def to_device(self, app: str, device_id: str, token_hash: str, *, cursor: str, limit: int) -> DevicePushes:
        """Return how deliveries to a device have ended, whether its id or its token was given, those of the latest
        push first. There is no index by device, as each push would pay for it: the pushes of the app are looked at, the
        latest first and a bounded number in a call. It ends after the push with the `limit`th delivery."""

    async def cancel(self, app: str, push_id: str) -> PushStatus | None:
        """Cancel what has not been sent. Returns None where there is no such push. Raises `Conflict` when it is already
        done.

        Waits up to two seconds until each dispatcher has confirmed that it dropped the push, and has reported how many
        of its deliveries are in flight: those stay `queued` until they are answered, and all others are `cancelled`.
        Deliveries of a dispatcher that does not confirm in that time (it is paused, or has died) keep their state until
        it reports or another one takes them over; it sends nothing after its lease has expired. Nothing of a scheduled
        push is ever sent, and its deliveries leave no rows.
        """

    async def ping(self) -> None: ...
