"""The record of cleanups: `Cleanups` over Redis, in one hash for all apps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ports.cleanup import CleanupRecord, ClocksApart, Removed
from .. import keys
from ..link.clock import Clock
from ..link.link import Link

APART = 60_000
"""Milliseconds by which the clocks may differ, since what cleanup removes is gone permanently."""


class RedisCleanups:
    """Implements `ports.cleanup.Cleanups`."""

    def __init__(self, link: Link, clock: Clock, ring: Callable[[], None]) -> None:
        """Write a record that `jobs` acts on; `ring` wakes it."""
        self._link = link
        self._ring = ring
        self._clock = clock

    async def clock(self) -> Clock:
        here = self._clock()
        ahead = int(await self._link.script("now", [keys.CLEANUP], [])) - here
        if abs(ahead) > APART:
            raise ClocksApart(
                f"Redis' clock and this machine's differ by {abs(ahead) / 1000:,.0f} s: nothing is cleaned up before "
                "they agree (synchronize both, for example by NTP)"
            )
        return lambda: self._clock() + ahead

    async def request(self, *, every: float = 0.0) -> None:
        """Request a cleanup. Its place is set last, so that a record with a place is complete."""
        at, place = await self._link.call("HMGET", keys.CLEANUP, "at", "place")
        now = self._clock()
        # A beginning in the future was written by a wrong clock.
        if place is not None or (at is not None and 0 <= now - int(at) < every * 1000):
            return
        await self._forget_run()
        await self._link.call("HSET", keys.CLEANUP, "at", now)
        await self._link.call("HSETNX", keys.CLEANUP, "place", "")
        self._ring()

    async def give_up(self) -> None:
        await self._link.call("HDEL", keys.CLEANUP, "place")

    async def record(self) -> CleanupRecord:
        fields = {name.decode(): value for name, value in (await self._link.call("HGETALL", keys.CLEANUP)).items()}
        place = fields.get("place")
        return CleanupRecord(
            place=None if place is None else place.decode(),
            began_at=int(fields.get("at", 0)),
            removed=_counts(fields, "run"),
            ended_at=int(fields.get("ended", 0)),
            total=_counts(fields, "all"),
        )

    async def note(self, removed: Removed, *, place: str | None = None) -> None:
        commands: list[tuple[Any, ...]] = [
            ("HINCRBY", keys.CLEANUP, f"{kind} {app} {what}", count)
            for (app, what), count in removed.items()
            for kind in (("run", "all") if place is not None else ("all",))
            if count
        ]
        if place is not None:
            commands.append(("HSET", keys.CLEANUP, "place", place))
        await self._link.many(commands)

    async def finish(self, removed: Removed) -> None:
        await self._forget_run()
        counts = [part for (app, what), count in removed.items() for part in (f"run {app} {what}", count)]
        await self._link.call("HSET", keys.CLEANUP, "ended", self._clock(), *counts)
        await self._link.call("HDEL", keys.CLEANUP, "place")

    async def _forget_run(self) -> None:
        names = await self._link.call("HKEYS", keys.CLEANUP)
        if old := [name for name in names if name.startswith(b"run ")]:
            await self._link.call("HDEL", keys.CLEANUP, *old)


def _counts(fields: dict[str, Any], kind: str) -> dict[tuple[str, str], int]:
    named = {tuple(name.split(" ")): int(count) for name, count in fields.items() if name.startswith(f"{kind} ")}
    return {(words[1], words[2]): count for words, count in named.items() if len(words) == 3}
