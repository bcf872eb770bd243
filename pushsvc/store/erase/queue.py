"""Deliveries that have not ended: queued, being sent, waiting for a retry or for their time.

They end as `cancelled`, and their targets are removed from their chunks. None is missed, although a delivery moves from
a lane to the retries and back during the search: the tokens are marked first (see `__init__.py`), so that a dispatcher
that takes an entry later ends them. Only deliveries that were in flight before can move once more, from a lane to the
retries; each such entry is waited for, and when the second search begins, all of them are over.

What is accepted after a search does not cause another one, so that a client that keeps posting to a token cannot
prevent the erasure: the remaining mark ends it when it is taken. A single last search (`looks=1`) at the end of the
pass leaves little of it.

An entry that a living dispatcher has read is not changed but recalled: deliveries in flight end with their provider's
answer, and the others return through the retries, where the second search finds them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from ... import telemetry
from ...model.codec import UnreadableChunk, decode_entry, encode_chunk, encode_entry, encode_row, is_large
from ...model.delivery import Delivery, Ended, Settlement
from ...model.push import LANES, Chunk, Lane, Platform, Target
from ...model.routing import platform_of
from ...model.status import DeliveryRow
from ...ports.entries import EntryRef
from ...ports.erasure import KeeperStep
from .. import keys
from ..cursors import SetCursor
from ..part import StoreContext, StorePart
from ..queue.queue import RedisQueue
from ..queue.settling import member_of
from ..revoke.revocations import Revocations
from ..revoke.suppression import ERASED
from ..work.liveness import Liveness
from .subjects import Counts, Subjects

CANCELLED = Ended("cancelled")
_TARGETS = 2000
"""The approximate number of targets that one step examines."""
_MOST = 500
"""Entries examined in one step."""
_RETRIES = 20
_SCHEDULED = 20
_WAIT = 0.1
RECALL = 1.0
"""Seconds after which an entry that is still in work is recalled again."""


class _Source(NamedTuple):
    """A key that may contain chunks."""

    shard: int
    platform: Platform
    """The platform; empty for scheduled pushes."""
    lane: Lane | None
    """The lane; None for retries."""


class _Busy(Struct, frozen=True, array_like=True):
    """An entry that a dispatcher works on."""

    shard: int
    platform: Platform
    lane: Lane
    entry_id: str


class _Cursor(SetCursor, frozen=True, array_like=True):
    room: int = _MOST
    """The number of entries to examine in the next step."""
    busy: tuple[_Busy, ...] = ()
    look: int = 1
    """The number of the present search, from 1."""


class _Found(Struct, frozen=True):
    """The targets of a chunk that are to be removed, each with its record key."""

    chunk: Chunk
    gone: list[tuple[Target, str]]

    @property
    def left(self) -> Chunk:
        """The chunk without them."""
        indexes = {target.index for target, _ in self.gone}
        return replace(self.chunk, targets=tuple(each for each in self.chunk.targets if each.index not in indexes))


class _Looked(NamedTuple):
    """An entry that was searched."""

    found: list[_Found]
    """Its chunks of which something is to be removed."""
    others: list[Chunk]
    unreadable: list[UnreadableChunk]
    """What cannot be read is moved to the quarantine when it is due, and that is searched as bytes."""

    @property
    def targets(self) -> int:
        return sum(len(chunk.targets) for chunk in (*self.others, *(each.chunk for each in self.found)))

    def left(self) -> tuple[int, bytes]:
        """Return the number of the remaining targets, and the entry with them; no bytes where there are none."""
        chunks = [*(left for each in self.found if (left := each.left).targets), *self.others]
        count = sum(len(chunk.targets) for chunk in chunks) + len(self.unreadable)
        return count, encode_entry(chunks, self.unreadable) if count else b""


class Queue(StorePart):
    """A `Keeper` of queued deliveries."""

    def __init__(
        self,
        context: StoreContext,
        queue: RedisQueue,
        liveness: Liveness,
        revocations: Revocations,
        *,
        looks: int,
    ) -> None:
        super().__init__(context)
        self._looks = looks
        self._queue = queue
        self._liveness = liveness
        self._revocations = revocations
        self._asked: dict[_Busy, float] = {}
        """When each entry was last recalled."""

    async def step(self, app: str, who: Subjects, cursor: str) -> KeeperStep:
        at = _Cursor.read(cursor)
        sources = list(self._sources(app, who))
        if at.place < len(sources):
            removed, following = await self._look(app, who, sources[at.place], at)
            return KeeperStep(removed, following.written())
        if at.busy:
            removed, busy = await self._look_again(app, who, at.busy)
            return KeeperStep(removed, replace(at, busy=busy).written(), _WAIT if busy else 0.0)
        if at.look < self._looks:
            return KeeperStep(Counter(), _Cursor(look=at.look + 1).written())
        return KeeperStep(Counter(), None)

    def _sources(self, app: str, who: Subjects) -> Iterator[_Source]:
        """Yield the keys in the order in which deliveries move through them."""
        for shard in range(self._config.shards_of(app)):
            yield _Source(shard, "", None)
            for platform in who.routes:
                yield _Source(shard, platform, None)
            for platform in who.routes:
                for lane in LANES:
                    yield _Source(shard, platform, lane)

    async def _look(self, app: str, who: Subjects, source: _Source, at: _Cursor) -> tuple[Counts, _Cursor]:
        if source.lane is not None:
            return await self._look_at_lane(app, who, source.shard, source.platform, source.lane, at)
        if source.platform:
            removed, further = await self._look_at_retries(app, who, source, at.position)
        else:
            removed, further = await self._look_at_scheduled(app, who, source.shard, at.position)
        if further is None:
            return removed, _Cursor(at.place + 1, "", _MOST, at.busy, at.look)
        return removed, _Cursor(at.place, further, _MOST, at.busy, at.look)

    # --- lanes ------------------------------------------------------------------------------------

    async def _look_at_lane(
        self, app: str, who: Subjects, shard: int, platform: Platform, lane: Lane, at: _Cursor
    ) -> tuple[Counts, _Cursor]:
        key = keys.lane(app, shard, platform, lane)
        first, history = f"({at.position}" if at.position else "-", self._link.history
        entries = await self._link.call("XRANGE", key, first, "+", "COUNT", at.room)
        removed: Counts = Counter()
        busy, targets = list(at.busy), 1
        for entry_id, fields in entries:
            looked = await _look_into(who, fields.get(b"c", b""))
            targets += looked.targets
            if looked.found:
                own = _Busy(shard, platform, lane, entry_id.decode())
                if not await self._remove(app, own, looked, history, removed):
                    busy.append(own)
        if len(entries) < at.room:
            return removed, _Cursor(at.place + 1, "", _MOST, tuple(busy), at.look)
        room = max(1, min(_MOST, _TARGETS * len(entries) // targets))
        return removed, _Cursor(at.place, entries[-1][0].decode(), room, tuple(busy), at.look)

    async def _look_again(self, app: str, who: Subjects, busy: Sequence[_Busy]) -> tuple[Counts, tuple[_Busy, ...]]:
        removed: Counts = Counter()
        still = []
        for own in busy:
            key, history = keys.lane(app, own.shard, own.platform, own.lane), self._link.history
            entries = await self._link.call("XRANGE", key, own.entry_id, own.entry_id)
            for _, fields in entries:
                looked = await _look_into(who, fields.get(b"c", b""))
                if looked.found and not await self._remove(app, own, looked, history, removed):
                    still.append(own)
        return removed, tuple(still)

    async def _remove(self, app: str, at: _Busy, looked: _Looked, history: int, removed: Counts) -> bool:
        """End the deliveries, and let the entry continue without them: its next reader asks what else of it has ended,
        since the dispatcher that had it may still answer. Returns False where a dispatcher works on it. `history` is
        that of the link before the entry was read: on another server its id may be that of another entry."""
        key = keys.lane(app, at.shard, at.platform, at.lane)
        owner, (count, rest) = "", looked.left()
        while True:
            state, *holder = await self._link.script("requeue", [key], [keys.DISPATCH, at.entry_id, owner, "", b""])
            if state == -1:
                owner = holder[0].decode()
                if owner not in await self._liveness.gone({owner}):
                    await self._recall(app, at)
                    return False
            for each in looked.found:
                await self._end(app, each, removed)
            self._link.require(history)
            state, *_ = await self._link.record("requeue", [key], [keys.DISPATCH, at.entry_id, owner, count, rest])
            if state != -1:
                return True

    async def _end(self, app: str, found: _Found, removed: Counts) -> None:
        """Record those of the deliveries that are open as cancelled, in rows without the user's data. A repeat changes
        nothing. They are asked for first: the store would end what has no status any more a second time."""
        now = self._clock()
        (still_open,) = await self._queue.outstanding(app, [found.chunk])
        settlements = [
            Settlement(Delivery(found.chunk, Target(target.index, "")), None, CANCELLED, now, "", ERASED)
            for target, _ in found.gone
            if target.index in still_open
        ]
        took = await self._queue.settle(app, settlements, [])
        ended = {settlement.delivery.target.index for settlement in took}
        telemetry.count_ended(app, found.chunk.platform, CANCELLED.end, ERASED, len(ended))
        removed.update((key, "deliveries") for target, key in found.gone if target.index in ended)

    async def _recall(self, app: str, at: _Busy) -> None:
        """Recall an entry, and repeat that from time to time: a dispatcher may have read it after the first recall."""
        now = asyncio.get_running_loop().time()
        if now - self._asked.get(at, -RECALL) < RECALL:
            return
        self._asked = {each: when for each, when in self._asked.items() if now - when < RECALL} | {at: now}
        ref = EntryRef(app=app, shard=at.shard, platform=at.platform, lane=at.lane, entry_id=at.entry_id)
        await self._revocations.recall(ref)

    # --- retries ----------------------------------------------------------------------------------

    async def _look_at_retries(
        self, app: str, who: Subjects, source: _Source, position: str
    ) -> tuple[Counts, str | None]:
        key = keys.retries(app, source.shard, source.platform)
        following, flat = await self._link.call("ZSCAN", key, position or 0, "COUNT", _RETRIES)
        removed: Counts = Counter()
        for member, _ in flat:
            lane, _, rest = member.partition(b" ")
            count, _, blob = rest.partition(b" ")
            for found in (await _look_into(who, blob)).found:
                await self._end(app, found, removed)
                left = found.left
                rest = b"%s %d %s" % (lane, len(left.targets), encode_chunk(left)) if left.targets else b""
                await self._link.script(
                    "rewait",
                    [key, keys.pending(app, source.shard)],
                    [source.platform, member, rest, int(count) - len(left.targets)],
                )
        return removed, str(int(following)) if int(following) else None

    # --- scheduled --------------------------------------------------------------------------------

    async def _look_at_scheduled(self, app: str, who: Subjects, shard: int, position: str) -> tuple[Counts, str | None]:
        following, flat = await self._link.call("ZSCAN", keys.scheduled(app, shard), position or 0, "COUNT", _SCHEDULED)
        removed: Counts = Counter()
        for push_id, _ in flat:
            while not await self._unschedule(app, who, shard, push_id.decode(), removed):
                pass  # it was changed or launched at the same time: read it again
        return removed, str(int(following)) if int(following) else None

    async def _unschedule(self, app: str, who: Subjects, shard: int, push_id: str, removed: Counts) -> bool:
        key = keys.waiting(app, shard, push_id)
        parts = await self._link.call("LRANGE", key, 0, -1)
        now = self._clock()
        changes: list[Any] = []
        rows: list[Any] = []
        owners: list[str] = []
        platforms: list[Platform] = []
        for place in range(0, len(parts), 4):
            blob = parts[place + 3]
            for found in (await _look_into(who, blob)).found:
                left = found.left
                changes += (place, blob, encode_chunk(left) if left.targets else b"", len(left.targets))
                for target, owner in found.gone:
                    row = _row(platform_of(found.chunk.platform), now)
                    large = is_large(found.chunk.total)
                    rows += (target.index, member_of([(target.index, row)]) if large else encode_row(row))
                    owners.append(owner)
                    platforms.append(found.chunk.platform)
        if not changes:
            return True
        went = await self._link.script(
            "unschedule",
            [*(keys.scheduled(app, shard), keys.pending(app, shard)), key, keys.push(app, shard, push_id)],
            [keys.prefix(app, shard), push_id, now, *self._config.lifetimes, len(changes) // 4, *changes, *rows],
        )
        if went < 0:
            return False
        for platform, count in Counter(platforms).items():
            telemetry.count_ended(app, platform, CANCELLED.end, ERASED, count)
        removed.update((owner, "deliveries") for owner in owners)
        return True


async def _look_into(who: Subjects, entry: bytes) -> _Looked:
    """Search an entry of a lane, or the one chunk of a retry or of a scheduled push, and keep the tokens found."""
    chunks, unreadable = decode_entry(entry)
    looked = _Looked([], [], unreadable)
    for chunk in chunks:
        owners = ((target, who.of(target.device_id, chunk.platform, target.token)) for target in chunk.targets)
        gone = [(target, key) for target, key in owners if key is not None]
        if gone:
            looked.found.append(_Found(chunk, gone))
        else:
            looked.others.append(chunk)
    await who.keep_found()
    return looked


def _row(platform: Platform, at: int) -> DeliveryRow:
    return DeliveryRow(platform, None, "", "cancelled", ERASED, 0, 0, "", at)
