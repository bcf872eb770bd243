"""The routes that dispatchers hold: one hash with a field for each dispatcher and route.

A dispatcher that dies cannot withdraw what it reported, and the process that takes over its entries has not met the
trouble yet: the entries of the dead are taken over first, and a silent provider is noticed only after some time-outs.
So a report is valid for `LASTS` signs of life. It ends earlier when the dispatcher itself reports the end, or when the
dispatcher shows no sign of life any more and another one has seen the route work since. What a new process notices by
itself as it starts (`CREDENTIAL`, `REMOVED`), and notes, are valid for one sign of life.

All times are the server's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from ...ports.figures import Held
from ...ports.provider import CREDENTIAL, REMOVED
from ...ports.queue import NOTE
from .. import keys
from ..link.clock import Clock
from ..link.link import Link
from ..part import StoreContext, StorePart

LASTS: Final = 4
"""The lifetime of a report whose dispatcher is gone, in times of `alive_ttl`.

One passes until its entries are taken over, the others until the process that takes them over meets the trouble.
"""


class _Report(Struct, frozen=True):
    """The content of one field: what a dispatcher reports of a route."""

    field: bytes
    name: str
    at: int
    """When it was reported, in ms."""
    until: int
    """Until when it is valid, in ms."""
    since: int
    """Since when its dispatcher has reported it, in ms."""
    why: str


class HeldRoutes(StorePart):
    """The latest reports of this process, so that it withdraws its own only."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._reported: dict[str, int] = {}

    async def report(self, held: Mapping[str, str], worked: Mapping[str, float]) -> None:
        """Report the routes that this process holds now, `app/platform` with the reason, and withdraw its other
        reports.

        `worked` says how many seconds ago routes were seen to work.
        """
        now, life = self._clock(), int(self._config.alive_ttl * 1000)
        fields: list[str] = []
        for name, why in held.items():
            until = now + life * (1 if name.startswith(NOTE) or why.startswith((CREDENTIAL, REMOVED)) else LASTS)
            fields += (self._field(name), f"{now} {until} {self._reported.setdefault(name, now)} {why}")
        over: list[str | bytes] = [self._field(name) for name in sorted(self._reported.keys() - held.keys())]
        for report in _read(await self._link.call("HGETALL", keys.HELD)):
            silent = report.at + life < now
            if report.until < now or (silent and (now - report.at) / 1000 > worked.get(report.name, float("inf"))):
                over.append(report.field)
        commands: list[tuple[Any, ...]] = []
        if over:
            commands.append(("HDEL", keys.HELD, *over))
        if fields:
            commands.append(("HSET", keys.HELD, *fields))
        await self._link.many(commands)
        self._reported = {name: since for name, since in self._reported.items() if name in held}

    async def leave(self) -> None:
        """Withdraw the notes of this process, which ends. Its reports of trouble remain valid."""
        notes = [self._field(name) for name in sorted(self._reported) if name.startswith(NOTE)]
        if notes:
            await self._link.call("HDEL", keys.HELD, *notes)
        self._reported = {}

    def _field(self, name: str) -> str:
        return f"{self._config.consumer} {name}"


async def read_held(link: Link, clock: Clock) -> dict[str, Held]:
    """Return the reports of dispatchers by `app/platform`, notes with the prefix `NOTE`."""
    return still_held(await link.call("HGETALL", keys.HELD), clock())


def still_held(fields: Mapping[bytes, bytes], now: int) -> dict[str, Held]:
    """Return the reports that are valid at `now` (ms): the latest one of each route, since the first of them. A note
    stands beside the report that its route is held."""
    found: dict[str, Held] = {}
    for each in sorted((each for each in _read(fields) if each.until >= now), key=lambda each: (each.name, each.at)):
        before = found.get(each.name)
        since = min(each.since, before.since if before else each.since)
        found[each.name] = Held(each.why, since, note=each.name.startswith(NOTE))
    return found


def _read(fields: Mapping[bytes, bytes]) -> Iterator[_Report]:
    for field, value in fields.items():
        _, _, name = field.decode(errors="replace").partition(" ")
        at, until, why, *_ = (*value.decode(errors="replace").split(" ", 2), "", "")
        if name and at.isdecimal() and until.isdecimal():
            since, _, rest = why.partition(" ")
            known = since.isdecimal()  # an older version does not write it
            yield _Report(field, name, int(at), int(until), int(since) if known else int(at), rest if known else why)
