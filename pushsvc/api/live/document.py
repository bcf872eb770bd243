"""The documents of the live channel: tokens of devices, and which devices are online. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from ...bodies import read_document
from ...decoding import Rule, fraction
from ...model.devices import Device
from ...model.documents import Time
from ...model.instants import instant
from ...model.live import Endpoint
from ...ports.live import Presence
from ..config import ApiLive


class TokenDocument(Struct, forbid_unknown_fields=True):
    """A token to issue."""

    ttl: Annotated[
        Annotated[int, Meta(ge=1)] | Annotated[float, Meta(ge=1)] | None,
        Rule("a whole number of seconds, at least 1", fault=fraction),
        Meta(description="Seconds for which it is valid. Default and maximum: `live.token_ttl` of the app."),
    ] = None


class DeviceToken(Struct, frozen=True):
    """The token with which a device connects, and where."""

    token: Annotated[str, Meta(description="A JSON Web Token. Give it only to this device.")]
    expires_at: Time
    endpoints: Annotated[list[Endpoint], Meta(description="In the order in which the device tries them.")]

    def __repr__(self) -> str:
        return f"DeviceToken(expires_at={self.expires_at!r})"


class PresentDevice(Struct, frozen=True):
    """A device in the live channel."""

    id: str
    platform: str
    online: bool
    unacked: Annotated[int, Meta(description="Pushes that are in its stream and that it has not acknowledged.")]
    unread: Annotated[int, Meta(description="Pushes that its user has not read.")]
    connected_at: Annotated[Time | UnsetType, Meta(description="Only while it is online.")] = UNSET


class UserPresence(Struct, frozen=True):
    """The devices of a user in the live channel."""

    online: Annotated[bool, Meta(description="Whether any of them is online.")]
    items: list[PresentDevice]


class GatewayConnections(Struct, frozen=True):
    """A running process of `pushsvc live`, and the number of devices of the app that are connected to it."""

    gateway: Annotated[str, Meta(description="Its name, which changes with each start.")]
    connections: int


class LiveConnections(Struct, frozen=True):
    """The connections of the app."""

    connections: int
    gateways: list[GatewayConnections]


def read_ttl(body: bytes, live: ApiLive) -> int:
    """Return the seconds for which a token is to be valid; an empty body asks for the usual ones. Raises
    `MalformedBody`, or `InvalidRequest` with every fault."""

    def faults(document: TokenDocument) -> Sequence[tuple[str, str]]:
        ttl: Any = document.ttl
        if isinstance(ttl, int | float) and ttl > live.token_ttl:
            return [("ttl", f"must be at most {live.token_ttl:,}, the `live.token_ttl` of the app")]
        return ()

    if not body:
        return live.token_ttl
    return int(read_document(body, TokenDocument, {TokenDocument: faults}).ttl or live.token_ttl)


def presence_fields(presence: Presence | None) -> dict[str, Any]:
    """Return the fields of a device's state. None is a device that was removed meanwhile."""
    if presence is None:
        return {"online": False, "unacked": 0}
    fields: dict[str, Any] = {"online": presence.route is not None, "unacked": presence.unacked}
    if presence.route is not None:
        fields["connected_at"] = instant(presence.connected_at)
    return fields


def shown_presence(device: Device, presence: Presence | None) -> PresentDevice:
    """Return a device as the API shows it in the live channel."""
    unread = 0 if presence is None else presence.unread
    return PresentDevice(id=device.id, platform=device.platform, unread=unread, **presence_fields(presence))
