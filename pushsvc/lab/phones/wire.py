"""A client's half of both formats: commands to bytes, replies from bytes. Pure.

Source: https://centrifugal.dev/docs/transports/client_protocol
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from ...live.protocol.codec import CHANNEL
from ...net.protobuf import (
    MalformedMessage,
    Read,
    bytes_field,
    delimited,
    message_reader,
    number_field,
    read_fields,
    read_varint,
    string_field,
)
from ...net.websocket.frames import BINARY, TEXT
from ...ports.live import Position


class Content(Struct, frozen=True, gc=False):
    """`data` of a publication, as much as a phone needs of it."""

    id: str
    prev: int = 0
    at: datetime | None = None


class Publication(Struct, frozen=True, gc=False):
    """A push, at its place in the stream."""

    data: Content
    offset: int


class Subscription(Struct, frozen=True, gc=False):
    """The stream of the device as a connect finds it."""

    epoch: str = ""
    offset: int = 0
    recovered: bool = False
    publications: list[Publication] = []


class ConnectData(Struct, frozen=True, gc=False):
    missing: int = 0
    acked: int | None = None


class Connected(Struct, frozen=True, gc=False):
    subs: dict[str, Subscription] = {}
    data: ConnectData = ConnectData()
    ttl: int = 0
    ping: int = 0


class Refreshed(Struct, frozen=True, gc=False):
    ttl: int = 0


class Ended(Struct, frozen=True, gc=False):
    """Why the gateway ends the connection, or the error that it answers with."""

    code: int = 0
    message: str = ""
    temporary: bool = False


class Push(Struct, frozen=True, gc=False):
    """What comes without having been asked for; of other kinds than these nothing is kept."""

    channel: str = ""
    pub: Publication | None = None
    disconnect: Ended | None = None


class Reply(Struct, frozen=True, gc=False):
    """A reply to a command, or with the id 0 a push; with nothing in it, a ping."""

    id: int = 0
    error: Ended | None = None
    push: Push | None = None
    connect: Connected | None = None
    refresh: Refreshed | None = None

    @property
    def is_ping(self) -> bool:
        """Return whether it asks for a pong."""
        return not self.id and self.push is None


class Wire(Protocol):
    """One of the two formats. Each method that returns bytes returns one message of the transport."""

    name: str
    opcode: int
    """Of the frames that carry its messages."""
    pong: bytes

    def connect(self, command: int, token: str, data: Mapping[str, object], position: Position | None) -> bytes:
        """Return the first command; with a position, what follows it is recovered."""

    def rpc(self, command: int, method: str, data: object) -> bytes:
        """Return the call of a method."""

    def refresh(self, command: int, token: str) -> bytes:
        """Return a new token."""

    def replies(self, message: bytes) -> Iterator[Reply]:
        """Yield the replies of a message. Raises `MalformedMessage`."""


_encode: Final = msgspec.json.Encoder().encode
_decode_reply: Final = msgspec.json.Decoder(Reply).decode
_decode_content: Final = msgspec.json.Decoder(Content).decode
_decode_connect_data: Final = msgspec.json.Decoder(ConnectData).decode


class JsonWire:
    """The format that browsers speak."""

    name = "json"
    opcode = TEXT
    pong = b"{}"

    def connect(self, command: int, token: str, data: Mapping[str, object], position: Position | None) -> bytes:
        request: dict[str, object] = {"token": token, "data": data}
        if position is not None:
            request["subs"] = {CHANNEL: {"recover": True, "epoch": position.epoch, "offset": position.offset}}
        return _encode({"id": command, "connect": request})

    def rpc(self, command: int, method: str, data: object) -> bytes:
        return _encode({"id": command, "rpc": {"method": method, "data": data}})

    def refresh(self, command: int, token: str) -> bytes:
        return _encode({"id": command, "refresh": {"token": token}})

    def replies(self, message: bytes) -> Iterator[Reply]:
        for line in message.split(b"\n"):
            try:
                yield _decode_reply(line)
            except msgspec.MsgspecError:
                raise MalformedMessage from None


_text: Final = bytes.decode
_publication = message_reader(Publication, {0x22: ("data", _decode_content), 0x30: ("offset", int)})
_subscription = message_reader(
    Subscription,
    {
        0x32: ("epoch", _text),
        0x3A: ("publications", lambda value: [_publication(value)]),
        0x40: ("recovered", bool),
        0x48: ("offset", int),
    },
)


def _subs(value: bytes) -> dict[str, Subscription]:
    entry = read_fields(value, {0x0A: ("key", _text), 0x12: ("value", _subscription)})
    return {entry["key"]: entry["value"]}


_connected = message_reader(
    Connected,
    {0x20: ("ttl", int), 0x2A: ("data", _decode_connect_data), 0x32: ("subs", _subs), 0x38: ("ping", int)},
)
_ended = message_reader(Ended, {0x08: ("code", int), 0x12: ("message", _text), 0x18: ("temporary", bool)})
_push = message_reader(Push, {0x12: ("channel", _text), 0x22: ("pub", _publication), 0x5A: ("disconnect", _ended)})
_REPLY: Final[Mapping[int, tuple[str, Read]]] = {
    0x08: ("id", int),
    0x12: ("error", _ended),
    0x22: ("push", _push),
    0x2A: ("connect", _connected),
    0x72: ("refresh", message_reader(Refreshed, {0x20: ("ttl", int)})),
}


def _command(command: int, tag: bytes, request: bytes) -> bytes:
    return delimited(number_field(b"\x08", command) + bytes_field(tag, request))


class ProtobufWire:
    """The format of the SDKs for Swift, Java and Dart."""

    name = "protobuf"
    opcode = BINARY
    pong = b"\x00"

    def connect(self, command: int, token: str, data: Mapping[str, object], position: Position | None) -> bytes:
        request = string_field(b"\x0a", token) + bytes_field(b"\x12", _encode(data))
        if position is not None:
            asked = b"\x18\x01" + string_field(b"\x32", position.epoch) + number_field(b"\x38", position.offset)
            request += bytes_field(b"\x1a", string_field(b"\x0a", CHANNEL) + bytes_field(b"\x12", asked))
        return _command(command, b"\x22", request)

    def rpc(self, command: int, method: str, data: object) -> bytes:
        return _command(command, b"\x6a", bytes_field(b"\x0a", _encode(data)) + string_field(b"\x12", method))

    def refresh(self, command: int, token: str) -> bytes:
        return _command(command, b"\x72", string_field(b"\x0a", token))

    def replies(self, message: bytes) -> Iterator[Reply]:
        at, end = 0, len(message)
        while at < end:
            try:
                size, at = read_varint(message, at)
                stop = at + size
                if stop > end:
                    raise MalformedMessage
                reply: Any = Reply(**read_fields(message[at:stop], _REPLY))
            except (IndexError, KeyError, UnicodeDecodeError, TypeError, msgspec.MsgspecError):
                raise MalformedMessage from None
            at = stop
            yield reply


JSON: Final[Wire] = JsonWire()
PROTOBUF: Final[Wire] = ProtobufWire()
WIRES: Final = {wire.name: wire for wire in (JSON, PROTOBUF)}
