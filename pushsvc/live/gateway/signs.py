"""The signs of life of a gateway, by which its routes are valid, and what it does with each of them.

What a gateway did not receive is in the streams. After a gap it compares every connection with its stream, and a share
of them with each sign of life: a message to the gateway may have been lost with the process that was to send it.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ...ports.live import LiveRoute
from ..protocol import codes
from .faults import report
from .members import POLL, Member

if TYPE_CHECKING:
    from .gateway import Gateway

COMPARED: Final = 200
"""Connections that are compared with their streams in one step."""
ROUND: Final = 180.0
"""Seconds within which each connection is compared once, though nothing is known to be missed."""
AGAIN: Final = 0.5
"""Seconds between two attempts while Redis is away."""


class Signs:
    """The signs of life of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.settled = False
        """Whether the gateway has given one, and connections may be made."""
        self._gateway = gateway
        self._unsure: set[str] = set()
        """Apps in which something may have been missed, until their connections are compared."""
        self._round: list[int] = []
        """The connections whose turn to be compared is still to come."""
        self._share = 0
        """How many of them have their turn with one sign of life."""
        self._given_at = -math.inf
        """When the last one was given, in seconds of the wheel."""
        self._now = asyncio.Event()

    def give_now(self) -> None:
        """Give the next one now."""
        self._now.set()

    def compare_all(self) -> None:
        """Compare all connections after the next one: without one, no connection has a route."""
        self._unsure |= self._gateway.config.apps.keys()
        self._now.set()

    async def run(self) -> None:
        """Give signs of life until the gateway ends."""
        gateway = self._gateway
        while not gateway.finishing.is_set():
            try:
                await self.beat()
            except Exception as error:
                report(error)
                await gateway.pause(AGAIN)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(gateway.live.lifetime / 3):
                    await self._now.wait()
            self._now.clear()

    async def beat(self) -> None:
        """Give a sign of life. Then, since Redis is there, do what could not be done before, and compare the
        connections of apps in which something may have been missed, and a share of all others."""
        gateway = self._gateway
        await self._give()
        gateway.metrics.connections(Counter((each.app, each.transport) for each in gateway.connections.values()))
        await gateway.departures.settle(self._give_if_due)
        for app in list(self._unsure):
            self._unsure.discard(app)
            try:
                await self.compare([each for each in gateway.connections.values() if each.app == app])
            except BaseException:
                self._unsure.add(app)
                raise
        await self.compare(self._next())

    async def _give(self) -> None:
        """Give a sign of life, and note the apps in which the last one was over."""
        gateway = self._gateway
        now = gateway.now()
        counts = Counter(connection.app for connection in gateway.connections.values())
        self._unsure |= await gateway.live.beat(gateway.id, {app: counts[app] for app in gateway.config.apps})
        self._given_at = now
        self.settled = True

    async def _give_if_due(self) -> None:
        """Give a sign of life within work that may take longer than one is valid."""
        if self._gateway.now() - self._given_at >= self._gateway.live.lifetime / 3:
            await self._give()

    def _next(self) -> list[Member]:
        """Return the connections whose turn it is to be compared. A poll that waits is soon over without that."""
        connections = self._gateway.connections
        if not self._round:
            self._round = [number for number, each in connections.items() if each.transport != POLL]
            self._share = math.ceil(len(self._round) * self._gateway.live.lifetime / 3 / ROUND)
        turn, self._round = self._round[: self._share], self._round[self._share :]
        return [connections[number] for number in turn if number in connections]

    async def compare(self, connections: Iterable[Member]) -> None:
        """Compare connections with their streams, and bring them up to date."""
        gateway = self._gateway
        by_app: dict[str, list[Member]] = {}
        for each in connections:
            by_app.setdefault(each.app, []).append(each)
        for app, own in by_app.items():
            for start in range(0, len(own), COMPARED):
                await self._give_if_due()
                some = own[start : start + COMPARED]
                # The stream may not have the route yet of one whose connect is under way.
                connected = [bool(each.connected_at) for each in some]
                found = await gateway.live.presence(app, [each.device_id for each in some], gateway=gateway.id)
                for connection, presence, is_connected in zip(some, found, connected, strict=True):
                    with gateway.contained(connection):
                        if presence is not None and presence.route == LiveRoute(gateway.id, connection.number):
                            connection.appended(presence.epoch, presence.top, presence.unread)
                        elif is_connected:
                            connection.end(codes.REVOKED if presence is None else codes.INSUFFICIENT_STATE)
