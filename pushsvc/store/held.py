"""Which routes the dispatchers hold, told to whoever asks: one hash, a field a route, good until an instant.

A dispatcher that dies cannot take back what it said, so each field says how long it is to be believed. The instant is
the wall clock's: machines whose clocks differ by more than the takeover time see a held route late or too long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import keys
from .clock import Clock
from .config import StoreConfig
from .link import Link


class HeldRoutes:
    """What this process said last, so that a route that is open again costs one command and no more."""

    def __init__(self, link: Link, config: StoreConfig, clock: Clock) -> None:
        self._link = link
        self._config = config
        self._clock = clock
        self._told: set[str] = set()

    async def tell(self, held: Mapping[str, str]) -> None:
        """These are held now, `app/platform` and why, and no others by us."""
        commands: list[tuple[Any, ...]] = []
        until = self._clock() + int(self._config.alive_ttl * 1000)
        if held:
            fields = [part for route, why in held.items() for part in (route, f"{until} {why}")]
            commands.append(("HSET", keys.HELD, *fields))
        if over := self._told - set(held):
            commands.append(("HDEL", keys.HELD, *sorted(over)))
        await self._link.many(commands)
        self._told = set(held)


async def read_held(link: Link, clock: Clock) -> dict[str, str]:
    """The routes that a living dispatcher holds, `app/platform` and why."""
    return still_held(await link.call("HGETALL", keys.HELD), clock())


def still_held(fields: Mapping[bytes, bytes], now: int) -> dict[str, str]:
    """Those that are to be believed at `now`, in ms."""
    found = {}
    for route, told in sorted(fields.items()):
        until, _, why = told.decode(errors="replace").partition(" ")
        if until.isdecimal() and int(until) >= now:
            found[route.decode(errors="replace")] = why
    return found
