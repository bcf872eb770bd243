"""The running processes and what they serve: one hash with a field for each process, valid until a time.

Beside it is a set of the routes that any of them has ever had in its configuration, which only grows. A process that
is killed, or hangs, cannot withdraw its field, so each field says how long it is valid. The time is the server's own,
so that the clocks of the machines do not matter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from ...model.push import Route
from ...ports.workers import Worker
from .. import keys
from ..config import StoreConfig
from ..link.link import Link


class RedisWorkers:
    """`Workers` over two keys."""

    def __init__(self, link: Link, config: StoreConfig) -> None:
        self._link = link
        self._config = config

    @property
    def lifetime(self) -> float:
        """See `StoreConfig.alive_ttl`."""
        return self._config.alive_ttl

    async def report(self, part: str, serves: Iterable[str], routes: Iterable[Route] = ()) -> None:
        """Report that this process is alive and what it serves, with the `routes` of its configuration.

        The report is valid as long as a sign of life. Removes processes that have long been silent.
        """
        now, told = await self._read()
        span = int(self._config.alive_ttl * 1000)
        field = f"{part} {self._config.consumer}"
        commands: list[tuple[Any, ...]] = [("HSET", keys.WORKERS, field, " ".join([str(now + span), *sorted(serves)]))]
        if silent := [name for name, (until, _) in told.items() if until + 10 * span < now and name != field]:
            commands.append(("HDEL", keys.WORKERS, *silent))
        if names := sorted(route.name for route in routes):
            commands.append(("SADD", keys.ROUTES, *names))
        await self._link.many(commands)

    async def leave(self, part: str) -> None:
        """Remove the report of this process, which ends."""
        await self._link.call("HDEL", keys.WORKERS, f"{part} {self._config.consumer}")

    async def routes(self) -> set[Route]:
        """Return every route that a process has reported."""
        return routes_named(await self._link.call("SMEMBERS", keys.ROUTES))

    async def living(self) -> list[Worker]:
        """Return the processes whose report is valid."""
        now, told = await self._read()
        return [
            Worker(part, consumer, frozenset(serves), until - int(self._config.alive_ttl * 1000))
            for name, (until, serves) in sorted(told.items())
            for part, _, consumer in [name.partition(" ")]
            if until >= now
        ]

    async def _read(self) -> tuple[int, dict[str, tuple[int, Collection[str]]]]:
        (seconds, micros), flat = await self._link.many([("TIME",), ("HGETALL", keys.WORKERS)])
        told: dict[str, tuple[int, Collection[str]]] = {}
        for field, value in flat.items():
            until, *serves = value.decode(errors="replace").split(" ")
            told[field.decode(errors="replace")] = (int(until) if until.isdecimal() else 0, serves)
        return int(seconds) * 1000 + int(micros) // 1000, told


def routes_named(names: Iterable[bytes]) -> set[Route]:
    """Return the routes that `keys.ROUTES` has."""
    found = [name.decode(errors="replace").partition("/") for name in names]
    return {Route(app, platform) for app, _, platform in found if app and platform}
