"""One simulated phone, which reconnects, recovers, acknowledges and refreshes as an official client does."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from random import Random
from typing import TYPE_CHECKING

from ...live.protocol.codec import CHANNEL
from ...live.protocol.codes import TOKEN_EXPIRED, Disconnect
from ...live.wheel import Deadline
from ...net.protobuf import MalformedMessage
from ...net.websocket import frames
from .behaviour import Behaviour
from .shown import Shown
from .socket import PhoneSocket
from .wire import Connected, Ended, Publication, Reply, Wire

if TYPE_CHECKING:
    from .fleet import Fleet


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
    """The gateway has ended its connection with a code that forbids another one."""


class Phone:
    """A phone of a fleet, for all its connections: one after the other."""

    __slots__ = (
        "_ack_at",
        "_acked",
        "_attempts",
        "_commands",
        "_fleet",
        "_leave_at",
        "_ping",
        "_refresh_at",
        "_socket",
        "_wake_at",
        "behaviour",
        "code",
        "device",
        "shown",
        "source",
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
        self.source = 0
        """The number of its network: its address differs in each."""
        self._fleet = fleet
        self._socket: PhoneSocket | None = None
        self._commands = 0
        self._attempts = 0
        self._acked: int | None = None
        """What the last answer to a connect reports as acknowledged: there is no need to acknowledge that."""
        self._ping = 0.0
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
        if not vanish and self._socket is not None and self._socket.is_open:
            self._socket.write(frames.CLOSE, frames.close_payload(frames.NORMAL))
        self._abandon(swallow=vanish)
        self.state = State.AWAY

    def drop_traffic(self) -> None:
        """Have the network swallow everything from now on. Neither side gets a sign of it."""
        if self._socket is not None:
            self._socket.drop_traffic()

    def cut(self) -> None:
        """Break the connection, as a network does that resets it: the phone comes back by itself."""
        if self._socket is not None:
            self._socket.cut()

    def refused(self, *, for_good: bool) -> None:
        """Handle that no token or no socket could be obtained."""
        if self.state is State.WAITING:
            self._end(0) if for_good else self._reconnect_later()

    def has_token(self) -> None:
        """Use the new token on the open connection."""
        if self.state is State.ONLINE:
            self._command(self.wire.refresh(self._next_command(), self.token))

    def _dial(self) -> None:
        self.state = State.WAITING
        self._fleet.dial(self)

    def _reconnect_later(self) -> None:
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
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.abandon(swallow=swallow)
        for each in (self._wake_at, self._ack_at, self._leave_at, self._refresh_at):
            if each is not None:
                each.cancel()

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
            self._reconnect_later()

    def _leave(self) -> None:
        """Go to another network, and connect from there after a while, unless the phone is to stay now."""
        behaviour = self.behaviour
        if behaviour.stay == math.inf:
            return
        self.leave(vanish=behaviour.vanish)
        self.state = State.WAITING
        self.source += 1
        self._attempts = 0
        self._fleet.figures.moves += 1
        self._wake(_spread(self._fleet.random, behaviour.away))

    def _refresh(self) -> None:
        self._fleet.renew(self)

    # --- The socket ------------------------------------------------------------------------------------------------

    def takes(self, socket: PhoneSocket) -> bool:
        """Take a socket that is connected; return False if the phone went away meanwhile."""
        if self.state is not State.WAITING or self._socket is not None:
            return False
        self._socket = socket
        self.state = State.OPENING
        self._wake(self._fleet.pace.answer_within)
        return True

    def opened(self) -> None:
        """Connect on the WebSocket, which is open."""
        self.state = State.CONNECTING
        self._commands = 0
        data: dict[str, object] = {}
        if self.behaviour.heartbeat is not None:
            data["heartbeat"] = self.behaviour.heartbeat
        if self.behaviour.foreground is not None:
            data["foreground"] = self.behaviour.foreground
        self._command(self.wire.connect(self._next_command(), self.token, data, self.shown.recover_from))

    def received(self, message: bytes) -> None:
        """Take one message of the gateway."""
        before, socket = self.shown.reached, self._socket
        try:
            for reply in self.wire.replies(message):
                self._take_reply(reply)
                if self._socket is not socket:
                    return
        except MalformedMessage:
            self.fault("message")
            return
        if self.shown.reached not in (None, before, self._acked):
            self._acknowledge_later()

    def closed(self, payload: bytes) -> None:
        """Answer a close frame, and do what its code asks for."""
        code = frames.close_code(payload)
        self._write(frames.CLOSE, payload[:2])
        self._disconnected(Disconnect(code, ""))

    def lost(self) -> None:
        """Come back: the gateway or the network has ended the connection without a word."""
        if self.state in (State.OPENING, State.CONNECTING, State.ONLINE):
            self._fleet.ended(frames.ABNORMAL)
            self._reconnect_later()

    def fault(self, kind: str) -> None:
        """Count what the gateway sent against the protocol, and connect again."""
        self._fleet.figures.faults[kind] += 1
        self._reconnect_later()

    def _write(self, opcode: int, payload: bytes) -> None:
        if self._socket is not None:
            self._socket.write(opcode, payload)

    # --- The protocol ----------------------------------------------------------------------------------------------

    def _next_command(self) -> int:
        self._commands += 1
        return self._commands

    def _command(self, message: bytes) -> None:
        self._write(self.wire.opcode, message)

    def _disconnected(self, why: Disconnect) -> None:
        # As in the official clients: a message that is too large would be repeated endlessly otherwise.
        if why.reconnect and why.code != frames.TOO_BIG:
            self._fleet.ended(why.code)
            self.code = why.code
            self._reconnect_later()
        else:
            self._end(why.code)

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
            self._reconnect_later()
        else:
            self._end(error.code)

    def _take_connected(self, answer: Connected) -> None:
        stream = answer.subs.get(CHANNEL)
        if stream is None:
            self.fault("no subs.device")
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
        self._acked = answer.data.acked
        fleet.connected(recovered=stream.recovered, asked=asked is not None)
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
            self._fleet.shown(content)
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


def _spread(random: Random, mean: float) -> float:
    return random.expovariate(1 / mean) if mean else 0.0
