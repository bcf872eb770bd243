"""The socket of a simulated phone: one WebSocket, with what its network does to it."""

from __future__ import annotations

import asyncio
import base64
import math
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from ...net.websocket import frames, handshake
from ...net.websocket.frames import MessageReader

if TYPE_CHECKING:
    from .fleet import Fleet
    from .phone import Phone

LARGEST: Final = 1 << 20
"""Bytes of the longest message that a phone reads, as in the official client for Python."""


class PhoneSocket(asyncio.Protocol):
    """One connection of a phone, which gets what comes."""

    __slots__ = ("_fleet", "_head", "_key", "_phone", "_pieces", "_reader", "_received_at", "_transport")

    def __init__(self, fleet: Fleet, phone: Phone) -> None:
        self._fleet = fleet
        self._phone = phone
        self._transport: asyncio.Transport | None = None
        """None before it is connected, and where the network swallows what goes through it."""
        self._reader: MessageReader | None = None
        """None while the WebSocket is not open."""
        self._key = ""
        self._head = b""
        """The beginning of the answer to the handshake."""
        self._pieces = b""
        """What a torn phone has still to write."""
        self._received_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the WebSocket is open, as far as the phone knows."""
        return self._reader is not None

    def abandon(self, *, swallow: bool) -> None:
        """Leave the connection behind: it is closed, unless the network is to `swallow` it without an end."""
        self._detach(swallow=swallow)
        self._reader = None

    def drop_traffic(self) -> None:
        """Have the network swallow everything from now on. Neither side gets a sign of it."""
        self._detach(swallow=True)
        self._fleet.figures.darkened += 1

    def cut(self) -> None:
        """Break the connection, as a network does that resets it."""
        if self._transport is not None:
            self._transport.abort()

    def write(self, opcode: int, payload: bytes) -> None:
        """Send a frame; a torn phone sends it in fragments and in pieces."""
        if self._is_forgotten() or self._transport is None:
            return
        random = self._fleet.random
        key = random.randbytes(4)
        if not self._phone.behaviour.torn:
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

    # --- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the WebSocket."""
        socket = cast("asyncio.Transport", transport)
        if not self._phone.takes(self):
            socket.set_protocol(asyncio.Protocol())
            socket.abort()
            return
        self._transport = socket
        self._received_at = self._fleet.wheel.now()
        self._key = base64.b64encode(self._fleet.random.randbytes(16)).decode()
        socket.write(handshake.request(self._fleet.host, self._fleet.path_of(self._phone.wire), self._key))

    def data_received(self, data: bytes) -> None:
        """Read what the gateway sends."""
        if self._is_forgotten() or self._transport is None:
            return
        phone = self._phone
        if phone.behaviour.read < math.inf and self._reader is not None:
            self._transport.pause_reading()
            self._fleet.wheel.after(len(data) / phone.behaviour.read, partial(_read_on, self._transport))
        if self._reader is None:
            self._head += data
            head, ended, data = self._head.partition(b"\r\n\r\n")
            if not ended:
                return
            self._head = b""
            if not handshake.is_open(head, self._key):
                phone.fault("handshake")
                return
            self._reader = MessageReader(LARGEST, masked=False)
            phone.opened()
        reader = self._reader
        for opcode, payload in reader.feed(data):
            if opcode in (frames.TEXT, frames.BINARY):
                phone.received(payload)
            elif opcode == frames.PING:
                self.write(frames.PONG, payload)
            elif opcode == frames.CLOSE:
                phone.closed(payload)
            elif opcode == frames.VIOLATION:
                phone.fault("frame")
            if self._reader is not reader:
                return

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end, which the gateway or the network has made without a word."""
        self._transport = None
        self._phone.lost()

    def _is_forgotten(self) -> bool:
        """Return whether the network has forgotten the connection, which is found out by the next to use it."""
        now = self._fleet.wheel.now()
        forgotten = now - self._received_at > self._phone.behaviour.nat and self._transport is not None
        if forgotten:
            self.drop_traffic()
        self._received_at = now
        return forgotten

    def _detach(self, *, swallow: bool) -> None:
        transport, self._transport = self._transport, None
        if transport is None:
            return
        transport.set_protocol(_Hole(transport, self._fleet.swallowed) if swallow else asyncio.Protocol())
        _read_on(transport)
        if not swallow:
            transport.close()


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
