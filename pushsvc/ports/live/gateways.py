"""The gateways: which of them live, and what is put into their inboxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from ...model.push import Platform
from .streams import Appended, LivePush, Receiver


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
    """That of the push."""
    platform: Platform = ""
    """That of the connected devices, as in a `Reference`; empty from an older version."""


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


class LiveGateways(Protocol):
    """The gateways: which of them live, their connections, and their inboxes."""

    async def beat(self, gateway: str, connections: Mapping[str, int]) -> set[str]:
        """Report that this gateway lives and its number of connections of each app. Due every few seconds, and before
        the first connection of an app. The routes of a gateway are void `lifetime` seconds after its last report.

        Returns the apps of which the last report had expired or never existed: no `poke` was sent for them meanwhile,
        so compare their connections with the streams.
        """

    @property
    def lifetime(self) -> float:
        """Return the seconds for which a report is valid."""

    async def leave(self, gateway: str, apps: Sequence[str]) -> None:
        """Report that this gateway ends, which makes its routes void."""

    async def gateways(self, app: str) -> dict[str, int]:
        """Return the living gateways of an app with their numbers of connections."""

    async def last_signs(self, app: str) -> dict[str, int]:
        """Return when each living gateway of an app gave its last sign of life, in Unix ms."""

    async def poke(self, items: Mapping[str, Sequence[InboxItem]]) -> None:
        """Put items into the inboxes of gateways, by name, in one round trip."""

    def inbox(self, gateway: str) -> Inbox:
        """Return the inbox of this process' own gateway, from its beginning."""


def pokes_of(
    app: str,
    push: LivePush,
    receivers: Sequence[Receiver],
    appended: Sequence[Appended],
    body: bytes = b"",
    passed: tuple[int, int, int] | None = None,
    trace: bytes = b"",
    platform: Platform = "",
) -> dict[str, list[InboxItem]]:
    """Return what to send to the gateways after an append: one `Poke` for each gateway."""
    found: defaultdict[str, list[Recipient]] = defaultdict(list)
    for receiver, each in zip(receivers, appended, strict=True):
        if each.route is not None and each.status in ("new", "known"):
            found[each.route.gateway].append(
                Recipient(each.route.connection, each.epoch, each.offset, each.prev, each.unread, receiver.index)
            )
    return {
        gateway: [Poke(app, push, recipients, body, passed, trace, platform)] for gateway, recipients in found.items()
    }
