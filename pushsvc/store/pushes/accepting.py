"""Pushes on their way into Redis: what many callers write to a shard at once, and how much waits there by now.

accept ──────┐
accept_once ─┴─ one group a shard ── one round trip, a script for the plain ones and one for each record
                                      └─ with `fsync` or `replicas`: and a barrier for all of them, see
                                         durable.py and replicas.py
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from .. import keys
from ..config import StoreConfig
from ..figures.gauges import pending_of
from ..link.commit import GroupCommit
from ..link.durable import FLIGHTS, Durable
from ..link.link import Link, ScriptCall, pairs
from ..work.workers import routes_named

Args: TypeAlias = list[Any]

KEEP_RECORD = 24 * 60 * 60
"""Seconds for which a repeat under the same idempotency key is known."""

_Place: TypeAlias = tuple[str, int]


class Part:
    """One caller's share of a group: pushes as `enqueue.lua` reads them, with the record of a key or without. One that
    has no pushes asks for the record of its key, and waits for that to be on the disk or on replicas.
    """

    __slots__ = ("args", "deliveries", "kept", "key", "record")

    def __init__(self, args: Args, deliveries: int, *, key: bytes | None = None, record: bytes = b"") -> None:
        self.args = args
        self.deliveries = deliveries
        self.key = key
        self.record = record
        self.kept: bytes | None = None
        """The record of an earlier call under the same key, once it has been written."""


class Accepting:
    """The groups of one process, over all apps and shards."""

    def __init__(self, link: Link, config: StoreConfig) -> None:
        self._link = link
        self._config = config
        self.durable = Durable(link, timeout=config.timeout)
        self._groups: dict[_Place, GroupCommit[Part]] = {}
        self._heard: dict[_Place, int] = {}
        self._sent = 0
        self._answered: dict[_Place, int] = {}
        self._sum = 0
        self._under_way = 0
        self._of_app: Counter[str] = Counter()
        self._known: set[str] = set()
        """Apps that are, or were once, in a configuration."""

    @property
    def waits(self) -> bool:
        """Whether what is written waits for more than the server's memory."""
        return self._config.fsync or self._link.waits

    # --- writing ----------------------------------------------------------------------------------

    async def write(self, app: str, shard: int, part: Part, size: int) -> None:
        """Write the part, of about `size` bytes, with whatever else is on its way to the shard."""
        self._under_way += part.deliveries
        self._of_app[app] += part.deliveries
        group = self._groups.get((app, shard))
        if group is None:
            group = self._groups[app, shard] = self._group(app, shard)
        await group.add(part, size)

    def _group(self, app: str, shard: int) -> GroupCommit[Part]:
        async def write(parts: list[Part]) -> None:
            try:
                await self._write(app, shard, parts)
            finally:
                # With the answer, or without one: no longer ours to count.
                written = sum(part.deliveries for part in parts)
                self._under_way -= written
                self._of_app[app] -= written

        return GroupCommit(write, flights=FLIGHTS if self.waits else 1)

    async def _write(self, app: str, shard: int, parts: list[Part]) -> None:
        counters, prefix = keys.pending(app, shard), keys.prefix(app, shard)
        plain: Args = []
        keyed: list[tuple[Part, ScriptCall]] = []
        for part in parts:
            if part.key is None:
                plain += part.args
            else:
                args = [prefix, KEEP_RECORD * 1000, part.record, *part.args]
                keyed.append((part, ("once", [counters, keys.once(app, shard, part.key)], args)))
        calls = [call for _, call in keyed]
        if plain:
            calls.append(("accept", [counters], [prefix, *plain]))
        number = self._sent = self._sent + 1
        if self._config.fsync:
            answers = await self.durable.scripts(keys.mark(app, shard), calls)
        else:
            answers = await self._link.guarded(keys.mark(app, shard), calls)
        for (part, _), (kept, _) in zip(keyed, answers, strict=False):
            part.kept = kept
        # Of several in flight the answers may come in another order.
        if calls and number > self._answered.get((app, shard), 0):
            self._answered[app, shard] = number
            self._note((app, shard), pending_of(pairs(answers[-1] if plain else answers[-1][1])))

    async def aclose(self) -> None:
        """Let what was handed over be written."""
        for group in self._groups.values():
            await group.aclose()

    # --- counting ---------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Deliveries that have not ended, of all apps and shards: what was heard of each last, in answer to a write or
        to `recount`, and what this process is writing.
        """
        return self._sum + self._under_way

    def pending_of(self, app: str) -> int:
        """Those of `pending` that are the app's."""
        return self._of_app[app]

    def _note(self, place: _Place, count: int) -> None:
        change = count - self._heard.get(place, 0)
        self._sum += change
        self._of_app[place[0]] += change
        self._heard[place] = count

    def looking(self) -> Callable[[str, Sequence[int]], None]:
        """What to tell of a look that begins now, once it is over: an app, and the deliveries of each of its shards.

        A shard to which something was written meanwhile keeps what the answer to that said: it may be newer.
        """
        before = dict(self._answered)

        def tell(app: str, by_shard: Sequence[int]) -> None:
            for shard, count in enumerate(by_shard):
                if self._answered.get((app, shard)) == before.get((app, shard)):
                    self._note((app, shard), count)

        return tell

    async def recount(self, apps: Sequence[str]) -> None:
        """Hear of every shard of these apps, and of those that were in a configuration once, in one round trip. A first
        look learns which ones these are."""
        apps = [*apps, *sorted(self._known.difference(apps))]
        places = [(app, shard) for app in apps for shard in range(self._config.shards_of(app))]
        tell = self.looking()
        questions = [("HGETALL", keys.pending(*place)) for place in places]
        names, *found = await self._link.many([("SMEMBERS", keys.ROUTES), *questions])
        self._known = {route.app for route in routes_named(names)}
        answers = iter(found)
        for app in apps:
            tell(app, [pending_of(next(answers)) for _ in range(self._config.shards_of(app))])
        for place in self._heard.keys() - set(places):
            self._note(place, 0)
