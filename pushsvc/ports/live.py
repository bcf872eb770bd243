"""The live channel: a stream for each device, its connection, the acknowledged position, and the gateways.

Every push to a device that may use the channel is referred to in the device's stream; the content is stored once a
push. A stream has an epoch and offsets from 1. Offsets grow, and may leave numbers out: a publication names the offset
before it as `prev`, and a reader who has everything up to an offset of at least `prev` has missed nothing. Instants are
in Unix ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

from msgspec import Struct

from ..model.push import Lane, Platform
from ..model.status import Event as Event

MAX_BATCH = 500
"""The maximum number of devices of one step of `append`; more of them take several steps."""
MAX_NAMED = 32
"""The maximum number of devices that are named beside the content of a push."""

EVENTS: tuple[Event, ...] = ("arrived", "shown", "opened", "dismissed")


class LivePush(Struct, frozen=True, array_like=True, gc=False):
    """The fields of a push in a stream, which are the same in each call about a push."""

    id: str
    at: int
    """When it was to be sent first. Of two pushes with one `collapse`, the later one stays."""
    expires_at: int
    lane: Lane
    total: int = 0
    """The number of deliveries of the push; 0 for an audience."""
    collapse: str = ""


class LiveContent(NamedTuple):
    """The content of a push for the devices of streams."""

    push: LivePush
    body: bytes
    device_ids: Sequence[str] = ()
    """The devices that it is for, where these are at most `MAX_NAMED`; empty for more."""


class Receiver(Struct, frozen=True, gc=False):
    """One delivery of a push."""

    device_id: str
    index: int
    """The index of the delivery in its push."""
    owner: bytes | None = None
    """`audience.owner_of` the device that the push is for; None for whichever user it has."""


class Append(Struct, frozen=True):
    """A push for the streams of some devices of one platform."""

    push: LivePush
    receivers: Sequence[Receiver]
    platform: Platform
    now_or_never: bool = False
    """Whether it is appended only where the device is connected."""
    alone: bool = False
    """Whether no other channel carries it on."""


class LiveRoute(Struct, frozen=True, gc=False):
    """Where a device is connected."""

    gateway: str
    """The name of one run of a gateway process, which is never used again."""
    connection: int
    """The gateway's number of the connection, which this run never uses again."""


class Reference(Struct, frozen=True, gc=False):
    """A delivery in a stream."""

    offset: int
    index: int
    platform: Platform
    """The platform of the device when it was appended: `apns`, `fcm` or `live`."""
    push: LivePush


class Appended(Struct, frozen=True, gc=False):
    """The result of one delivery of an `append`."""

    status: Literal["new", "known", "superseded", "absent", "away", "withdrawn", "moved"]
    """`known`: it stood there already, at this offset. `superseded`: a later push with its `collapse` stands there, and
    nothing was appended. `absent`: there is no such device, or this version cannot read its stream. `away`: it was now
    or never, and the device is not connected. `withdrawn`: the push was, and nothing was appended. `moved`: the device
    has another user than the receiver's `owner`, and nothing was appended."""
    offset: int = 0
    prev: int = 0
    unread: int = 0
    epoch: str = ""
    route: LiveRoute | None = None
    """None where the device is not connected."""
    replaced: Reference | None = None
    """An older push with the same `collapse`, not acknowledged yet, which this one has replaced: its delivery will
    never be acknowledged."""
    overrun: tuple[Reference, ...] = ()
    """Older pushes that were `alone` and not acknowledged yet, for which the full stream has no room any more: the same
    is true of their deliveries."""


class Position(Struct, frozen=True):
    """The position of a reader in a stream."""

    epoch: str
    offset: int


class Publication(Struct, frozen=True, gc=False):
    """A delivery as it is shown to a device."""

    offset: int
    prev: int
    index: int
    push: LivePush


class Page(Struct, frozen=True):
    """A part of a stream. Expired publications are left out without a gap: `prev` leads past them."""

    epoch: str
    top: int
    """The last offset of the stream; 0 where nothing was ever appended."""
    publications: list[Publication]
    more: bool
    """Whether others follow after the offset of the last publication."""
    missing: int
    """The maximum number of offsets after the requested one that were removed because the stream was full or they were
    too old."""


class Connected(Struct, frozen=True):
    """The device is connected."""

    since: int
    """The offset behind which the publications begin: that of the position; or that of the last acknowledged, without a
    valid position, and with `unacked` where it is before the position."""
    recovered: bool
    """Whether the position was valid and nothing behind `since` is missing."""
    page: Page
    acked: int
    unread: int
    replaced: LiveRoute | None
    """The older connection, which this one has replaced; also one that a revocation was to end."""
    missing_ahead: int = 0
    """How many of the missing ones are behind the position, where that is valid. The others were so at an earlier
    connect too: a device that acknowledges nothing begins before them each time."""


class Refused(Struct, frozen=True):
    """The device may not connect."""

    why: Literal["unknown", "revoked"]
    """`unknown`: the registry has no such device. `revoked`: the token was issued before its revocation."""


class Acked(Struct, frozen=True):
    """The answer to an acknowledgement."""

    fault: Literal["", "epoch", "offset", "unknown"]
    """`epoch`: of another stream. `offset`: beyond the top. `unknown`: the device has no stream."""
    newly: list[Reference] = []
    """The deliveries that this call acknowledged first, which end as sent; each is returned exactly once."""
    acked: int = 0
    unacked: int = 0
    before: int = 0
    """What was acknowledged before."""


class Read(Struct, frozen=True):
    """The answer to `read`."""

    fault: Literal["", "epoch", "offset", "unknown"]
    unread: Mapping[str, int] = {}
    """The number of unread pushes now, by device id of the user."""
    routes: Mapping[str, LiveRoute] = {}
    """The routes of the connected ones among them."""


class Presence(Struct, frozen=True):
    """The state of a device in the live channel."""

    epoch: str
    """The epoch of the stream; empty where the device never connected and nothing was appended."""
    top: int
    acked: int
    unacked: int
    unread: int
    route: LiveRoute | None
    """None where the device is not online."""
    connected_at: int
    """When it connected, in Unix ms; 0 where it is not online."""


class Recipient(Struct, frozen=True, array_like=True, gc=False):
    """A connection to which a publication is sent."""

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
    passed: tuple[int, int, int] | None = None
    """When it was queued, taken and written into the streams, in ms after the push was to be sent, if that is known."""
    trace: bytes = b""
    """That of the push. It is the last field, which is not stored where it is empty."""


class Cut(Struct, frozen=True, array_like=True, tag="c"):
    """A connection of the gateway that must be closed."""

    app: str
    connection: int
    why: Literal["replaced", "revoked", "moved", "asked"]
    """`moved`: its stream has ended, and the device may connect again. `asked`: an operator wants it to."""


class Drain(Struct, frozen=True, array_like=True, tag="d"):
    """All connections of an app at the gateway are to connect again, spread over some seconds."""

    app: str
    seconds: float


class Unread(Struct, frozen=True, array_like=True, tag="u"):
    """The number of unread pushes of a connected device has changed, because its user has read on another device."""

    app: str
    connection: int
    unread: int


class Forwarded(Struct, frozen=True, array_like=True, tag="f"):
    """A message of a client that came to another gateway than its connection. Its `repr` shows nothing of it."""

    session: str
    data: bytes

    def __repr__(self) -> str:
        return "Forwarded()"


InboxItem: TypeAlias = Poke | Cut | Unread | Forwarded | Drain


class Received(Struct, frozen=True):
    """The items that arrived in an inbox."""

    items: list[InboxItem]
    lost: bool = False
    """Whether items were lost: compare every connection with its stream (`presence`, `history`)."""


class Inbox(Protocol):
    """The items for one gateway. A reader that lags behind is informed (`lost`), and finds everything in the
    streams."""

    async def receive(self, wait_ms: int) -> Received:
        """Return the items since the last call, and wait up to `wait_ms` for the first. Uses one connection to Redis
        for all devices. After `StoreUnavailable` call it again."""
        ...


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


class LiveStreams(Protocol):
    """The streams of devices. Every method is one atomic step for each device; `read` is one for all of a user."""

    async def append(
        self, app: str, push: LivePush, receivers: Sequence[Receiver], *, platform: Platform
    ) -> list[Appended]:
        """Append a push to the streams of some hundred devices of a platform, and return the results in their order.

        Offset and route are determined in one step: a device that connects after it finds the push in its stream. A
        repeat of a push, which is known by its id, and a device appends nothing. Then `poke` the gateways.
        """
        ...

    async def append_all(
        self, app: str, appends: Sequence[Append], contents: Sequence[LiveContent] = ()
    ) -> list[list[Appended]]:
        """Append several pushes, in their order and in one round trip; before anything refers to them, keep `contents`
        as `keep_all` does. Returns for each the results of its receivers, as `append` does."""
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
        unacked: bool = False,
    ) -> Connected | Refused:
        """Make this the connection of the device from now on. `issued_at` is the instant of its token, in Unix ms.
        With `unacked` the publications begin with what is not acknowledged, though it stands before the position.
        Then end the connection that it has replaced: one of another gateway by a `Cut`.

        A sign of life, as are `disconnect` and `admits`: see `rules/life.py`.
        """
        ...

    async def disconnect(self, app: str, device_id: str, route: LiveRoute) -> bool:
        """End a connection. Returns False, and changes nothing, where it is not the device's present connection."""
        ...

    async def acking(self, app: str, positions: Sequence[tuple[str, Position]]) -> list[Acked]:
        """Return what `ack` would, and change nothing.

        End the deliveries that this names first, then call `ack`: if the process dies in between, the device repeats
        its acknowledgement, and no delivery is acknowledged without having ended.
        """
        ...

    async def ack(self, app: str, positions: Sequence[tuple[str, Position]], *, named: bool = True) -> list[Acked]:
        """Acknowledge everything up to an offset, for each of some hundred devices by id. An empty epoch means that of
        the stream. Where it need not be `named`, `newly` is empty: `acking` had those after `before`."""
        ...

    async def read(self, app: str, device_id: str, position: Position) -> Read:
        """Record that the user has read everything up to an offset of this device's stream. On each other device of the
        user, everything up to the last of these pushes counts as read too. Unread pushes are counted in the stream,
        after the last offset that was read. Connected devices of the user receive an `Unread`."""
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
        """Return publications after the offset `since`, or before it with `reverse`; None begins at the respective end.
        Where `epoch` differs from that of the stream, the page has no publications and names the right epoch. Returns
        None where the device has no stream."""
        ...

    async def presence(self, app: str, device_ids: Sequence[str], *, gateway: str = "") -> list[Presence | None]:
        """Return the state of each of these devices; None where the registry has no such device. What has expired or
        was withdrawn is neither unacknowledged nor unread. A `gateway` that asks for its own connections sees its
        routes also where its last report is over."""
        ...

    async def revoke(self, app: str, device_id: str) -> int:
        """Refuse tokens of this device that were issued before now, and end its connection: nothing is sent there any
        more, and its gateway gets a `Cut`. A repeat sends it again, until `disconnect` has confirmed the end. Returns
        the instant, in Unix ms.

        The registry ends the connection of each device that is gone, and refuses no token. Before a removal that a
        caller has requested, call this: otherwise the tokens are valid again when the id is registered again.
        """
        ...

    async def admits(self, app: str, device_id: str, *, issued_at: int) -> Refused | None:
        """Return why a token of the device that was issued at this instant, in Unix ms, is refused; None where it is
        not."""
        ...

    async def holds(self, app: str, device_id: str, push_id: str) -> bool:
        """Return whether a push stands in the stream of the device and has not expired."""
        ...

    async def keep_all(self, app: str, contents: Sequence[LiveContent]) -> None:
        """Store contents, for as long as a stream may refer to their pushes. A repeat changes none, and adds the
        devices that it names. A content leaves with the erasure of the last device that it is for."""
        ...

    async def withdraw(self, app: str, push_id: str, at: int) -> None:
        """Let a push that was to be sent at `at` (Unix ms) expire now, for the devices that have not received it, and
        be appended to no stream any more."""
        ...

    async def contents(self, app: str, push_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the contents that are still stored."""
        ...


class LiveGateways(Protocol):
    """The gateways: which of them live, their connections, and their inboxes."""

    async def beat(self, gateway: str, connections: Mapping[str, int]) -> set[str]:
        """Report that this gateway lives and its number of connections of each app. Due every few seconds, and before
        the first connection of an app. The routes of a gateway are void `lifetime` seconds after its last report.

        Returns the apps of which the last report had expired or never existed: no `poke` was sent for them meanwhile,
        so compare their connections with the streams.
        """
        ...

    @property
    def lifetime(self) -> float:
        """Return the seconds for which a report is valid."""
        ...

    async def leave(self, gateway: str, apps: Sequence[str]) -> None:
        """Report that this gateway ends, which makes its routes void."""
        ...

    async def gateways(self, app: str) -> dict[str, int]:
        """Return the living gateways of an app with their numbers of connections."""
        ...

    async def last_signs(self, app: str) -> dict[str, int]:
        """Return when each living gateway of an app gave its last sign of life, in Unix ms."""
        ...

    async def poke(self, items: Mapping[str, Sequence[InboxItem]]) -> None:
        """Put items into the inboxes of gateways, by name, in one round trip."""
        ...

    def inbox(self, gateway: str) -> Inbox:
        """Return the inbox of this process' own gateway, from its beginning."""
        ...


class LiveEvents(Protocol):
    """What devices report about pushes."""

    async def report(self, app: str, reports: Sequence[EventReport], *, log: bool = False) -> list[Platform | None]:
        """Count the reports of devices. Returns for each the platform of its device where it was counted: it was the
        first of its push, device and event, and both are known. With `log`, each that counts is appended to the log of
        the webhooks of kind `event` in the same atomic step."""
        ...

    async def events(self, app: str, push_ids: Sequence[str]) -> list[EventCounts]:
        """Return the counts of each push."""
        ...


class Live(LiveStreams, LiveGateways, LiveEvents, Protocol):
    """Everything of the live channel in the store."""


def pokes_of(
    app: str,
    push: LivePush,
    receivers: Sequence[Receiver],
    appended: Sequence[Appended],
    body: bytes = b"",
    passed: tuple[int, int, int] | None = None,
    trace: bytes = b"",
) -> dict[str, list[InboxItem]]:
    """Return what to send to the gateways after an append: one `Poke` for each gateway."""
    found: dict[str, list[Recipient]] = {}
    for receiver, each in zip(receivers, appended, strict=True):
        if each.route is not None and each.status in ("new", "known"):
            found.setdefault(each.route.gateway, []).append(
                Recipient(each.route.connection, each.epoch, each.offset, each.prev, each.unread, receiver.index)
            )
    return {gateway: [Poke(app, push, recipients, body, passed, trace)] for gateway, recipients in found.items()}
