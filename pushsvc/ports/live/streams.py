"""The streams of devices: what is appended to them, read, acknowledged and read out by a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from ...model.delivery import Arrival
from ...model.push import Lane, Platform

MAX_BATCH = 500
"""The maximum number of devices of one step of `append`; more of them take several steps."""
MAX_NAMED = 32
"""The maximum number of devices that are named beside the content of a push."""


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

    def arrival(self, index: int, platform: Platform, device_id: str, at: int) -> Arrival:
        """Return a delivery that its device has acknowledged at that instant, or cannot acknowledge any more."""
        return Arrival(
            self.id, index, self.total, self.lane, platform, device_id, at, collapse=self.collapse, since=self.at
        )


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
    carried: tuple[Reference, ...] = ()
    """Older pushes for which the full stream of a connected device has no room any more, that were not acknowledged yet
    and that another channel carries on."""


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
    too old; 0 where the publications end before the last of these. A connect gives the number in any case."""
    floor: int = 0
    """The last offset that was removed for this reason."""


class Connected(Struct, frozen=True):
    """The device is connected."""

    since: int
    """The offset behind which the publications begin: that of the position; or that of the last acknowledged, without a
    valid position, and with `unacked` where it is before the position, unless something is missing there."""
    recovered: bool
    """Whether the position was valid and nothing behind it is missing."""
    page: Page
    acked: int
    unread: int
    replaced: LiveRoute | None
    """The older connection, which this one has replaced; also one that a revocation was to end."""
    missing_ahead: int = 0
    """How many of the missing ones are behind the position, where that is valid. The others were announced at an
    earlier connect: the position of a device that acknowledges nothing is behind them."""


class Refused(Struct, frozen=True):
    """The device may not connect."""

    why: Literal["unknown", "revoked"]
    """`unknown`: the registry has no such device. `revoked`: the token was issued before its revocation."""


class Acked(Struct, frozen=True):
    """The answer to an acknowledgement."""

    fault: Literal["", "epoch", "offset", "unknown", "open"]
    """`epoch`: of another stream. `offset`: beyond the top. `unknown`: the device has no stream. `open`: it would have
    acknowledged a delivery that the caller has not ended."""
    newly: list[Reference] = []
    """The deliveries that this call acknowledged first, which end as sent; each is returned exactly once."""
    acked: int = 0
    unacked: int = 0
    before: int = 0
    """What was acknowledged before."""


class Read(Struct, frozen=True):
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


class LiveStreams(Protocol):
    """The streams of devices. Every method is one atomic step for each device; `read` is one for all of a user."""

    async def append(
        self, app: str, push: LivePush, receivers: Sequence[Receiver], *, platform: Platform
    ) -> list[Appended]:
        """Append a push to the streams of some hundred devices of a platform, and return the results in their order.

        Offset and route are determined in one step: a device that connects after it finds the push in its stream. A
        repeat of a push, which is known by its id, and a device appends nothing, and for ten minutes returns again what
        the push has `replaced` and `overrun`. Then `poke` the gateways.
        """

    async def append_all(
        self, app: str, appends: Sequence[Append], contents: Sequence[LiveContent] = ()
    ) -> list[list[Appended]]:
        """Append several pushes, in their order and in one round trip; before anything refers to them, keep `contents`
        as `keep_all` does. Returns for each the results of its receivers, as `append` does."""

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

    async def disconnect(self, app: str, device_id: str, route: LiveRoute) -> bool:
        """End a connection. Returns False, and changes nothing, where it is not the device's present connection."""

    async def acking(
        self, app: str, positions: Sequence[tuple[str, Position]], given: Sequence[Sequence[int] | None] = ()
    ) -> list[Acked]:
        """Return what `ack` would, and change nothing. What has expired is named only if it is among the offsets that
        each device was `given`: otherwise it was never seen. None, and without `given` all: what each was given is not
        known, and everything is named.

        End the deliveries that this names first, then call `ack` with them: if the process dies in between, the device
        repeats its acknowledgement, and no delivery is acknowledged without having ended.
        """

    async def ack(
        self, app: str, positions: Sequence[tuple[str, Position]], ended: Sequence[Sequence[int] | None] = ()
    ) -> list[Acked]:
        """Acknowledge everything up to an offset, for each of some hundred devices by id. An empty epoch means that of
        the stream.

        `ended` has for each of them the offsets, in their order, of deliveries that the caller has ended: where another
        one that has not expired would be acknowledged nothing is, and the fault is `open`. Then `newly` is empty. None,
        and without `ended` all: whatever it is."""

    async def read(self, app: str, device_id: str, position: Position) -> Read:
        """Record that the user has read everything up to an offset of this device's stream. On each other device of the
        user, everything up to the last of these pushes counts as read too. Unread pushes are counted in the stream,
        after the last offset that was read. Connected devices of the user receive an `Unread`."""

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

    async def presence(self, app: str, device_ids: Sequence[str], *, gateway: str = "") -> list[Presence | None]:
        """Return the state of each of these devices; None where the registry has no such device. What has expired or
        was withdrawn is neither unacknowledged nor unread. A `gateway` that asks for its own connections sees its
        routes also where its last report is over."""

    async def revoke(self, app: str, device_id: str) -> int:
        """Refuse tokens of this device that were issued before now, and end its connection: nothing is sent there any
        more, and its gateway gets a `Cut`. A repeat sends it again, until `disconnect` has confirmed the end. Returns
        the instant, in Unix ms.

        The registry ends the connection of each device that is gone, and refuses no token. Before a removal that a
        caller has requested, call this: otherwise the tokens are valid again when the id is registered again.
        """

    async def admits(self, app: str, device_id: str, *, issued_at: int) -> Refused | None:
        """Return why a token of the device that was issued at this instant, in Unix ms, is refused; None where it is
        not."""

    async def holds(self, app: str, device_id: str, push_id: str) -> bool:
        """Return whether a push stands in the stream of the device and has not expired."""

    async def keep_all(self, app: str, contents: Sequence[LiveContent]) -> None:
        """Store contents, for as long as a stream may refer to their pushes. A repeat changes none, and adds the
        devices that it names. A content leaves with the erasure of the last device that it is for."""

    async def withdraw(self, app: str, push_id: str, at: int) -> None:
        """Let a push that was to be sent at `at` (Unix ms) expire now, for the devices that have not received it, and
        be appended to no stream any more."""

    async def contents(self, app: str, push_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the contents that are still stored."""
