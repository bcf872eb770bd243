"""Many phones on one event loop: their sockets, tokens and figures."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Final, Protocol
from urllib.parse import urlsplit
from zlib import crc32

from msgspec import Struct

from ...errors import ConfigError, PushsvcError
from ...live.wheel import Wheel, running_wheel
from ...net.tls import client_context
from .behaviour import ORDINARY, Behaviour
from .phone import Phone, State
from .socket import PhoneSocket
from .wire import JSON, PROTOBUF, Content, Wire

PATH: Final = "/connection/websocket"
_DIALS: Final = 64
"""Connections that are being opened at a time."""
_DELAYS: Final = 20_000
"""Delays that are kept, a sample of all."""
_NO_PORT: Final = 24
"""IP_BIND_ADDRESS_NO_PORT of Linux: the port is chosen at the connect, where only the pair must be new."""


class TokenRefused(PushsvcError):
    """No token can be obtained for a device."""


class TokenSource(Protocol):
    """Where phones get their connect tokens."""

    async def token(self, device: str) -> str:
        """Return a token. Raises `TokenRefused` if there is none for this device, and `OSError` if it may come."""


class Pace(Struct, frozen=True, kw_only=True):
    """The spans of the official clients, in seconds."""

    first: float = 0.5
    most: float = 20.0
    answer_within: float = 5.0
    ping_grace: float = 10.0

    def back_off(self, attempt: int, random: Random) -> float:
        """Return the pause before an attempt, 1 for the first: exponential, with full jitter."""
        return min(self.most, self.first + random.uniform(0, min(self.most, self.first * 2 ** min(attempt - 1, 31))))


class Figures:
    """What has happened to all phones of a fleet."""

    def __init__(self) -> None:
        self.connects = 0
        self.recovered = 0
        """Connects from a position that was recovered."""
        self.lost = 0
        """Connects from a position that was not recovered."""
        self.shown = 0
        self.acks = 0
        self.pings = 0
        self.moves = 0
        """Times that a phone went to another network."""
        self.darkened = 0
        """Times that a network swallowed a connection."""
        self.ended: Counter[int] = Counter()
        """Ends of connections by code: 1006 without a close frame, 0 where no token could be obtained."""
        self.errors: Counter[int] = Counter()
        """Replies with an error, by code."""
        self.unanswered: Counter[str] = Counter()
        """Waits that ended without an answer, or a ping, by the state of the phone."""
        self.faults: Counter[str] = Counter()
        """What the gateway sent against the protocol."""
        self.delays: list[float] = []
        """A sample of the seconds from the time a push was to be sent until it was shown."""


class FleetConfig(Struct, frozen=True, kw_only=True):
    url: str
    """The URL of the gateway: `ws://HOST:PORT`, with or without the path."""
    seed: str = "1"
    pace: Pace = Pace()


class Fleet:
    """Phones, and what they share. Made by `open_fleet`."""

    def __init__(self, config: FleetConfig, tokens: TokenSource, wheel: Wheel) -> None:
        url = urlsplit(config.url)
        if url.scheme not in ("ws", "wss") or not url.hostname:
            raise ConfigError("gateway", f"{config.url!r} is not the URL of a WebSocket", "write it as ws://HOST:PORT")
        self.host = url.netloc
        self.pace = config.pace
        self.wheel = wheel
        self.random = Random(config.seed)  # noqa: S311  # a simulation that can be repeated
        self.figures = Figures()
        self.phones: dict[str, Phone] = {}
        self.online = 0
        self._path = url.path if len(url.path) > 1 else PATH
        self._tls = client_context() if url.scheme == "wss" else None
        self._address = (url.hostname, url.port or (443 if self._tls else 80))
        self._tokens = tokens
        self.swallowed: set[asyncio.Transport] = set()
        """Connections that phones have lost without an end."""
        self._work: asyncio.Queue[tuple[Callable[[Phone], Awaitable[None]], Phone]] = asyncio.Queue()

    def add(self, device: str, behaviour: Behaviour = ORDINARY, wire: Wire | None = None) -> Phone:
        """Return a new phone, which is away until it is started. Without a `wire` it speaks either."""
        phone = Phone(self, device, behaviour, wire or self.random.choice((JSON, PROTOBUF)))
        self.phones[device] = phone
        return phone

    def start(self) -> None:
        for phone in self.phones.values():
            phone.start()

    # --- For its phones --------------------------------------------------------------------------------------------

    def path_of(self, wire: Wire) -> str:
        """Return what a phone asks for."""
        return self._path + ("?format=protobuf" if wire is PROTOBUF else "")

    def dial(self, phone: Phone) -> None:
        """Get a token, if the phone has none, and a socket."""
        self._work.put_nowait((self._dial, phone))

    def renew(self, phone: Phone) -> None:
        """Get another token for a phone that is connected."""
        self._work.put_nowait((self._renew, phone))

    def connected(self, *, recovered: bool, asked: bool) -> None:
        self.online += 1
        self.figures.connects += 1
        if asked:
            self.figures.recovered += recovered
            self.figures.lost += not recovered

    def ended(self, code: int) -> None:
        """Count an end of a connection."""
        self.figures.ended[code] += 1

    def shown(self, content: Content) -> None:
        """Count a push that is shown."""
        figures = self.figures
        figures.shown += 1
        if content.at is not None:
            delay = time.time() - content.at.timestamp()
            if len(figures.delays) < _DELAYS:
                figures.delays.append(delay)
            elif (place := self.random.randrange(figures.shown)) < _DELAYS:
                figures.delays[place] = delay

    # --- Work ------------------------------------------------------------------------------------------------------

    async def run_work(self) -> None:
        """Do what phones wait for, one after the other, until cancelled."""
        while True:
            work, phone = await self._work.get()
            await work(phone)

    async def _dial(self, phone: Phone) -> None:
        if phone.state is not State.WAITING:
            return
        try:
            async with asyncio.timeout(self.pace.answer_within):
                if not phone.token:
                    phone.token = await self._tokens.token(phone.device)
                await self._connect(phone)
        except TokenRefused:
            phone.refused(for_good=True)
        except (OSError, TimeoutError):
            self.figures.unanswered["dial"] += 1
            phone.refused(for_good=False)

    async def _connect(self, phone: Phone) -> None:
        loop = asyncio.get_running_loop()
        host, port = self._address
        if not host.startswith("127."):
            await loop.create_connection(lambda: PhoneSocket(self, phone), host, port, ssl=self._tls)
            return
        # Each network has addresses of its own, so that neither one address nor its ports are all that there are.
        own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            own.setblocking(False)
            if sys.platform == "linux":
                own.setsockopt(socket.IPPROTO_IP, _NO_PORT, 1)
                own.bind((f"127.{1 + phone.source % 250}.0.{1 + crc32(phone.device.encode()) % 250}", 0))
            await loop.sock_connect(own, (host, port))
        except BaseException:
            own.close()
            raise
        name = host if self._tls is not None else None
        await loop.create_connection(lambda: PhoneSocket(self, phone), sock=own, ssl=self._tls, server_hostname=name)

    async def _renew(self, phone: Phone) -> None:
        try:
            phone.token = await self._tokens.token(phone.device)
        except (TokenRefused, OSError):
            phone.token = ""  # The gateway ends the connection in time, and the phone asks again then.
        else:
            phone.has_token()

    def end(self) -> None:
        """Have all phones go away, and give up the connections that networks have swallowed."""
        for phone in self.phones.values():
            phone.leave()
        for each in list(self.swallowed):
            each.abort()


@asynccontextmanager
async def open_fleet(config: FleetConfig, tokens: TokenSource) -> AsyncIterator[Fleet]:
    """Open a fleet without phones. At its end they go away."""
    with running_wheel() as wheel:
        fleet = Fleet(config, tokens, wheel)
        tasks = [asyncio.create_task(fleet.run_work()) for _ in range(_DIALS)]
        try:
            yield fleet
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            fleet.end()
            await asyncio.sleep(0.01)  # for what was written at the end
