"""What all connections of a server share."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ... import telemetry
from ...errors import Forbidden
from ...model.live import Network, client_address, is_in
from ..peer import FaultKind, MakePeer, Request
from ..wheel import Wheel
from .config import SocketsConfig
from .http import HttpRoute, Router
from .origins import origin_rule
from .strangers import Strangers

if TYPE_CHECKING:
    from .connection import HttpConnection
    from .transports import LongConnection, StreamTransport


class OriginRefused(Forbidden):
    """The request comes from a web page that may not use the gateway."""

    type, title = "origin-not-allowed", "Pages of this origin may not use the gateway"


class AddressDenied(Forbidden):
    """The request comes from a network that may not use the gateway."""

    type, title = "address-denied", "This network may not use the gateway"


class Shared:
    """The open connections of a server, and what decides about new ones."""

    def __init__(self, config: SocketsConfig, wheel: Wheel, make_peer: MakePeer, routes: Sequence[HttpRoute]) -> None:
        self.config = config
        self.wheel = wheel
        self.make_peer = make_peer
        self.router = Router(routes)
        self.open: set[HttpConnection | LongConnection] = set()
        self.sessions: dict[str, StreamTransport] = {}
        self.strangers = Strangers(config.strangers, config.local_strangers)
        self.bodies = 0
        """Bytes of the bodies that are being read."""
        self.draining = False
        self._emptied = asyncio.Event()
        self._most = config.max_connections + config.max_connections // 8
        self._may = origin_rule(config.allowed_origins)
        self.denied: Sequence[Network] = config.deny_networks

    def opened(self, connection: HttpConnection | LongConnection) -> None:
        self.open.add(connection)

    def closed(self, connection: HttpConnection | LongConnection) -> None:
        self.open.discard(connection)
        if not self.open:
            self._emptied.set()

    async def emptied(self) -> None:
        """Wait until no connection is open."""
        while self.open:
            self._emptied.clear()
            await self._emptied.wait()

    @property
    def is_full(self) -> bool:
        """Whether there are more connections than there should be."""
        return len(self.open) > self.config.max_connections

    def is_proxy(self, peer: str) -> bool:
        """Return whether the other end is a proxy, which has the connections of many clients."""
        return bool(self.config.proxies) and is_in(peer, self.config.proxies)

    def is_refused(self, peer: str) -> bool:
        """Return whether a new connection is closed unread: there is no room, or its network is denied."""
        return len(self.open) > self._most or self._is_denied(peer)

    def address_of(self, peer: str, headers: Mapping[str, str]) -> str:
        """Return the address from which a request comes, which a proxy may have forwarded. Raises `AddressDenied`."""
        forwarded = headers.get("x-forwarded-for", "") if self.config.proxies else ""
        address = client_address(peer, forwarded, self.config.proxies) if forwarded else peer
        if address != peer and self._is_denied(address):
            raise AddressDenied("Connections from this address are not accepted.")
        return address

    def _is_denied(self, address: str) -> bool:
        return bool(self.denied) and is_in(address, self.denied)

    def origin_headers(self, request: Request) -> dict[str, str]:
        """Return the headers by which a web page may read the answer. Raises `OriginRefused`."""
        origin = request.headers.get("origin", "")
        if not self._may(origin, request.headers.get("host", "")):
            raise OriginRefused("Name the origin of this page in live.allowed_origins to let it in.")
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"} if origin else {}

    def fault(self, kind: FaultKind) -> None:
        """Count a fault of a client."""
        telemetry.LIVE_FAULTS.labels(kind).inc()

    def deliver(self, session: str, data: bytes) -> bool:
        """Hand a message of `POST /emulation` to its session; return False if the session is not of this process."""
        stream = self.sessions.get(session)
        if stream is None or stream.code:
            return False
        stream.receive(data)
        return True
