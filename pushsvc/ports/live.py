"""The live channel: a stream for each device, its connection, what the device has confirmed, and the gateways.

Every push to a device that may use the channel stands in the device's stream as a reference; the content is kept once
a push. A stream has an epoch and offsets from 1. Offsets grow, and may leave numbers out: what stands before a
publication is its `prev`, and a reader who has everything up to an offset of at least `prev` has missed nothing.
Instants are Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from ..model.push import Lane, Platform

MAX_CONNECTION = 2**32 - 1
"""The highest number that a connection may have; a gateway numbers its own from 1."""
MAX_BATCH = 500
"""Devices of one step of `append`; a longer call takes several steps."""

Event: TypeAlias = Literal["arrived", "shown", "opened", "dismissed"]
EVENTS: tuple[Event, ...] = ("arrived", "shown", "opened", "dismissed")


class LivePush(Struct, frozen=True, gc=False):
    """What a stream knows of a push. All of these values are the same in each call about a push and a platform."""

    id: str
    at: int
    """When it was to be sent first. Of two with one `collapse`, the later one stays."""
    expires_at: int
    lane: Lane
    platform: Platform
    """That of the device: `apns`, `fcm`, `live`."""
    total: int = 0
    """Deliveries of the push; 0 for an audience."""
    collapse: str = ""


class Receiver(Struct, frozen=True, gc=False):
    """One delivery of a push."""

    device_id: str
    index: int
    """Of the delivery in its push."""


class LiveRoute(Struct, frozen=True, gc=False):
    """Where a device is connected."""

    gateway: str
    """An incarnation of a gateway process: its name is never used again."""
    connection: int
    """The gateway's own number of the connection, never used again by this incarnation."""


class Reference(Struct, frozen=True, gc=False):
    """A delivery in a stream."""

    offset: int
    index: int
    push: LivePush


class Appended(Struct, frozen=True, gc=False):
    """What has become of one delivery in an `append`."""

    status: Literal["new", "known", "superseded", "absent"]
    """`known`: it stood there already, at this offset. `superseded`: a later push with its `collapse` stands there, and
    nothing was appended. `absent`: there is no such device, or this version cannot read its stream."""
    offset: int = 0
    prev: int = 0
    unread: int = 0
    epoch: str = ""
    route: LiveRoute | None = None
    """None: the device is not connected."""
    replaced: Reference | None = None
    """An older push with the same `collapse`, not acknowledged yet, which this one has replaced: its delivery will
    never be acknowledged."""


class Position(Struct, frozen=True):
    """Up to where a reader has a stream."""

    epoch: str
    offset: int


class Publication(Struct, frozen=True, gc=False):
    """A delivery as it is shown to a device."""

    offset: int
    prev: int
    index: int
    push: LivePush


class Page(Struct, frozen=True):
    """A part of a stream. What has expired is left out, and leaves no hole: `prev` leads past it."""

    epoch: str
    top: int
    """The last offset of the stream, 0 where nothing was ever appended."""
    publications: list[Publication]
    more: bool
    """Whether others follow: go on behind the offset of the last publication."""
    missing: int
    """How many offsets behind the asked one were lost, at most: removed because the stream was full, or too old."""


class Connected(Struct, frozen=True):
    """The device is connected."""

    since: int
    """The offset behind which the publications begin: that of the position, or without a valid one that of the last
    acknowledged."""
    recovered: bool
    """Whether the position was valid and nothing behind it is missing."""
    page: Page
    acked: int
    unread: int
    replaced: LiveRoute | None
    """The older connection, which this one has ended. Its gateway was sent a `Cut`, unless it is the same gateway."""


class Refused(Struct, frozen=True):
    """The device may not connect."""

    why: Literal["unknown", "revoked"]
    """`unknown`: the registry has no such device. `revoked`: the token was issued before its revocation."""


class Acked(Struct, frozen=True):
    """The answer to an acknowledgement."""

    fault: Literal["", "epoch", "offset", "unknown"]
    """`epoch`: of another stream. `offset`: beyond the top. `unknown`: the device has no stream."""
    newly: list[Reference] = []
    """What this call acknowledged first, each exactly once: the deliveries that end as sent."""
    acked: int = 0
    unacked: int = 0


class Read(Struct, frozen=True):
    """The answer to `read`."""

    fault: Literal["", "epoch", "offset", "unknown"]
    unread: Mapping[str, int] = {}
    """What is unread now, by device id of the user."""
    routes: Mapping[str, LiveRoute] = {}
    """Where those of them that are connected are."""


class Presence(Struct, frozen=True):
    """How a device stands in the live channel."""

    epoch: str
    """Empty where it never connected and nothing was appended."""
    top: int
    acked: int
    unacked: int
    unread: int
    route: LiveRoute | None
    """None: it is not online."""
    connected_at: int
    """0 where it is not online."""


class Recipient(Struct, frozen=True, array_like=True, gc=False):
    """A connection for which a publication was appended."""

    connection: int
    epoch: str
    offset: int
    prev: int
    unread: int
    index: int


class Poke(Struct, frozen=True, array_like=True, tag="p"):
    """A push was appended for these connections of the gateway.

    A connection that has everything up to `prev` may be given the publication as it is; another one, or one whose
    epoch differs, is brought up to date from its stream.
    """

    app: str
    push: LivePush
    recipients: list[Recipient]
    body: bytes = b""
    """The content, where the sender had it at hand."""


class Cut(Struct, frozen=True, array_like=True, tag="c"):
    """A connection of the gateway is to be ended."""

    app: str
    connection: int
    why: Literal["replaced", "revoked"]


class Unread(Struct, frozen=True, array_like=True, tag="u"):
    """What is unread of a connected device has changed, because its user has read on another one."""

    app: str
    connection: int
    unread: int


InboxItem: TypeAlias = Poke | Cut | Unread


class Received(Struct, frozen=True):
    """What came into an inbox."""

    items: list[InboxItem]
    lost: bool = False
    """Whether something did not reach this reader: compare every connection with its stream (`presence`, `history`)."""


class Inbox(Protocol):
    """What others have for one gateway. A reader that lags loses nothing: it is told, and the streams have it all."""

    async def receive(self, wait_ms: int) -> Received:
        """Return what has come since the last call; waits up to `wait_ms` for the first. Uses one connection to Redis,
        however many devices there are. After `StoreUnavailable` call it again."""
        ...


class EventReport(Struct, frozen=True):
    """What a device says has become of a push, whichever channel it came by."""

    push_id: str
    device_id: str
    event: Event


class EventCounts(Struct, frozen=True):
    """How many devices have reported each event."""

    arrived: int = 0
    shown: int = 0
    opened: int = 0
    dismissed: int = 0


class LiveStreams(Protocol):
    """The streams of devices. Every method but `read` is one atomic step a device."""

    async def append(self, app: str, push: LivePush, receivers: Sequence[Receiver]) -> list[Appended]:
        """Append a push to the streams of some hundred devices; for each what has become of it, in their order.

        Offset and route are of one step: a device that connects after it finds the push in its stream. A repeat of a
        push and a device appends nothing. Then `poke` the gateways.
        """
        ...

    async def connect(
        self,
        app: str,
        device_id: str,
        route: LiveRoute,
        *,
        issued_at: int,
        position: Position | None = None,
        limit: int = 100,
    ) -> Connected | Refused:
        """Make this the connection of the device, from now on. `issued_at` is the instant of its token."""
        ...

    async def disconnect(self, app: str, device_id: str, route: LiveRoute) -> bool:
        """End a connection. False: it was not, or is no longer, that of the device, and nothing happens."""
        ...

    async def ack(self, app: str, device_id: str, position: Position) -> Acked:
        """Acknowledge everything up to an offset. An empty epoch means whichever the stream has."""
        ...

    async def read(self, app: str, device_id: str, position: Position) -> Read:
        """Note that the user has read everything up to an offset of this device's stream.

        On each other device of the user, everything up to the last of these pushes that stands there counts as read.
        What is unread is counted in the stream itself, behind the last offset that was read. Connected devices of the
        user are sent an `Unread`.
        """
        ...

    async def history(
        self,
        app: str,
        device_id: str,
        *,
        since: int | None = None,
        epoch: str = "",
        limit: int = 100,
        reverse: bool = False,
    ) -> Page | None:
        """Return publications behind the offset `since`, or, in reverse, before it; None begins at the end that the
        direction has. With another `epoch` than the stream's the page has no publications, and says the right one.
        None: the device has no stream."""
        ...

    async def presence(self, app: str, device_ids: Sequence[str]) -> list[Presence | None]:
        """Return how each of these devices stands; None: the registry has no such device."""
        ...

    async def revoke(self, app: str, device_id: str) -> int:
        """Refuse tokens of this device that were issued before now, and end its connection. Returns the instant.

        Call it before a device is removed from the registry: that takes its stream along, and the route in it.
        """
        ...

    async def keep(self, app: str, push: LivePush, body: bytes) -> None:
        """Keep the content of a push, for as long as a stream may refer to it. A repeat changes nothing."""
        ...

    async def contents(self, app: str, push_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the contents that are there; those of the others are gone."""
        ...


class LiveGateways(Protocol):
    """The gateways: who lives, how much each holds, and what it is sent."""

    async def beat(self, gateway: str, connections: Mapping[str, int]) -> set[str]:
        """Say that this incarnation lives, and how many connections of each app it has; due every few seconds, before
        the first connection of an app too. The routes of a gateway that says nothing for `lifetime` seconds are none.

        Returns the apps in which its last word had run out, or never was: what was appended meanwhile was not poked,
        so compare their connections with the streams.
        """
        ...

    @property
    def lifetime(self) -> float:
        """Seconds for which a sign of life is valid."""
        ...

    async def leave(self, gateway: str, apps: Sequence[str]) -> None:
        """Say that this incarnation ends: its routes are none from now on."""
        ...

    async def gateways(self, app: str) -> dict[str, int]:
        """Return the living gateways of an app, with their connections."""
        ...

    async def poke(self, items: Mapping[str, Sequence[InboxItem]]) -> None:
        """Put items into the inboxes of gateways, by their names, in one round trip."""
        ...

    def inbox(self, gateway: str) -> Inbox:
        """Return the inbox of this process' own gateway, from its beginning on."""
        ...


class LiveEvents(Protocol):
    """What devices say has become of pushes."""

    async def report(self, app: str, reports: Sequence[EventReport]) -> list[bool]:
        """Count what devices report; for each whether it was counted: the first of its push, device and event, of a
        push and a device that are known."""
        ...

    async def events(self, app: str, push_ids: Sequence[str]) -> list[EventCounts]:
        """Return the counts of each push."""
        ...

    async def event_totals(self, app: str) -> EventCounts:
        """Return what was counted of all pushes of an app."""
        ...


class Live(LiveStreams, LiveGateways, LiveEvents, Protocol):
    """All of the live channel that is kept."""


def pokes_of(
    app: str, push: LivePush, receivers: Sequence[Receiver], appended: Sequence[Appended], body: bytes = b""
) -> dict[str, list[InboxItem]]:
    """Return what the gateways are to be told after an append: one `Poke` for each gateway."""
    found: dict[str, list[Recipient]] = {}
    for receiver, each in zip(receivers, appended, strict=True):
        if each.route is not None and each.status in ("new", "known"):
            found.setdefault(each.route.gateway, []).append(
                Recipient(each.route.connection, each.epoch, each.offset, each.prev, each.unread, receiver.index)
            )
    return {gateway: [Poke(app, push, recipients, body)] for gateway, recipients in found.items()}
