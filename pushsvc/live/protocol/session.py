"""One connection of a client as a state machine without I/O: messages and results in, effects out.

A session is small and holds neither a timer nor a content: `due` is the instant at which `tick` is to be called. What
it knows of the device's stream is its window. Instants are the gateway's seconds, which only grow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Raw

from ...net.protobuf import MalformedMessage
from ...ports.live import Connected, Page, Recipient, Reference
from ..config import LiveAppConfig
from ..peer import FaultKind
from . import codes
from .beats import Beats
from .codec import CHANNEL, Codec, ConnectResult, Rendered
from .codes import Disconnect, Refusal, ReplyError
from .commands import Command
from .effects import AckRequested, Bytes, Close, Effect, FaultSeen, HistoryRequested, Ping, Resent
from .limits import Limits
from .recovery import recovery_of
from .requests import Declined, ack_of, ack_requested, connect_requested, refused_by, requested_by
from .window import NEVER, HandedOut, StreamWindow

PENDING: Final = 64
"""Commands of one connection that may wait for their results."""
_NEW, _CONNECTING, _OPEN, _REFUSED, _CLOSED = range(5)

_json = msgspec.json.Encoder().encode


class Session:
    """The state of one connection. What its methods return is to be done in order; after a `Close` they return nothing.

    A result that comes for a session that has ended meanwhile is harmless, and so is a second result of a command.
    """

    __slots__ = (
        "_beats",
        "_codec",
        "_emulation",
        "_expires_at",
        "_frame_pings",
        "_limits",
        "_pending",
        "_recovers",
        "_resume_offset",
        "_spread",
        "_state",
        "_unread",
        "_window",
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
        self._window = StreamWindow(_NO_APP)
        self._emulation = emulation
        self._frame_pings = frame_pings
        self._spread = spread
        self._state = _NEW
        self._resume_offset: int | None = None
        """The offset behind which the client wants to go on; None where it names no position that can be valid."""
        self._recovers = False
        self._pending: list[int] = []
        """Ids of commands whose results are to come."""

        self._beats = Beats(now + limits.stale_after)
        self._expires_at = NEVER
        self._unread = 0

    @property
    def due(self) -> float:
        """The instant at which `tick` is to be called; infinite if it need not be."""
        if self._state == _OPEN:
            # Comparing costs less than `min`, with each publication.
            due, resend_at = self._beats.due, self._window.resend_at
            if resend_at < due:
                due = resend_at
            return due if due < self._expires_at else self._expires_at
        return self._beats.due if self._state in (_NEW, _REFUSED) else NEVER

    @property
    def open(self) -> bool:
        """Whether the device is connected."""
        return self._state == _OPEN

    @property
    def top(self) -> int:
        """The last offset of the stream that is known."""
        return self._window.top

    @property
    def interval(self) -> float:
        """The seconds between two pings."""
        return self._beats.interval

    @property
    def waiting(self) -> int:
        """How many publications are to be acknowledged."""
        return len(self._window)

    # --- What the client sends -------------------------------------------------------------------------------------

    def received(self, data: bytes, now: float) -> list[Effect]:
        """Take one message of the transport."""
        effects: list[Effect] = []
        if self._state == _CLOSED:
            return effects
        if len(data) > self._limits.message_bytes:
            return self._end(effects, codes.MALFORMED, "oversized")
        if self._state == _OPEN and (ack := self._codec.ack(data)) is not None:
            self._carry_out(ack.id, ack_of(ack.id, ack.rpc.data.ack, self.epoch), effects)
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
        if self._beats.unanswered:
            self._beats.ponged(now)
        return []

    def _take(self, command: Command, now: float, effects: list[Effect]) -> None:
        if self._state != _OPEN:
            self._take_early(command, effects)
            return
        command_id = command.id or 0
        if command_id and (command.rpc is not None or command.send is None):
            if command.unsubscribe is not None and command.unsubscribe.channel not in (None, "", CHANNEL):
                effects.append(Bytes(self._codec.unsubscribe(command_id)))
            else:
                self._carry_out(command_id, requested_by(command, self.epoch), effects)
        elif command.send is not None:
            self._carry_out(0, ack_requested(0, command.send.data, self.epoch), effects)
        elif self._beats.unanswered and not self._frame_pings:
            self._beats.ponged(now)
        else:
            self._end(effects, codes.MALFORMED, "pong")

    def _take_early(self, command: Command, effects: list[Effect]) -> None:
        """Take a command of a client that is not connected."""
        if self._state == _NEW and command.connect is not None and command.id:
            self._state = _CONNECTING
            self._pending.append(command.id)
            asked, faults = connect_requested(command.id, command.connect)
            self._resume_offset = None if asked.position is None else asked.position.offset
            self._recovers = asked.recover
            effects += [*faults, asked]
        elif self._state == _CONNECTING and command.subscribe is not None and command.id:
            # centrifuge-js sends its own subscriptions with the connect.
            self._carry_out(command.id, refused_by(command), effects)
        else:
            again = self._state != _NEW and command.connect is not None
            self._end(effects, codes.MALFORMED, "second_connect" if again else "before_connect")

    def _carry_out(self, command_id: int, asked: Effect | Declined, effects: list[Effect]) -> None:
        """Have done what a command asks for, or answer why it is not."""
        if isinstance(asked, Declined):
            if asked.error is None:
                self._end(effects, codes.MALFORMED, asked.kind)
            else:
                self._fail(effects, command_id, asked.error, asked.kind)
        elif not command_id or self._wait(command_id, effects):
            if isinstance(asked, AckRequested):
                effects.append(self._window.acknowledge(asked))
                self._ask_more(effects)
            else:
                effects.append(asked)

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
        Publications go into the reply or follow it (`recovery_of`), no more than the window has room for."""
        if self._state != _CONNECTING or command_id not in self._pending:
            return []
        self._pending.remove(command_id)
        self._state = _OPEN
        page, window = result.page, self._window
        early = window.top if self.epoch == page.epoch else 0
        shown = min(self._resume_offset or 0, page.top)
        top = max(early, page.top)
        window.begin(app, since=result.since, acked=result.acked, top=top, floor=page.floor, shown=shown)
        self.epoch, self._unread = page.epoch, result.unread
        announced = 0 if self._frame_pings else math.ceil(heartbeat)
        self._beats.begin(heartbeat, now + heartbeat * (0.5 + self._spread / 2), announced=announced or NEVER)
        self._expires_at = now + ttl + self._limits.expired_after

        offset, recovered, missing = recovery_of(result, self._resume_offset, rendered)
        given = window.hand_out(page, rendered, now, shows_holes=recovered)
        reply = self._codec.connect(
            command_id,
            ConnectResult(
                client=self.client,
                version=self._limits.version,
                ttl=max(1, int(ttl)),
                data=self._connect_data(missing),
                epoch=page.epoch,
                offset=offset,
                recovered=recovered,
                was_recovering=self._recovers,
                publications=self._publications(given) if recovered else [],
                ping=announced,
                session=self._emulation,
                node=self._limits.gateway,
            ),
        )
        effects: list[Effect] = [Bytes(reply)]
        if not recovered:
            self._write(effects, given)
        return self._ask_more(effects)

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
        """Ping in another interval, if that is not longer than what was announced at the connect."""
        if not self._answered(command_id):
            return []
        self._beats.change(seconds, now)
        return [Bytes(self._codec.rpc(command_id, _json({"heartbeat": self.interval, "agreed": seconds})))]

    def history(self, asked: HistoryRequested, page: Page | None, rendered: Mapping[str, Rendered]) -> list[Effect]:
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

    def acked(self, command_id: int, fault: Literal["", "epoch", "offset", "unknown", "open"]) -> list[Effect]:
        """Answer an acknowledgement or a `read`."""
        if not fault:
            return self.done(command_id)
        kind: FaultKind = "position" if fault == "offset" else "epoch"
        error = codes.BAD_REQUEST if fault == "offset" else codes.UNRECOVERABLE_POSITION
        return [FaultSeen(kind), *self.error(command_id, error)]

    def ack_failed(self) -> None:
        """Note that an acknowledgement could not be taken."""
        self._window.unsure()

    def done(self, command_id: int, data: bytes = b"{}") -> list[Effect]:
        """Answer a command with a result, in JSON."""
        return [Bytes(self._codec.rpc(command_id, data))] if self._answered(command_id) else []

    def error(self, command_id: int, error: ReplyError) -> list[Effect]:
        return [Bytes(self._codec.error(command_id, error))] if self._answered(command_id) else []

    def published(
        self, recipient: Recipient, rendered: Rendered, now: float, delivery: Reference | None = None
    ) -> list[Effect]:
        """Hand out what was appended to the stream just now, if everything before it was; else it waits there."""
        if self._state != _OPEN:
            if self._state == _CONNECTING:
                if recipient.epoch != self.epoch:
                    self.epoch, self._window.top = recipient.epoch, 0
                self._window.top = max(self._window.top, recipient.offset)
            return []
        if recipient.epoch != self.epoch:
            return self.disconnect(codes.INSUFFICIENT_STATE)
        self._unread = recipient.unread
        prev = self._window.take(recipient.offset, recipient.prev, now, delivery)
        if prev is not None:
            return [Bytes(self._codec.push(rendered, recipient.offset, prev, recipient.unread))]
        return self._ask_more([])

    def more(self, page: Page | None, rendered: Mapping[str, Rendered], now: float) -> list[Effect]:
        """Hand out what has waited in the stream. A hole ends the connection: the client recovers, and learns of it."""
        if self._state != _OPEN:
            return []
        if page is not None and page.epoch != self.epoch:
            page = None
        given = self._window.answered(page, rendered, now)
        if given is None:
            return self._end([], codes.INSUFFICIENT_STATE)
        return self._ask_more(self._write([], given))

    def resend(self, page: Page | None, rendered: Mapping[str, Rendered], now: float) -> list[Effect]:
        """Send again what is still not acknowledged."""
        if self._state != _OPEN or page is None or page.epoch != self.epoch:
            return []
        again = self._window.resend(page, rendered, now)
        return [*self._write([], again), Resent(len(again))] if again else []

    def unread(self, unread: int) -> list[Effect]:
        """Notify the device of what is unread now, because its user has read on another one."""
        self._unread = unread
        if self._state != _OPEN:
            return []
        return [Bytes(self._codec.message(b'{"unread":%d}' % unread))]

    def recounted(self, epoch: str, top: int, unread: int) -> list[Effect]:
        """Notify the device of what is unread in its stream, up to `top`, where it was given another number:
        with a publication come those as well that have expired or were withdrawn since the connect."""
        if epoch != self.epoch or top != self._window.top or unread == self._unread:
            return []
        return self.unread(unread)

    def disconnect(self, disconnect: Disconnect) -> list[Effect]:
        """End the connection."""
        return [] if self._state == _CLOSED else self._end([], disconnect)

    def pause(self) -> None:
        """Hand out nothing, because the client does not read what was written."""
        self._window.paused = True

    def resumed(self) -> list[Effect]:
        """Hand out what has waited."""
        self._window.paused = False
        return self._ask_more([])

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        if now < self.due:
            return []
        if self._state == _NEW:
            return self._end([], codes.STALE)
        if self._state == _REFUSED:
            return self._end([], codes.FORCE_RECONNECT)
        if now >= self._expires_at:
            return self._end([], codes.EXPIRED)
        effects: list[Effect] = []
        if now >= self._beats.due:
            if self._beats.unanswered:
                return self._end(effects, codes.NO_PONG)
            self._beats.pinged(now, self._limits.pong_within)
            effects.append(Ping() if self._frame_pings else Bytes(self._codec.ping()))
        if (overdue := self._window.overdue(now)) is not None:
            effects.append(overdue)
        return effects

    # --- Parts -----------------------------------------------------------------------------------------------------

    def _ask_more(self, effects: list[Effect]) -> list[Effect]:
        """Ask for what waits in the stream, if something does and there is room. Returns the same list."""
        if self._state == _OPEN and (more := self._window.more()) is not None:
            effects.append(more)
        return effects

    def _publications(self, given: Sequence[HandedOut]) -> list[bytes]:
        return [self._codec.publication(each.rendered, each.offset, each.prev, self._unread) for each in given]

    def _write(self, effects: list[Effect], given: Sequence[HandedOut]) -> list[Effect]:
        """Write what is handed out. Returns the same list."""
        if given:
            pushes = [self._codec.push(each.rendered, each.offset, each.prev, self._unread) for each in given]
            effects.append(Bytes(self._codec.batch(pushes)))
        return effects

    def _connect_data(self, missing: int) -> bytes:
        data: dict[str, object] = {
            "window": self._window.app.window,
            "ack_within": self._window.app.ack_within,
            "unread": self._unread,
            "acked": self._window.acked,
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
        if command_id not in self._pending:
            return False
        self._pending.remove(command_id)
        return True

    def _fail(self, effects: list[Effect], command_id: int, error: ReplyError, kind: FaultKind) -> None:
        """Count a fault, and answer it where the command has an answer."""
        effects.append(FaultSeen(kind))
        if command_id:
            effects.append(Bytes(self._codec.error(command_id, error)))

    def _end(self, effects: list[Effect], disconnect: Disconnect, kind: FaultKind | None = None) -> list[Effect]:
        """End the connection. Returns the same list."""
        if kind is not None:
            effects.append(FaultSeen(kind))
        if self._emulation:
            effects.append(Bytes(self._codec.disconnect(disconnect)))
        effects.append(Close(disconnect.code, disconnect.reason))
        self._state = _CLOSED
        self._window.clear()
        self._pending.clear()
        return effects

    def _batched(self, effects: list[Effect]) -> list[Effect]:
        """Return the effects with all replies in one message."""
        if len(effects) < 2:
            return effects
        replies = [each.data for each in effects if isinstance(each, Bytes)]
        if len(replies) < 2:
            return effects
        others = [each for each in effects if not isinstance(each, Bytes)]
        return [Bytes(self._codec.batch(replies)), *others]


_NO_APP: Final = LiveAppConfig()
