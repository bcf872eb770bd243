"""The logs of events, each one stream a shard, which readers follow by a cursor.

The order of several shards is that of Redis' clock. Where that is set back by more than `SETTLED`, a stream whose last
event is older continues behind the cursors of readers, and they pass over that: a stream knows its own last id only,
and the others are in other slots. The ids of one stream never go back, so that nothing is passed over with one shard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ...errors import Fault, Gone, InvalidRequest
from ...model.codec import CodecError
from ...model.status import EventKind
from ...ports.receipts import EventPage
from .. import keys
from ..part import StoreContext, StorePart
from ..queue.quarantine import set_aside

SETTLED = 1000
"""The minimum age in ms of events from several shards before they are merged: no shard appends an earlier one later."""

_BEFORE_ALL = (0, 0, -1)
LAST = 10**18
"""A sequence number above that of every event."""

E = TypeVar("E")


class EventLog(StorePart, Generic[E]):
    def __init__(self, context: StoreContext, kind: EventKind, decode: Callable[[bytes], E]) -> None:
        super().__init__(context)
        self.kind = kind
        self._decode = decode

    async def events(self, app: str, *, after: str, limit: int) -> EventPage[E]:
        """Return events in order, after the one with the id `after`, or from the beginning if it is empty.

        The id is that of the stream. With several shards, that of the shard is appended, and events of the last second
        are left for the next call, so that the merged order never changes behind a cursor. Whether retention has
        removed events is checked after they are read, because it may happen in between. Raises `InvalidRequest` for a
        malformed id, and `Gone` for one that no event has had yet.
        """
        while True:
            page, set_aside_too = await self._events(app, after, limit)
            if page.events or not set_aside_too:
                return page

    async def _events(self, app: str, after: str, limit: int) -> tuple[EventPage[E], bool]:
        """Return a page, and whether some of its events could not be read and were moved to quarantine."""
        cursor = ms, sequence, behind = parse_event_id(after)
        shards, history = self._config.shards_of(app), self._link.history
        settled = None if shards == 1 else await self._server_ms() - SETTLED
        found = await self._link.many(
            [
                (
                    "XRANGE",
                    keys.events(app, shard, self.kind),
                    start_of(ms, sequence, shard <= behind),
                    "+" if settled is None else settled,
                    "COUNT",
                    limit,
                )
                for shard in range(shards)
            ]
            + [("GET", keys.gone(app, shard, self.kind)) for shard in range(shards)]
        )
        answers, removed = found[:shards], found[shards:]
        missing = max(_places(removed), default=_BEFORE_ALL)
        if settled is not None:
            missing = min(missing, (settled, LAST, shards - 1))  # what other shards have after this is not read yet
        if ms > self._clock() + SETTLED and not await self._was_given(app, cursor):
            raise Gone("No event has had this cursor: it lies in the future. Begin without `after`.")
        merged = sorted(
            (*map(int, entry_id.split(b"-")), shard, fields.get(b"e", b""))
            for shard, entries in enumerate(answers)
            for entry_id, fields in entries
        )
        readable: list[tuple[str, E]] = []
        page = merged[:limit]
        for ms, sequence, shard, blob in page:
            try:
                event = self._decode(blob)
            except CodecError as error:
                stream, quarantine = keys.events(app, shard, self.kind), keys.quarantine(app, shard)
                entry_id = f"{ms}-{sequence}"
                await set_aside(self._link, stream, "", quarantine, entry_id, error, history=history)
                continue
            readable.append((_event_id(ms, sequence, shard, shards), event))
        missing_to = _event_id(*missing, shards) if after and missing > cursor else ""
        return EventPage(readable, missing_to=missing_to), len(readable) < len(page)

    async def _was_given(self, app: str, cursor: tuple[int, int, int]) -> bool:
        """Return whether an event has this id or a later one: Redis' clock may have gone back."""
        shards = self._config.shards_of(app)
        commands = [("XREVRANGE", keys.events(app, shard, self.kind), "+", "-", "COUNT", 1) for shard in range(shards)]
        newest = [entries[0][0] if entries else None for entries in await self._link.many(commands)]
        return max(_places(newest), default=_BEFORE_ALL) >= cursor

    async def _server_ms(self) -> int:
        seconds, micros = await self._link.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000


def _places(ids: Sequence[bytes | None]) -> list[tuple[int, int, int]]:
    """Return the places of entries in the order of all events. The index in `ids` is the number of the shard."""
    return [(*parse_event_id(entry.decode())[:2], shard) for shard, entry in enumerate(ids) if entry is not None]


def _event_id(ms: int, sequence: int, shard: int, shards: int) -> str:
    return f"{ms}-{sequence}" if shards == 1 else f"{ms}-{sequence}.{shard}"


def parse_event_id(text: str) -> tuple[int, int, int]:
    """Return milliseconds, sequence and shard of an event id. An empty one is `(0, 0, -1)`, before all others."""
    if not text:
        return _BEFORE_ALL
    entry, _, shard = text.partition(".")
    ms, _, sequence = entry.partition("-")
    parts = (ms, sequence or "0", shard or "0")
    if not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
        raise InvalidRequest(faults=[Fault("after", "is not a cursor that an earlier call has given")])
    return int(parts[0]), int(parts[1]), int(parts[2])


def start_of(ms: int, sequence: int, passed: bool) -> str:
    """Return the id after which a stream is read, given the last entry and whether that entry was read already."""
    return f"({ms}-{sequence}" if passed else f"{ms}-{sequence}"
