"""Writes accepted pushes to Redis, together for many callers, and counts the deliveries that wait in each shard.

accept ──────┐
accept_once ─┴─ one group a shard ── one step of accept.lua
                       └─ with `fsync` or `replicas`: and a barrier for all of them, see
                          durable.py and replicas.py
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from ...model.push import Push
from .. import keys
from ..config import StoreConfig
from ..figures.gauges import pending_of
from ..link.commit import GroupCommit
from ..link.durable import FLIGHTS, Durable
from ..link.link import Link, ScriptCall, pairs
from ..work.workers import routes_named

Args: TypeAlias = list[Any]

SINGLE: Final = 8192
"""About how many bytes a push to one target has at most."""
KEEP_RECORD = 24 * 60 * 60
"""Seconds for which the record of an idempotency key is kept."""

_Place: TypeAlias = tuple[str, int]
_Kept: TypeAlias = bytes | None
"""The record of an earlier call with the same key."""


class Part:
    """One caller's share of a group: pushes as `accept.lua` reads them, with or without the record of a key. A part
    without pushes asks for the record of its key, and waits until that is on the disk or on replicas."""

    __slots__ = ("args", "deliveries", "first", "key", "record", "size")

    def __init__(
        self, args: Args, deliveries: int, size: int, *, key: str = "", record: bytes = b"", first: str = ""
    ) -> None:
        self.args = args
        self.deliveries = deliveries
        self.size = size
        """About how many bytes it has."""
        self.key = key
        """The digest of the key in hexadecimal digits, or empty."""
        self.record = record
        self.first = first
        """The id of the first of its pushes."""


class Accepting:
    """The groups of one process, over all apps and shards."""

    def __init__(self, link: Link, config: StoreConfig, pack: Callable[[Push], Part]) -> None:
        self._pack = pack
        self._link = link
        self._config = config
        self.durable = Durable(link, timeout=config.timeout)
        self._groups: dict[_Place, GroupCommit[Part | Push, _Kept]] = {}
        self._counts: dict[_Place, int] = {}
        self._sent = 0
        self._answered: dict[_Place, int] = {}
        self._sum = 0
        self._under_way = 0
        self._of_app: Counter[str] = Counter()
        self._known: set[str] = set()
        """Apps that are in a configuration, or were in one."""

    @property
    def waits(self) -> bool:
        """Return whether a write waits for more than the server's memory."""
        return self._config.fsync or self._link.waits

    # --- writing ----------------------------------------------------------------------------------

    def write(self, app: str, shard: int, part: Part | Push) -> asyncio.Future[_Kept]:
        """Write a part, or a push to one target, together with others for the same shard. Such pushes are packed when
        their group is written: one right after the other, each costs half as much."""
        deliveries, size = (part.deliveries, part.size) if isinstance(part, Part) else (1, SINGLE)
        self._under_way += deliveries
        self._of_app[app] += deliveries
        group = self._groups.get((app, shard))
        if group is None:
            group = self._groups[app, shard] = self._group(app, shard)
        return group.add(part, size)

    def _group(self, app: str, shard: int) -> GroupCommit[Part | Push, _Kept]:
        async def write(items: list[Part | Push]) -> list[_Kept | Exception]:
            packed = [item if isinstance(item, Part) else self._packed(item) for item in items]
            parts = [part for part in packed if isinstance(part, Part)]
            try:
                kept = iter(await self._write(app, shard, parts))
            finally:
                # It no longer counts as under way, with an answer or without one.
                written = sum([item.deliveries if isinstance(item, Part) else 1 for item in items])
                self._under_way -= written
                self._of_app[app] -= written
            return [next(kept) if isinstance(part, Part) else part for part in packed]

        return GroupCommit(write, flights=FLIGHTS if self.waits else 1)

    def _packed(self, push: Push) -> Part | Exception:
        """Return a push as a part, or why it is none, which concerns its caller alone."""
        try:
            return self._pack(push)
        except Exception as error:
            return error

    async def _write(self, app: str, shard: int, parts: list[Part]) -> list[_Kept]:
        keyed = [part for part in parts if part.key]
        args: Args = [keys.prefix(app, shard), self._config.status_ttl * 1000, KEEP_RECORD * 1000, len(keyed)]
        for part in keyed:
            args += (part.key, part.record, part.first, len(part.args))
        for part in keyed + [part for part in parts if not part.key]:
            args += part.args
        calls: list[ScriptCall] = [("accept", [keys.pending(app, shard)], args)]
        number = self._sent = self._sent + 1
        if self._config.fsync:
            answers = await self.durable.scripts(keys.mark(app, shard), calls)
        else:
            answers = await self._link.guarded(keys.mark(app, shard), calls)
        counters, *records = answers[0]
        # The answers to several writes in flight may arrive in another order.
        if number > self._answered.get((app, shard), 0):
            self._answered[app, shard] = number
            self._note((app, shard), pending_of(pairs(counters)))
        kept = iter(records)
        return [next(kept) if part.key else None for part in parts]

    async def aclose(self) -> None:
        for group in self._groups.values():
            await group.aclose()

    # --- counting ---------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Return the deliveries of all apps and shards that have not ended: the last known count of each, from the
        answer to a write or from `recount`, and what this process is writing."""
        return self._sum + self._under_way

    def pending_of(self, app: str) -> int:
        return self._of_app[app]

    def _note(self, place: _Place, count: int) -> None:
        change = count - self._counts.get(place, 0)
        self._sum += change
        self._of_app[place[0]] += change
        self._counts[place] = count

    def looking(self) -> Callable[[str, Sequence[int]], None]:
        """Begin a count. Returns a function to call at its end, with an app and the deliveries in each of its shards. A
        shard that was written to in between keeps the count of that answer, which may be newer."""
        before = dict(self._answered)

        def note(app: str, by_shard: Sequence[int]) -> None:
            for shard, count in enumerate(by_shard):
                if self._answered.get((app, shard)) == before.get((app, shard)):
                    self._note((app, shard), count)

        return note

    async def recount(self, apps: Sequence[str]) -> None:
        """Count every shard of these apps, and of those that were in a configuration, in one round trip. The first
        count finds out which these are."""
        apps = [*apps, *sorted(self._known.difference(apps))]
        places = [(app, shard) for app in apps for shard in range(self._config.shards_of(app))]
        note = self.looking()
        questions = [("HGETALL", keys.pending(*place)) for place in places]
        names, *found = await self._link.many([("SMEMBERS", keys.ROUTES), *questions])
        self._known = {route.app for route in routes_named(names)}
        answers = iter(found)
        for app in apps:
            note(app, [pending_of(next(answers)) for _ in range(self._config.shards_of(app))])
        for place in self._counts.keys() - set(places):
            self._note(place, 0)
