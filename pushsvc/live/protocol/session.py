"""One connection of a client as a state machine without I/O: messages and results in, effects out.

A session is small and holds neither a timer nor a content: `due` is the instant at which `tick` is to be called, and
what waits for room in the window stays in the device's stream. It knows up to where the stream was handed out, and
which publications are still to be acknowledged. Instants are the gateway's seconds, which only grow.

What it knows of the stream, as offsets: `connected` begins all of it, and the others move it as follows.

| cursor     | up to there, everything                         | moved by                                              |
|------------|-------------------------------------------------|-------------------------------------------------------|
| `_acked`   | is acknowledged                                 | an acknowledgement                                    |
| `_through` | was handed out, or has expired                  | `published`, `_hand_out` of a page                    |
| `_top`     | is known to be in the stream; at least `_acked` | `published`, any page; back to its page by `more`     |
| `_paging`  | is asked for by a `MoreAsked`; 0: nothing is    | `_ask_more`; 0 again by `more`, its answer            |
| `_handed`  | was handed to an earlier connection             | 0 once it is all sent again or acknowledged, `resend` |
| `_last`    | was given; the next publication's `prev`        | `_give`                                               |
| `_flight`  | (not up to: each that is to be acknowledged)    | in by `_give`, `resend`; out by an acknowledgement    |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeVar

import msgspec
from msgspec import Raw, Struct

from ...ports.live import Connected, Page, Position, Recipient
from ..config import LiveAppConfig
from ..peer import FaultKind
from . import codes
from .codec import CHANNEL, Codec, ConnectResult, Rendered
from .codes import Disconnect, Refusal, ReplyError
from .commands import (
    MAX_OFFSET,
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
    AckAsked,
    Bytes,
    Close,
    ConnectAsked,
    Effect,
    EventReported,
    FaultSeen,
    FetchAsked,
    HeartbeatAsked,
    HistoryAsked,
    MoreAsked,
    Ping,
    Ponged,
    ReadAsked,
    RefreshAsked,
    ResendAsked,
    Resent,
)
from .protobuf import MalformedMessage

PAGE: Final = 100
"""The most publications of one page of history."""
MESSAGE: Final = 512 * 1024
"""Bytes of contents of one message, unless the first alone has more: some clients end a connection at a message of
1 MB."""
PENDING: Final = 64
"""Commands of one connection that may wait for their results."""
_NEVER: Final = math.inf
_NEW, _CONNECTING, _OPEN, _REFUSED, _CLOSED = range(5)

_T = TypeVar("_T")
_connect_body = msgspec.json.Decoder(ConnectBody).decode
_position_body = msgspec.json.Decoder(int | OffsetBody).decode
_event_body = msgspec.json.Decoder(EventBody).decode
_fetch_body = msgspec.json.Decoder(FetchBody).decode
_heartbeat_body = msgspec.json.Decoder(HeartbeatBody).decode
_json = msgspec.json.Encoder().encode


class Limits(Struct, frozen=True, kw_only=True):
    """What is the same for all connections of a gateway. Times are in seconds."""

    gateway: str = ""
    version: str = ""
    message_bytes: int = 65_536
    """The longest message of the transport that a client may send."""
    pong_within: float = 8.0
    stale_after: float = 15.0
    """A client that sends no connect for so long is disconnected; so is a refused one that stays."""
    expired_after: float = 25.0
    """How long after the end of its token a client may still bring a new one."""
    endpoints: bytes = b"[]"
    """The endpoints that devices are told, in JSON."""


class Session:
    """The state of one connection. What its methods return is to be done in order; after a `Close` they return nothing.

    A result that comes for a session that has ended meanwhile is harmless, and so is a second result of a command.
    """

    __slots__ = (
        "_acked",
        "_announced",
        "_app",
        "_beat_at",
        "_codec",
        "_emulation",
        "_expires_at",
        "_flight",
        "_frame_pings",
        "_handed",
        "_interval",
        "_last",
        "_limits",
        "_paging",
        "_paused",
        "_pending",
        "_pinged_at",
        "_recover",
        "_resend_at",
        "_spread",
        "_state",
        "_through",
        "_top",
        "_unread",
        "client",
        "epoch",
    )

    def __init__(
        self,
        codec: Codec,
        client: str,
        now: float,
        *,
        spread: float,
        limits: Limits,
        emulation: str = "",
        frame_pings: bool = False,
    ) -> None:
        """Begin a connection.

        `client` is its id, `spread` a random number from 0 to 1 that spreads first pings, `emulation` the secret of
        a transport that only sends, '' on WebSocket, `frame_pings` whether the client wants pings of WebSocket.
        """
        self.client = client
        self.epoch = ""
        self._codec = codec
        self._limits = limits
        self._app = _NO_APP
        self._emulation = emulation
        self._frame_pings = frame_pings
        self._spread = spread
        self._state = _NEW
        self._recover = False
        self._pending: list[int] = []
        """Ids of commands whose results are to come."""

        self._interval = self._announced = 0.0
        self._beat_at = now + limits.stale_after
        """When the next ping is due, or the answer to the last one; before the connect, when the client is stale."""
        self._pinged_at = 0.0
        """When the ping was sent that is to be answered; 0: none is."""
        self._expires_at = _NEVER
        self._resend_at = _NEVER

        self._through = 0
        """Everything of the stream up to here was handed out, or has expired."""
        self._top = 0
        """The last offset of the stream that is known."""
        self._acked = 0
        """Everything up to here is acknowledged."""
        self._handed = 0
        """What is not acknowledged up to here was handed out to an earlier connection of the device."""
        self._last = 0
        """The offset that the device had last: the `prev` of the next publication."""
        self._unread = 0
        self._flight: dict[int, tuple[float, int]] = {}
        """Offsets that are to be acknowledged, with the instant of the next resend and the number of resends left."""
        self._paging = 0
        """The last known offset at the time of a `MoreAsked` that has not been answered yet; 0: there is none."""
        self._paused = False

    @property
    def due(self) -> float:
        """The instant at which `tick` is to be called; infinite if it need not be."""
        if self._state == _OPEN:
            return min(self._beat_at, self._resend_at, self._expires_at)
        return self._beat_at if self._state in (_NEW, _REFUSED) else _NEVER

    @property
    def open(self) -> bool:
        """Whether the device is connected."""
        return self._state == _OPEN

    @property
    def top(self) -> int:
        """The last offset of the stream that is known."""
        return self._top

    @property
    def interval(self) -> float:
        """The seconds between two pings."""
        return self._interval

    @property
    def waiting(self) -> int:
        """How many publications are to be acknowledged."""
        return len(self._flight)

    # --- What the client sends -------------------------------------------------------------------------------------

    def received(self, data: bytes, now: float) -> list[Effect]:
        """Take one message of the transport."""
        effects: list[Effect] = []
        if self._state == _CLOSED:
            return effects
        if len(data) > self._limits.message_bytes:
            self._end(effects, codes.MALFORMED, "oversized")
            return effects
        try:
            for command in self._codec.commands(data):
                self._take(command, now, effects)
                if self._state == _CLOSED:
                    break
        except MalformedMessage:
            self._end(effects, codes.MALFORMED, "malformed")
        return self._batched(effects)

    def ponged(self, now: float) -> list[Effect]:
        """Take a pong of WebSocket; one that was not asked for is allowed there."""
        return self._pong(now) if self._pinged_at else []

    def _pong(self, now: float) -> list[Effect]:
        pinged_at, self._pinged_at = self._pinged_at, 0.0
        self._beat_at = max(now, pinged_at + self._interval)
        return [Ponged(now - pinged_at)]

    def _take(self, command: Command, now: float, effects: list[Effect]) -> None:
        if self._state != _OPEN:
            self._take_early(command, effects)
            return
        command_id = command.id or 0
        if command.rpc is not None and command_id:
            self._take_rpc(command_id, command.rpc, effects)
        elif command.send is not None:
            self._take_ack(0, command.send.data, effects)
        elif not command_id:
            if self._pinged_at and not self._frame_pings:
                effects += self._pong(now)
            else:
                self._end(effects, codes.MALFORMED, "pong")
        elif command.connect is not None:
            self._end(effects, codes.MALFORMED, "second_connect")
        elif command.history is not None:
            self._take_history(command_id, command.history, effects)
        elif command.refresh is not None:
            if self._wait(command_id, effects):
                effects.append(RefreshAsked(command_id, command.refresh.token or ""))
        else:
            self._take_other(command_id, command, effects)

    def _take_early(self, command: Command, effects: list[Effect]) -> None:
        """Take a command of a client that is not connected."""
        if self._state == _NEW and command.connect is not None and command.id:
            self._state = _CONNECTING
            self._take_connect(command.id, command.connect, effects)
        elif self._state == _CONNECTING and command.subscribe is not None and command.id:
            # centrifuge-js sends its own subscriptions with the connect.
            self._take_other(command.id, command, effects)
        else:
            again = self._state != _NEW and command.connect is not None
            self._end(effects, codes.MALFORMED, "second_connect" if again else "before_connect")

    def _take_connect(self, command_id: int, request: ConnectRequest, effects: list[Effect]) -> None:
        self._pending.append(command_id)
        body = ConnectBody()
        if bytes(request.data) != b"null":
            told = _body(_connect_body, request.data)
            if told is None:
                effects.append(FaultSeen("connect_data"))
            else:
                body = told
        asked = (request.subs or {}).get(CHANNEL)
        self._recover = asked is not None and bool(asked.recover)
        position = None
        if asked is not None and self._recover:
            offset = asked.offset or 0
            if not asked.epoch or offset > MAX_OFFSET:
                effects.append(FaultSeen("position"))
            else:
                position = Position(asked.epoch, offset)
        effects.append(
            ConnectAsked(
                command_id,
                request.token or "",
                position,
                self._recover,
                body.heartbeat,
                body.foreground,
                body.app_version,
            )
        )

    def _take_rpc(self, command_id: int, request: RPCRequest, effects: list[Effect]) -> None:
        method = request.method or "ack"
        if method == "ack":
            if self._wait(command_id, effects):
                self._take_ack(command_id, request.data, effects)
        elif method == "read":
            position = _position(request.data)
            if position is None:
                self._fail(effects, command_id, codes.BAD_REQUEST, "request")
            elif position.epoch and position.epoch != self.epoch:
                self._fail(effects, command_id, codes.UNRECOVERABLE_POSITION, "epoch")
            elif self._wait(command_id, effects):
                effects.append(ReadAsked(command_id, position.offset, position.epoch or self.epoch))
        elif method == "event":
            event = _body(_event_body, request.data)
            if event is None:
                self._fail(effects, command_id, codes.BAD_REQUEST, "request")
            elif self._wait(command_id, effects):
                effects.append(EventReported(command_id, event.id, event.event, event.at))
        elif method == "fetch":
            fetch = _body(_fetch_body, request.data)
            if fetch is None:
                self._fail(effects, command_id, codes.BAD_REQUEST, "request")
            elif self._wait(command_id, effects):
                effects.append(FetchAsked(command_id, fetch.id))
        elif method == "heartbeat":
            wish = _body(_heartbeat_body, request.data)
            if wish is None:
                self._fail(effects, command_id, codes.BAD_REQUEST, "request")
            elif self._wait(command_id, effects):
                effects.append(HeartbeatAsked(command_id, wish.seconds, wish.foreground))
        else:
            self._fail(effects, command_id, codes.METHOD_NOT_FOUND, "method")

    def _take_ack(self, command_id: int, data: Raw, effects: list[Effect]) -> None:
        """Take an acknowledgement; what it confirms makes room in the window at once."""
        position = _position(data)
        if position is None:
            self._fail(effects, command_id, codes.BAD_REQUEST, "request")
        elif position.epoch and position.epoch != self.epoch:
            self._fail(effects, command_id, codes.UNRECOVERABLE_POSITION, "epoch")
        else:
            effects.append(AckAsked(command_id, position.offset, position.epoch or self.epoch))
            if self._acked < position.offset <= self._top:
                self._acked = position.offset
                for offset in [each for each in self._flight if each <= position.offset]:
                    del self._flight[offset]
                if not self._flight and self._acked >= self._handed:
                    self._resend_at = _NEVER
                self._ask_more(effects)

    def _take_history(self, command_id: int, request: HistoryRequest, effects: list[Effect]) -> None:
        since = request.since
        if not request.channel:
            self._end(effects, codes.MALFORMED, "channel")
        elif request.channel != CHANNEL:
            self._fail(effects, command_id, codes.PERMISSION_DENIED, "channel")
        elif since is not None and since.epoch and since.epoch != self.epoch:
            self._fail(effects, command_id, codes.UNRECOVERABLE_POSITION, "epoch")
        elif since is not None and (since.offset or 0) > MAX_OFFSET:
            self._fail(effects, command_id, codes.BAD_REQUEST, "position")
        elif self._wait(command_id, effects):
            limit = request.limit or 0
            effects.append(
                HistoryAsked(
                    command_id,
                    None if since is None else since.offset or 0,
                    limit if 0 <= limit <= PAGE else PAGE,
                    bool(request.reverse),
                )
            )

    def _take_other(self, command_id: int, command: Command, effects: list[Effect]) -> None:
        """Answer what a device may not do: it has its own stream and no other channel."""
        if command.subscribe is not None:
            own = command.subscribe.channel == CHANNEL
            error = codes.ALREADY_SUBSCRIBED if own else codes.PERMISSION_DENIED
            self._refuse_channel(effects, command_id, command.subscribe.channel, error)
        elif command.unsubscribe is not None:
            if command.unsubscribe.channel and command.unsubscribe.channel != CHANNEL:
                effects.append(Bytes(self._codec.unsubscribe(command_id)))
            else:
                self._refuse_channel(effects, command_id, command.unsubscribe.channel)
        elif command.publish is not None:
            self._refuse_channel(effects, command_id, command.publish.channel)
        elif command.sub_refresh is not None:
            self._refuse_channel(effects, command_id, command.sub_refresh.channel)
        elif command.presence is not None or command.presence_stats is not None or command.ping is not None:
            self._fail(effects, command_id, codes.NOT_AVAILABLE, "method")
        else:
            self._fail(effects, command_id, codes.METHOD_NOT_FOUND, "method")

    def _refuse_channel(
        self, effects: list[Effect], command_id: int, channel: str | None, error: ReplyError = codes.PERMISSION_DENIED
    ) -> None:
        if channel:
            self._fail(effects, command_id, error, "channel")
        else:
            self._end(effects, codes.MALFORMED, "channel")

    # --- What the gateway has found out ----------------------------------------------------------------------------

    def connected(
        self,
        command_id: int,
        result: Connected,
        rendered: Mapping[str, Rendered],
        app: LiveAppConfig,
        *,
        heartbeat: float,
        ttl: float,
        now: float,
    ) -> list[Effect]:
        """Open the connection. `heartbeat` is the interval that was agreed, `ttl` the seconds that the token has left.

        A position is recovered if nothing behind it is missing, also no content: then the reply names the position
        that was asked for, and the publications catch it up. Otherwise it names the top of the stream, and what is
        not acknowledged comes behind the reply.
        """
        if self._state != _CONNECTING or command_id not in self._pending:
            return []
        self._pending.remove(command_id)
        self._state = _OPEN
        self._app = app
        page = result.page
        early = self._top if self.epoch == page.epoch else 0
        self.epoch, self._top = page.epoch, max(early, page.top)
        self._unread = result.unread
        self._through = self._last = self._handed = result.since
        self._acked = result.acked
        if self._acked < self._handed:
            self._resend_at = now + self._resend_after
        self._interval = heartbeat
        self._announced = _NEVER if self._frame_pings else float(math.ceil(heartbeat))
        self._beat_at = now + heartbeat * (0.5 + self._spread / 2)
        self._expires_at = now + ttl + self._limits.expired_after

        lost = sum(each.push.id not in rendered for each in page.publications)
        recovered = result.recovered and not lost
        publications = self._hand_out(page, rendered, now, room=len(page.publications)) if recovered else []
        reply = self._codec.connect(
            command_id,
            ConnectResult(
                client=self.client,
                version=self._limits.version,
                ttl=max(1, int(ttl)),
                data=self._connect_data(0 if recovered else page.missing + lost),
                epoch=page.epoch,
                offset=result.since if recovered else page.top,
                recovered=recovered,
                was_recovering=self._recover,
                publications=publications,
                ping=0 if self._frame_pings else int(self._announced),
                session=self._emulation,
                node=self._limits.gateway,
            ),
        )
        effects: list[Effect] = [Bytes(reply)]
        if not recovered:
            self._write(effects, self._hand_out(page, rendered, now, room=self._room))
        self._ask_more(effects)
        return effects

    def refused(self, command_id: int, refusal: Refusal) -> list[Effect]:
        """Refuse a connect or a refresh."""
        if isinstance(refusal, ReplyError):
            if self._state == _CONNECTING:
                self._state = _REFUSED
            return self.error(command_id, refusal)
        return self.disconnect(refusal)

    def refreshed(self, command_id: int, ttl: float, now: float) -> list[Effect]:
        """Go on with a new token, which has `ttl` seconds left."""
        if not self._answered(command_id):
            return []
        self._expires_at = now + ttl + self._limits.expired_after
        return [Bytes(self._codec.refresh(command_id, self.client, self._limits.version, max(1, int(ttl))))]

    def heartbeat(self, command_id: int, seconds: float, now: float) -> list[Effect]:
        """Ping in another interval. One that is longer than the client was told at its connect waits for the next
        connect, because clients end a connection whose pings are late."""
        if not self._answered(command_id):
            return []
        self._interval = min(seconds, self._announced)
        if not self._pinged_at:
            self._beat_at = now + self._interval
        return [Bytes(self._codec.rpc(command_id, _json({"heartbeat": self._interval, "agreed": seconds})))]

    def history(self, asked: HistoryAsked, page: Page | None, rendered: Mapping[str, Rendered]) -> list[Effect]:
        """Answer with a page of the stream; None: the stream is gone. What has no content any more is left out, which
        the client sees by the next `prev`."""
        if not self._answered(asked.id):
            return []
        if page is None or page.epoch != self.epoch:
            return [Bytes(self._codec.error(asked.id, codes.UNRECOVERABLE_POSITION))]
        publications = [
            self._codec.publication(rendered[each.push.id], each.offset, each.prev, self._unread)
            for each in page.publications[: asked.limit]
            if each.push.id in rendered
        ]
        return [Bytes(self._codec.history(asked.id, page.epoch, page.top, publications))]

    def acked(self, command_id: int, fault: Literal["", "epoch", "offset", "unknown"]) -> list[Effect]:
        """Answer an acknowledgement or a `read`."""
        if not fault:
            return self.done(command_id)
        kind: FaultKind = "position" if fault == "offset" else "epoch"
        error = codes.BAD_REQUEST if fault == "offset" else codes.UNRECOVERABLE_POSITION
        return [FaultSeen(kind), *self.error(command_id, error)]

    def done(self, command_id: int, data: bytes = b"{}") -> list[Effect]:
        """Answer a command with a result, in JSON."""
        return [Bytes(self._codec.rpc(command_id, data))] if self._answered(command_id) else []

    def error(self, command_id: int, error: ReplyError) -> list[Effect]:
        """Answer a command with an error."""
        return [Bytes(self._codec.error(command_id, error))] if self._answered(command_id) else []

    def published(self, recipient: Recipient, rendered: Rendered, now: float) -> list[Effect]:
        """Hand out what was appended to the stream just now, if everything before it was; else it waits there."""
        effects: list[Effect] = []
        if self._state == _CONNECTING:
            if recipient.epoch != self.epoch:
                self.epoch, self._top = recipient.epoch, 0
            self._top = max(self._top, recipient.offset)
        if self._state != _OPEN:
            return effects
        if recipient.epoch != self.epoch:
            self._end(effects, codes.INSUFFICIENT_STATE)
            return effects
        self._unread = recipient.unread
        if recipient.offset <= self._through:
            return effects
        self._top = max(self._top, recipient.offset)
        if recipient.prev <= self._through and not self._paging and self._room > 0:
            self._through = recipient.offset
            effects.append(Bytes(self._codec.push(self._give(rendered, recipient.offset, now))))
        else:
            self._ask_more(effects)
        return effects

    def more(self, page: Page | None, rendered: Mapping[str, Rendered], now: float) -> list[Effect]:
        """Hand out what has waited in the stream. A hole ends the connection: the client recovers, and is told."""
        effects: list[Effect] = []
        if self._state != _OPEN or not self._paging:
            return effects
        asked, self._paging = self._paging, 0
        if (
            page is None
            or page.epoch != self.epoch
            or page.missing
            or any(each.push.id not in rendered for each in page.publications)
        ):
            self._end(effects, codes.INSUFFICIENT_STATE)
            return effects
        if self._top <= asked:
            self._top = page.top  # What was announced beyond it is not in the stream, and is not asked for again.
        self._write(effects, self._hand_out(page, rendered, now, room=self._room))
        self._ask_more(effects)
        return effects

    def resend(self, page: Page | None, rendered: Mapping[str, Rendered], now: float) -> list[Effect]:
        """Send again what is still not acknowledged: all of it, though only the first was due. The client's position
        is the offset of the last publication that it was given, so that one comes last again."""
        if self._state != _OPEN or page is None or page.epoch != self.epoch:
            return []
        effects: list[Effect] = []
        again: list[bytes] = []
        owed, size = False, 0
        for each in page.publications:
            left = self._flight[each.offset][1] if each.offset in self._flight else 0
            if self._acked < each.offset <= self._handed and each.offset not in self._flight:
                left = self._app.resend if self._room > 0 else 0
                owed = owed or not left
            if left and each.push.id in rendered:
                if again and size + len(rendered[each.push.id]) > MESSAGE:
                    owed = True  # The next time: those that come before it have fewer resends left then.
                    continue
                size += len(rendered[each.push.id])
                left -= 1
                due = now + self._resend_after if left else _NEVER
                self._flight[each.offset] = due, left
                again.append(self._codec.publication(rendered[each.push.id], each.offset, each.prev, self._unread))
        self._write(effects, again)
        if again:
            effects.append(Resent(len(again)))
        self._resend_at = min((due for due, _ in self._flight.values() if due > now), default=_NEVER)
        if owed:
            self._resend_at = min(self._resend_at, now + self._resend_after)
        else:
            self._handed = 0
        return effects

    def unread(self, unread: int) -> list[Effect]:
        """Tell the device what is unread now, because its user has read on another one."""
        self._unread = unread
        if self._state != _OPEN:
            return []
        return [Bytes(self._codec.message(b'{"unread":%d}' % unread))]

    def disconnect(self, disconnect: Disconnect) -> list[Effect]:
        """End the connection."""
        effects: list[Effect] = []
        if self._state != _CLOSED:
            self._end(effects, disconnect)
        return effects

    def pause(self) -> None:
        """Hand out nothing, because the client does not read what was written."""
        self._paused = True

    def resumed(self) -> list[Effect]:
        """Hand out what has waited."""
        self._paused = False
        effects: list[Effect] = []
        self._ask_more(effects)
        return effects

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        if now < self.due:
            return effects
        if self._state == _NEW:
            self._end(effects, codes.STALE)
        elif self._state == _REFUSED:
            self._end(effects, codes.FORCE_RECONNECT)
        elif now >= self._expires_at:
            self._end(effects, codes.EXPIRED)
        else:
            if now >= self._beat_at:
                self._beat(now, effects)
            if now >= self._resend_at and self._state == _OPEN:
                self._resend_at = now + self._resend_after
                overdue = [offset - 1 for offset, (due, _) in self._flight.items() if due <= now]
                if self._acked < self._handed:
                    overdue.append(self._acked)
                if overdue and not self._paused:
                    effects.append(ResendAsked(min(overdue), max(self._app.window, len(self._flight))))
        return effects

    # --- Parts -----------------------------------------------------------------------------------------------------

    def _beat(self, now: float, effects: list[Effect]) -> None:
        if self._pinged_at:
            self._end(effects, codes.NO_PONG)
            return
        self._pinged_at = now
        self._beat_at = now + min(self._limits.pong_within, self._interval)
        effects.append(Ping() if self._frame_pings else Bytes(self._codec.ping()))

    @property
    def _resend_after(self) -> float:
        """Seconds until a publication is sent again: all resends are spread evenly over the time for its ack."""
        return self._app.ack_within / (self._app.resend + 1) if self._app.resend else _NEVER

    @property
    def _room(self) -> int:
        return 0 if self._paused else self._app.window - len(self._flight)

    def _ask_more(self, effects: list[Effect]) -> None:
        """Ask for what waits in the stream, if something does and there is room."""
        if self._state == _OPEN and not self._paging and self._top > self._through and (room := self._room) > 0:
            self._paging = self._top
            effects.append(MoreAsked(self._through, min(room, PAGE)))

    def _hand_out(self, page: Page, rendered: Mapping[str, Rendered], now: float, *, room: int) -> list[bytes]:
        """Return the publications of a page for which there is room."""
        publications: list[bytes] = []
        self._top = max(self._top, page.top)
        for each in page.publications:
            if each.offset <= self._through:
                continue
            if len(publications) >= room:
                return publications
            content = rendered.get(each.push.id)
            if content is not None:
                publications.append(self._give(content, each.offset, now))
            self._through = each.offset
        if not (page.more and page.publications):
            self._through = max(self._through, page.top)
        return publications

    def _give(self, rendered: Rendered, offset: int, now: float) -> bytes:
        """Return one publication, which is to be acknowledged from now on, unless it is already."""
        publication = self._codec.publication(rendered, offset, self._last, self._unread)
        self._last = offset
        if offset > self._acked:  # A device may acknowledge the top of its stream before it has been given all of it.
            due = now + self._resend_after
            self._flight[offset] = due, self._app.resend
            self._resend_at = min(self._resend_at, due)
        return publication

    def _write(self, effects: list[Effect], publications: list[bytes]) -> None:
        if publications:
            effects.append(Bytes(self._codec.batch([self._codec.push(each) for each in publications])))

    def _connect_data(self, missing: int) -> bytes:
        data: dict[str, object] = {
            "window": self._app.window,
            "ack_within": self._app.ack_within,
            "unread": self._unread,
            "acked": self._acked,
            "endpoints": Raw(self._limits.endpoints),
        }
        if missing:
            data["missing"] = missing
        return _json(data)

    def _wait(self, command_id: int, effects: list[Effect]) -> bool:
        """Note that a command waits for its result; False: it was answered with an error."""
        if command_id in self._pending:
            self._fail(effects, command_id, codes.BAD_REQUEST, "doubled_id")
        elif len(self._pending) >= PENDING:
            self._fail(effects, command_id, codes.TOO_MANY_REQUESTS, "flood")
        else:
            self._pending.append(command_id)
            return True
        return False

    def _answered(self, command_id: int) -> bool:
        """Whether a command waits for this result."""
        if self._state == _CLOSED or command_id not in self._pending:
            return False
        self._pending.remove(command_id)
        return True

    def _fail(self, effects: list[Effect], command_id: int, error: ReplyError, kind: FaultKind) -> None:
        """Count a fault, and answer it where the command has an answer."""
        effects.append(FaultSeen(kind))
        if command_id:
            if kind not in ("doubled_id", "flood") and command_id in self._pending:
                self._pending.remove(command_id)
            effects.append(Bytes(self._codec.error(command_id, error)))

    def _end(self, effects: list[Effect], disconnect: Disconnect, kind: FaultKind | None = None) -> None:
        if kind is not None:
            effects.append(FaultSeen(kind))
        if self._emulation:
            effects.append(Bytes(self._codec.disconnect(disconnect)))
        effects.append(Close(disconnect.code, disconnect.reason, disconnect.reconnect))
        self._state = _CLOSED
        self._flight.clear()
        self._pending.clear()

    def _batched(self, effects: list[Effect]) -> list[Effect]:
        """Return the effects with all replies in one message."""
        replies = [each.data for each in effects if isinstance(each, Bytes)]
        if len(replies) < 2:
            return effects
        others = [each for each in effects if not isinstance(each, Bytes)]
        return [Bytes(self._codec.batch(replies)), *others]


_NO_APP: Final = LiveAppConfig()


def _body(decode: Callable[[Raw], _T], data: Raw) -> _T | None:
    """Return the body of a request, or None if it is not what it should be."""
    try:
        return decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _position(data: Raw) -> Offset | None:
    """Return the offset that a request names."""
    body = _body(_position_body, data)
    if isinstance(body, OffsetBody):
        return body.position
    return Offset(body) if body is not None and 0 <= body <= MAX_OFFSET else None
