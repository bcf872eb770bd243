"""The signs of life of a gateway, by which its routes are valid, and what it does with each of them.

What a gateway did not receive is in the streams. After a gap it compares every connection with its stream, and a share
of them with each sign of life: a message to the gateway may have been lost with the process that was to send it.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ...background import in_background
from ...errors import StoreUnavailable
from ...ports.live import LiveRoute
from ..protocol import codes
from .faults import all_of, report
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
        self._given_at: dict[str, float] = {}
        """When the last one of each app was given, in seconds of the wheel."""
        self._now = asyncio.Event()
        self._given = asyncio.Event()

    def give_now(self) -> None:
        """Give the next one now."""
        self._now.set()

    def compare_all(self) -> None:
        """Compare all connections after the next one: without one, no connection has a route."""
        self._unsure |= self._gateway.config.apps.keys()
        self._now.set()

    def compare_app(self, app: str) -> None:
        """Compare the connections of an app after the next one."""
        self._unsure.add(app)

    def is_valid(self, app: str) -> bool:
        """Return whether the last one of the app is still valid."""
        return self._gateway.now() - self._given_at.get(app, -math.inf) < self._gateway.live.lifetime

    async def run(self) -> None:
        """Give signs of life until the gateway ends. What follows each of them may take longer than one is valid."""
        gateway = self._gateway
        async with in_background(self._follow(), "comparing"):
            while not gateway.finishing.is_set():
                try:
                    await self.give()
                except Exception as error:
                    report(error)
                    await gateway.pause(AGAIN)
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(gateway.live.lifetime / 3):
                        await self._now.wait()
                self._now.clear()

    async def _follow(self) -> None:
        while True:
            await self._given.wait()
            self._given.clear()
            try:
                await self.catch_up()
            except Exception as error:
                report(error)

    async def give(self) -> None:
        """Give a sign of life for each app: where Redis is away for one, the others have theirs all the same."""
        gateway = self._gateway
        counts = Counter(connection.app for connection in gateway.connections.values())
        try:
            await all_of(self._give_for(app, counts[app]) for app in gateway.config.apps)
            self.settled = True
        finally:
            if any(map(self.is_valid, gateway.config.apps)):
                self._given.set()

    async def _give_for(self, app: str, count: int) -> None:
        """Give a sign of life, and note whether something may have been missed since the last one."""
        live, now = self._gateway.live, self._gateway.now()
        try:
            async with asyncio.timeout(live.lifetime / 3):
                lapsed = await live.beat(self._gateway.id, {app: count})
        except TimeoutError as error:
            self._unsure.add(app)
            raise StoreUnavailable("Redis does not answer to a sign of life.") from error
        except Exception:
            self._unsure.add(app)  # What it would have returned is lost with the answer.
            raise
        self._unsure |= lapsed if self.is_valid(app) else {app}
        self._given_at[app] = now
        self.settled = True

    async def catch_up(self) -> None:
        """Do what could not be done before, where Redis is there: end connections that were to end, and compare those
        of apps in which something may have been missed, and a share of all others."""
        gateway = self._gateway
        gateway.metrics.connections(Counter((each.app, each.transport) for each in gateway.connections.values()))
        valid = {app for app in gateway.config.apps if self.is_valid(app)}
        unsure = self._unsure & valid
        turn = [each for each in self._next() if each.app in valid - unsure]
        await all_of([gateway.departures.settle(), *map(self._make_sure, unsure), self.compare(turn)])

    async def _make_sure(self, app: str) -> None:
        """Compare all connections of an app; where that fails, again after the next sign of life."""
        self._unsure.discard(app)
        try:
            await self.compare([each for each in self._gateway.connections.values() if each.app == app])
        except BaseException:
            self._unsure.add(app)
            raise

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
        by_app: dict[str, list[Member]] = {}
        for each in connections:
            by_app.setdefault(each.app, []).append(each)
        await all_of(self._compare(app, own) for app, own in by_app.items())

    async def _compare(self, app: str, own: Sequence[Member]) -> None:
        gateway = self._gateway
        for start in range(0, len(own), COMPARED):
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
