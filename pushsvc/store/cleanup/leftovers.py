"""Finds expired data by one pass through the store: `Leftovers` over Redis. Lifetimes, and the trimming that comes with
writes, remove nearly everything. This finds what remains: expired data of apps that no longer write, and keys that
should not exist."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from ...model.status import EventKind
from ...ports.cleanup import Swept
from .. import keys, layout
from ..config import OPEN_MOST, StoreConfig
from ..cursors import Cursor, ListingCursor
from ..letters.replays import RECORD_TTL
from ..live.facts import hour_of
from ..part import StoreContext, StorePart
from ..pushes.accepting import KEEP_RECORD
from ..registry.orphans import INDEXES, Orphans
from ..revoke.suppression import outlived

_KEYS = 200
"""The approximate number of keys that one step examines."""
_AGED = 500
"""Entries that one step removes from a stream or a sorted set."""

_LIFETIMES: dict[str, str | int] = {
    # kind of key: the source of its lifetime, or the lifetime in ms; see lifetimes.lua
    "p": "push",
    "b": "part",
    "r": "part",
    "t": "part",
    "x": "part",
    "v": "content",
    "lim": "limits",
    "bucket": "bucket",
    "i": KEEP_RECORD * 1000,
}


class _Aging(NamedTuple):
    """How the entries of one kind of keys expire."""

    what: str
    """The name under which they are counted, if they are."""
    ttl: Callable[[StoreConfig], int]
    log: EventKind | None = None
    """The events that it is a log of, if it is one."""


_AGING = {
    "dead": _Aging("dead_letters", lambda config: config.dead_ttl),
    "events": _Aging("events", lambda config: config.events_ttl, "feedback"),
    "reported": _Aging("events", lambda config: config.events_ttl, "event"),
    "sup": _Aging("suppressions", lambda config: config.suppression_ttl),
    "cancelled": _Aging("cancelled", lambda config: OPEN_MOST // 1000),
    "recent": _Aging("", lambda config: config.status_ttl),
}


class _Bucket(Cursor, frozen=True, array_like=True):
    """The place of a pass through the indexes: an index, and a bucket of it."""

    index: int = 0
    bucket: int = 0


class _Cursor(ListingCursor, frozen=True, array_like=True):
    position: str = ""
    """The place in the key that is examined next."""


class RedisLeftovers(StorePart):
    """Implements `ports.cleanup.Leftovers`."""

    def __init__(self, context: StoreContext, end_marks: Callable[[str, str, int], Awaitable[None]]) -> None:
        """Find leftovers. `end_marks` ends the marks in a list of tokens that belong to no erasure."""
        super().__init__(context)
        self._end_marks = end_marks
        self._orphans = Orphans(context.link, context.hash_key, context.config.addresses)

    async def indexes(self, app: str, *, cursor: str, dry_run: bool) -> Swept:
        at = _Bucket.read(cursor)
        found, end = await self._orphans.in_buckets(app, INDEXES[at.index], at.bucket, dry_run=dry_run)
        done = (at.index + end / layout.BUCKETS) / len(INDEXES)
        following = _Bucket(at.index, end) if end < layout.BUCKETS else _Bucket(at.index + 1)
        removed = {(app, "orphans"): found} if found else {}
        return Swept(removed, following.written() if following.index < len(INDEXES) else None, done)

    async def keys(self, apps: Sequence[str], *, cursor: str, now: int, dry_run: bool) -> Swept:
        at = _Cursor.read(cursor)
        if at.waiting:
            removed, position = await self._step(at.waiting[0], at.position, now, dry_run=dry_run)
            waiting = at.waiting if position else at.waiting[1:]
            following = _Cursor(at.listing, waiting, position or "")
        else:
            assert at.listing is not None
            names, listing = await self._link.scan("ps:{*", at.listing, _KEYS)
            removed, later = await self._look(set(apps), names, now, dry_run=dry_run)
            following = _Cursor(listing, tuple(later))
        over = following.listing is None and not following.waiting
        return Swept(removed, None, 1.0) if over else Swept(removed, following.written(), _part(following.listing))

    async def _look(
        self, apps: set[str], names: Sequence[bytes], now: int, *, dry_run: bool
    ) -> tuple[Counter[Any], list[str]]:
        """Repair the lifetimes of these keys, and return the keys that have to be examined one by one."""
        waiting: list[str] = []
        replays: list[str] = []
        slots: dict[tuple[str, str], list[tuple[str, str | int]]] = {}
        for key in (name.decode() for name in names):
            name = keys.parse(key)
            if name is None or name.app not in apps:
                continue
            if name.part == keys.DEVICES:
                if name.kind in ("t", "streams") or (name.kind == "x" and name.rest):
                    waiting.append(key)
            elif name.kind in _AGING:
                waiting.append(key)
            elif name.kind == "replay":
                replays.append(key)
            elif name.kind in _LIFETIMES:
                slots.setdefault(name[:2], []).append((key, _LIFETIMES[name.kind]))
        if replays:
            # A replay that is not complete has no lifetime yet.
            busy = {name.decode().replace(" ", ":") for name in await self._link.call("ZRANGE", keys.REPLAYS, 0, -1)}
            for key in replays:
                name = keys.parse(key)
                if name is not None and f"{name.app}:{name.rest}" not in busy:
                    slots.setdefault(name[:2], []).append((key, RECORD_TTL))
        removed: Counter[Any] = Counter()
        for (app, _), found in slots.items():
            answer = await self._link.script(
                "lifetimes",
                [key for key, _ in found],
                [now, *self._config.lifetimes, int(dry_run), OPEN_MOST, *(kind for _, kind in found)],
            )
            removed[app, "statuses"] += answer.count(1)
            removed[app, "lifetimes"] += answer.count(2)
        return +removed, waiting

    async def _step(
        self, key: str, position: str, now: int, *, dry_run: bool
    ) -> tuple[dict[tuple[str, str], int], str | None]:
        name = keys.parse(key)
        assert name is not None
        what = "orphans"
        if name.part != keys.DEVICES:
            what, ttl, log = _AGING[name.kind]
            read = [keys.gone(name.app, int(name.part), log)] if log else []
            oldest = max(0, now - ttl(self._config) * 1000)
            found, following = await self._link.script("aged", [key, *read], [oldest, _AGED, int(dry_run), position])
            further = following.decode() or None
            if name.kind == "sup" and not dry_run:
                await self._link.call(*outlived(key, now))
                await self._end_marks(name.app, key, now)
        elif name.kind == "streams":
            return await self._sweep_streams(name.app, key, int(name.rest), now, dry_run=dry_run), None
        elif name.kind == "t":
            found, further = await self._orphans.in_topic(name.app, name.rest, position, dry_run=dry_run)
        else:
            found, further = await self._orphans.of_label(name.app, name.rest, position, dry_run=dry_run)
        return ({(name.app, what): found} if found and what else {}), further

    async def _sweep_streams(
        self, app: str, key: str, number: int, now: int, *, dry_run: bool
    ) -> dict[tuple[str, str], int]:
        args = [keys.devices(app), number, hour_of(now), self._config.history_hours(app), int(dry_run), now]
        gone, aged = await self._link.script("live_sweep", [key], args)
        return {(app, what): count for what, count in (("orphans", gone), ("publications", aged)) if count}


def _part(listing: str | None) -> float:
    """Return the share of keys that a listing has passed, approximately: SCAN counts from the highest bit of its
    cursor."""
    if listing is None:
        return 1.0
    cursor = int(listing.partition("@")[0] or 0)
    bits = max(1, cursor.bit_length())
    return int(f"{cursor:0{bits}b}"[::-1], 2) / (1 << bits)
