"""Which routes the dispatchers hold, told to whoever asks: one hash, a field for each dispatcher and route.

A dispatcher that dies cannot take back what it said, and whoever comes after it has not met the trouble yet: the
entries of the dead are taken over first, and a silent provider is noticed only after some time-outs. So what a
dispatcher said is believed for `LASTS` signs of life. It ends earlier when the dispatcher itself says that it is over,
or when it shows no sign of life any more and another one has seen the route work since. What a new process notices by
itself as it starts (`CREDENTIAL`, `REMOVED`), and notes, are believed for one sign of life.

All instants are the server's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from ...ports.provider import CREDENTIAL, REMOVED
from ...ports.queue import NOTE
from .. import keys
from ..config import StoreConfig
from ..link.clock import Clock
from ..link.link import Link

LASTS: Final = 4
"""Times of life (`alive_ttl`) for which a trouble is believed whose dispatcher is gone: one until its entries are taken
over, the others for whoever takes them over to meet the trouble."""


class _Said(Struct, frozen=True):
    """One field."""

    field: bytes
    name: str
    told: int
    """When, in ms."""
    until: int
    """When it is too old to be believed, in ms."""
    why: str


class HeldRoutes:
    """What this process said last, so that it takes back what is over, and nothing else."""

    def __init__(self, link: Link, config: StoreConfig, clock: Clock) -> None:
        self._link = link
        self._config = config
        self._clock = clock
        self._told: set[str] = set()

    async def tell(self, held: Mapping[str, str], worked: Mapping[str, float]) -> None:
        """These are held now, `app/platform` and why, and no others by us; `worked` says how many seconds ago which
        routes were seen to work."""
        now, life = self._clock(), int(self._config.alive_ttl * 1000)
        fields: list[str] = []
        for name, why in held.items():
            until = now + life * (1 if name.startswith(NOTE) or why.startswith((CREDENTIAL, REMOVED)) else LASTS)
            fields += (self._field(name), f"{now} {until} {why}")
        over: list[str | bytes] = [self._field(name) for name in sorted(self._told - set(held))]
        for said in _read(await self._link.call("HGETALL", keys.HELD)):
            silent = said.told + life < now
            if said.until < now or (silent and (now - said.told) / 1000 > worked.get(said.name, float("inf"))):
                over.append(said.field)
        commands: list[tuple[Any, ...]] = []
        if over:
            commands.append(("HDEL", keys.HELD, *over))
        if fields:
            commands.append(("HSET", keys.HELD, *fields))
        await self._link.many(commands)
        self._told = set(held)

    async def leave(self) -> None:
        """This process ends: its notes go, a trouble outlives it."""
        notes = [self._field(name) for name in sorted(self._told) if name.startswith(NOTE)]
        if notes:
            await self._link.call("HDEL", keys.HELD, *notes)
        self._told = set()

    def _field(self, name: str) -> str:
        return f"{self._config.consumer} {name}"


async def read_held(link: Link, clock: Clock) -> dict[str, str]:
    """The routes that are held, `app/platform` and why."""
    return still_held(await link.call("HGETALL", keys.HELD), clock())


def still_held(fields: Mapping[bytes, bytes], now: int) -> dict[str, str]:
    """Those that are to be believed at `now`, in ms; of a route the word that was said last."""
    said = sorted((each for each in _read(fields) if each.until >= now), key=lambda each: (each.name, each.told))
    return {each.name: each.why for each in said}


def _read(fields: Mapping[bytes, bytes]) -> Iterator[_Said]:
    for field, value in fields.items():
        _, _, name = field.decode(errors="replace").partition(" ")
        told, until, why, *_ = (*value.decode(errors="replace").split(" ", 2), "", "")
        if name and told.isdecimal() and until.isdecimal():
            yield _Said(field, name, int(told), int(until), why)
