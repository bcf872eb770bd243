"""What the command of a client asks its gateway for, or why it is refused. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import Raw

from ...decoding import right
from ...ports.live import Position
from ..peer import FaultKind
from . import codes
from .codec import CHANNEL
from .codes import ReplyError
from .commands import (
    MAX_OFFSET,
    PAGE,
    Command,
    ConnectBody,
    ConnectRequest,
    EventBody,
    FetchBody,
    HeartbeatBody,
    HistoryRequest,
    Offset,
    OffsetBody,
    RPCRequest,
)
from .effects import (
    AckRequested,
    ConnectRequested,
    Effect,
    EventReported,
    FaultSeen,
    FetchRequested,
    HeartbeatRequested,
    HistoryRequested,
    ReadRequested,
    RefreshRequested,
)

_T = TypeVar("_T")
_connect_body = msgspec.json.Decoder(ConnectBody).decode
_position_body = msgspec.json.Decoder(int | OffsetBody).decode
_event_body = msgspec.json.Decoder(EventBody).decode
_fetch_body = msgspec.json.Decoder(FetchBody).decode
_heartbeat_body = msgspec.json.Decoder(HeartbeatBody).decode


class Declined(NamedTuple):
    """A command that is not carried out."""

    kind: FaultKind
    error: ReplyError | None = None
    """Its answer; None: the connection ends, because no client should send this."""


def requested_by(command: Command, epoch: str) -> Effect | Declined:
    """Return what a command with an id asks for on an open connection, which follows the stream of this epoch."""
    command_id = command.id or 0
    if command.rpc is not None:
        return _rpc(command_id, command.rpc, epoch)
    if command.history is not None:
        return _history(command_id, command.history, epoch)
    if command.refresh is not None:
        return RefreshRequested(command_id, command.refresh.token or "")
    if command.connect is not None:
        return Declined("second_connect")
    return refused_by(command)


def refused_by(command: Command) -> Declined:
    """Return why a device may not do that: it has its own stream and no other channel."""
    if command.subscribe is not None:
        own = command.subscribe.channel == CHANNEL
        return _of_channel(command.subscribe.channel, codes.ALREADY_SUBSCRIBED if own else codes.PERMISSION_DENIED)
    for request in (command.unsubscribe, command.publish, command.sub_refresh):
        if request is not None:
            return _of_channel(request.channel)
    if command.presence is not None or command.presence_stats is not None or command.ping is not None:
        return Declined("method", codes.NOT_AVAILABLE)
    return Declined("method", codes.METHOD_NOT_FOUND)


def _of_channel(channel: str | None, error: ReplyError = codes.PERMISSION_DENIED) -> Declined:
    return Declined("channel", error if channel else None)


def connect_requested(command_id: int, request: ConnectRequest) -> tuple[ConnectRequested, list[FaultSeen]]:
    """Return what a connect asks for, and the faults in it that are ignored."""
    faults: list[FaultSeen] = []
    body = ConnectBody()
    if bytes(request.data) != b"null":
        sent = _body(_connect_body, request.data)
        if sent is None:
            faults.append(FaultSeen("connect_data"))
        else:
            body = sent
    device = (request.subs or {}).get(CHANNEL)
    recover = device is not None and bool(device.recover)
    position = None
    if device is not None and recover:
        offset = device.offset or 0
        if not device.epoch or offset > MAX_OFFSET:
            faults.append(FaultSeen("position"))
        else:
            position = Position(device.epoch, offset)
    token = request.token or ""
    asked = ConnectRequested(command_id, token, position, recover, body.heartbeat, body.foreground)
    return asked, faults


def _rpc(command_id: int, request: RPCRequest, epoch: str) -> Effect | Declined:
    method = request.method or "ack"
    if method == "ack":
        return ack_requested(command_id, request.data, epoch)
    if method == "read":
        position = _position(request.data, epoch)
        if isinstance(position, Declined):
            return position
        return ReadRequested(command_id, position.offset, position.epoch)
    if method == "event":
        event = _body(_event_body, request.data)
        if event is None or not right(event):
            return _BAD
        return EventReported(command_id, event.id.lower(), event.event, event.seconds)
    if method == "fetch":
        fetch = _body(_fetch_body, request.data)
        return _BAD if fetch is None else FetchRequested(command_id, fetch.id.lower())
    if method == "heartbeat":
        body = _body(_heartbeat_body, request.data)
        return _BAD if body is None else HeartbeatRequested(command_id, body.seconds, body.foreground)
    return Declined("method", codes.METHOD_NOT_FOUND)


def ack_requested(command_id: int, data: Raw, epoch: str) -> AckRequested | Declined:
    """Return what an acknowledgement asks for; an id of 0 stands for one without an answer."""
    position = _position(data, epoch)
    return position if isinstance(position, Declined) else ack_of(command_id, position, epoch)


def ack_of(command_id: int, where: int | Offset, epoch: str) -> AckRequested | Declined:
    """Return what an acknowledgement up to an offset asks for on a connection that follows the stream of this epoch."""
    if isinstance(where, int):
        return AckRequested(command_id, where, epoch)
    if where.epoch and where.epoch != epoch:
        return _OTHER_EPOCH
    return AckRequested(command_id, where.offset, epoch)


def _history(command_id: int, request: HistoryRequest, epoch: str) -> HistoryRequested | Declined:
    since = request.since
    if request.channel != CHANNEL:
        return _of_channel(request.channel)
    if since is not None and since.epoch and since.epoch != epoch:
        return _OTHER_EPOCH
    if since is not None and (since.offset or 0) > MAX_OFFSET:
        return Declined("position", codes.BAD_REQUEST)
    limit = request.limit or 0
    return HistoryRequested(
        command_id,
        None if since is None else since.offset or 0,
        limit if 0 <= limit <= PAGE else PAGE,
        bool(request.reverse),
    )


_BAD = Declined("request", codes.BAD_REQUEST)
_OTHER_EPOCH = Declined("epoch", codes.UNRECOVERABLE_POSITION)


def _body(decode: Callable[[Raw], _T], data: Raw) -> _T | None:
    """Return the body of a request, or None if it is not what it should be."""
    try:
        return decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _position(data: Raw, epoch: str) -> Offset | Declined:
    """Return the offset that a request names, with its epoch, which is the stream's own where it names none."""
    body = _body(_position_body, data)
    if isinstance(body, OffsetBody):
        position = body.position
    else:
        position = Offset(body) if body is not None and 0 <= body <= MAX_OFFSET else None
    if position is None:
        return _BAD
    if position.epoch and position.epoch != epoch:
        return _OTHER_EPOCH
    return position if position.epoch else Offset(position.offset, epoch)
