"""One connection of a device: what its session asks for is done here, and the results are given back to it.

The session decides and does no I/O; its effects are done in order. What needs Redis is done by a task for as long as it
takes, and its result is given to the session, which ignores it if the connection has ended meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, assert_never

import msgspec
from msgspec.structs import replace

from ...errors import PushsvcError, StoreUnavailable
from ...ports.live import Acked, EventReport, LiveRoute, Page, Position, Recipient, Reference, Refused as RefusedDevice
from ..peer import Request, Transport
from ..protocol import codes
from ..protocol.codec import JSON, PROTOBUF, Rendered
from ..protocol.codes import Disconnect, Refusal
from ..protocol.commands import PAGE
from ..protocol.effects import (
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
    ReadAsked,
    RefreshAsked,
    ResendAsked,
    Resent,
)
from ..protocol.session import Session
from ..protocol.tokens import Claims, Rejected
from ..wheel import Deadline
from .contents import bounded
from .faults import report

if TYPE_CHECKING:
    from .gateway import Gateway

_json = msgspec.json.Encoder().encode


class Connection:
    """A `Peer`: the session of one transport, and the work that it asks for."""

    __slots__ = (
        "_acks",
        "_agreed",
        "_agreed_at",
        "_deadline",
        "_ended",
        "_foreground",
        "_full",
        "_gateway",
        "_session",
        "_transport",
        "address",
        "app",
        "connected_at",
        "device_id",
        "number",
    )

    def __init__(self, gateway: Gateway, transport: Transport, request: Request) -> None:
        self.app = self.device_id = ""
        self.number = 0
        self.connected_at = 0.0
        self._gateway = gateway
        self._transport = transport
        self.address = request.address
        self._full = request.full
        self._agreed = 0.0
        self._agreed_at = 0.0
        """Since when the present interval of heartbeats is in use, in seconds of the wheel."""
        self._foreground: bool | None = None
        self._ended = False
        self._acks: dict[bool, AckAsked] | None = None
        """The acknowledgements without an answer that wait while others are taken: the latest of those that the stream
        has, and of those beyond. None while none is taken."""
        now = gateway.now()
        self._session = Session(
            PROTOBUF if transport.format == "protobuf" else JSON,
            gateway.client_id(),
            now,
            spread=gateway.random(),
            limits=gateway.limits,
            emulation=transport.session,
            frame_pings=transport.frame_pings,
        )
        self._deadline: Deadline | None = gateway.wheel.after(self._session.due - now, self._tick)

    @property
    def transport(self) -> str:
        return self._transport.name

    @property
    def epoch(self) -> str:
        """The epoch of the stream that the device follows."""
        return self._session.epoch

    # --- The transport ---------------------------------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Take one message of the client, which makes nothing due earlier than it was."""
        self._do_all(self._session.received(data, self._gateway.now()))

    def ponged(self) -> None:
        """Take a pong of WebSocket."""
        self._run(self._session.ponged(self._gateway.now()))

    def resumed(self) -> None:
        """Go on writing."""
        self._run(self._session.resumed())

    def shutdown(self) -> None:
        """End the connection, because the gateway stops: the device comes back to another one."""
        self.end(codes.SHUTDOWN)

    def lost(self, clean: bool) -> None:
        """Take the end of the connection."""
        self._ended = True
        if self._deadline is not None:
            # It calls back: the two would keep each other, and all of the connection, until the garbage is collected.
            self._deadline.cancel()
            self._deadline = None
        self._session.disconnect(codes.STALE)
        gateway = self._gateway
        if not self.number:
            return
        if self.connected_at:
            gateway.metrics.disconnected(self.app, self._transport.code)
            self._learn(clean=clean, silent=self._transport.code == codes.NO_PONG.code)
        if gateway.remove(self):
            gateway.spawn(gateway.disconnect(self))

    # --- The gateway -----------------------------------------------------------------------------------------------

    def published(self, recipient: Recipient, rendered: Rendered, delivery: Reference | None = None) -> None:
        """Hand out what was appended to the stream of the device just now."""
        if self._transport.paused:
            self._session.pause()
        self._run(self._session.published(recipient, rendered, self._gateway.now(), delivery))

    def appended(self, epoch: str, top: int, unread: int) -> None:
        """Look whether the stream has something that was not handed out."""
        self.published(Recipient(self.number, epoch, top, top, unread, 0), _NOTHING)

    def unread(self, count: int) -> None:
        """Notify the device of how much is unread."""
        self._run(self._session.unread(count))

    def acked(self, command_id: int, result: Acked | Exception) -> None:
        """Answer an acknowledgement."""
        try:
            if isinstance(result, Acked):
                self._do_all(self._session.acked(command_id, result.fault))  # Nothing is due earlier than before.
            elif isinstance(result, PushsvcError):
                self._fails(command_id, result)
            else:
                raise result
        except Exception as error:
            self._gateway.failed(self, error)

    def end(self, disconnect: Disconnect) -> None:
        self._run(self._session.disconnect(disconnect))

    def fail(self) -> None:
        """End the connection, because its session has failed: it is in no known state."""
        self._transport.close(codes.INTERNAL_ERROR.code, codes.INTERNAL_ERROR.reason)

    # --- Effects ---------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        with self._gateway.contained(self):
            self._run(self._session.tick(self._gateway.now()))

    def _run(self, effects: list[Effect]) -> None:
        self._do_all(effects)
        deadline = self._deadline
        if deadline is not None:
            due = self._session.due
            if due == math.inf:
                deadline.cancel()
            else:
                deadline.bring_forward(due)

    def _do_all(self, effects: list[Effect]) -> None:
        """Do what a session asks for, the most frequent at once."""
        for effect in effects:
            if type(effect) is Bytes:
                self._transport.write(effect.data)
            elif type(effect) is AckAsked and effect.id:
                self._gateway.acks.take(self, effect)
            else:
                self._do(effect)

    def _do(self, effect: Effect) -> None:
        gateway, session = self._gateway, self._session
        match effect:
            case Bytes(data=data):
                self._transport.write(data)
            case AckAsked():
                self._ack_later(effect)
            case Ping():
                self._transport.ping()
            case Close(code=code, reason=reason):
                self._transport.close(code, reason)
            case FaultSeen(kind=kind):
                gateway.metrics.fault(kind)
            case Resent(count=count):
                gateway.metrics.resent(self.app, count)
            case ConnectAsked():
                self._spawn(self._connect(effect))
            case RefreshAsked(id=id):
                self._answer(id, self._refresh(effect))
            case ReadAsked(id=id):
                self._answer(id, self._read(effect))
            case EventReported(id=id):
                self._answer(id, self._report(effect))
            case FetchAsked(id=id):
                self._answer(id, self._fetch(effect))
            case HistoryAsked(id=id):
                self._answer(id, self._history(effect))
            case HeartbeatAsked(id=id, seconds=wish, foreground=foreground):
                self._learn(clean=True)
                seconds = self._agree(wish, foreground)
                self._run(session.heartbeat(id, seconds, gateway.now()))
                self._begin(session.interval)
            case MoreAsked(since=since, limit=limit):
                self._spawn(self._more(since, limit))
            case ResendAsked(since=since, limit=limit):
                self._spawn(self._resend(since, limit))
            case _:
                assert_never(effect)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._gateway.spawn(self._contained(work))

    async def _contained(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some work; where it fails the connection ends, because its session may wait for it in vain."""
        with self._gateway.contained(self):
            await work

    def _answer(self, command_id: int, work: Coroutine[Any, Any, None]) -> None:
        self._spawn(self._answered(command_id, work))

    async def _answered(self, command_id: int, work: Coroutine[Any, Any, None]) -> None:
        """Do the work of a command; where that fails the answer is a temporary error."""
        try:
            await work
        except PushsvcError as error:
            self._fails(command_id, error)

    def _fails(self, command_id: int, error: PushsvcError) -> None:
        report(error)
        self._run(self._session.error(command_id, codes.INTERNAL))

    # --- Connecting ------------------------------------------------------------------------------------------------

    async def _connect(self, ask: ConnectAsked) -> None:
        gateway = self._gateway
        if self._ended:
            return
        if self._full or gateway.is_busy:
            await self._refuse_late(ask.id, codes.INTERNAL, "busy")
            return
        # Before a permit is used, so that those who may not connect, or do so all the time, take none of the others.
        verdict = gateway.verify(ask.token)
        self.app, self.device_id = verdict.app, verdict.device_id
        if isinstance(verdict, Rejected):
            await self._refuse_late(ask.id, verdict.refusal)
            return
        if gateway.denies(verdict.device_id):
            await self._refuse_late(ask.id, codes.PERMISSION_DENIED)
            return
        now = gateway.now()
        if not (gateway.turns.admit((self.app, self.device_id), now) and gateway.connects.admit(now)):
            await self._refuse_late(ask.id, codes.TOO_MANY_REQUESTS, "busy")
            return
        try:
            await self._join(ask, verdict)
        except Exception as error:
            gateway.remove(self)
            gateway.spawn(gateway.disconnect(self))  # Redis may have the route, though its answer was lost.
            report(error)
            await self._refuse_late(ask.id, codes.INTERNAL, "busy")

    async def _join(self, ask: ConnectAsked, claims: Claims) -> None:
        gateway = self._gateway
        app = gateway.config.apps[claims.app]
        gateway.add(self)  # From here on what is appended for this number is handed to the session.
        gateway.connecting.begin(gateway.now())
        try:
            result = await gateway.live.connect(
                self.app,
                self.device_id,
                LiveRoute(gateway.id, self.number),
                issued_at=claims.issued_at,
                position=ask.position,
                limit=min(PAGE, app.window),
                unacked=True,
            )
        finally:
            gateway.connecting.end(gateway.now())
        if isinstance(result, RefusedDevice):
            gateway.remove(self)
            await self._refuse_late(ask.id, codes.REVOKED if result.why == "revoked" else codes.INVALID_TOKEN)
            return
        self._transport.known()
        gateway.slowdown.accepted(self._keys)
        await gateway.replace(result.replaced, self)
        rendered = await gateway.contents.of(self.app, (each.push.id for each in result.page.publications))
        if self._ended:
            # The route may have come after `lost` took it away.
            gateway.remove(self)
            await gateway.disconnect(self)
            return
        result = replace(result, page=bounded(result.page, rendered))
        now = gateway.now()
        self.connected_at = now
        self._begin(self._agree(ask.heartbeat, ask.foreground))
        recovery = "" if not ask.recover else "recovered" if result.recovered else "lost"
        gateway.metrics.connected(self.app, recovery)
        # Without a position, and before it, the same ones are missing at each connect.
        gateway.metrics.missing(self.app, result.missing_ahead)
        ttl = max(1.0, claims.expires_at - gateway.wall())
        self._run(self._session.connected(ask.id, result, rendered, app, heartbeat=self._agreed, ttl=ttl, now=now))

    async def _refuse_late(self, command_id: int, refusal: Refusal, result: str = "refused") -> None:
        """Refuse a connect; later with each attempt where clients come back without a pause of their own."""
        gateway = self._gateway
        if self._transport.name != "websocket" or refusal == codes.TOKEN_EXPIRED:
            await gateway.pause(gateway.slowdown.refused(self._keys, gateway.now()))
        gateway.metrics.refused(self.app, result)
        self._run(self._session.refused(command_id, refusal))

    @property
    def _keys(self) -> list[str]:
        """What refusals are counted by."""
        return [self.address, f"{self.app}/{self.device_id}"] if self.device_id else [self.address]

    async def _refresh(self, ask: RefreshAsked) -> None:
        gateway = self._gateway
        verdict = gateway.verify_refresh(ask.token, self.app, self.device_id)
        if isinstance(verdict, Rejected):
            self._run(self._session.refused(ask.id, verdict.refusal))
        else:
            ttl = max(1.0, verdict.expires_at - gateway.wall())
            self._run(self._session.refreshed(ask.id, ttl, gateway.now()))

    def _begin(self, interval: float) -> None:
        """Note the interval of heartbeats that is in use from now on."""
        self._agreed, self._agreed_at = interval, self._gateway.now()

    def _learn(self, *, clean: bool, silent: bool = False) -> None:
        """Learn from the time for which the present interval of heartbeats was in use.

        An end without a close frame within the first interval says nothing of the network, unless a ping was not
        answered: the connection was not idle for so long, and an app may have crashed.
        """
        gateway = self._gateway
        lived = gateway.now() - self._agreed_at
        clean = not silent and (clean or lived < self._agreed)
        gateway.heartbeats.ended((self.app, self.device_id), self._agreed, lived, clean=clean)

    def _agree(self, wish: float | None, foreground: bool | None) -> float:
        if foreground is not None:
            self._foreground = foreground
        return self._gateway.heartbeats.agree((self.app, self.device_id), wish, foreground=self._foreground)

    # --- The stream ------------------------------------------------------------------------------------------------

    def _ack_later(self, ask: AckAsked) -> None:
        """Take an acknowledgement that has no answer. Later ones stand for earlier ones, so that two wait at most,
        however many come; one beyond the stream stands for none that the stream has."""
        if self._acks is None:
            self._acks = {}
            self._spawn(self._ack_waiting())
        inside = ask.offset <= self._session.top
        waiting = self._acks.get(inside)
        if waiting is None:
            self._acks[inside] = ask
        elif ask.offset > waiting.offset:
            given = None if waiting.given is None or ask.given is None else (*waiting.given, *ask.given)
            self._acks[inside] = AckAsked(ask.id, ask.offset, ask.epoch, given)

    async def _ack_waiting(self) -> None:
        """Take the acknowledgements that wait, until none does. While Redis is away they are kept; what the end of the
        connection leaves is given to the device again at its next connect."""
        await asyncio.sleep(0)  # All of one message are taken together.
        while self._acks:
            inside, ask = self._acks.popitem()
            try:
                position = Position(ask.epoch, ask.offset)
                acked = await self._gateway.acks.ack(self.app, self.device_id, position, ask.given)
                self._run(self._session.acked(ask.id, acked.fault))
            except StoreUnavailable:
                if self._ended:
                    break
                self._acks.setdefault(inside, ask)
                await self._gateway.pause(1.0 + self._gateway.random())
        self._acks = None

    async def _read(self, ask: ReadAsked) -> None:
        gateway = self._gateway
        read = await gateway.live.read(self.app, self.device_id, Position(ask.epoch, ask.offset))
        if read.fault:
            self._run(self._session.acked(ask.id, read.fault))
        else:
            self._run(self._session.done(ask.id, b'{"unread":%d}' % read.unread.get(self.device_id, 0)))

    async def _report(self, ask: EventReported) -> None:
        event = EventReport(ask.push_id, self.device_id, ask.event)
        counted = await self._gateway.report(self.app, [(event, ask.at)])
        self._run(self._session.done(ask.id, _json({"counted": bool(counted)})))

    async def _fetch(self, ask: FetchAsked) -> None:
        body = await self._gateway.content(self.app, self.device_id, ask.push_id)
        if body is None:
            self._run(self._session.error(ask.id, codes.NOT_FOUND))
        else:
            self._run(self._session.done(ask.id, body))

    async def _history(self, ask: HistoryAsked) -> None:
        gateway, limit = self._gateway, ask.limit
        page = await gateway.live.history(
            self.app,
            self.device_id,
            since=ask.since,
            epoch=self.epoch,
            limit=max(1, limit),
            reverse=ask.reverse,
        )
        ids = () if page is None or not limit else (each.push.id for each in page.publications)
        rendered = await gateway.contents.of(self.app, ids)
        self._run(self._session.history(ask, page and bounded(page, rendered), rendered))

    async def _more(self, since: int, limit: int) -> None:
        page, rendered = await self._page(since, limit)
        if self._transport.paused:
            self._session.pause()
        self._run(self._session.more(page and bounded(page, rendered), rendered, self._gateway.now()))

    async def _resend(self, since: int, limit: int) -> None:
        page, rendered = await self._page(since, limit)
        self._run(self._session.resend(page, rendered, self._gateway.now()))

    async def _page(self, since: int, limit: int) -> tuple[Page | None, Mapping[str, Rendered]]:
        """Return a page of the stream with its contents, when Redis has it: the connection waits for it."""
        gateway = self._gateway
        while not self._ended:
            try:
                page = await gateway.live.history(self.app, self.device_id, since=since, epoch=self.epoch, limit=limit)
                ids = () if page is None else (each.push.id for each in page.publications)
                return page, await gateway.contents.of(self.app, ids)
            except StoreUnavailable:
                await gateway.pause(1.0 + gateway.random())
            except PushsvcError as error:
                report(error)
                self.end(codes.INSUFFICIENT_STATE)  # Nothing would ever be handed out on this connection.
                break
        return None, {}


_NOTHING = Rendered(b"")
