"""Intake's side of the queue: writes pushes in group commits, reads their statuses and rows, and cancels them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from ... import telemetry
from ...errors import Conflict, Fault, InvalidRequest
from ...model.codec import (
    contents_of,
    decode_audience,
    decode_row,
    decode_rows,
    encode_chunk,
    encode_push,
    encode_single,
    split,
    without_contents,
)
from ...model.delivery import End
from ...model.push import LANES, Push, Route
from ...model.status import DeliveryRow, PushStatus
from ...ports.live import LiveStreams
from ...ports.pushes import REFUSED_FOR, DevicePush, DevicePushes, KeptPush
from ...rules.bound import Bound
from .. import keys, layout
from ..config import OPEN_MOST
from ..link.unreadable import readable
from ..part import StoreContext
from ..queue.contents import packed
from ..queue.settling import is_short
from ..revoke.revocations import LIFETIME, Revocations
from .accepting import Accepting, Args, Part
from .kept import read_kept
from .listing import ENTRIES, STATUSES, Place, PushListing, PushReading, listed
from .named import noted
from .status import FIELDS, status_of

_PAGE = 500
"""Rows read in one round trip."""
_PROBE = 1.0
"""Seconds for which the answer to `ping` is used again."""
_PROBE_LIFE = 60_000
_LOOK = 20_000
"""Rows examined in one call: a filter that matches few of them returns early with a cursor."""
LOOK_FOR_DEVICE = 5_000
"""Pushes looked at in one call for a device."""


class RedisPushes(PushListing):
    """`PushStore` over Redis."""

    def __init__(
        self,
        context: StoreContext,
        revocations: Revocations,
        streams: LiveStreams,
        ring: Callable[[], None],
    ) -> None:
        """Write pushes; `ring` wakes `jobs`, which expands their audiences."""
        super().__init__(context)
        self._ring = ring
        self._streams = streams
        self._revocations = revocations
        self._accepting = Accepting(context.link, context.config, self._pack)
        self._probe: asyncio.Future[Any] | None = None
        self._probed_at = 0.0

    @property
    def pending(self) -> int:
        """Return the number of deliveries of all apps that have not ended; see `Accepting.pending`."""
        return self._accepting.pending

    def pending_of(self, app: str) -> int:
        return self._accepting.pending_of(app)

    def looking(self) -> Callable[[str, Sequence[int]], None]:
        """Begin a count; see `Accepting.looking`."""
        return self._accepting.looking()

    async def recount(self, apps: Iterable[str]) -> int:
        """Count every shard of these apps and of removed ones, and return `pending`."""
        await self._accepting.recount(tuple(apps))
        return self.pending

    async def note_refused(self, bounds: Iterable[Bound]) -> None:
        life = int(REFUSED_FOR * 1000)
        until = self._clock() + life
        fields = [word for who, *numbers in bounds for word in (who, " ".join(map(str, [until, *numbers])))]
        await self._link.many([("HSET", keys.FULL, *fields), ("PEXPIRE", keys.FULL, life)])

    async def refused(self) -> list[Bound]:
        noted, now = await self._link.call("HGETALL", keys.FULL), self._clock()
        found = [(who.decode(), *map(int, numbers.split())) for who, numbers in noted.items()]
        return [Bound(who, *numbers) for who, until, *numbers in found if until > now]

    async def require_durable(self, apps: Iterable[str]) -> float:
        marks = [keys.mark(app, shard) for app in apps for shard in range(self._config.shards_of(app))]
        if not self._link.cluster:
            del marks[1:]
        return max(await asyncio.gather(*(self._accepting.durable.probe(mark) for mark in marks)), default=0.0)

    async def accept(self, push: Push) -> None:
        """Write the push durably, completely or not at all. A repeat with the same push changes nothing."""
        single = push.total == 1 and not push.send_at
        await self._accepting.write(push.app, self._shard(push.app, push.id), push if single else self._pack(push))
        self._wake_jobs(push)

    def _wake_jobs(self, push: Push) -> None:
        """Wake the jobs for a push whose audience they have to look up now."""
        if push.audience and not push.send_at:
            self._ring()

    def _pack(self, push: Push) -> Part:
        config, total = self._config, push.total
        span = push.expires_at - push.created_at
        life = span + config.status_ttl * 1000 if is_short(push) else 0
        if total == 1 and not push.send_at:
            channel, blob = encode_single(push)
            single: Args = [f"{channel}:{push.lane}", span, life, push.id, push.created_at]
            return Part([*single, listed(push), push.trace[:16], blob], 1, len(blob))
        chunks = split(push, config.chunk_size)
        whole = b""
        if push.audience:
            note = noted(decode_audience(push.audience))
            whole = b"%s %d %s%s" % (push.lane.encode(), len(note), note, encode_push(without_contents(push)))
        content = packed(contents_of(push, chunks), expires_at=push.expires_at, now=self._clock())
        args: Args = ["", push.id, total, push.created_at, push.send_at or 0]
        args += (whole, content, listed(push), push.trace[:16], life, len(chunks))
        size = len(whole) + len(content)
        for chunk in chunks:
            blob = encode_chunk(chunk)
            args += (chunk.channel, chunk.lane, len(chunk.targets), blob)
            size += len(blob)
        return Part(args, total, size)

    def beside(self, app: str, push_id: str, key: bytes) -> bool:
        """Return whether the push is stored in the shard of the idempotency key's record."""
        shards = self._config.shards_of(app)
        return keys.shard_of(push_id, shards) == keys.token_shard(key, shards)

    async def recall(self, app: str, key: bytes) -> bytes | None:
        shard = keys.token_shard(key, self._config.shards_of(app))
        record: bytes | None = await self._link.call("GET", keys.once(app, shard, key))
        if record is None or not self._accepting.waits:
            return record
        # The call that wrote it may have ended without an answer, because the disk or a replica was slow. The wait
        # must be for the server where the record was read: another one may be the primary by now, and not have it.
        part = Part([], 0, 0, key=key.hex())
        return await self._accepting.write(app, shard, part)

    async def accept_once(self, pushes: Sequence[Push], *, key: bytes, record: bytes) -> bytes | None:
        """Write the pushes and the record in one atomic step. Raises `ValueError` for a push that is not `beside` the
        key."""
        app = pushes[0].app
        shard = keys.token_shard(key, self._config.shards_of(app))
        if not all(self.beside(app, push.id, key) for push in pushes):
            raise ValueError("the pushes of an idempotent call live in the shard of its key")
        packed_pushes = [self._pack(push) for push in pushes]
        args = [arg for own in packed_pushes for arg in own.args]
        size = len(record) + sum(own.size for own in packed_pushes)
        deliveries = sum(own.deliveries for own in packed_pushes)
        part = Part(args, deliveries, size, key=key.hex(), record=record, first=pushes[0].id)
        kept = await self._accepting.write(app, shard, part)
        for push in pushes:
            self._wake_jobs(push)
        return kept

    async def status(self, app: str, push_id: str) -> PushStatus | None:
        shard = self._shard(app, push_id)
        values = await self._link.call("HMGET", keys.push(app, shard, push_id), *FIELDS)
        return status_of(app, push_id, values)

    async def kept(self, app: str, push_id: str) -> KeptPush | None:
        status = await self.status(app, push_id)
        if status is None:
            return None
        return await read_kept(self._link, self._lock, status, self._shard(app, push_id))

    async def cancel(self, app: str, push_id: str) -> PushStatus | None:
        """Cancel what has not been sent. Raises `Conflict` when every delivery has ended already. Scheduled deliveries
        are counted here, since no dispatcher is involved."""
        shard = self._shard(app, push_id)
        answer = await self._link.script(
            "cancel",
            [
                *(keys.push(app, shard, push_id), keys.cancelled(app, shard), keys.epoch(app, shard)),
                *(keys.waiting(app, shard, push_id), keys.scheduled(app, shard), keys.pending(app, shard)),
                *(keys.expansion(app, shard, push_id), keys.revoked(app, shard), keys.heard(app, shard)),
                *(keys.expansions(app, shard, lane) for lane in LANES),
            ],
            [push_id, self._clock(), *self._config.lifetimes, OPEN_MOST, LIFETIME, *FIELDS],
        )
        values, ended, place, launched = answer or (None, [], b"", 0)
        for platform, count in zip(ended[::2], ended[1::2], strict=True):
            telemetry.count_ended(app, platform.decode(), "cancelled", "cancelled", count)
        status = status_of(app, push_id, values)
        if status is not None and status.state == "done":
            raise Conflict("Every delivery of this push has ended: there is nothing left to cancel.")
        if status is not None and launched and await self._link.call("SISMEMBER", keys.ROUTES, Route(app, "live").name):
            # Whatever is on its way to the streams of the app, if it has any: what a dispatcher appends from now on is
            # appended nowhere.
            await self._streams.withdraw(app, push_id, status.send_at or status.created_at)
        if place:
            await self._revocations.applied(app, shard, place.decode(), push_id)
            status = await self.status(app, push_id)
        return status

    async def deliveries(
        self, app: str, push_id: str, *, outcome: End | None, cursor: str, limit: int
    ) -> tuple[list[DeliveryRow], str | None] | None:
        """Return rows in the order of their index. A page may be short or empty and still have a next cursor."""
        start = after_cursor(cursor)
        shard = self._shard(app, push_id)
        push = keys.push(app, shard, push_id)
        total, expanded = await self._link.call("HMGET", push, "n", "x")
        if total is None:
            return None
        if int(total) <= layout.FEW and expanded is None:
            indexes = range(start, int(total))
            blobs = await self._link.call("HMGET", push, *indexes) if indexes else []
            rows = (
                (index, row)
                for index, blob in zip(indexes, blobs, strict=True)
                if blob is not None and (row := readable(decode_row, blob, "row", app)) is not None
            )
            return page(rows, outcome, limit)
        key = keys.rows(app, shard, push_id)
        if int(total) <= layout.SMALL:
            members = await self._link.call("ZRANGE", key, 0, -1)
            found = [row for member in members for row in rows_of(member, app) if row[0] >= start]
            return page(iter(sorted(found, key=itemgetter(0))), outcome, limit)
        return await self._deliveries_not_sent(app, key, start, outcome, limit)

    async def _deliveries_not_sent(
        self, app: str, key: str, start: int, outcome: End | None, limit: int
    ) -> tuple[list[DeliveryRow], str | None]:
        """Return rows of a large push that are not `sent`, each of which is a member of its own. An audience that has
        grown may have some `sent` ones among them."""
        found: list[DeliveryRow] = []
        last = start - 1
        for _ in range(0, _LOOK, _PAGE):
            async with self._lock:
                members = await self._link.call("ZRANGEBYSCORE", key, start, "+inf", "LIMIT", 0, _PAGE)
                read = [each for member in members for each in rows_of(member, app)]
                await asyncio.sleep(0)
            for index, row in read:
                if row.outcome == "sent" or (outcome is not None and row.outcome != outcome):
                    continue
                if len(found) == limit:
                    return found, str(last)
                found.append(row)
                last = index
            if len(members) < _PAGE:
                return found, None
            start = int(members[-1].partition(b" ")[0]) + 1
            last = start - 1
        return found, str(last)

    async def to_device(self, app: str, device_id: str, token_hash: str, *, cursor: str, limit: int) -> DevicePushes:
        """Return how deliveries to a device have ended, of the latest pushes first."""
        shards = self._config.shards_of(app)
        reading = PushReading(self._link, app, shards, after=Place.read(cursor), since=None, entries=ENTRIES)
        found: list[DevicePush] = []
        looked = unlisted = rows = 0
        since: int | None = None
        while True:
            async with self._lock:
                entries = await reading.step(STATUSES)
                places = [(app, self._shard(app, each.id), each.id) for each in entries]
                wanted = ("n", "x", *range(layout.FEW))
                answers = await self._link.many([("HMGET", keys.push(*place), *wanted) for place in places])
            for each, place, (total, expanded, *blobs) in zip(entries, places, answers, strict=True):
                looked, since = looked + 1, -each.place.ms
                own: list[DeliveryRow] = []
                if total is None or int(total) > layout.SMALL:
                    unlisted += total is not None
                elif int(total) <= layout.FEW and expanded is None:
                    kept = (readable(decode_row, blob, "row", app) for blob in blobs if blob is not None)
                    own = [row for row in kept if row is not None]
                else:
                    members = await self._link.call("ZRANGE", keys.rows(*place), 0, -1)
                    own = [row for member in members for _, row in rows_of(member, app)]
                rows += len(own)
                found += [
                    DevicePush(each.id, since, row)
                    for row in own
                    if row.device_id == device_id or row.token_hash == token_hash
                ]
                if len(found) >= limit or looked >= LOOK_FOR_DEVICE or rows >= _LOOK:
                    more = each is not entries[-1] or not reading.over
                    return DevicePushes(found, looked, unlisted, since, each.place.cursor if more else None)
            if reading.over:
                return DevicePushes(found, looked, unlisted, since, None)

    async def ping(self) -> None:
        """Check that a write of the kind that accepts pushes succeeds, now or within the last second. Raises
        `StoreUnavailable`."""
        now = asyncio.get_running_loop().time()
        if self._probe is None or (self._probe.done() and now - self._probed_at >= _PROBE):
            self._probed_at = now
            self._probe = asyncio.ensure_future(self._link.script("probe", [keys.PROBE], [_PROBE_LIFE]))
            self._probe.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._probe)

    async def aclose(self) -> None:
        await self._revocations.aclose()
        await self._accepting.aclose()


def after_cursor(cursor: str) -> int:
    """Return the first index after the cursor. Raises `InvalidRequest`."""
    if not cursor:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 12):
        raise InvalidRequest(faults=[Fault("cursor", "is not the cursor of an earlier page")])
    return int(cursor) + 1


def page(
    rows: Iterator[tuple[int, DeliveryRow]], outcome: End | None, limit: int
) -> tuple[list[DeliveryRow], str | None]:
    """Return the first `limit` rows that match, and a cursor if more follow."""
    found: list[DeliveryRow] = []
    last = ""
    for index, row in rows:
        if outcome is None or row.outcome == outcome:
            if len(found) == limit:
                return found, last
            found.append(row)
            last = str(index)
    return found, None


def rows_of(member: bytes, app: str = "") -> list[tuple[int, DeliveryRow]]:
    """Return the rows of a member of a large push's sorted set, or none where this version cannot read them."""
    return readable(decode_rows, member.partition(b" ")[2], "row", app) or []
