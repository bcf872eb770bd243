"""One connection of a device, which does what its session asks for and hands it the results.

The session decides and does no I/O; its effects are done in order. What needs Redis (`joining`, `stream`) is done by a
task for as long as it takes, and its result is handed to the session, which ignores it if the connection has ended
meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, assert_never

from ...errors import PushsvcError, StoreUnavailable
from ...ports.live import Acked, Position, Recipient, Reference
from ..peer import Request, Transport
from ..protocol import codes
from ..protocol.codec import JSON, PROTOBUF, Rendered
from ..protocol.codes import Disconnect
from ..protocol.effects import (
    AckRequested,
    Bytes,
    Close,
    ConnectRequested,
    Effect,
    EventReported,
    FaultSeen,
    FetchRequested,
    HeartbeatRequested,
    HistoryRequested,
    MoreRequested,
    Ping,
    ReadRequested,
    RefreshRequested,
    ResendRequested,
    Resent,
)
from ..protocol.session import Session
from ..wheel import Deadline
from . import joining, stream
from .faults import report

if TYPE_CHECKING:
    from .gateway import Gateway


class Connection:
    """A `Peer`: the session of one transport, and the work that it asks for."""

    __slots__ = (
        "_acks",
        "_deadline",
        "_foreground",
        "_heartbeat_since",
        "address",
        "app",
        "connected_at",
        "device_id",
        "ended",
        "full",
        "gateway",
        "heartbeat",
        "line",
        "number",
        "session",
    )

    def __init__(self, gateway: Gateway, transport: Transport, request: Request) -> None:
        self.gateway = gateway
        self.line = transport
        self.address = request.address
        self.full = request.full
        """Whether the gateway had too many connections when it began."""
        self.app = self.device_id = ""
        self.number = 0
        self.connected_at = 0.0
        self.ended = False
        self.heartbeat = 0.0
        """The present interval of heartbeats in seconds."""
        self._heartbeat_since = 0.0
        """Since when it is in use, in seconds of the wheel."""
        self._foreground: bool | None = None
        self._acks: dict[bool, AckRequested] | None = None
        """The acknowledgements without an answer that wait while others are taken: the latest of those that the stream
        has, and of those beyond. None while none is taken."""
        now = gateway.now()
        self.session = Session(
            PROTOBUF if transport.format == "protobuf" else JSON,
            gateway.client_id(),
            now,
            spread=gateway.random(),
            limits=gateway.limits,
            emulation=transport.session,
            frame_pings=transport.frame_pings,
        )
        self._deadline: Deadline | None = gateway.wheel.after(self.session.due - now, self._tick)

    @property
    def transport(self) -> str:
        return self.line.name

    @property
    def epoch(self) -> str:
        """The epoch of the stream that the device follows."""
        return self.session.epoch

    # --- The transport ---------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Take one message of the client, which makes nothing due earlier than it was."""
        self._do_all(self.session.received(data, self.gateway.now()))

    def ponged(self) -> None:
        """Take a pong of WebSocket."""
        self._run(self.session.ponged(self.gateway.now()))

    def resumed(self) -> None:
        """Go on writing."""
        self._run(self.session.resumed())

    def shutdown(self) -> None:
        """End the connection, because the gateway stops: the device comes back to another one."""
        self.end(codes.SHUTDOWN)

    def lost(self, clean: bool) -> None:
        """Take the end of the connection."""
        self.ended = True
        if self._deadline is not None:
            # It calls back: the two would keep each other, and all of the connection, until the garbage is collected.
            self._deadline.cancel()
            self._deadline = None
        self.session.disconnect(codes.STALE)
        gateway = self.gateway
        if not self.number:
            return
        if self.connected_at:
            gateway.metrics.disconnected(self.app, self.line.code)
            self._learn(clean=clean, silent=self.line.code == codes.NO_PONG.code)
        if gateway.remove(self):
            gateway.spawn(gateway.disconnect(self))

    # --- The gateway -----------------------------------------------------------------------------------------------

    def published(self, recipient: Recipient, rendered: Rendered, delivery: Reference | None = None) -> None:
        """Hand out what was appended to the stream of the device just now."""
        if self.line.paused:
            self.session.pause()
        self._run(self.session.published(recipient, rendered, self.gateway.now(), delivery))

    def appended(self, epoch: str, top: int, unread: int) -> None:
        """Look whether the stream has something that was not handed out."""
        self._run(self.session.recounted(epoch, top, unread))
        self.published(Recipient(self.number, epoch, top, top, unread, 0), _NOTHING)

    def unread(self, count: int) -> None:
        """Notify the device of how much is unread."""
        self._run(self.session.unread(count))

    def acked(self, command_id: int, result: Acked | Exception) -> None:
        """Answer an acknowledgement."""
        try:
            if not isinstance(result, Acked):
                self.session.ack_failed()
            if isinstance(result, Acked):
                self._do_all(self.session.acked(command_id, result.fault))  # Nothing is due earlier than before.
            elif isinstance(result, PushsvcError):
                self._run(self._failure(command_id, result))
            else:
                raise result
        except Exception as error:
            self.gateway.failed(self, error)

    def end(self, disconnect: Disconnect) -> None:
        self._run(self.session.disconnect(disconnect))

    def fail(self) -> None:
        """End the connection, because its session has failed: it is in no known state."""
        self.line.close(codes.INTERNAL_ERROR.code, codes.INTERNAL_ERROR.reason)

    # --- Effects ---------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        with self.gateway.contained(self):
            self._run(self.session.tick(self.gateway.now()))

    def _run(self, effects: list[Effect]) -> None:
        self._do_all(effects)
        deadline = self._deadline
        if deadline is not None:
            due = self.session.due
            if due == math.inf:
                deadline.cancel()
            else:
                deadline.bring_forward(due)

    def _do_all(self, effects: list[Effect]) -> None:
        """Do what a session asks for, the most frequent at once."""
        for effect in effects:
            if type(effect) is Bytes:
                self.line.write(effect.data)
            elif type(effect) is AckRequested and effect.id:
                self.gateway.acks.take(self, effect)
            else:
                self._do(effect)

    def _do(self, effect: Effect) -> None:
        gateway, session = self.gateway, self.session
        match effect:
            case Bytes(data=data):
                self.line.write(data)
            case AckRequested():
                self._ack_later(effect)
            case Ping():
                self.line.ping()
            case Close(code=code, reason=reason):
                self.line.close(code, reason)
            case FaultSeen(kind=kind):
                gateway.metrics.fault(kind)
            case Resent(count=count):
                gateway.metrics.resent(self.app, count)
            case ConnectRequested():
                self._perform(joining.connect(self, effect))
            case RefreshRequested(id=id):
                self._answer(id, joining.refresh(self, effect))
            case ReadRequested(id=id):
                self._answer(id, stream.read(self, effect))
            case EventReported(id=id):
                self._answer(id, stream.report_event(self, effect))
            case FetchRequested(id=id):
                self._answer(id, stream.fetch(self, effect))
            case HistoryRequested(id=id):
                self._answer(id, stream.history(self, effect))
            case HeartbeatRequested(id=id, seconds=requested, foreground=foreground):
                self._learn(clean=True)
                seconds = self.agree_heartbeat(requested, foreground)
                self._run(session.heartbeat(id, seconds, gateway.now()))
                self.use_heartbeat(session.interval)
            case MoreRequested(since=since, limit=limit):
                self._perform(stream.more(self, since, limit))
            case ResendRequested(since=since, limit=limit):
                self._perform(stream.resend(self, since, limit))
            case _:
                assert_never(effect)

    def _perform(self, work: Coroutine[Any, Any, list[Effect]]) -> None:
        """Begin some work, and do what follows from it."""
        self.gateway.spawn(self._performed(work))

    async def _performed(self, work: Coroutine[Any, Any, list[Effect]]) -> None:
        """Do some work; where it fails the connection ends: its session may wait for a result that never comes."""
        with self.gateway.contained(self):
            self._run(await work)

    def _answer(self, command_id: int, work: Coroutine[Any, Any, list[Effect]]) -> None:
        self._perform(self._answered(command_id, work))

    async def _answered(self, command_id: int, work: Coroutine[Any, Any, list[Effect]]) -> list[Effect]:
        """Do the work of a command; where that fails the answer is a temporary error."""
        try:
            return await work
        except PushsvcError as error:
            return self._failure(command_id, error)

    def _failure(self, command_id: int, error: PushsvcError) -> list[Effect]:
        report(error)
        return self.session.error(command_id, codes.INTERNAL)

    # --- Acknowledgements without an answer ------------------------------------------------------------------------

    def _ack_later(self, ask: AckRequested) -> None:
        """Take an acknowledgement that has no answer. Later ones stand for earlier ones, so that two wait at most,
        however many come; one beyond the stream stands for none that the stream has."""
        if self._acks is None:
            self._acks = {}
            self.gateway.spawn(self._ack_waiting())
        inside = ask.offset <= self.session.top
        waiting = self._acks.get(inside)
        self._acks[inside] = ask if waiting is None else _both(waiting, ask)

    async def _ack_waiting(self) -> None:
        """Take the acknowledgements that wait, until none does. While Redis is away they are kept; what is left at the
        end of the connection is sent to the device again after its next connect."""
        await asyncio.sleep(0)  # All of one message are taken together.
        with self.gateway.contained(self):
            while self._acks:
                inside, ask = self._acks.popitem()
                try:
                    position = Position(ask.epoch, ask.offset)
                    acked = await self.gateway.acks.ack(self.app, self.device_id, position, ask.given, ask.shown)
                    self._run(self.session.acked(ask.id, acked.fault))
                except StoreUnavailable:
                    if self.ended:
                        break
                    newer = self._acks.get(inside)
                    self._acks[inside] = ask if newer is None else _both(ask, newer)
                    await self.gateway.pause(1.0 + self.gateway.random())
            self._acks = None

    # --- The interval of heartbeats ---------------------------------------------------------------------------------

    def use_heartbeat(self, interval: float) -> None:
        """Note the interval of heartbeats that is in use from now on."""
        self.heartbeat, self._heartbeat_since = interval, self.gateway.now()

    def _learn(self, *, clean: bool, silent: bool = False) -> None:
        """Learn from the time for which the present interval of heartbeats was in use.

        An end without a close frame within the first interval is no evidence about the network, unless a ping was not
        answered: the connection was not idle for so long, and an app may have crashed.
        """
        gateway = self.gateway
        lived = gateway.now() - self._heartbeat_since
        clean = not silent and (clean or lived < self.heartbeat)
        gateway.heartbeats.ended((self.app, self.device_id), self.heartbeat, lived, clean=clean)

    def agree_heartbeat(self, requested: float | None, foreground: bool | None) -> float:
        """Return the interval of heartbeats that the device may use, by what it requests and by whether its app is in
        the foreground; None: as before."""
        if foreground is not None:
            self._foreground = foreground
        return self.gateway.heartbeats.agree((self.app, self.device_id), requested, foreground=self._foreground)


def _both(ask: AckRequested, newer: AckRequested) -> AckRequested:
    """Return one acknowledgement that stands for two."""
    if newer.offset <= ask.offset:
        return ask
    given = None if ask.given is None or newer.given is None else (*ask.given, *newer.given)
    unknown = given is not None or ask.offsets is None or newer.offsets is None
    shown = None if unknown else (*(ask.offsets or ()), *(newer.offsets or ()))
    return AckRequested(newer.id, newer.offset, newer.epoch, given, shown)


_NOTHING = Rendered(b"")
