"""The lists of pushes: all of them, the newest first, and those that wait for their time.

A stream of each shard has an entry for each write that accepts pushes (`enqueue.lua`), so that a group of pushes costs
one command more. An entry is the pushes of the write one after the other, each with what the list can be filtered by
without a look at its status: lane, API key, and a digest of its `collapse`, which may be a name of a user.

    1 byte     the length of what follows
    1 byte     the lane, and 128 where the id is text and not the 16 bytes of a UUID
    4 bytes    a digest of `collapse`, 0 without one
    1 byte     the length of the id
    ..         the id, then the name of the API key
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, Self
from uuid import UUID
from zlib import crc32

from ...errors import Fault, InvalidRequest
from ...model.push import LANES, Lane, Push
from ...model.status import PushStatus
from ...ports.pushes import ListedPush, PushFilter
from .. import keys
from ..config import StoreConfig
from ..link.clock import Clock
from ..link.link import Link
from .status import FIELDS, status_of

PAGE: Final = 200
"""Entries, or statuses, that are read in one round trip."""
LOOK: Final = 20_000
"""Pushes examined in one call: a filter that matches few of them returns early with a cursor."""
_TEXT: Final = 128
_CURSOR: Final = re.compile(r"(\d{1,15})-(\d{1,3})-(\d{1,15})-(\d{1,6})", re.ASCII)
_LANE_NUMBERS: Final = {lane: number for number, lane in enumerate(LANES)}


def listed(push: Push) -> bytes:
    """Return what the list has of a push."""
    first = next(iter(push.messages.values()), None)
    collapse = "" if first is None else first.collapse
    lane, name = _LANE_NUMBERS[push.lane], push.id
    try:
        shown = bytes.fromhex(name.replace("-", ""))
    except ValueError:
        shown = b""
    if len(shown) != 16 or name.count("-") != 4:
        lane, shown = lane | _TEXT, name.encode()
    size = len(shown)
    shown += push.key.encode()
    return bytes((6 + len(shown), lane)) + _digest(collapse) + bytes((size,)) + shown


def _digest(collapse: str) -> bytes:
    return (crc32(collapse.encode()) or 1).to_bytes(4) if collapse else bytes(4)


class Place(NamedTuple):
    """Where a push stands in the list, in its order: the newest first, and of one millisecond shard by shard."""

    ms: int
    """Negative."""
    shard: int
    number: int
    """Negative."""
    position: int
    """Its place in its entry; negative."""

    @classmethod
    def read(cls, cursor: str) -> Self:
        """Return the place of a cursor; the beginning for an empty one. Raises `InvalidRequest`."""
        if not cursor:
            return cls(-(1 << 62), 0, 0, 0)
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise InvalidRequest(faults=[Fault("cursor", "is not the cursor of an earlier page")])
        ms, shard, number, index = map(int, found.groups())
        return cls(-ms, shard, -number, -index)

    @property
    def cursor(self) -> str:
        return f"{-self.ms}-{self.shard}-{-self.number}-{-self.position}"


class PushEntry(NamedTuple):
    """A push of the list."""

    place: Place
    id: str
    lane: Lane
    collapse: bytes
    key: str

    def fits(self, which: PushFilter) -> bool:
        """Return whether the filter selects it, whatever its state."""
        return (
            (which.lane is None or self.lane == which.lane)
            and (not which.key or self.key == which.key)
            and (not which.collapse or self.collapse == _digest(which.collapse))
            and (which.since is None or -self.place.ms >= which.since)
            and (which.until is None or -self.place.ms < which.until)
        )


def read_entry(shard: int, entry_id: bytes, blob: bytes) -> Iterator[PushEntry]:
    """Yield the pushes of an entry, in the order of their acceptance."""
    ms, _, number = entry_id.partition(b"-")
    at = index = 0
    while at < len(blob):
        end = at + 1 + blob[at]
        lane, size = blob[at + 1], blob[at + 6]
        name = blob[at + 7 : at + 7 + size]
        yield PushEntry(
            Place(-int(ms), shard, -int(number), -index),
            name.decode() if lane & _TEXT else str(UUID(bytes=name)),
            LANES[lane & ~_TEXT],
            blob[at + 2 : at + 6],
            blob[at + 7 + size : end].decode(),
        )
        at = end
        index += 1


class PushListing:
    """The reading of the lists, and of statuses."""

    def __init__(self, link: Link, config: StoreConfig, clock: Clock) -> None:
        self._link = link
        self._config = config
        self._clock = clock

    async def statuses(self, pushes: Sequence[tuple[str, str]]) -> list[PushStatus | None]:
        shards = self._config.shards_of
        answers = await self._link.many(
            [
                ("HMGET", keys.push(app, keys.shard_of(push_id, shards(app)), push_id), *FIELDS)
                for app, push_id in pushes
            ]
        )
        return [status_of(*push, values) for push, values in zip(pushes, answers, strict=True)]

    async def recent(
        self, app: str, which: PushFilter, *, cursor: str, limit: int
    ) -> tuple[list[ListedPush], str | None]:
        after = Place.read(cursor)
        if which.until is not None:
            after = max(after, Place(-which.until, 1 << 30, 0, 0))
        found: list[ListedPush] = []
        looked = 0
        while looked < LOOK:
            page, last = await self._page(app, after)
            fitting = [each for each in page if each.fits(which)]
            for start in range(0, len(fitting), PAGE):
                own = fitting[start : start + PAGE]
                statuses = await self.statuses([(app, each.id) for each in own])
                for each, status in zip(own, statuses, strict=True):
                    if status is not None and which.state in (None, status.state):
                        found.append(ListedPush(status, each.lane, each.key))
                        if len(found) == limit:
                            more = each is not page[-1] or not last
                            return found, each.place.cursor if more else None
            if last or not page or (which.since is not None and -page[-1].place.ms < which.since):
                return found, None
            after = page[-1].place
            looked += len(page)
        return found, after.cursor

    async def _page(self, app: str, after: Place) -> tuple[list[PushEntry], bool]:
        """Return pushes after a place, of all shards in one order, and whether they are the last."""
        shards = range(self._config.shards_of(app))
        start = "+" if after.ms < -(1 << 60) else f"{-after.ms}-{(1 << 63) - 1}"
        answers = await self._link.many(
            [("XREVRANGE", keys.recent(app, shard), start, "-", "COUNT", PAGE) for shard in shards]
        )
        found: list[PushEntry] = []
        bound: Place | None = None
        for shard, entries in zip(shards, answers, strict=True):
            own = [each for entry_id, fields in entries for each in read_entry(shard, entry_id, fields[b"p"])]
            found += own
            if len(entries) == PAGE:  # what this shard has beyond is not read yet
                end = min(own, key=lambda each: -each.place.ms).place
                bound = end if bound is None else min(bound, end, key=lambda place: place.ms)
        page = sorted(each for each in found if each.place > after)
        if bound is None:
            return page, True
        whole = [each for each in page if each.place.ms < bound.ms]
        return whole or page, False

    async def schedules(self, app: str, *, cursor: str, limit: int) -> tuple[list[ListedPush], str | None]:
        first, _, last = cursor.partition("-")
        if cursor and not (first.isascii() and first.isdigit() and len(first) < 16 and last):
            raise InvalidRequest(faults=[Fault("cursor", "is not the cursor of an earlier page")])
        after = (int(first or 0), last)
        waiting: list[tuple[int, str, Lane | None]] = []
        for key, lane in self._waiting_sets(app):
            waiting += [(due, name, lane) for due, name in await self._due_after(key, after, limit + 1)]
        waiting.sort(key=lambda each: each[:2])
        statuses = await self.statuses([(app, name) for _, name, _ in waiting[:limit]])
        found = [
            ListedPush(status, lane)
            for (_, _, lane), status in zip(waiting, statuses, strict=False)
            if status is not None and status.state == "scheduled"
        ]
        return found, "{}-{}".format(*waiting[limit - 1][:2]) if len(waiting) > limit else None

    async def _due_after(self, key: str, after: tuple[int, str], most: int) -> list[tuple[int, str]]:
        """Return up to `most` members of a set with their scores, after one of them."""
        found: list[tuple[int, str]] = []
        offset = 0
        while len(found) < most:
            answer: list[Any] = await self._link.call(
                "ZRANGEBYSCORE", key, after[0], "+inf", "WITHSCORES", "LIMIT", offset, most
            )
            members = [
                (int(float(score)), name.decode()) for name, score in zip(answer[::2], answer[1::2], strict=True)
            ]
            found += [member for member in members if member > after]
            offset += most
            if len(members) < most:
                break
        return found[:most]

    async def due(self, app: str, until: int) -> int:
        now, shards = self._clock(), range(self._config.shards_of(app))
        before = f"({until}"
        counts = await self._link.many([("ZCOUNT", keys.scheduled(app, shard), "-inf", before) for shard in shards])
        audiences = await self._link.many(
            [
                ("ZRANGEBYSCORE", keys.expansions(app, shard, lane), now, before, "LIMIT", 0, LOOK)
                for shard in shards
                for lane in LANES
            ]
        )
        ids = [name.decode() for names in audiences for name in names]
        statuses = await self.statuses([(app, name) for name in ids])
        return sum(map(int, counts)) + sum(status is not None and status.state == "scheduled" for status in statuses)

    def _waiting_sets(self, app: str) -> Iterator[tuple[str, Lane | None]]:
        for shard in range(self._config.shards_of(app)):
            yield keys.scheduled(app, shard), None
            yield from ((keys.expansions(app, shard, lane), lane) for lane in LANES)
