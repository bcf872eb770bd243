"""The dispatcher's side: entries read, settled, promoted and taken over.

How an entry lives::

    accept ─> lane ─take─> held by a consumer ─settle─> deleted
               ^                  │      └─ its consumer dies ─reclaim─> held by another, open targets only
               └──promote── retry zset <─ settle with a Retry (turn + 1)

A read is never repeated blindly. When its answer is lost (fault, cancelled call) the server may have given this
consumer entries that it has never seen; as the consumer lives, nobody would take them over. So a lane whose read
failed is *unsure*, as each is at the start, and the next `take` first asks for the consumer's own pending entries
and hands out those that are not held. That is also how a process resumes that starts again with the same name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from ..codec import CodecError, decode_chunk
from ..model import LANES, Chunk, End, Lane, Route, Settlement
from ..ports import EntryRef, Taken
from ..telemetry import get_logger
from . import keys
from .clock import Clock
from .config import StoreConfig
from .link import Link, pairs
from .settling import RENEWAL, Closed, batches, pack, pack_finished
from .suppression import Suppression

log = get_logger("store")

Entry = tuple[bytes, bytes]
"""Entry id and encoded chunk."""

_SETTLE = 1000
"""Settlements in one atomic step: it keeps the server from its other clients for some 3 ms."""
_PROMOTE = 500
"""Chunks that one call moves back."""
_RECLAIM = 100
"""Entries that one call takes over from a lane."""
_POLL = 0.05

_pack = msgspec.msgpack.Encoder().encode


class _LaneState:
    """What this process knows of one stream."""

    __slots__ = ("cursor", "expected", "held", "key", "place", "sure_after", "unsure")

    def __init__(self, app: str, shard: int, route: Route, lane: Lane) -> None:
        self.place = (app, shard, route.platform, lane)
        self.key = keys.lane(*self.place)
        self.held: set[str] = set()
        self.unsure = True
        self.sure_after = 0.0
        self.cursor: bytes | str = "0"
        # Recent targets an entry. The first guess is a full chunk, so that the first reads take too few, not too many.
        self.expected = 500.0

    def lost(self, grace: float) -> None:
        """An answer was lost: entries may be pending that nobody here knows of.

        The server may even serve the abandoned read later, up to the end of its BLOCK: `grace` in seconds.
        """
        self.unsure = True
        self.sure_after = asyncio.get_running_loop().time() + grace
        self.cursor = "0"

    def empty(self) -> None:
        """Nothing (more) is pending that is not held."""
        self.unsure = asyncio.get_running_loop().time() < self.sure_after
        self.cursor = "0"


class RedisQueue:
    """`DeliveryQueue` over Redis Streams, for one consumer."""

    def __init__(self, link: Link, config: StoreConfig, suppression: Suppression, clock: Clock) -> None:
        self._link = link
        self._config = config
        self._suppression = suppression
        self._clock = clock
        self._alive = False
        self._blind_until = 0.0
        self._lanes: dict[tuple[str, int, str, Lane], _LaneState] = {}
        self._cancelled: dict[tuple[str, int], tuple[int, frozenset[str]]] = {}

    # --- reading ----------------------------------------------------------------------------------

    async def take(self, route: Route, lane: Lane, *, targets: int, wait_ms: int) -> list[Taken]:
        """Own entries of before come first. At least one entry is returned where there is one, however large."""
        if not self._alive:
            await self.beat()
        states = self._states(route, lane)
        for state in states:
            if state.unsure:
                resumed = await self._resume(route, state, targets)
                if resumed:
                    return resumed
        try:
            taken = await self._read(route, states, targets)
            if not taken and wait_ms > 0:
                taken = await self._wait(route, states, targets, wait_ms)
        except BaseException:
            for state in states:
                state.lost(wait_ms / 1000 + self._config.timeout)
            raise
        return taken

    def _states(self, route: Route, lane: Lane) -> list[_LaneState]:
        found = []
        for shard in range(self._config.shards_of(route.app)):
            state = self._lanes.get((route.app, shard, route.platform, lane))
            if state is None:
                state = _LaneState(route.app, shard, route, lane)
                self._lanes[state.place] = state
            found.append(state)
        return found

    async def _read(self, route: Route, states: Sequence[_LaneState], targets: int) -> list[Taken]:
        share = max(1, -(-targets // len(states)))
        reads = [self._read_one(route, state, share) for state in states]
        # All are waited for, so that no read is still under way when the caller asks again after a fault.
        answers = await asyncio.gather(*reads, return_exceptions=True)
        read, sizes = [], []
        for state, answer in zip(states, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            entries, epoch, size = answer
            read.append((state, _pairs(entries), int(epoch)))
            sizes.append(size)
        return await self._open(route, read, sizes)

    async def _read_one(self, route: Route, state: _LaneState, targets: int) -> tuple[list[bytes], bytes, int]:
        app, shard = state.place[:2]
        answer: tuple[list[bytes], bytes, int] = await self._link.script(
            "take",
            [state.key, keys.epoch(app, shard), keys.suppressed(app, shard, route.platform)],
            [keys.DISPATCH, self._config.consumer, targets, state.expected],
        )
        return answer

    async def _wait(self, route: Route, states: Sequence[_LaneState], targets: int, wait_ms: int) -> list[Taken]:
        if self._link.cluster and len(states) > 1:
            return await self._poll(route, states, targets, wait_ms)
        count = min(max(1, int(targets / len(states) / max(state.expected for state in states))), 64)
        app = route.app
        command = ("XREADGROUP", "GROUP", keys.DISPATCH, self._config.consumer, "COUNT", count, "BLOCK", wait_ms)
        streams = ("STREAMS", *(state.key for state in states), *(">" for _ in states))
        answer, *rest = await self._link.wait(
            [
                (*command, *streams),
                *(("GET", keys.epoch(app, state.place[1])) for state in states),
                *(("ZCARD", keys.suppressed(app, state.place[1], route.platform)) for state in states),
            ],
            wait_ms,
        )
        if not answer:
            return []
        epochs, sizes = rest[: len(states)], rest[len(states) :]
        by_key = {key.decode(): entries for key, entries in answer}
        read = [
            (state, _entries(by_key.get(state.key, ())), int(epoch or 0))
            for state, epoch in zip(states, epochs, strict=True)
        ]
        return await self._open(route, read, sizes)

    async def _poll(self, route: Route, states: Sequence[_LaneState], targets: int, wait_ms: int) -> list[Taken]:
        """Streams in several slots of a cluster cannot be waited for in one command."""
        deadline = asyncio.get_running_loop().time() + wait_ms / 1000
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(_POLL, left))
            taken = await self._read(route, states, targets)
            if taken:
                return taken
        return []

    async def _resume(self, route: Route, state: _LaneState, targets: int) -> list[Taken]:
        """Entries pending under our own name that are not held, at the targets without an outcome."""
        while True:
            count = min(max(1, int(targets / state.expected)), 64)
            try:
                answer = await self._link.call(
                    *("XREADGROUP", "GROUP", keys.DISPATCH, self._config.consumer, "COUNT", count),
                    *("STREAMS", state.key, state.cursor),
                )
            except Exception as error:
                if isinstance(error.__cause__, ResponseError) and "NOGROUP" in str(error.__cause__):
                    state.empty()  # nothing was ever read from this lane
                    return []
                raise
            entries = _entries(answer[0][1]) if answer else []
            if not entries:
                state.empty()
                return []
            unknown = [entry for entry in entries if entry[0].decode() not in state.held]
            taken = await self._open_again(route, [(state, unknown)]) if unknown else []
            state.cursor = entries[-1][0]
            if taken:
                return taken

    async def _open_again(self, route: Route, read: Sequence[tuple[_LaneState, list[Entry]]]) -> list[Taken]:
        """Open entries that somebody has worked on before."""
        states = [state for state, _ in read]
        epochs = await self._link.many([("GET", keys.epoch(*state.place[:2])) for state in states])
        sizes = await self._suppression.sizes(route.app, route.platform)
        opened = [(state, entries, int(epoch or 0)) for (state, entries), epoch in zip(read, epochs, strict=True)]
        return await self._open(route, opened, sizes, again=True)

    async def _open(
        self,
        route: Route,
        read: Sequence[tuple[_LaneState, list[Entry], int]],
        sizes: Sequence[int],
        *,
        again: bool = False,
    ) -> list[Taken]:
        """Decode entries, find whom to leave out, and hold them. Nothing is awaited after the first is held."""
        opened: list[tuple[_LaneState, EntryRef, Chunk, frozenset[str]]] = []
        for state, entries, epoch in read:
            if not entries:
                continue
            decoded = await self._decode(state, entries)
            if again:
                decoded = await self._outstanding(state, decoded)
            else:
                # An average that follows within a few reads.
                targets = sum(len(chunk.targets) for _, chunk in decoded)
                state.expected += 0.5 * (max(1.0, targets / len(entries)) - state.expected)
            cancelled = await self._cancelled_of(state, epoch)
            opened += ((state, ref, chunk, cancelled) for ref, chunk in decoded)
        suppressed = await self._suppression.among(
            route.app, route.platform, [chunk for _, _, chunk, _ in opened], sizes
        )
        taken = []
        for state, ref, chunk, cancelled in opened:
            state.held.add(ref.entry_id)
            skip: dict[int, End] = {}
            if chunk.push_id in cancelled:
                skip = {target.index: "cancelled" for target in chunk.targets}
            elif suppressed:
                skip = {target.index: "suppressed" for target in chunk.targets if target.token in suppressed}
            taken.append(Taken(ref=ref, chunk=chunk, skip=skip))
        return taken

    async def _decode(self, state: _LaneState, entries: Iterable[Entry]) -> list[tuple[EntryRef, Chunk]]:
        app, shard, platform, lane = state.place
        decoded = []
        for entry_id, blob in entries:
            ref = EntryRef(app=app, shard=shard, platform=platform, lane=lane, entry_id=entry_id.decode())
            try:
                decoded.append((ref, decode_chunk(blob)))
            except CodecError as error:
                await set_aside(self._link, state.key, keys.DISPATCH, keys.quarantine(app, shard), entry_id, error)
        return decoded

    async def _outstanding(
        self, state: _LaneState, decoded: Sequence[tuple[EntryRef, Chunk]]
    ) -> list[tuple[EntryRef, Chunk]]:
        """The chunks at their open targets; entries without any are acknowledged here and now."""
        if not decoded:
            return []
        app, shard = state.place[:2]
        asked = [
            (chunk.push_id, chunk.total, chunk.turn, [target.index for target in chunk.targets]) for _, chunk in decoded
        ]
        answers = await self._link.script(
            "outstanding", [keys.pending(app, shard)], [keys.prefix(app, shard), _pack(asked)]
        )
        left, over = [], []
        for (ref, chunk), indexes in zip(decoded, answers, strict=True):
            if not indexes:
                over.append(ref)
            elif len(indexes) == len(chunk.targets):
                left.append((ref, chunk))
            else:
                wanted = set(indexes)
                targets = tuple(target for target in chunk.targets if target.index in wanted)
                left.append((ref, msgspec.structs.replace(chunk, targets=targets)))
        if over:
            await self.settle(app, [], over)
        return left

    async def _cancelled_of(self, state: _LaneState, epoch: int) -> frozenset[str]:
        """Ids of the shard's cancelled pushes, asked for only when the epoch says that there is news."""
        app, shard = state.place[:2]
        known = self._cancelled.get((app, shard))
        if known is None or known[0] != epoch:
            ids = await self._link.call("ZRANGE", keys.cancelled(app, shard), 0, -1) if epoch else []
            known = self._cancelled[app, shard] = (epoch, frozenset(push_id.decode() for push_id in ids))
        return known[1]

    # --- settling ---------------------------------------------------------------------------------

    async def settle(self, app: str, settlements: Sequence[Settlement], finished: Sequence[EntryRef]) -> int:
        """Entries are acknowledged with the last settlements of their shard, never before."""
        shards = self._config.shards_of(app)
        by_shard: dict[int, tuple[list[Settlement], list[EntryRef]]] = {}
        if shards == 1 and all(ref.shard == 0 for ref in finished):
            by_shard[0] = (list(settlements), list(finished))
        else:
            for settlement in settlements:
                shard = keys.shard_of(settlement.delivery.chunk.push_id, shards)
                by_shard.setdefault(shard, ([], []))[0].append(settlement)
            for ref in finished:
                by_shard.setdefault(ref.shard, ([], []))[1].append(ref)
        applied = await asyncio.gather(
            *(self._settle_shard(app, shard, own, refs) for shard, (own, refs) in by_shard.items())
        )
        for ref in finished:
            state = self._lanes.get((ref.app, ref.shard, ref.platform, ref.lane))
            if state is not None:
                state.held.discard(ref.entry_id)
        return sum(applied)

    async def _settle_shard(
        self, app: str, shard: int, settlements: Sequence[Settlement], finished: Sequence[EntryRef]
    ) -> int:
        applied = 0
        for batch, last in batches(settlements, _SETTLE):
            refs = pack_finished(finished) if last else []
            closed: Closed = set()
            while True:
                count, *more = await self._settle_once(app, shard, batch, closed, refs)
                applied += count
                if not more:
                    break
                # Somebody else has settled some of a retry's targets: again without them. See settle.lua.
                closed |= {(push_id.decode(), index) for push_id, index in zip(more[::2], more[1::2], strict=True)}
        return applied

    async def _settle_once(
        self, app: str, shard: int, settlements: Sequence[Settlement], closed: Closed, refs: list[Any]
    ) -> list[Any]:
        config = self._config
        now = self._clock()
        groups, singles = pack(settlements, closed, renew_before=now - config.status_ttl * 1000 // RENEWAL)
        blob = _pack((now, config.status_ttl * 1000, config.dead_ttl * 1000, groups, singles, refs))
        answer: list[Any] = await self._link.script(
            "settle", [keys.pending(app, shard)], [keys.prefix(app, shard), blob]
        )
        return answer

    # --- moving -----------------------------------------------------------------------------------

    async def promote(self, route: Route, now: int) -> int:
        """Up to 500 chunks a call and shard; call again while it returns something."""
        app, platform = route.app, route.platform
        moved = await asyncio.gather(
            *(
                self._link.script(
                    "promote",
                    [keys.retries(app, shard, platform), keys.pending(app, shard), keys.quarantine(app, shard)],
                    [keys.prefix(app, shard), platform, now, _PROMOTE],
                )
                for shard in range(self._config.shards_of(app))
            )
        )
        return sum(moved)

    async def reclaim(self, route: Route) -> list[Taken]:
        """Up to 100 entries a lane and shard; consumers that are gone and own nothing leave the group."""
        if not self._alive:
            await self.beat()
        states = [state for lane in LANES for state in self._states(route, lane)]
        names = await consumers_of(self._link, [state.key for state in states], keys.DISPATCH)
        gone = await self.gone(set().union(*names))
        if not gone:
            return []
        read = []
        for state, own in zip(states, names, strict=True):
            leavers = sorted(gone & own)
            if leavers:
                # A reclaim whose answer is lost leaves entries under our name, like any other read.
                try:
                    flat = await self._link.script(
                        "reclaim", [state.key], [keys.DISPATCH, self._config.consumer, _RECLAIM, *leavers]
                    )
                except BaseException:
                    state.lost(self._config.timeout)
                    raise
                read.append((state, _pairs(flat)))
        try:
            return await self._open_again(route, read) if any(entries for _, entries in read) else []
        except BaseException:
            for state, _ in read:
                state.lost(self._config.timeout)
            raise

    # --- signs of life ----------------------------------------------------------------------------

    async def beat(self) -> None:
        before = await self._link.call(
            *("SET", keys.alive(self._config.consumer), self._clock()),
            *("PX", int(self._config.alive_ttl * 1000), "GET"),
        )
        if self._alive and before is None:
            self._lapse()
        self._alive = True

    def _lapse(self) -> None:
        self._blind_until = asyncio.get_running_loop().time() + self._config.alive_ttl

    async def gone(self, consumers: set[str]) -> set[str]:
        """Which of these consumers show no sign of life.

        None, while our own sign of life ran out a moment ago: Redis was away, or we were, and the others may have
        had no chance to renew theirs either. Else all would take over from all when Redis comes back.
        """
        others = sorted(consumers - {self._config.consumer})
        if not others:
            return set()
        names = [self._config.consumer, *others]
        own, *living = await self._link.many([("EXISTS", keys.alive(name)) for name in names])
        if not own:
            await self.beat()
        if asyncio.get_running_loop().time() < self._blind_until:
            return set()
        return {consumer for consumer, lives in zip(others, living, strict=True) if not lives}

    async def retire(self) -> None:
        """What this consumer has not settled may be taken over at once. Taking again brings it back to life."""
        if self._alive:
            await self._link.call("DEL", keys.alive(self._config.consumer))
            self._alive = False


async def consumers_of(link: Link, streams: Sequence[str], group: str) -> list[set[str]]:
    """The names of each stream's consumers; nobody where there is no group yet."""
    answers = await link.many([("XINFO", "CONSUMERS", key, group) for key in streams], errors=True)
    return [
        set() if isinstance(answer, ResponseError) else {pairs(consumer)[b"name"].decode() for consumer in answer}
        for answer in answers
    ]


async def set_aside(link: Link, stream: str, group: str, quarantine: str, entry_id: bytes, error: CodecError) -> None:
    """Move an entry that cannot be decoded out of the way, and say so, without its content: that may hold tokens."""
    why = str(error).partition(":")[0]
    if not await link.script("quarantine", [stream, quarantine], [group, entry_id, why]):
        return  # deleted while it was pending, or set aside by somebody else
    log.error("entry_quarantined", stream=stream, entry=entry_id.decode(), kept_in=quarantine, error=why)


def _pairs(flat: Sequence[bytes]) -> list[Entry]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _entries(answer: Iterable[tuple[bytes, dict[bytes, bytes] | None]]) -> list[Entry]:
    """Entries as redis-py gives them. One that was deleted while pending has no fields, and is nothing to decode."""
    return [(entry_id, (fields or {}).get(b"c", b"")) for entry_id, fields in answer]
