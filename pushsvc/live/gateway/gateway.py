"""The connections of one gateway process, and the loops that serve all of them.

Others reach the devices through one inbox a process, however many connections it has; an incarnation of a gateway has
a name of its own, and its routes are good for as long as it gives signs of life. What it did not hear is in the
streams: after a gap it compares every connection with its stream. Acknowledgements are taken in batches: first their
deliveries end as sent, then the streams have them, so that no delivery is acknowledged without having ended.
"""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import msgspec
from msgspec import Struct

from ... import telemetry
from ...errors import StoreError, StoreUnavailable, TooManyRequests
from ...model.live import is_in
from ...model.rates import Rate
from ...ports.live import (
    Acked,
    Cut,
    Drain,
    EventReport,
    Forwarded,
    Inbox,
    InboxItem,
    Live,
    LiveRoute,
    Poke,
    Position,
    Recipient,
    Reference,
    Unread,
)
from ..config import LiveConfig
from ..peer import Peer, Request, Transport
from ..protocol import codes
from ..protocol.codec import Rendered
from ..protocol.heartbeat import Bounds
from ..protocol.session import Limits
from ..protocol.slowdown import Slowdown
from ..protocol.tokens import Claims, Rejected, Verifier
from ..wheel import Wheel
from .admission import Admission, Turns
from .connection import Connection
from .contents import RenderedContents
from .faults import report
from .heartbeats import Heartbeats
from .metrics import GatewayMetrics, acknowledged

INBOX_WAIT: Final = 1000
"""Milliseconds of one wait for the inbox."""
COMPARED: Final = 200
"""Connections that are compared with their streams in one step."""
ROUND: Final = 180.0
"""Seconds within which each connection is compared once, though nothing is known to be missed: a message to the gateway
may have been lost with the process that was to send it."""
ENDED: Final = 16_384
"""Ended connections of which a gateway remembers whose they were, should anything still be sent to them."""
LEFT_AT_ONCE: Final = 100
"""Routes that are taken away, and connections of other gateways that are ended, at a time where that has failed
before."""
ACKS: Final = 400
"""Acknowledgements of one step."""
CLOCKED: Final = 65_536
"""Deliveries of which a gateway remembers when they passed the stages before it, until they are acknowledged: the first
ones are forgotten where more wait."""
AGAIN: Final = 0.5
"""Seconds between two attempts while Redis is away."""
CONNECTS: Final = Rate(1, 1)
CONNECTS_AT_ONCE: Final = 20
"""How often one device may connect, in the long run and at once: more than any network makes it."""
CALLS: Final = Rate(20, 1)
CALLS_AT_ONCE: Final = 200
"""How often one device may call over plain HTTP."""
CONNECTING: Final = 500
"""Connects that may wait for Redis: what comes beyond would be answered later than clients wait."""
LEAVING: Final = 10.0
"""Seconds for what connections have asked for, after the last one has ended."""
POLL: Final = "poll"
"""The name of the transport of a poll that waits."""

_CUTS: Final = {"replaced": codes.REPLACED, "revoked": codes.REVOKED, "moved": codes.INSUFFICIENT_STATE} | {
    "asked": codes.FORCE_RECONNECT
}


class Acknowledged(Struct, frozen=True, gc=False):
    """A delivery that a device has acknowledged."""

    device_id: str
    reference: Reference
    at: int
    """Unix milliseconds."""


Confirm: TypeAlias = Callable[[str, Sequence[Acknowledged]], Awaitable[object]]
"""End deliveries of an app as sent; a repeat changes nothing. Raises `StoreUnavailable`."""


class _Ack(NamedTuple):
    """An acknowledgement that waits for its batch."""

    app: str
    device_id: str
    position: Position
    done: Callable[[Acked | Exception], None]
    """Is called with what has become of it."""


class Member(Protocol):
    """What a gateway knows of a connection, or of a poll that waits."""

    address: str
    app: str
    device_id: str
    number: int
    connected_at: float
    """Seconds of the wheel; 0 until the device is connected."""

    @property
    def transport(self) -> str:
        """Return the name of the transport."""

    def published(self, recipient: Recipient, rendered: Rendered) -> None:
        """Take what was appended to the stream of the device just now."""

    def appended(self, epoch: str, top: int, unread: int) -> None:
        """Look whether the stream has something that was not handed out."""

    def unread(self, count: int) -> None:
        """Tell the device how much is unread."""

    def end(self, disconnect: codes.Disconnect) -> None:
        """End the connection."""

    def fail(self) -> None:
        """End the connection, because its session has failed."""


class Gateway:
    """One incarnation. `now` are seconds of the wheel, `wall` Unix seconds."""

    def __init__(
        self,
        config: LiveConfig,
        live: Live,
        confirm: Confirm,
        wheel: Wheel,
        *,
        wall: Callable[[], float] = time.time,
        version: str = "",
    ) -> None:
        self.id = secrets.token_hex(8)
        self.live = live
        self.wheel = wheel
        self.now = wheel.now
        self.wall = wall
        self.random = random.random
        self.settled = False
        """Whether the gateway has given a sign of life, and connections may be made."""
        self.connections: dict[int, Member] = {}
        self.metrics = GatewayMetrics()
        self.slowdown = Slowdown()
        self.contents = RenderedContents(live, config.inline)
        self.deliver: Callable[[str, bytes], bool] = lambda session, data: False
        """Hands a message to the connection with this session; the sockets set it."""
        self._confirm = confirm
        self._numbers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._acks: list[_Ack] = []
        self._more = asyncio.Event()
        self._all_acked = asyncio.Event()
        self._all_acked.set()
        self._passed: dict[tuple[str, int], tuple[int, int, int, bytes]] = {}
        """When deliveries, by push and index, were queued, taken and written, in ms after they were to be sent, and the
        traces of their pushes."""
        self._ended: OrderedDict[int, tuple[str, str]] = OrderedDict()
        """App and device of the connections that ended last, by number."""
        self._left: dict[int, tuple[str, str]] = {}
        """Those whose routes could not be taken away."""
        self._owed: list[tuple[str, Cut]] = []
        """Connections of other gateways that could not be ended."""
        self._unsure: set[str] = set()
        """Apps in which something may have been missed, until their connections are compared."""
        self._round: list[int] = []
        """The connections whose turn to be compared is still to come."""
        self._share = 0
        """How many of them have their turn with one sign of life."""
        self._signed = -math.inf
        """When the last sign of life was given, in seconds of the wheel."""
        self._missed = False
        """Whether items of the inbox may have been missed."""
        self._beat_now = asyncio.Event()
        self._finishing = asyncio.Event()
        """Set when the last connection has ended, and nothing is waited for any more."""
        self.draining = False
        """Whether the gateway stops, and no poll waits any more."""
        self.limits = Limits(
            gateway=self.id,
            version=version,
            pong_within=config.pong_within,
            endpoints=msgspec.json.encode(config.endpoints),
        )
        self.connects = Admission(config.connects)
        self.turns = Turns(CONNECTS, CONNECTS_AT_ONCE)
        self.calls = Turns(CALLS, CALLS_AT_ONCE)
        self.connecting = 0
        """Connects that wait for Redis."""
        self.heartbeats = Heartbeats(
            Bounds(default=config.heartbeat, least=config.heartbeat_min, most=config.heartbeat_max)
        )
        self.config = config
        self._verifier = Verifier(config.apps)
        self.metrics.show(config.apps)

    def use(self, newer: LiveConfig) -> None:
        """Serve the apps of this configuration from the next connect on, tell its endpoints, and refuse what it denies;
        connections of others end. Everything else needs another gateway."""
        apps, ids, networks = newer.apps, newer.deny_ids, newer.deny_networks
        self._verifier = Verifier(apps)
        self.config = msgspec.structs.replace(
            self.config, apps=apps, deny_ids=ids, deny_networks=networks, endpoints=newer.endpoints
        )
        self.limits = msgspec.structs.replace(self.limits, endpoints=msgspec.json.encode(newer.endpoints))
        for connection in list(self.connections.values()):
            with self.contained(connection):
                if connection.app not in apps:
                    connection.end(codes.INVALID_TOKEN)
                elif connection.device_id in ids or (networks and is_in(connection.address, networks)):
                    connection.end(codes.REVOKED)
        self.metrics.show(apps)
        self._beat_now.set()  # before the first connection of a new app

    # --- What connections ask for ----------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether a new connection is asked to come again later."""
        return not self.settled or self.connecting >= CONNECTING

    def make_peer(self, transport: Transport, request: Request) -> Peer:
        """Return the session of a new connection."""
        return Connection(self, transport, request)

    def client_id(self) -> str:
        """Return a new id of a client."""
        return secrets.token_hex(8)

    def verify(self, token: str) -> Claims | Rejected:
        """Return what a token says, or why it is refused."""
        return self._verifier.verify(token, self.wall())

    def verify_refresh(self, token: str, app: str, device_id: str) -> Claims | Rejected:
        """Return what a new token of an open connection says, or why it is refused."""
        return self._verifier.verify_refresh(token, self.wall(), Claims(app, device_id, 0.0))

    def denies(self, device_id: str) -> bool:
        """Return whether the configuration refuses the device."""
        return device_id in self.config.deny_ids

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some work beside everything else."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            report(error)

    @contextmanager
    def contained(self, member: Member) -> Iterator[None]:
        """End a connection whose session fails in the block, and no other."""
        try:
            yield
        except Exception as error:
            self._failed(member, error)

    def _failed(self, member: Member, error: Exception) -> None:
        report(error)
        member.fail()

    async def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the gateway. Tests make it short."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._finishing.wait()

    def add(self, connection: Member) -> None:
        """Give a connection its number."""
        self._numbers += 1
        connection.number = self._numbers
        self.connections[connection.number] = connection

    def remove(self, connection: Member) -> bool:
        """Forget a connection. Return False if it was forgotten already, as when another one has replaced it."""
        if self.connections.pop(connection.number, None) is None:
            return False
        self._ended[connection.number] = connection.app, connection.device_id
        if len(self._ended) > ENDED:
            self._ended.popitem(last=False)
        return True

    async def replace(self, older: LiveRoute | None, newer: Member) -> None:
        """End the older connection of a device, here or at another gateway; if that cannot be told now, later."""
        if older is None:
            return
        if older.gateway != self.id:
            cut = Cut(newer.app, older.connection, "replaced")
            try:
                await self.live.poke({older.gateway: [cut]})
            except StoreError as error:
                report(error)
                self._owed.append((older.gateway, cut))
            return
        connection = self.connections.get(older.connection)
        if connection is not None and connection is not newer:
            self.remove(connection)
            with self.contained(connection):
                connection.end(codes.REPLACED)

    async def disconnect(self, connection: Member) -> None:
        """Take the route of a connection that has ended away; if that fails, later."""
        await self._disconnect(connection.number, (connection.app, connection.device_id))

    async def _disconnect(self, number: int, place: tuple[str, str]) -> None:
        try:
            await self.live.disconnect(*place, self._route(number))
        except StoreError as error:
            report(error)
            self._left[number] = place

    def _outlived(self, number: int) -> None:
        """Take the route of a connection away that has ended long since: others send there, and wait in vain for the
        device to acknowledge it. A connect whose answer was lost may have taken place after its end."""
        place = self._ended.pop(number, None)
        if place is not None:
            self.spawn(self._disconnect(number, place))

    async def ack(self, app: str, device_id: str, position: Position) -> Acked:
        """Acknowledge everything up to a position. Raises `StoreUnavailable`; the device repeats it then."""
        answer: asyncio.Future[Acked] = asyncio.get_running_loop().create_future()

        def done(result: Acked | Exception) -> None:
            if answer.done():
                return
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        self.take_ack(app, device_id, position, done)
        return await answer

    def take_ack(self, app: str, device_id: str, position: Position, done: Callable[[Acked | Exception], None]) -> None:
        """Acknowledge everything up to a position, together with what other devices acknowledge at the same time, and
        call `done`: a task for each acknowledgement would cost as much as all that it does."""
        self._acks.append(_Ack(app, device_id, position, done))
        self._all_acked.clear()
        self._more.set()

    async def content(self, app: str, device_id: str, push_id: str) -> bytes | None:
        """Return the content of a push that stands in the stream of the device, if it is still stored."""
        if not await self.live.holds(app, device_id, push_id):
            return None
        return (await self.live.contents(app, [push_id])).get(push_id)

    async def report(self, app: str, events: Sequence[tuple[EventReport, datetime | None]]) -> int:
        """Count what a device reports of pushes, each with the instant that its clock shows. Returns how many of it
        were counted: each counts once."""
        counted = 0
        log = app in self.config.apps and self.config.apps[app].log_events
        reported = await self.live.report(app, [event for event, _ in events], log=log)
        for (event, at), platform in zip(events, reported, strict=True):
            if platform is not None:
                counted += 1
                late = None if at is None else self.wall() - at.timestamp()
                self.metrics.reported(app, platform, event.event, late)
        return counted

    async def forward(self, node: str, session: str, data: bytes) -> bool:
        """Hand a message to the gateway that has its session. Return False if that gateway does not live. Raises
        `TooManyRequests`, because what a session sends to one gateway costs two."""
        if not self.calls.admit((node, session), self.now()):
            raise TooManyRequests("This session sends too often.", retry_after=1)
        for app in self.config.apps:
            if node in await self.live.gateways(app):
                await self.live.poke({node: [Forwarded(session, data)]})
                return True
        return False

    # --- Loops -----------------------------------------------------------------------------------------------------

    async def run_acking(self) -> None:
        """Take acknowledgements until cancelled."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._acks:
                batch, self._acks = self._acks[:ACKS], self._acks[ACKS:]
                by_app: dict[str, list[_Ack]] = {}
                for each in batch:
                    by_app.setdefault(each.app, []).append(each)
                for app, own in by_app.items():
                    results: Sequence[Acked | Exception]
                    try:
                        results = await self._ack_all(app, own)
                    except Exception as error:  # Each device is answered with it, and the others go on.
                        results = [error] * len(own)
                    for each, result in zip(own, results, strict=True):
                        each.done(result)
            self._all_acked.set()

    async def _ack_all(self, app: str, acks: Sequence[_Ack]) -> list[Acked]:
        at = int(self.wall() * 1000)
        ending: dict[tuple[str, int], Acknowledged] = {}
        positions = [(each.device_id, each.position) for each in acks]
        results = await self.live.acking(app, positions)
        for each, found in zip(acks, results, strict=True):
            if not found.fault:
                for reference in found.newly:
                    ending[each.device_id, reference.offset] = Acknowledged(each.device_id, reference, at)
        if ending:
            await self._confirm(app, list(ending.values()))
        # The others are not asked again: what is appended by then would be acknowledged without having ended.
        accepted = [place for place, found in enumerate(results) if not found.fault]
        for place, acked in zip(
            accepted, await self.live.ack(app, [positions[each] for each in accepted]), strict=True
        ):
            if acked.newly:
                self._count_acked(app, acked.newly, at)
            results[place] = acked
        self.metrics.flush()
        return results

    def _count_acked(self, app: str, references: Iterable[Reference], at: int) -> None:
        known = []
        for reference in references:
            start = reference.push.at
            self.metrics.acked(app, max(0.0, (at - start) / 1000))
            passed = self._passed.pop((reference.push.id, reference.index), None)
            if passed is not None:
                queued, taken, written, trace = passed
                known.append((start, (start + queued, start + taken), start + written, at))
                if trace and telemetry.traces.tracer is not None:
                    telemetry.traces.tracer.record(acknowledged(app, reference, start + written, at), trace)
        self.metrics.passed(known)

    async def run_beating(self) -> None:
        """Give signs of life until the gateway ends."""
        while not self._finishing.is_set():
            try:
                await self.beat()
            except Exception as error:
                report(error)
                await self.pause(AGAIN)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self.live.lifetime / 3):
                    await self._beat_now.wait()
            self._beat_now.clear()

    async def beat(self) -> None:
        """Give a sign of life. Then, since Redis is there, do what could not be done before, and compare the
        connections of apps in which something may have been missed, and a share of all others."""
        await self._sign()
        self.metrics.connections(Counter((each.app, each.transport) for each in self.connections.values()))
        await self._settle()
        for app in list(self._unsure):
            self._unsure.discard(app)
            try:
                await self.compare([each for each in self.connections.values() if each.app == app])
            except BaseException:
                self._unsure.add(app)
                raise
        await self.compare(self._next())

    async def _sign(self) -> None:
        """Give a sign of life, and note the apps in which the last one was over."""
        now = self.now()
        counts = Counter(connection.app for connection in self.connections.values())
        self._unsure |= await self.live.beat(self.id, {app: counts[app] for app in self.config.apps})
        self._signed = now
        self.settled = True

    async def _sign_if_due(self) -> None:
        """Give a sign of life within work that may take longer than one is good for."""
        if self.now() - self._signed >= self.live.lifetime / 3:
            await self._sign()

    async def _settle(self) -> None:
        """End connections of other gateways and take routes away, where that has failed before."""
        while owed := self._owed[:LEFT_AT_ONCE]:
            await self._sign_if_due()
            cuts: dict[str, list[InboxItem]] = {}
            for gateway, cut in owed:
                cuts.setdefault(gateway, []).append(cut)
            await self.live.poke(cuts)
            del self._owed[: len(owed)]
        places = list(self._left.items())
        for start in range(0, len(places), LEFT_AT_ONCE):
            await self._sign_if_due()
            for number, _ in (some := places[start : start + LEFT_AT_ONCE]):
                del self._left[number]
            await asyncio.gather(*(self._disconnect(*each) for each in some))
            if some[0][0] in self._left:
                break

    def _next(self) -> list[Member]:
        """Return the connections whose turn it is to be compared. A poll that waits is soon over without that."""
        if not self._round:
            self._round = [number for number, each in self.connections.items() if each.transport != POLL]
            self._share = math.ceil(len(self._round) * self.live.lifetime / 3 / ROUND)
        turn, self._round = self._round[: self._share], self._round[self._share :]
        return [self.connections[number] for number in turn if number in self.connections]

    async def run_receiving(self) -> None:
        """Take what others have for these devices, until the gateway ends."""
        inbox: Inbox = self.live.inbox(self.id)
        while not self._finishing.is_set():
            try:
                received = await inbox.receive(INBOX_WAIT)
                for item in received.items:
                    await self._take(item)
                if received.lost or self._missed:
                    # Compared after the next sign of life: without one, no connection has a route.
                    self._unsure |= self.config.apps.keys()
                    self._missed = False
                    self._beat_now.set()
            except Exception as error:
                # The items that were read are not read again: the streams have what they were about.
                self._missed = True
                report(error)
                await self.pause(AGAIN)

    async def _take(self, item: InboxItem) -> None:
        if isinstance(item, Forwarded):
            self.deliver(item.session, item.data)
            return
        if isinstance(item, Poke):
            push_id = item.push.id
            if item.body:
                rendered = self.contents.add(item.app, push_id, item.body)
            else:
                found = await self.contents.of(item.app, [push_id])
                if push_id not in found:
                    return
                rendered = found[push_id]
            for recipient in item.recipients:
                connection = self.connections.get(recipient.connection)
                if connection is None:
                    self._outlived(recipient.connection)
                elif connection.app == item.app:
                    if item.passed is not None:
                        self._remember(push_id, recipient.index, (*item.passed, item.trace))
                    try:
                        connection.published(recipient, rendered)
                    except Exception as error:
                        self._failed(connection, error)
            await asyncio.sleep(0)  # Others have their turn between two pushes to many.
            return
        if isinstance(item, Drain):
            for member in list(self.connections.values()):
                if member.app == item.app:
                    self.wheel.after(self.random() * item.seconds, partial(member.end, codes.FORCE_RECONNECT))
            return
        connection = self.connections.get(item.connection)
        if connection is None:
            self._outlived(item.connection)
            return
        if connection.app != item.app:
            return
        with self.contained(connection):
            if isinstance(item, Unread):
                connection.unread(item.unread)
            else:
                if item.why == "replaced":
                    self.remove(connection)
                connection.end(_CUTS[item.why])

    def _remember(self, push_id: str, index: int, passed: tuple[int, int, int, bytes]) -> None:
        if len(self._passed) >= CLOCKED:
            del self._passed[next(iter(self._passed))]
        self._passed[push_id, index] = passed

    async def compare(self, connections: Iterable[Member]) -> None:
        """Compare connections with their streams, and bring them up to date."""
        by_app: dict[str, list[Member]] = {}
        for each in connections:
            by_app.setdefault(each.app, []).append(each)
        for app, own in by_app.items():
            for start in range(0, len(own), COMPARED):
                await self._sign_if_due()
                some = own[start : start + COMPARED]
                # The stream may not have the route yet of one whose connect is under way.
                connected = [bool(each.connected_at) for each in some]
                found = await self.live.presence(app, [each.device_id for each in some], gateway=self.id)
                for connection, presence, is_connected in zip(some, found, connected, strict=True):
                    with self.contained(connection):
                        if presence is not None and presence.route == self._route(connection.number):
                            connection.appended(presence.epoch, presence.top, presence.unread)
                        elif is_connected:
                            connection.end(codes.REVOKED if presence is None else codes.INSUFFICIENT_STATE)

    def _route(self, number: int) -> LiveRoute:
        return LiveRoute(self.id, number)

    def drain(self, seconds: float) -> None:
        """Answer the polls that wait, spread over `seconds`; the sockets let the connections go."""
        self.draining = True
        for member in self.connections.values():
            if member.transport == POLL:
                self.wheel.after(self.random() * seconds, partial(member.end, codes.SHUTDOWN))

    async def finish(self) -> None:
        """Do what connections have asked for and leave, after the last one has ended."""
        self._finishing.set()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._all_acked.wait()
        await self.live.leave(self.id, list(self.config.apps))


@asynccontextmanager
async def open_gateway(
    config: LiveConfig, live: Live, confirm: Confirm, wheel: Wheel, *, wall: Callable[[], float], version: str
) -> AsyncIterator[Gateway]:
    """Run the loops of a gateway while the block lasts. At its end the connections must have ended."""
    gateway = Gateway(config, live, confirm, wheel, wall=wall, version=version)
    loops = [gateway.run_beating(), gateway.run_receiving(), gateway.run_acking()]
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield gateway
        try:
            async with asyncio.timeout(LEAVING):
                await gateway.finish()
        except (TimeoutError, StoreUnavailable) as error:
            # Nothing is lost: what is not acknowledged is sent by the next channel.
            telemetry.get_logger("live").warning("live_drain_incomplete", error=str(error) or type(error).__name__)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
