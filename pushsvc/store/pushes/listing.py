"""The lists of pushes: all of them, the newest first, and those that wait for their time.

A stream of each shard has an entry for each write that accepts pushes (`accept.lua`), so that a group of pushes costs
one command more; a large group has several entries, so that a page of few pushes reads few bytes. An entry is its
pushes one after the other, each with what the list can be filtered by without a look at its status: lane, API key, and
a digest of its `collapse`, which may be a name of a user.

    1 byte     the length of what follows
    1 byte     the lane, 4 times `via`, 16 for a dry run, and 128 where the id is text and not the 16 bytes of a UUID
    4 bytes    a digest of `collapse`, 0 without one
    1 byte     the length of the id
    ..         the id, then the name of the API key
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import Final, NamedTuple, Self, cast
from uuid import UUID
from zlib import crc32

from ...errors import Fault, InvalidRequest
from ...model.push import LANES, VIAS, Lane, Push, Via
from ...model.status import PushStatus
from ...ports.pushes import ListedPush, PushFilter
from .. import keys
from ..link.link import Link
from ..part import StoreContext, StorePart
from .expansions import LONGEST_PAUSE
from .status import FIELDS, status_of

STATUSES: Final = 100
"""Statuses that are read in one round trip."""
ENTRIES: Final = 64
"""Entries of a shard that are read in one round trip, each with up to `layout.LISTED` pushes."""
STEP: Final = 200
"""Pushes examined before others have their turn."""
LOOK: Final = 20_000
"""Pushes examined in one call: a filter that matches few of them returns early with a cursor."""
ASK: Final = 1_000
"""Statuses read in one call: the same for a filter by state."""
LEASED: Final = 100
"""Audiences of a shard and a lane that are looked at in a count of those that wait for their time."""
_LANE: Final = 3
_VIA: Final = 4
_DRY: Final = 16
_TEXT: Final = 128
_CURSOR: Final = re.compile(r"(\d{1,15})-(\d{1,3})-(\d{1,15})-(\d{1,6})", re.ASCII)


def listed(push: Push) -> bytes:
    first = next(iter(push.messages.values()), None)
    collapse = "" if first is None else first.collapse
    shown, text = shown_id(push.id)
    flags = LANES.index(push.lane) | VIAS.index(push.via) * _VIA | push.dry_run * _DRY | text * _TEXT
    size = len(shown)
    shown += push.key.encode()
    return bytes((6 + len(shown), flags)) + _digest(collapse) + bytes((size,)) + shown


def shown_id(name: str) -> tuple[bytes, bool]:
    """Return an id as an entry has it, and whether that is its text."""
    try:
        shown = bytes.fromhex(name.replace("-", ""))
    except ValueError:
        shown = b""
    text = len(shown) != 16 or name.count("-") != 4
    return name.encode() if text else shown, text


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
    place: Place
    id: str
    lane: Lane
    collapse: bytes
    key: str
    via: Via
    dry_run: bool

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
    """Yield the pushes of an entry, the latest accepted first."""
    ms, _, number = entry_id.partition(b"-")
    starts = [0]
    while starts[-1] < len(blob):
        starts.append(starts[-1] + 1 + blob[starts[-1]])
    end = starts.pop()
    for index in range(len(starts) - 1, -1, -1):
        at = starts[index]
        flags, size = blob[at + 1], blob[at + 6]
        name = blob[at + 7 : at + 7 + size]
        yield PushEntry(
            Place(-int(ms), shard, -int(number), -index),
            name.decode() if flags & _TEXT else str(UUID(bytes=name)),
            LANES[flags & _LANE],
            blob[at + 2 : at + 6],
            blob[at + 7 + size : end].decode(),
            VIAS[flags // _VIA & 3],
            bool(flags & _DRY),
        )
        end = at


def read_entries(shard: int, entries: Iterable[tuple[bytes, Mapping[bytes, bytes]]]) -> Iterator[PushEntry]:
    for entry_id, fields in entries:
        yield from read_entry(shard, entry_id, fields[b"p"])


class PushReading:
    """The pushes of all shards in one order, read a few entries at a time and decoded one by one."""

    def __init__(self, link: Link, app: str, shards: int, *, after: Place, since: int | None, entries: int) -> None:
        """Begin after a place. Nothing is read that was accepted before `since`. `entries` of a shard are read first,
        and twice as many each time after that."""
        self._link = link
        self._app = app
        self._after = after
        self._end = "-" if since is None else str(max(0, since))
        self._count = entries
        first = "+" if after.ms < -(1 << 60) else f"{max(0, -after.ms)}-{(1 << 63) - 1}"
        self._from = dict.fromkeys(range(shards), first)
        """Where to read on in the shards that have nothing at hand, and are not at their end."""
        self._heads: list[PushEntry] = []
        """A heap of the next push of each shard that has one at hand."""
        self._rest: dict[int, Iterator[PushEntry]] = {}
        self._last: dict[int, str] = {}
        """Where to read on once what is at hand has been passed."""

    @property
    def over(self) -> bool:
        return not self._heads and not self._from

    async def step(self, most: int) -> list[PushEntry]:
        """Return up to `most` pushes; fewer where more has to be read, and none at the end."""
        await self._read()
        page: list[PushEntry] = []
        while self._heads and not self._from and len(page) < most:
            page.append(heappop(self._heads))
            self._advance(page[-1].place.shard)
        if not self._heads:
            await self._read()
        return page

    async def _read(self) -> None:
        """Read until each shard has something at hand, or is at its end."""
        while self._from:
            await self._read_once()

    async def _read_once(self) -> None:
        places, self._from = self._from, {}
        count, self._count = self._count, min(ENTRIES, 2 * self._count)
        answers = await self._link.many(
            [
                ("XREVRANGE", keys.recent(self._app, shard), first, self._end, "COUNT", count)
                for shard, first in places.items()
            ]
        )
        for shard, entries in zip(places, answers, strict=True):
            if len(entries) == count:
                self._last[shard] = f"({entries[-1][0].decode()}"
            self._rest[shard] = read_entries(shard, entries)
            self._advance(shard)

    def _advance(self, shard: int) -> None:
        following = next((each for each in self._rest[shard] if each.place > self._after), None)
        if following is not None:
            heappush(self._heads, following)
        elif shard in self._last:
            self._from[shard] = self._last.pop(shard)


class PushListing(StorePart):
    def __init__(self, context: StoreContext) -> None:
        super().__init__(context)
        self._lock = asyncio.Semaphore(1)
        """Allows one reader of lists, or of rows of large pushes, at a time to take a step, so that several readers
        delay no other work."""

    async def statuses(self, pushes: Sequence[tuple[str, str]]) -> list[PushStatus | None]:
        found: list[PushStatus | None] = []
        for at in range(0, len(pushes), STATUSES):
            own = pushes[at : at + STATUSES]
            answers = await self._link.many(
                [("HMGET", keys.push(app, self._shard(app, push_id), push_id), *FIELDS) for app, push_id in own]
            )
            found += [status_of(*push, values) for push, values in zip(own, answers, strict=True)]
            await asyncio.sleep(0)
        return found

    async def recent(
        self, app: str, which: PushFilter, *, cursor: str, limit: int
    ) -> tuple[list[ListedPush], str | None]:
        after = Place.read(cursor)
        if which.until is not None:
            after = max(after, Place(-which.until, 1 << 30, 0, 0))
        shards = self._config.shards_of(app)
        entries = min(ENTRIES, limit // shards + 2)
        reading = PushReading(self._link, app, shards, after=after, since=which.since, entries=entries)
        found: list[ListedPush] = []
        looked = asked = 0
        narrow = bool(which.state or which.lane or which.collapse or which.key)
        while looked < LOOK and asked < ASK:
            # Without a filter each push is one to return, unless its status is gone.
            wanted = STEP if narrow or asked > len(found) else min(STEP, limit - len(found))
            async with self._lock:
                page = await reading.step(wanted)
                await asyncio.sleep(0)
            looked += len(page)
            fitting = [each for each in page if each.fits(which)]
            while fitting:
                most = STATUSES if which.state or asked > len(found) else limit - len(found)
                own, fitting = fitting[:most], fitting[most:]
                asked += len(own)
                for each, status in zip(own, await self.statuses([(app, each.id) for each in own]), strict=True):
                    if status is not None and which.state in (None, status.state):
                        found.append(ListedPush(status, each.lane, each.key))
                        if len(found) == limit:
                            more = each is not page[-1] or not reading.over
                            return found, each.place.cursor if more else None
            if reading.over:
                return found, None
            after = page[-1].place
        return found, after.cursor

    async def schedules(self, app: str, *, cursor: str, limit: int) -> tuple[list[ListedPush], str | None]:
        first, _, last = cursor.partition("-")
        if cursor and not (first.isascii() and first.isdigit() and len(first) < 16 and last):
            raise InvalidRequest(faults=[Fault("cursor", "is not the cursor of an earlier page")])
        most = min(limit, STATUSES)
        sets = dict(self._waiting_sets(app))
        equal = await self._behind(list(sets), int(first), last.encode()) if cursor else {}
        least = f"({first}" if cursor else "-inf"
        async with self._lock:
            answers = await self._link.many(
                [
                    *(("ZRANGE", key, at, min(end - 1, at + most), "WITHSCORES") for key, (at, end) in equal.items()),
                    *(("ZRANGEBYSCORE", key, least, "+inf", "WITHSCORES", "LIMIT", 0, most + 1) for key in sets),
                ]
            )
            await asyncio.sleep(0)
        lanes = {
            (int(float(score)), name.decode()): sets[key]
            for key, answer in zip([*equal, *sets], answers, strict=True)
            for name, score in zip(answer[::2], answer[1::2], strict=True)
        }
        waiting = sorted(lanes)
        page = waiting[:most]
        names = [name for _, name in page]
        statuses = await self.statuses([(app, name) for name in names])
        found = [
            ListedPush(status, lanes[each] or lane, key)
            for each, status, (lane, key) in zip(page, statuses, await self._posted(app, names), strict=True)
            if status is not None and status.state == "scheduled"
        ]
        return found, "{}-{}".format(*page[-1]) if len(waiting) > most else None

    async def _posted(self, app: str, names: Sequence[str]) -> list[tuple[Lane | None, str]]:
        """Return of scheduled pushes the lane, of those with chunks, and the API key, as far as these are known."""
        places = [(app, self._shard(app, name), name) for name in names]
        answers = await self._link.many(
            [
                command
                for place in places
                for command in (("LINDEX", keys.waiting(*place), 1), ("HGET", keys.push(*place), "k"))
            ]
        )
        return [
            (cast(Lane, lane.decode()) if lane else None, (key or b"").decode())
            for lane, key in zip(answers[::2], answers[1::2], strict=True)
        ]

    async def _behind(self, sets: Sequence[str], score: int, member: bytes) -> dict[str, tuple[int, int]]:
        """Return, of each set that has any, from which place to which there is what has the same score as a member and
        stands behind it: a hundred thousand pushes may be due at one instant."""
        ends = await self._link.many([("ZCOUNT", key, "-inf", end) for key in sets for end in (f"({score}", score)])
        found: dict[str, tuple[int, int]] = {}
        for key, low, high in zip(sets, ends[::2], ends[1::2], strict=True):
            end = high
            while low < high:  # members of one score are in the order of their bytes
                middle = (low + high) // 2
                names = await self._link.call("ZRANGE", key, middle, middle)
                low, high = (middle + 1, high) if names and names[0] <= member else (low, middle)
            if low < end:
                found[key] = low, end
        return found

    async def due(self, app: str, until: int | None = None) -> int:
        now, shards = self._clock(), range(self._config.shards_of(app))
        before = "+inf" if until is None else f"({until}"
        expansions = [(shard, keys.expansions(app, shard, lane)) for shard in shards for lane in LANES]
        counts = await self._link.many(
            [
                *(("ZCOUNT", keys.scheduled(app, shard), "-inf", before) for shard in shards),
                *(("ZCOUNT", key, now, before) for _, key in expansions),
            ]
        )
        # What is being expanded stands there too, until it is taken up again: soon.
        pause = now + LONGEST_PAUSE
        soon = f"({pause if until is None else min(until, pause)}"
        leased = await self._link.many([("ZRANGEBYSCORE", key, now, soon, "LIMIT", 0, LEASED) for _, key in expansions])
        pushes = [
            keys.push(app, shard, name.decode())
            for (shard, _), names in zip(expansions, leased, strict=True)
            for name in names
        ]
        states = await self._link.many([("HGET", push, "st") for push in pushes])
        expanding = [state for state in states if state != b"scheduled"]
        return sum(map(int, counts)) - len(expanding)

    def _waiting_sets(self, app: str) -> Iterator[tuple[str, Lane | None]]:
        """Yield the sets of pushes that wait for their time, each with its lane where it is known."""
        for shard in range(self._config.shards_of(app)):
            yield keys.scheduled(app, shard), None
            yield from ((keys.expansions(app, shard, lane), lane) for lane in LANES)
