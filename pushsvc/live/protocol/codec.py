"""Commands from bytes and replies to bytes, in JSON and in Protobuf.

JSON: messages of one transport message are separated by newlines. Protobuf: each has its length before it, as a varint.
The Protobuf is written by hand: only a few messages of the schema are used, and a publication is put together from
the content, which is rendered once for all devices, and the few numbers of one device. The official schema judges
both formats in the tests.

Source: https://centrifugal.dev/docs/transports/client_protocol
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NewType, Protocol

import msgspec
from msgspec import Raw, Struct

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
    varint,
)
from .codes import Disconnect, ReplyError
from .commands import (
    AckCommand,
    ChannelRequest,
    Command,
    ConnectRequest,
    EmptyRequest,
    HistoryRequest,
    RefreshRequest,
    RPCRequest,
    SendRequest,
    StreamPosition,
    SubscribeRequest,
)

CHANNEL: Final = "device"
"""The one channel: the stream of the device."""

Rendered = NewType("Rendered", bytes)
"""The content of a push for all devices: a JSON object without its closing brace."""


class ConnectResult(Struct, frozen=True, gc=False):
    client: str
    version: str
    ttl: int
    """Seconds until the token expires."""
    data: bytes
    epoch: str
    offset: int
    recovered: bool
    was_recovering: bool
    publications: Sequence[bytes]
    """By `Codec.publication`."""
    ping: int
    """Seconds between pings; 0: none."""
    session: str = ""
    """Empty on a transport that needs no emulation."""
    node: str = ""


class Codec(Protocol):
    """One of the two formats. All methods that return bytes return one reply, which `batch` joins to a message."""

    def ack(self, data: bytes) -> AckCommand | None:
        """Return the one acknowledgement that a message consists of, as most do; None: look at its `commands`."""

    def commands(self, data: bytes) -> Iterator[Command]:
        """Yield the commands of a message; raises `MalformedMessage` where the first fault is."""

    def batch(self, replies: Sequence[bytes]) -> bytes:
        """Return one message of the transport."""

    def publication(self, rendered: Rendered, offset: int, prev: int, unread: int) -> bytes:
        """Return a publication as a part of a reply."""

    def push(self, rendered: Rendered, offset: int, prev: int, unread: int) -> bytes:
        """Return the push of a publication."""

    def message(self, data: bytes) -> bytes:
        """Return the push of a message outside of the stream."""

    def disconnect(self, disconnect: Disconnect) -> bytes:
        """Return the push with the reason for which the connection ends, for transports that have no close frame."""

    def ping(self) -> bytes:
        """Return a ping, which is a reply without content."""

    def error(self, command_id: int, error: ReplyError) -> bytes:
        """Return an error as the answer to a command."""

    def connect(self, command_id: int, result: ConnectResult) -> bytes:
        """Return the answer to a connect."""

    def refresh(self, command_id: int, client: str, version: str, ttl: int) -> bytes:
        """Return the answer to a refresh. It names the client again: centrifuge-js loses its id otherwise."""

    def history(self, command_id: int, epoch: str, offset: int, publications: Sequence[bytes]) -> bytes:
        """Return a page of the stream."""

    def rpc(self, command_id: int, data: bytes) -> bytes:
        """Return the result of an RPC."""

    def unsubscribe(self, command_id: int) -> bytes:
        """Return the answer to an unsubscribe."""


def render(push_id: str, body: bytes, inline: int = 4096) -> Rendered:
    """Return a push's content for all devices; above `inline` bytes it is a notice, and the device fetches the content.

    `body` is the object of a publication's `data` without `prev` and `unread`; it is not empty.
    """
    if len(body) > inline:
        body = msgspec.json.encode({"id": push_id, "notice": True, "size": len(body)})
    elif b"\n" in body:  # A newline ends a message of the JSON format. In valid JSON it is only ever white space.
        body = msgspec.json.format(body, indent=-1)
    return Rendered(body.rstrip()[:-1])


# --- JSON ---------------------------------------------------------------------------------------------------------

_decode_command = msgspec.json.Decoder(Command).decode
_decode_ack = msgspec.json.Decoder(AckCommand).decode
_json = msgspec.json.Encoder().encode
_NEWLINE: Final = 10


class JsonCodec:
    """The format that browsers speak."""

    __slots__ = ()

    def ack(self, data: bytes) -> AckCommand | None:
        # `in` takes five times as long with bytes: it first tries them as a number.
        if data.find(b'"ack"') < 0 or _NEWLINE in data:
            return None
        try:
            return _decode_ack(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def commands(self, data: bytes) -> Iterator[Command]:
        lines = data.split(b"\n")
        if len(lines) > 1 and not lines[-1]:
            lines.pop()
        for line in lines:
            try:
                command = _decode_command(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                raise MalformedMessage from None
            yield command

    def batch(self, replies: Sequence[bytes]) -> bytes:
        """Return the replies, joined by newlines."""
        return b"\n".join(replies)

    def publication(self, rendered: Rendered, offset: int, prev: int, unread: int) -> bytes:
        return b'{"data":%b,"prev":%d,"unread":%d},"offset":%d}' % (rendered, prev, unread, offset)

    def push(self, rendered: Rendered, offset: int, prev: int, unread: int) -> bytes:
        form = b'{"push":{"channel":"device","pub":{"data":%b,"prev":%d,"unread":%d},"offset":%d}}}'
        return form % (rendered, prev, unread, offset)

    def message(self, data: bytes) -> bytes:
        return b'{"push":{"message":{"data":%b}}}' % data

    def disconnect(self, disconnect: Disconnect) -> bytes:
        return _json({"push": {"disconnect": {"code": disconnect.code, "reason": disconnect.reason}}})

    def ping(self) -> bytes:
        return b"{}"

    def error(self, command_id: int, error: ReplyError) -> bytes:
        return _json({"id": command_id, "error": error})

    def connect(self, command_id: int, result: ConnectResult) -> bytes:
        """Return the answer to a connect. Nothing in it is null, and no list of publications is empty."""
        device: dict[str, object] = {
            "recoverable": True,
            "positioned": True,
            "epoch": result.epoch,
            "offset": result.offset,
            "recovered": result.recovered,
            "was_recovering": result.was_recovering,
        }
        if result.publications:
            device["publications"] = [Raw(publication) for publication in result.publications]
        connect: dict[str, object] = {
            "client": result.client,
            "version": result.version,
            "expires": True,
            "ttl": result.ttl,
            "data": Raw(result.data),
            "subs": {CHANNEL: device},
        }
        if result.ping:
            connect |= {"ping": result.ping, "pong": True}
        if result.session:
            connect |= {"session": result.session, "node": result.node}
        return _json({"id": command_id, "connect": connect})

    def refresh(self, command_id: int, client: str, version: str, ttl: int) -> bytes:
        return _json({"id": command_id, "refresh": {"client": client, "version": version, "expires": True, "ttl": ttl}})

    def history(self, command_id: int, epoch: str, offset: int, publications: Sequence[bytes]) -> bytes:
        page = {"publications": [Raw(each) for each in publications], "epoch": epoch, "offset": offset}
        return _json({"id": command_id, "history": page})

    def rpc(self, command_id: int, data: bytes) -> bytes:
        return b'{"id":%d,"rpc":{"data":%b}}' % (command_id, data)

    def unsubscribe(self, command_id: int) -> bytes:
        return b'{"id":%d,"unsubscribe":{}}' % command_id


# --- Protobuf -----------------------------------------------------------------------------------------------------


def _text(value: bytes) -> str:
    return value.decode()


def _int32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


def _uint32(value: int) -> int:
    return value & 0xFFFFFFFF


def _uint64(value: int) -> int:
    return value


def _raw(value: bytes) -> Raw:
    return Raw(value or b"null")


_subscribe = message_reader(
    SubscribeRequest,
    {0x0A: ("channel", _text), 0x18: ("recover", bool), 0x32: ("epoch", _text), 0x38: ("offset", _uint64)},
)
_channel = message_reader(ChannelRequest, {0x0A: ("channel", _text)})


def _subscription(value: bytes) -> dict[str, SubscribeRequest]:
    entry = read_fields(value, {0x0A: ("key", _text), 0x12: ("value", _subscribe)})
    return {entry.get("key", ""): entry.get("value", SubscribeRequest())}


_connect = message_reader(ConnectRequest, {0x0A: ("token", _text), 0x12: ("data", _raw), 0x1A: ("subs", _subscription)})
_position = message_reader(StreamPosition, {0x08: ("offset", _uint64), 0x12: ("epoch", _text)})
_history = message_reader(
    HistoryRequest,
    {0x0A: ("channel", _text), 0x38: ("limit", _int32), 0x42: ("since", _position), 0x48: ("reverse", bool)},
)
_COMMAND: Final[Mapping[int, tuple[str, Read]]] = {
    0x08: ("id", _uint32),
    0x22: ("connect", _connect),
    0x2A: ("subscribe", _channel),
    0x32: ("unsubscribe", _channel),
    0x3A: ("publish", _channel),
    0x42: ("presence", _channel),
    0x4A: ("presence_stats", _channel),
    0x52: ("history", _history),
    0x5A: ("ping", message_reader(EmptyRequest, {})),
    0x62: ("send", message_reader(SendRequest, {0x0A: ("data", _raw)})),
    0x6A: ("rpc", message_reader(RPCRequest, {0x0A: ("data", _raw), 0x12: ("method", _text)})),
    0x72: ("refresh", message_reader(RefreshRequest, {0x0A: ("token", _text)})),
    0x7A: ("sub_refresh", _channel),
}


def _answer(command_id: int, tag: bytes, result: bytes) -> bytes:
    return delimited(number_field(b"\x08", command_id) + bytes_field(tag, result))


class ProtobufCodec:
    """The format that the SDKs for Swift, Java and Dart speak. Payloads in it are JSON all the same."""

    __slots__ = ()

    def ack(self, data: bytes) -> AckCommand | None:
        return None

    def commands(self, data: bytes) -> Iterator[Command]:
        at, end = 0, len(data)
        if not data:
            raise MalformedMessage
        while at < end:
            try:
                size, at = read_varint(data, at)
                stop = at + size
                if stop > end:
                    raise MalformedMessage
                command = Command(**read_fields(data[at:stop], _COMMAND))
            except (IndexError, UnicodeDecodeError):
                raise MalformedMessage from None
            at = stop
            yield command

    def batch(self, replies: Sequence[bytes]) -> bytes:
        """Return the replies, each of which has its length before it."""
        return b"".join(replies)

    def publication(self, rendered: Rendered, offset: int, prev: int, unread: int) -> bytes:
        rest = b',"prev":%d,"unread":%d}' % (prev, unread)
        return b'"%b%b%b0%b' % (varint(len(rendered) + len(rest)), rendered, rest, varint(offset))

    def push(self, rendered: Rendered, offset: int, prev: int, unread: int) -> bytes:
        publication = self.publication(rendered, offset, prev, unread)
        size = len(publication)
        inner = b'\x12\x06device"%b' % varint(size)
        whole = len(inner) + size
        outer = b'"%b' % varint(whole)
        return b"%b%b%b%b" % (varint(len(outer) + whole), outer, inner, publication)

    def message(self, data: bytes) -> bytes:
        return _answer(0, b"\x22", bytes_field(b"\x42", bytes_field(b"\x0a", data)))

    def disconnect(self, disconnect: Disconnect) -> bytes:
        body = number_field(b"\x08", disconnect.code) + string_field(b"\x12", disconnect.reason)
        return _answer(0, b"\x22", bytes_field(b"\x5a", body))

    def ping(self) -> bytes:
        return b"\x00"

    def error(self, command_id: int, error: ReplyError) -> bytes:
        body = (
            number_field(b"\x08", error.code)
            + string_field(b"\x12", error.message)
            + number_field(b"\x18", error.temporary)
        )
        return _answer(command_id, b"\x12", body)

    def connect(self, command_id: int, result: ConnectResult) -> bytes:
        device = b"".join(
            (
                b"\x18\x01",
                string_field(b"\x32", result.epoch),
                *(bytes_field(b"\x3a", publication) for publication in result.publications),
                number_field(b"\x40", result.recovered),
                number_field(b"\x48", result.offset),
                b"\x50\x01",
                number_field(b"\x60", result.was_recovering),
            )
        )
        return _answer(
            command_id,
            b"\x2a",
            b"".join(
                (
                    string_field(b"\x0a", result.client),
                    string_field(b"\x12", result.version),
                    b"\x18\x01",
                    number_field(b"\x20", result.ttl),
                    bytes_field(b"\x2a", result.data),
                    bytes_field(b"\x32", string_field(b"\x0a", CHANNEL) + bytes_field(b"\x12", device)),
                    number_field(b"\x38", result.ping),
                    number_field(b"\x40", bool(result.ping)),
                    string_field(b"\x4a", result.session),
                    string_field(b"\x52", result.node if result.session else ""),
                )
            ),
        )

    def refresh(self, command_id: int, client: str, version: str, ttl: int) -> bytes:
        body = string_field(b"\x0a", client) + string_field(b"\x12", version) + b"\x18\x01" + number_field(b"\x20", ttl)
        return _answer(command_id, b"\x72", body)

    def history(self, command_id: int, epoch: str, offset: int, publications: Sequence[bytes]) -> bytes:
        found = b"".join(bytes_field(b"\x0a", publication) for publication in publications)
        return _answer(command_id, b"\x5a", found + string_field(b"\x12", epoch) + number_field(b"\x18", offset))

    def rpc(self, command_id: int, data: bytes) -> bytes:
        return _answer(command_id, b"\x6a", bytes_field(b"\x0a", data))

    def unsubscribe(self, command_id: int) -> bytes:
        return _answer(command_id, b"\x3a", b"")


JSON: Final[Codec] = JsonCodec()
PROTOBUF: Final[Codec] = ProtobufCodec()
