"""The connections of one gateway process, and the loops that serve all of them.

Others reach the devices through one inbox a process, however many connections it has; an incarnation of a gateway has
a name of its own, and its routes are valid for as long as it gives signs of life (`signs`). Acknowledgements are taken
in batches (`acks`), and what is left to do for connections that have ended is in `departures`.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Final

import msgspec

from ... import telemetry
from ...background import in_background
from ...errors import StoreUnavailable, TooManyRequests
from ...model.live import is_in
from ...model.rates import Rate
from ...ports.live import (
    Cut,
    Drain,
    EventReport,
    Forwarded,
    Inbox,
    InboxItem,
    Live,
    LiveRoute,
    Poke,
    Reference,
    Unread,
)
from ..config import LiveConfig
from ..peer import Peer, Request, Transport
from ..protocol import codes
from ..protocol.heartbeat import Bounds
from ..protocol.limits import Limits
from ..protocol.slowdown import Slowdown
from ..protocol.tokens import Claims, Rejected, Verifier
from ..wheel import Wheel
from .acks import Acks, Confirm
from .admission import Admission, Connecting, Turns
from .connection import Connection
from .contents import RenderedContents
from .departures import Departures
from .faults import report
from .heartbeats import Heartbeats
from .members import POLL, Member
from .metrics import GatewayMetrics
from .signs import AGAIN, Signs

INBOX_WAIT: Final = 1000
"""Milliseconds of one wait for the inbox."""
CONNECTS: Final = Rate(1, 1)
CONNECTS_AT_ONCE: Final = 20
"""How often one device may connect, in the long run and at once: more than any network makes it."""
TURN: Final = 200
"""Publications that are handed out before others have their turn."""
CALLS: Final = Rate(20, 1)
CALLS_AT_ONCE: Final = 200
"""How often one device may call over plain HTTP."""
LEAVING: Final = 10.0
"""Seconds for what connections have asked for, after the last one has ended."""
_CUTS: Final = {"replaced": codes.REPLACED, "revoked": codes.REVOKED, "moved": codes.INSUFFICIENT_STATE} | {
    "asked": codes.FORCE_RECONNECT
}


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
        self.connections: dict[int, Member] = {}
        self.metrics = GatewayMetrics()
        self.slowdown = Slowdown()
        self.contents = RenderedContents(live, config.inline)
        self.deliver: Callable[[str, bytes], bool] = lambda session, data: False
        """Hands a message to the connection with this session; the sockets set it."""
        self.acks = Acks(live, confirm, self.metrics, wall)
        self.departures = Departures(live, self.id)
        self.signs = Signs(self)
        self._numbers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._missed = False
        """Whether items of the inbox may have been missed."""
        self._handed = 0
        """Publications that were handed out since others had their turn."""
        self.finishing = asyncio.Event()
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
        self.connecting = Connecting()
        self.heartbeats = Heartbeats(
            Bounds(default=config.heartbeat, least=config.heartbeat_min, most=config.heartbeat_max)
        )
        self.config = config
        self._verifier = Verifier(config.apps)
        self.metrics.show(config.apps)

    def use(self, newer: LiveConfig) -> None:
        """Serve the apps of this configuration from the next connect on, announce its endpoints, and refuse what it
        denies; connections of others end. Everything else needs another gateway."""
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
        self.signs.give_now()  # before the first connection of a new app

    # --- What connections ask for ----------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether a new connection is asked to come again later."""
        return not self.signs.settled or self.connecting.is_full

    def accepts(self) -> bool:
        """Return whether further connections are accepted."""
        return self.connecting.accepts(self.now())

    def make_peer(self, transport: Transport, request: Request) -> Peer:
        """Return the session of a new connection."""
        return Connection(self, transport, request)

    def client_id(self) -> str:
        """Return a new id of a client."""
        return secrets.token_hex(8)

    def verify(self, token: str) -> Claims | Rejected:
        """Return the claims of a token, or why it is refused."""
        return self._verifier.verify(token, self.wall())

    def verify_refresh(self, token: str, app: str, device_id: str) -> Claims | Rejected:
        """Return the claims of a new token of an open connection, or why it is refused."""
        return self._verifier.verify_refresh(token, self.wall(), Claims(app, device_id, 0.0))

    def denies(self, device_id: str) -> bool:
        """Return whether the configuration refuses the device."""
        return device_id in self.config.deny_ids

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a task in the background."""
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
            self.failed(member, error)

    def failed(self, member: Member, error: Exception) -> None:
        """End a connection whose session has failed, as `contained` does."""
        report(error)
        member.fail()

    async def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the gateway. Tests make it short."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.finishing.wait()

    def add(self, connection: Member) -> None:
        """Give a connection its number."""
        self._numbers += 1
        connection.number = self._numbers
        self.connections[connection.number] = connection

    def remove(self, connection: Member) -> bool:
        """Forget a connection. Return False if it was forgotten already, as when another one has replaced it."""
        if self.connections.pop(connection.number, None) is None:
            return False
        self.departures.note(connection.number, connection.app, connection.device_id)
        return True

    async def replace(self, older: LiveRoute | None, newer: Member) -> None:
        """End the older connection of a device, here or at another gateway; where that fails, try again later."""
        if older is None:
            return
        if older.gateway != self.id:
            await self.departures.cut(older.gateway, Cut(newer.app, older.connection, "replaced"))
            return
        connection = self.connections.get(older.connection)
        if connection is not None and connection is not newer:
            self.remove(connection)
            with self.contained(connection):
                connection.end(codes.REPLACED)

    async def disconnect(self, connection: Member) -> None:
        """Remove the route of a connection that has ended; where that fails, try again later."""
        await self.departures.disconnect(connection.number, connection.app, connection.device_id)

    def _outlived(self, number: int) -> None:
        """Remove the route of a connection that ended long ago."""
        place = self.departures.outlived(number)
        if place is not None:
            self.spawn(self.departures.disconnect(number, *place))

    async def content(self, app: str, device_id: str, push_id: str) -> bytes | None:
        """Return the content of a push that stands in the stream of the device, if it is still stored."""
        if not await self.live.holds(app, device_id, push_id):
            return None
        return (await self.live.contents(app, [push_id])).get(push_id)

    async def report(self, app: str, events: Sequence[tuple[EventReport, float | None]]) -> int:
        """Count what a device reports of pushes, each with the Unix seconds that its clock shows. Returns how many of
        it were counted: each counts once."""
        counted = 0
        log = app in self.config.apps and self.config.apps[app].log_events
        reported = await self.live.report(app, [event for event, _ in events], log=log)
        for (event, at), platform in zip(events, reported, strict=True):
            if platform is not None:
                counted += 1
                late = None if at is None else self.wall() - at
                self.metrics.reported(app, platform, event.event, late)
        return counted

    async def forward(self, node: str, session: str, data: bytes) -> bool:
        """Hand a message to the gateway that has its session. Return False if that gateway does not live. Raises
        `TooManyRequests`, because what a session sends to one gateway costs two."""
        if not self.calls.admit((node, session), self.now()):
            raise TooManyRequests("This session sends too often.", retry_after=1)
        away: StoreUnavailable | None = None  # as Redis may be for some app
        for app in sorted(self.config.apps, key=self.signs.is_valid, reverse=True):
            try:
                found = node in await self.live.gateways(app)
            except StoreUnavailable as error:
                away = error
                continue
            if found:
                await self.live.poke({node: [Forwarded(session, data)]})
                return True
        if away is not None:
            raise away
        return False

    # --- Loops -----------------------------------------------------------------------------------------------------

    async def run_receiving(self) -> None:
        """Take what others have for these devices, until the gateway ends."""
        inbox: Inbox = self.live.inbox(self.id)
        while not self.finishing.is_set():
            try:
                received = await inbox.receive(INBOX_WAIT)
                for item in received.items:
                    try:
                        await self._take(item)
                    except StoreUnavailable:
                        # The item is not read again: the streams of its app have what it was about.
                        if not isinstance(item, Forwarded):
                            self.signs.compare_app(item.app)
                if received.lost or self._missed:
                    self.signs.compare_all()
                    self._missed = False
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
            await self._hand_out(item)
            return
        if isinstance(item, Drain):
            for member in list(self.connections.values()):
                if member.app == item.app:
                    self.wheel.after(self.random() * item.seconds, partial(member.end, codes.FORCE_RECONNECT))
            return
        connection = self.connections.get(item.connection)
        if connection is None:
            if not (isinstance(item, Cut) and item.why == "replaced"):  # which has removed its route
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

    async def _hand_out(self, poke: Poke) -> None:
        """Hand a push to the connections that it was appended for."""
        app, push, platform = poke.app, poke.push, poke.platform
        if poke.body:
            rendered = self.contents.add(app, push.id, poke.body)
        else:
            found = await self.contents.of(app, [push.id])
            if push.id not in found:
                return
            rendered = found[push.id]
        if poke.passed is not None:
            self.acks.remember(push.id, [each.index for each in poke.recipients], (*poke.passed, poke.trace))
        for recipient in poke.recipients:
            connection = self.connections.get(recipient.connection)
            if connection is None:
                self._outlived(recipient.connection)
            elif connection.app == app:
                delivery = Reference(recipient.offset, recipient.index, platform, push) if platform else None
                try:
                    connection.published(recipient, rendered, delivery)
                except Exception as error:
                    self.failed(connection, error)
            self._handed += 1
            if self._handed >= TURN:
                self._handed = 0
                await asyncio.sleep(0)

    def drain(self, seconds: float) -> None:
        """Answer the polls that wait, spread over `seconds`; the sockets let the connections go."""
        self.draining = True
        for member in self.connections.values():
            if member.transport == POLL:
                self.wheel.after(self.random() * seconds, partial(member.end, codes.SHUTDOWN))

    async def finish(self) -> None:
        """Do what connections have asked for and leave, after the last one has ended."""
        self.finishing.set()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.acks.all_taken()
        await self.live.leave(self.id, list(self.config.apps))


@asynccontextmanager
async def open_gateway(
    config: LiveConfig, live: Live, confirm: Confirm, wheel: Wheel, *, wall: Callable[[], float], version: str
) -> AsyncIterator[Gateway]:
    """Run the loops of a gateway while the block lasts. At its end the connections must have ended."""
    gateway = Gateway(config, live, confirm, wheel, wall=wall, version=version)
    async with (
        in_background(gateway.signs.run(), "signs"),
        in_background(gateway.run_receiving(), "receiving"),
        in_background(gateway.acks.run(), "acks"),
    ):
        yield gateway
        try:
            async with asyncio.timeout(LEAVING):
                await gateway.finish()
        except (TimeoutError, StoreUnavailable) as error:
            # Nothing is lost: what is not acknowledged is sent by the next channel.
            telemetry.get_logger("live").warning("live_drain_incomplete", error=str(error) or type(error).__name__)
