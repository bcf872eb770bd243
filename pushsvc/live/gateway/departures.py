"""What is left to do for connections that have ended: their routes leave Redis, and other gateways are notified."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from ...errors import StoreError
from ...ports.live import Cut, Live, LiveRoute
from .faults import all_of, report

ENDED: Final = 16_384
"""Ended connections of which a gateway remembers whose they were, should anything still be sent to them."""
AT_ONCE: Final = 100
"""Routes that are taken away, and connections of other gateways that are ended, at a time where that has failed
before."""
LEFT: Final = 8
"""Connections of one device of which a gateway remembers that their routes could not be taken away: while Redis is
away, each connect of a device may add one."""


class Departures:
    """The connections of one gateway that have ended, and those of others that it has replaced."""

    def __init__(self, live: Live, gateway: str) -> None:
        self._live = live
        self._gateway = gateway
        self._ended: OrderedDict[int, tuple[str, str]] = OrderedDict()
        """App and device of the connections that ended last, by number."""
        self._left: dict[str, dict[str, list[int]]] = {}
        """By app and device the connections whose routes could not be taken away: the first ones and the last one. One
        in between is as a rule not recorded; else it is taken away when something is sent to it."""
        self._owed: dict[str, list[Cut]] = {}
        """Connections of other gateways that could not be ended."""

    def note(self, number: int, app: str, device_id: str) -> None:
        """Remember whose an ended connection was."""
        self._ended[number] = app, device_id
        if len(self._ended) > ENDED:
            self._ended.popitem(last=False)

    async def cut(self, gateway: str, cut: Cut) -> None:
        """End a connection of another gateway; where that fails, try again later."""
        try:
            await self._live.poke({gateway: [cut]})
        except StoreError as error:
            report(error)
            self._owed.setdefault(gateway, []).append(cut)

    async def disconnect(self, number: int, app: str, device_id: str) -> None:
        """Take the route of a connection that has ended away; if that fails, later."""
        left = self._left.setdefault(app, {})
        try:
            await self._live.disconnect(app, device_id, LiveRoute(self._gateway, number))
        except StoreError as error:
            report(error)
            numbers = left.setdefault(device_id, [])
            if number not in numbers:
                del numbers[LEFT - 1 :]
                numbers.append(number)
        else:
            if number in (numbers := left.get(device_id, [])):
                numbers.remove(number)
                if not numbers:
                    del left[device_id]

    def outlived(self, number: int) -> tuple[str, str] | None:
        """Return the app and the device of a connection that ended long ago, once: its route is still there. Others
        send there, and wait for an acknowledgement that cannot come. A connect whose answer was lost may have taken
        place after its end."""
        return self._ended.pop(number, None)

    async def settle(self) -> None:
        """End connections of other gateways and take routes away, where that has failed before."""
        await all_of([*map(self._settle_cuts, self._owed), *map(self._settle_routes, self._left)])

    async def _settle_cuts(self, gateway: str) -> None:
        owed = self._owed[gateway]
        while some := owed[:AT_ONCE]:
            await self._live.poke({gateway: some})
            del owed[: len(some)]
        del self._owed[gateway]

    async def _settle_routes(self, app: str) -> None:
        left = self._left[app]
        places = [(device_id, number) for device_id, numbers in left.items() for number in numbers]
        for start in range(0, len(places), AT_ONCE):
            some = places[start : start + AT_ONCE]
            await asyncio.gather(*(self.disconnect(number, app, device_id) for device_id, number in some))
            device_id, number = some[0]
            if number in left.get(device_id, ()):
                break
