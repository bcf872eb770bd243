"""The running processes and what they serve: one hash with a field for each process, valid until a time.

Beside it is a set of the routes that any of them has ever had in its configuration, which only grows. A process that
is killed, or hangs, cannot withdraw its field, so each field says how long it is valid. The time is the server's own,
so that the clocks of the machines do not matter.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from ...model.push import Route
from ...ports.work import FRESH, Configured, Worker
from .. import keys
from ..part import StorePart

LASTS: Final = 5.0
"""The most seconds for which a report is valid: what nothing serves must show within ten."""
KEPT: Final = 10
"""The number of such times for which a process that has fallen silent is remembered."""


def machine_of(boot: Path = Path("/proc/sys/kernel/random/boot_id")) -> str:
    """Return a name for the processes whose ids this one can look up: those of the same boot of a host, and container.

    Empty where that cannot be known. The first namespace has the same number on every host, and names of hosts repeat.
    """
    try:
        return f"{socket.gethostname()} {boot.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except (OSError, ValueError):
        return ""


_MACHINE: Final = machine_of()


class _More(Struct, frozen=True):
    """The parts of a report that older versions ignore: they read only its expiry and what the process serves."""

    at: int
    machine: str
    pid: int
    configured: Configured


class _Report(Struct, frozen=True):
    """A field of the hash."""

    field: str
    until: int
    serves: frozenset[str]
    more: _More

    @property
    def ended(self) -> bool:
        """Whether the process is on this machine and no longer exists."""
        if not _MACHINE or self.more.machine != _MACHINE:
            return False
        try:
            os.kill(self.more.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def worker(self, now: int) -> Worker:
        part, _, consumer = self.field.partition(" ")
        configured = self.more.configured
        return Worker(
            *(part, consumer, self.serves, self.more.at or self.until, self.until >= now),
            refused_since=configured.refused_since,
            restart=configured.restart,
            refusal=configured.refusal,
        )


class RedisWorkers(StorePart):
    """`Workers` over two keys."""

    @property
    def lifetime(self) -> float:
        """Return `LASTS`, or the time of a takeover where that is shorter."""
        return min(LASTS, self._config.alive_ttl)

    async def report(
        self, part: str, serves: Iterable[str], routes: Iterable[Route] = (), configured: Configured = FRESH
    ) -> None:
        """Report that this process is alive and what it serves, with the `routes` of its configuration.

        Removes processes that have been silent for `KEPT`, and those of this machine that do not exist any more.
        """
        now, reports = await self._read()
        span = int(self.lifetime * 1000)
        own = f"{part} {self._config.consumer}"
        more = msgspec.json.encode(_More(now, _MACHINE, os.getpid(), configured)).decode()
        report = " ".join([str(now + span), *sorted(serves)]) + f"\n{more}"
        commands: list[tuple[Any, ...]] = [("HSET", keys.WORKERS, own, report)]
        kept = span * KEPT
        if gone := [each.field for each in reports if each.field != own and (each.until + kept < now or each.ended)]:
            commands.append(("HDEL", keys.WORKERS, *gone))
        if names := sorted(route.name for route in routes):
            commands.append(("SADD", keys.ROUTES, *names))
        await self._link.many(commands)

    async def leave(self, part: str) -> None:
        await self._link.call("HDEL", keys.WORKERS, f"{part} {self._config.consumer}")

    async def routes(self) -> set[Route]:
        return routes_named(await self._link.call("SMEMBERS", keys.ROUTES))

    async def known(self) -> list[Worker]:
        now, reports = await self._read()
        return [each.worker(now) for each in sorted(reports, key=lambda each: each.field) if not each.ended]

    async def living(self) -> list[Worker]:
        return [worker for worker in await self.known() if worker.lives]

    async def _read(self) -> tuple[int, list[_Report]]:
        (seconds, micros), flat = await self._link.many([("TIME",), ("HGETALL", keys.WORKERS)])
        now = int(seconds) * 1000 + int(micros) // 1000
        return now, [_read_report(field.decode(errors="replace"), value) for field, value in flat.items()]


def _read_report(field: str, value: bytes) -> _Report:
    head, _, tail = value.decode(errors="replace").partition("\n")
    until, *serves = head.split(" ")
    try:
        more = msgspec.json.decode(tail, type=_More)
    except msgspec.MsgspecError:
        more = _More(0, "", 0, FRESH)
    return _Report(field, int(until) if until.isdecimal() else 0, frozenset(serves), more)


def routes_named(names: Iterable[bytes]) -> set[Route]:
    """Return the routes that `keys.ROUTES` has."""
    found = [name.decode(errors="replace").partition("/") for name in names]
    return {Route(app, platform) for app, _, platform in found if app and platform}
