"""One simulated phone: a protocol on a socket, which reconnects, recovers, acknowledges and refreshes as an official
client does, and lets its network do to it what its behaviour says.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Callable
from enum import Enum
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final, cast

from ...live.protocol.codec import CHANNEL
from ...live.protocol.codes import TOKEN_EXPIRED, Disconnect
from ...live.wheel import Deadline
from ...net.protobuf import MalformedMessage
from ...net.websocket import frames, handshake
from ...net.websocket.frames import MessageReader
from .behaviour import Behaviour
from .shown import Shown
from .wire import Connected, Ended, Publication, Reply, Wire

if TYPE_CHECKING:
    from .fleet import Fleet

LARGEST: Final = 1 << 20
"""Bytes of the longest message that a phone reads, as in the official client for Python."""


class State(Enum):
    """Where a phone is in its life."""

    AWAY = "away"
    """It does not try to connect."""
    WAITING = "waiting"
    """It waits for its next attempt, or for a token and a socket."""
    OPENING = "opening"
    """Its socket is open, and the WebSocket is not yet."""
    CONNECTING = "connecting"
    """It waits for the answer to its connect."""
    ONLINE = "online"
    ENDED = "ended"
    """The gateway said that it must not come back."""


class Phone(asyncio.Protocol):
    """A phone of a fleet, for all its connections: one after the other."""

    __slots__ = (
        "_ack_at",
        "_attempts",
        "_commands",
        "_fleet",
        "_heard_at",
        "_key",
        "_leave_at",
        "_pieces",
        "_ping",
        "_reader",
        "_refresh_at",
        "_source",
        "_transport",
        "_wake_at",
        "behaviour",
        "code",
        "device",
        "shown",
        "state",
        "token",
        "wire",
    )

    def __init__(self, fleet: Fleet, device: str, behaviour: Behaviour, wire: Wire) -> None:
        self.device = device
        self.behaviour = behaviour
        self.wire = wire
        self.shown = Shown()
        self.state = State.AWAY
        self.token = ""
        self.code = 0
        """The code of the last end of a connection; 0 before the first."""
        self._fleet = fleet
        self._source = 0
        """The number of its network: its address differs in each."""
        self._transport: asyncio.Transport | None = None
        """The socket; None where there is none, or the network swallows what goes through it."""
        self._reader: MessageReader | None = None
        self._key = ""
        self._pieces = b""
        """The beginning of the answer to the handshake; of a torn phone afterwards what is still to be written."""
        self._commands = 0
        self._attempts = 0
        self._ping = 0.0
        self._heard_at = 0.0
        # Each deadline is made when it is first needed: most phones never need all.
        self._wake_at: Deadline | None = None
        self._ack_at: Deadline | None = None
        self._leave_at: Deadline | None = None
        self._refresh_at: Deadline | None = None

    # --- Its life --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Connect, unless it is connected or about to be."""
        if self.state is State.AWAY:
            self._attempts = 0
            self._dial()

    def leave(self, *, vanish: bool = False) -> None:
        """Go away; with `vanish` without a word, as when the network is gone."""
        if not vanish and self._reader is not None:
            self._write(frames.CLOSE, frames.close_payload(frames.NORMAL))
        self._abandon(swallow=vanish)
        self.state = State.AWAY

    def darken(self) -> None:
        """Have the network swallow everything from now on. Neither side gets a sign of it."""
        self._abandon_socket(swallow=True)
        self._fleet.figures.darkened += 1

    def cut(self) -> None:
        """Break the connection, as a network does that resets it: the phone comes back by itself."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def source(self) -> int:
        """Return the number of the network that it is in."""
        return self._source

    def refused(self, *, for_good: bool) -> None:
        """Handle that no token or no socket could be obtained."""
        if self.state is State.WAITING:
            self._end(0) if for_good else self._again()

    def has_token(self) -> None:
        """Use the new token on the open connection."""
        if self.state is State.ONLINE:
            self._command(self.wire.refresh(self._next_command(), self.token))

    def _dial(self) -> None:
        self.state = State.WAITING
        self._fleet.dial(self)

    def _again(self) -> None:
        """Come back after a pause, which grows with the attempts that fail, and is spread."""
        self._abandon(swallow=False)
        self.state = State.WAITING
        self._attempts += 1
        self._wake(self._fleet.pace.back_off(self._attempts, self._fleet.random))

    def _end(self, code: int) -> None:
        self.code = code
        self._abandon(swallow=False)
        self.state = State.ENDED
        self._fleet.ended(code)

    def _abandon(self, *, swallow: bool) -> None:
        """Leave the connection behind."""
        if self.state is State.ONLINE:
            self._fleet.online -= 1
        self._abandon_socket(swallow=swallow)
        self._reader = None
        for each in (self._wake_at, self._ack_at, self._leave_at, self._refresh_at):
            if each is not None:
                each.cancel()

    def _abandon_socket(self, *, swallow: bool) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        transport.set_protocol(_Hole(transport, self._fleet.swallowed) if swallow else asyncio.Protocol())
        _read_on(transport)
        if not swallow:
            transport.close()

    # --- Deadlines -------------------------------------------------------------------------------------------------

    def _wake(self, seconds: float) -> None:
        """Call `_woken` in some seconds, and not before."""
        self._wake_at = self._set(self._wake_at, seconds, self._woken)

    def _set(self, deadline: Deadline | None, seconds: float, call: Callable[[], None]) -> Deadline:
        if deadline is None:
            return self._fleet.wheel.after(seconds, call)
        deadline.move(seconds)
        return deadline

    def _woken(self) -> None:
        if self.state is State.WAITING:
            self._dial()
        else:  # No answer to the handshake or the connect, or no ping.
            self._fleet.figures.unanswered[self.state.value] += 1
            self._again()

    def _leave(self) -> None:
        """Go to another network, and connect from there after a while, unless the phone is to stay now."""
        behaviour = self.behaviour
        if behaviour.stay == math.inf:
            return
        self.leave(vanish=behaviour.vanish)
        self.state = State.WAITING
        self._source += 1
        self._attempts = 0
        self._fleet.figures.moves += 1
        self._wake(_spread(self._fleet.random, behaviour.away))

    def _refresh(self) -> None:
        self._fleet.renew(self)

    # --- The socket ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the WebSocket."""
        socket = cast("asyncio.Transport", transport)
        if self.state is not State.WAITING or self._transport is not None:
            socket.set_protocol(asyncio.Protocol())  # It went away meanwhile.
            socket.abort()
            return
        self._transport = socket
        self.state = State.OPENING
        self._heard_at = self._fleet.wheel.now()
        self._pieces = b""
        self._key = base64.b64encode(self._fleet.random.randbytes(16)).decode()
        self._wake(self._fleet.pace.answer_within)
        socket.write(handshake.request(self._fleet.host, self._fleet.path_of(self.wire), self._key))

    def data_received(self, data: bytes) -> None:
        """Take what the gateway sends."""
        if self._forgotten() or self._transport is None:
            return
        behaviour = self.behaviour
        if behaviour.read < math.inf and self._reader is not None:
            self._transport.pause_reading()
            self._fleet.wheel.after(len(data) / behaviour.read, partial(_read_on, self._transport))
        if self._reader is None:
            self._pieces += data
            head, ended, data = self._pieces.partition(b"\r\n\r\n")
            if not ended:
                return
            self._pieces = b""
            if not handshake.is_open(head, self._key):
                self._fleet.figures.faults["handshake"] += 1
                self._again()
                return
            self._reader = MessageReader(LARGEST, masked=False)
            self._connect()
        reader = self._reader
        for opcode, payload in reader.feed(data):
            if opcode in (frames.TEXT, frames.BINARY):
                self._take_message(payload)
            elif opcode == frames.PING:
                self._write(frames.PONG, payload)
            elif opcode == frames.CLOSE:
                self._take_close(payload)
            elif opcode == frames.VIOLATION:
                self._fleet.figures.faults["frame"] += 1
                self._again()
            if self._reader is not reader:
                return

    def connection_lost(self, exc: Exception | None) -> None:
        """Come back: the gateway or the network has ended the connection without a word."""
        self._transport = None
        if self.state in (State.OPENING, State.CONNECTING, State.ONLINE):
            self._fleet.ended(frames.ABNORMAL)
            self._again()

    def _forgotten(self) -> bool:
        """Return whether the network has forgotten the connection, which is found out by the next to use it."""
        now = self._fleet.wheel.now()
        forgotten = now - self._heard_at > self.behaviour.nat and self._transport is not None
        if forgotten:
            self.darken()
        self._heard_at = now
        return forgotten

    def _write(self, opcode: int, payload: bytes) -> None:
        if self._forgotten() or self._transport is None:
            return
        random = self._fleet.random
        key = random.randbytes(4)
        if not self.behaviour.torn:
            self._transport.write(frames.client_frame(opcode, payload, key))
            return
        data = b""
        if opcode < frames.CLOSE:
            cut = random.randrange(len(payload) + 1)
            data = frames.client_frame(opcode, payload[:cut], key, final=False)
            opcode, payload = frames.CONTINUATION, payload[cut:]
        waits = bool(self._pieces)
        self._pieces += data + frames.client_frame(opcode, payload, key)
        if not waits:
            self._write_piece()

    def _write_piece(self) -> None:
        """Write some of the bytes that wait, and the others in later turns of the event loop."""
        if self._transport is None or not self._pieces:
            self._pieces = b""
            return
        size = self._fleet.random.randint(1, len(self._pieces))
        self._transport.write(self._pieces[:size])
        self._pieces = self._pieces[size:]
        if self._pieces:
            asyncio.get_running_loop().call_soon(self._write_piece)

    # --- The protocol ----------------------------------------------------------------------------------------------

    def _next_command(self) -> int:
        self._commands += 1
        return self._commands

    def _command(self, message: bytes) -> None:
        self._write(self.wire.opcode, message)

    def _connect(self) -> None:
        self.state = State.CONNECTING
        self._commands = 0
        data: dict[str, object] = {}
        if self.behaviour.heartbeat is not None:
            data["heartbeat"] = self.behaviour.heartbeat
        if self.behaviour.foreground is not None:
            data["foreground"] = self.behaviour.foreground
        self._command(self.wire.connect(self._next_command(), self.token, data, self.shown.recover_from))

    def _take_close(self, payload: bytes) -> None:
        code = frames.close_code(payload)
        self._write(frames.CLOSE, payload[:2])
        self._disconnected(Disconnect(code, ""))

    def _disconnected(self, why: Disconnect) -> None:
        # As in the official clients: a message that is too large would be repeated endlessly otherwise.
        if why.reconnect and why.code != frames.TOO_BIG:
            self._fleet.ended(why.code)
            self.code = why.code
            self._again()
        else:
            self._end(why.code)

    def _take_message(self, message: bytes) -> None:
        before = self.shown.reached
        try:
            for reply in self.wire.replies(message):
                self._take_reply(reply)
                if self._reader is None:
                    return
        except MalformedMessage:
            self._fleet.figures.faults["message"] += 1
            self._again()
            return
        if self.shown.reached is not None and self.shown.reached != before:
            self._acknowledge_later()

    def _take_reply(self, reply: Reply) -> None:
        push = reply.push
        if push is not None:
            if push.pub is not None:
                self._take_publication(push.pub)
            elif push.disconnect is not None:
                self._disconnected(Disconnect(push.disconnect.code, ""))
        elif reply.is_ping:
            self._fleet.figures.pings += 1
            self._command(self.wire.pong)
            self._wake(self._ping + self._fleet.pace.ping_grace)
        elif reply.error is not None:
            self._take_error(reply.error)
        elif reply.connect is not None and self.state is State.CONNECTING:
            self._take_connected(reply.connect)
        elif reply.refresh is not None:
            self._token_lasts(reply.refresh.ttl)

    def _take_error(self, error: Ended) -> None:
        self._fleet.figures.errors[error.code] += 1
        if error.code == TOKEN_EXPIRED.code:
            self.token = ""  # A new one is asked for before the next attempt.
        if self.state is not State.CONNECTING:
            return
        if error.temporary or error.code == TOKEN_EXPIRED.code:
            self._again()
        else:
            self._end(error.code)

    def _take_connected(self, answer: Connected) -> None:
        stream = answer.subs.get(CHANNEL)
        if stream is None:
            self._fleet.figures.faults["no subs.device"] += 1
            self._again()
            return
        fleet, behaviour = self._fleet, self.behaviour
        asked = self.shown.recover_from
        self.shown.connected(
            stream.epoch,
            stream.offset,
            recovered=stream.recovered,
            asked=asked is not None,
            missing=answer.data.missing,
            acked=answer.data.acked,
        )
        fleet.connected(self, recovered=stream.recovered, asked=asked is not None)
        self.state = State.ONLINE
        self._attempts = 0
        self._ping = float(answer.ping)
        self._token_lasts(answer.ttl)
        if self._ping:
            self._wake(self._ping + fleet.pace.ping_grace)
        elif self._wake_at is not None:
            self._wake_at.cancel()
        if behaviour.stay < math.inf:
            self._leave_at = self._set(self._leave_at, _spread(fleet.random, behaviour.stay), self._leave)
        for each in stream.publications:
            self._take_publication(each)

    def _take_publication(self, publication: Publication) -> None:
        content = publication.data
        if self.shown.published(content.id, publication.offset, content.prev):
            self._fleet.shown(self, content)
        elif self.shown.reached is not None:
            self._acknowledge_later()  # It came again: the acknowledgement was lost, or is late.

    def _token_lasts(self, ttl: int) -> None:
        if ttl:
            self._refresh_at = self._set(self._refresh_at, ttl, self._refresh)

    def _acknowledge_later(self) -> None:
        delay = self.behaviour.ack
        if delay == 0:
            self._acknowledge()
        elif delay < math.inf and not (self._ack_at is not None and self._ack_at.active):
            self._ack_at = self._set(self._ack_at, delay, self._acknowledge)

    def _acknowledge(self) -> None:
        if self.state is not State.ONLINE or self.shown.reached is None:
            return
        ack = {"ack": {"offset": self.shown.reached, "epoch": self.shown.epoch}}
        message = self.wire.rpc(self._next_command(), "ack", ack)
        for _ in range(2 if self.behaviour.doubled else 1):
            self._fleet.figures.acks += 1
            self._command(message)


class _Hole(asyncio.Protocol):
    """Swallows what comes on a connection that a network has lost, until the gateway gives it up."""

    def __init__(self, transport: asyncio.Transport, among: set[asyncio.Transport]) -> None:
        self._transport = transport
        self._among = among
        among.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._among.discard(self._transport)


def _read_on(transport: asyncio.Transport) -> None:
    if not transport.is_closing():
        transport.resume_reading()


def _spread(random: Random, mean: float) -> float:
    return random.expovariate(1 / mean) if mean else 0.0
