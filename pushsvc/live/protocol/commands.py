"""The commands of a client, as both formats are decoded to. Fields that the gateway has no use for are left out.

Source: definitions/client.proto of github.com/centrifugal/protocol
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from ...decoding import Rule
from ...model.instants import INSTANT, parse_instant
from ...ports.live import Event

MAX_OFFSET: Final = 2**53 - 1
"""The greatest integer that JavaScript can count with."""

PAGE: Final = 100
"""The most publications of one page of history."""

_Id = Annotated[int, Meta(ge=0, lt=2**32)]
_UInt64 = Annotated[int, Meta(ge=0)]
_NOTHING: Final = Raw(b"null")


class SubscribeRequest(Struct, frozen=True, gc=False):
    """A subscription of a client, or the position of a server-side one in `ConnectRequest.subs`."""

    channel: str | None = None
    recover: bool | None = False
    epoch: str | None = None
    offset: _UInt64 | None = 0


class ConnectRequest(Struct, frozen=True, gc=False):
    """The first command. Its `repr` does not show the token."""

    token: str | None = None
    data: Raw = _NOTHING
    subs: dict[str, SubscribeRequest | None] | None = None

    def __repr__(self) -> str:
        return "ConnectRequest()"


class RefreshRequest(Struct, frozen=True, gc=False):
    """A new token. Its `repr` does not show it."""

    token: str | None = None

    def __repr__(self) -> str:
        return "RefreshRequest()"


class ChannelRequest(Struct, frozen=True, gc=False):
    """Any request of which only the channel decides the answer."""

    channel: str | None = None


class StreamPosition(Struct, frozen=True, gc=False):
    offset: _UInt64 | None = 0
    epoch: str | None = None


class HistoryRequest(Struct, frozen=True, gc=False):
    """A page of a stream."""

    channel: str | None = None
    limit: int | None = 0
    since: StreamPosition | None = None
    reverse: bool | None = False


class RPCRequest(Struct, frozen=True, gc=False):
    """A call of a method."""

    data: Raw = _NOTHING
    method: str | None = None


class SendRequest(Struct, frozen=True, gc=False):
    """A message without an answer."""

    data: Raw = _NOTHING


class EmptyRequest(Struct, frozen=True, gc=False):
    """A request without fields."""


class Command(Struct, frozen=True, gc=False):
    """One command: an id, and one request. Without both it is the answer to a ping."""

    id: _Id | None = 0
    connect: ConnectRequest | None = None
    subscribe: ChannelRequest | None = None
    unsubscribe: ChannelRequest | None = None
    publish: ChannelRequest | None = None
    presence: ChannelRequest | None = None
    presence_stats: ChannelRequest | None = None
    history: HistoryRequest | None = None
    ping: EmptyRequest | None = None
    send: SendRequest | None = None
    rpc: RPCRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: ChannelRequest | None = None


_Offset = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]


class Offset(Struct, frozen=True, gc=False):
    """Up to where a device has the stream."""

    offset: _Offset
    epoch: str = ""


class OffsetBody(Struct, frozen=True, gc=False):
    """`{"ack": offset}`, where the offset is a number or has its epoch beside it, or `{"offset", "epoch"}`."""

    ack: _Offset | Offset | None = None
    offset: _Offset | None = None
    epoch: str = ""

    @property
    def position(self) -> Offset | None:
        """The offset, whichever way it was given."""
        if isinstance(self.ack, Offset):
            return self.ack
        offset = self.offset if self.ack is None else self.ack
        return None if offset is None else Offset(offset, self.epoch)


class AckBody(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """See `AckCommand`."""

    ack: _Offset | Offset


class AckCall(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """See `AckCommand`."""

    data: AckBody
    method: Literal["ack"] = "ack"


class AckCommand(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """The most frequent `Command`, an acknowledgement by RPC, which is decoded directly, in half the time."""

    id: Annotated[int, Meta(gt=0, lt=2**32)]
    rpc: AckCall


def _seconds(text: str) -> float:
    """Return an instant of a device in Unix seconds, also in forms beside RFC 3339 that earlier versions took. Raises
    `ValueError` with what is wrong."""
    try:
        zoned: datetime = msgspec.convert(text, _Zoned)
    except msgspec.ValidationError:
        return parse_instant(text) / 1000
    return zoned.timestamp()


def _instant_fault(text: str) -> str | None:
    try:
        _seconds(text)
    except ValueError as error:
        return str(error)
    return None


_Zoned: Final = Annotated[datetime, Meta(tz=True)]


class EventBody(Struct, frozen=True, gc=False):
    """What has become of a push on a device."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]
    event: Event
    at: Annotated[str, Rule(INSTANT, fault=_instant_fault)] | None = None

    @property
    def seconds(self) -> float | None:
        """When it was by the device's clock, in Unix seconds."""
        return None if self.at is None else _seconds(self.at)


class FetchBody(Struct, frozen=True, gc=False):
    """The push whose content is fetched."""

    id: Annotated[str, Meta(min_length=1, max_length=128)]


class HeartbeatBody(Struct, frozen=True, gc=False):
    """The interval that a device asks for from now on."""

    seconds: Annotated[float, Meta(gt=0)] | None = None
    foreground: bool | None = None


class ConnectBody(Struct, frozen=True, gc=False):
    heartbeat: Annotated[float, Meta(gt=0)] | None = None
    foreground: bool | None = None
    app_version: Annotated[str, Meta(max_length=64)] = ""
