"""Makes `Taken` of entries that were read: decodes them, reduces them to their open targets, and marks those to leave
out."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ...model.codec import CodecError, decode_entry, encode_entry
from ...model.delivery import SUPERSEDED, End, Settlement
from ...model.push import Chunk, CountedTarget, Platform, Route
from ...model.routing import CARRIERS
from ...ports.entries import NOBODY, EntryRef, Taken
from .. import keys
from ..part import StoreContext, StorePart
from ..revoke.presence import DevicePresence, Present
from ..revoke.supersession import Supersession
from ..revoke.suppression import ERASED, NONE_LISTED, Listed, Suppression, accepted_at
from .contents import Contents, Decoded
from .lanes import LaneState, bit_of
from .quarantine import set_aside
from .settling import Closed, is_short, written_of

UnreadOf: TypeAlias = Callable[[str, Sequence[str]], Awaitable[Mapping[str, int]]]

_pack = msgspec.msgpack.Encoder().encode


FEW_WRITTEN: Final = 8
"""Deliveries that were written to devices and are recorded as waiting without a look at their streams."""


class Entry(Struct, frozen=True, gc=False):
    id: str
    blob: bytes


class LaneRead(NamedTuple):
    """The entries that were read from one lane."""

    state: LaneState
    entries: list[Entry]
    history: int
    """The history of the link before the read: at most that of the server which answered."""
    epoch: bytes = b""
    """The shard's epoch, if it was read in the same step; empty before the first cancel."""
    again: Collection[str] = ()
    """The ids of entries that were added again: a consumer that had them before may still answer."""
    departed: Sequence[str] = ()
    """The consumers that had them, which are gone."""


class Opener(StorePart):
    """Opens entries for one consumer."""

    def __init__(
        self,
        context: StoreContext,
        suppression: Suppression,
        presence: DevicePresence,
        supersession: Supersession,
        unread: UnreadOf,
    ) -> None:
        """Open entries. `unread` returns by the ids of devices how many pushes in their streams are unread."""
        super().__init__(context)
        self._supersession = supersession
        self._presence = presence
        self._suppression = suppression
        self._contents = Contents(context.link)
        self._unread = unread
        self._cancelled: dict[tuple[str, int], tuple[tuple[int, bytes], frozenset[str]]] = {}

    async def open(
        self, route: Route, reads: Iterable[LaneRead], sizes: Sequence[int], newest: Sequence[float]
    ) -> list[Taken]:
        """Open entries that no consumer has worked on, as far as the server knows: after a failover, deliveries that
        have ended are left out. By shard, `sizes` are those of the suppression lists, and `newest` is when a device
        changed last."""
        found = []
        behind = time.monotonic() < self._link.behind_until
        for read in reads:
            state = read.state
            if read.entries:
                decoded = await self._decode(read)
                state.learn(sum(len(chunk.targets) for _, chunk in decoded), len(read.entries))
                again = read.again
                # A device may have acknowledged it while it waited, or a consumer that had it before has answered.
                unsure = [
                    each
                    for each in decoded
                    if behind or (each[1].home and each[1].turn > 1) or (again and each[0].entry_id in again)
                ]
                if unsure:
                    asked = {ref.entry_id for ref, _ in unsure}
                    sure = [each for each in decoded if each[0].entry_id not in asked]
                    decoded = [*sure, *await self._outstanding(state, unsure)]
                decoded = await self._complete(state, decoded)
                found.append((state, decoded, await self._cancelled_of(read, read.epoch)))
        return await self._hold(route, found, sizes, newest)

    async def open_again(self, route: Route, reads: Iterable[LaneRead]) -> list[Taken]:
        """Open entries that a consumer has worked on before, with the targets that have no outcome in their turn."""
        reads = [read for read in reads if read.entries]
        if not reads:
            return []
        epochs = await self._link.many([("GET", keys.epoch(*read.state.place[:2])) for read in reads])
        sizes = await self._suppression.sizes(route.app, route.platform)
        newest = await self._presence.newest(route.app, route.platform)
        found = []
        for read, epoch in zip(reads, epochs, strict=True):
            state = read.state
            decoded = await self._outstanding(state, await self._decode(read))
            decoded = await self._complete(state, decoded)
            found.append((state, decoded, await self._cancelled_of(read, epoch or b"")))
        departed = [name for read in reads for name in read.departed]
        return await self._hold(route, found, sizes, newest, again=True, departed=departed)

    async def _hold(
        self,
        route: Route,
        found: Sequence[tuple[LaneState, list[Decoded], frozenset[str]]],
        sizes: Sequence[int],
        newest: Sequence[float],
        *,
        again: bool = False,
        departed: Sequence[str] = (),
    ) -> list[Taken]:
        chunks = [chunk for _, decoded, _ in found for _, chunk in decoded]
        others: dict[Platform, Listed] = {}
        own = chunks
        if foreign := {chunk.home for chunk in chunks if chunk.home} - {route.platform}:
            own = [chunk for chunk in chunks if chunk.platform == route.platform]
        listed_here = await self._suppression.among(route.app, route.platform, own, sizes)
        changed = await self._presence.of(route.app, route.platform, own, newest)
        for platform in foreign:
            chosen = [chunk for chunk in chunks if chunk.platform == platform]
            listed, more = await self._known(route.app, platform, chosen)
            changed = {**changed, **more}
            if listed is not NONE_LISTED:
                others[platform] = listed
        opened = [each for _, decoded, _ in found for each in decoded]
        superseded = await self._supersession.among(route.app, opened, departed)
        counting = [target for chunk in chunks if chunk.message.counts for target in chunk.targets]
        devices = [target.device_id for target in counting if target.device_id is not None]
        unread = await self._unread(route.app, devices) if devices else {}
        nothing_known = listed_here is NONE_LISTED and not others and not changed and not superseded
        # Nothing is awaited from here on: an entry that two calls have read at once is returned by one of them, and a
        # call that is cancelled earlier registers nothing.
        taken = []
        for state, decoded, cancelled in found:
            latest = ""  # the entry of which parts may follow
            for ref, chunk in decoded:
                held = state.held.get(ref.entry_id, 0)
                if (held and ref.entry_id != latest) or ref.history != self._link.history:
                    continue
                latest = ref.entry_id
                state.held[latest] = held | bit_of(ref)
                lacks_content = not chunk.message.body and chunk.lacks_content
                if nothing_known and not cancelled and not lacks_content:
                    taken.append(Taken(ref=ref, chunk=counted(chunk, unread), again=again))
                    continue
                listed = listed_here
                if foreign and chunk.platform != route.platform:
                    listed = others.get(chunk.platform, NONE_LISTED)
                skip: dict[int, End] = {}
                why: dict[int, str] = {}
                if chunk.push_id in cancelled:
                    skip = {target.index: "cancelled" for target in chunk.targets}
                elif lacks_content:
                    skip = {target.index: "expired" for target in chunk.targets}
                    why = {target.index: "ttl" for target in chunk.targets}
                elif listed is not NONE_LISTED:
                    skip, why = _left_out(chunk, listed)
                behind = superseded.get(id(chunk), ()) if superseded else ()
                known = changed.get(id(chunk)) if changed else None
                environments = NOBODY if known is None else known.environments
                if known is not None and chunk.push_id not in cancelled and not lacks_content:
                    chunk = _changed(chunk, known, listed, skip, why)
                for index in behind:
                    if index not in skip:
                        skip[index], why[index] = "suppressed", SUPERSEDED
                chunk = counted(chunk, unread)
                taken.append(Taken(ref, chunk, skip=skip, why=why, environments=environments, again=again))
        return taken

    async def _known(
        self, app: str, platform: Platform, chunks: Sequence[Chunk]
    ) -> tuple[Listed, Mapping[int, Present]]:
        """What is known of the tokens and devices of chunks that another channel than their platform's own carries."""
        sizes = await self._suppression.sizes(app, platform)
        newest = await self._presence.newest(app, platform)
        listed = await self._suppression.among(app, platform, chunks, sizes)
        return listed, await self._presence.of(app, platform, chunks, newest)

    async def _decode(self, read: LaneRead) -> list[Decoded]:
        app, shard, platform, lane = read.state.place
        decoded = []
        for entry in read.entries:
            ref = EntryRef(app, shard, platform, lane, entry.id, read.history)
            chunks, unreadable = decode_entry(entry.blob)
            if unreadable:
                # What can be read of it goes behind the others of the lane.
                count = sum(len(chunk.targets) for chunk in chunks)
                rest = (encode_entry((), unreadable), encode_entry(chunks), count) if chunks else ()
                await self._set_aside(read.state, ref, unreadable[0].error, rest)
                continue
            first, *more = chunks
            decoded.append((replace(ref, part=0) if more else ref, first))
            for part, chunk in enumerate(more, 1):
                decoded.append((EntryRef(app, shard, platform, lane, entry.id, read.history, part), chunk))
        return decoded

    async def _set_aside(
        self, state: LaneState, ref: EntryRef, error: CodecError, rest: tuple[bytes, bytes, int] | tuple[()] = ()
    ) -> None:
        quarantine, name = keys.quarantine(ref.app, ref.shard), ref.entry_id
        await set_aside(self._link, state.key, keys.DISPATCH, quarantine, name, error, history=ref.history, rest=rest)

    async def _complete(self, state: LaneState, decoded: list[Decoded]) -> list[Decoded]:
        """Return the chunks with their messages. Content is kept for a day longer than what waits for it, so an open
        delivery without it has expired; otherwise it was lost, and the entry is moved to the quarantine."""
        app, shard = state.place[:2]
        found, lacking = await self._contents.of(app, shard, decoded)
        if lacking:
            errors = {each[0].entry_id: error for each, error in lacking}
            now = self._clock()
            for ref, chunk in await self._outstanding(state, [each for each, _ in lacking]):
                if chunk.expires_at <= now:
                    found.append((ref, chunk))
                else:
                    await self._set_aside(state, ref, errors[ref.entry_id])
        return found

    async def _outstanding(self, state: LaneState, decoded: Sequence[Decoded]) -> list[Decoded]:
        """Return the chunks with their open targets; entries without any are finished here."""
        if not decoded:
            return []
        answers = await self._ask(*state.place[:2], [chunk for _, chunk in decoded])
        left: list[Decoded] = []
        over: dict[str, None] = {}
        for (ref, chunk), indexes in zip(decoded, answers, strict=True):
            if indexes is None:
                error = CodecError("unknown version of recorded turns: written by a newer pushsvc?")
                await self._set_aside(state, ref, error)
            elif not indexes:
                over[ref.entry_id] = None
            elif len(indexes) == len(chunk.targets):
                left.append((ref, chunk))
            else:
                wanted = set(indexes)
                targets = tuple(target for target in chunk.targets if target.index in wanted)
                left.append((ref, replace(chunk, targets=targets)))
        for ref, _ in left:
            over.pop(ref.entry_id, None)  # other parts of it are open
        if over and decoded[0][0].history == self._link.history:
            await self._link.read("forget", [state.key], [keys.DISPATCH, *over])
        return left

    async def open_of(self, app: str, shard: int, chunks: Sequence[Chunk]) -> list[list[int]]:
        """Return the indexes of the open targets of each of these chunks: all, where this version cannot know."""
        answers = await self._ask(app, shard, chunks)
        return [
            [target.index for target in chunk.targets] if indexes is None else indexes
            for chunk, indexes in zip(chunks, answers, strict=True)
        ]

    async def acknowledged(self, app: str, shard: int, settlements: Sequence[Settlement]) -> Closed:
        """Return deliveries of these that devices have acknowledged since they were written to them. Where most have,
        it costs less to look than to record for each that it waits; of few, it does not."""
        chunks = written_of(settlements)
        if sum(len(chunk.targets) for chunk in chunks) < FEW_WRITTEN:
            return set()
        found: Closed = set()
        for chunk, indexes in zip(chunks, await self._ask(app, shard, chunks), strict=True):
            if indexes is not None and len(indexes) < len(chunk.targets):
                written = {target.index for target in chunk.targets}
                found.update((chunk.push_id, index) for index in written.difference(indexes))
        return found

    async def _ask(self, app: str, shard: int, chunks: Sequence[Chunk]) -> list[list[int] | None]:
        """Return the indexes of the open targets of each of these chunks, or None where another version has recorded
        their turns."""
        now = self._clock()
        asked = [
            (chunk.push_id, chunk.total, chunk.turn, [target.index for target in chunk.targets], outlived(chunk, now))
            for chunk in chunks
        ]
        answer: list[list[int] | None] = await self._link.script(
            "outstanding", [keys.pending(app, shard)], [keys.prefix(app, shard), _pack(asked)]
        )
        return answer

    async def _cancelled_of(self, read: LaneRead, epoch: bytes) -> frozenset[str]:
        """Return the ids of the shard's cancelled pushes, which are read when the epoch or the primary has changed:
        at another one an epoch may be that of other pushes."""
        app, shard = read.state.place[:2]
        known, present = self._cancelled.get((app, shard)), (read.history, epoch)
        if known is None or known[0] != present:
            ids = await self._link.call("ZRANGE", keys.cancelled(app, shard), 0, -1) if epoch else []
            known = self._cancelled[app, shard] = (present, frozenset(push_id.decode() for push_id in ids))
        return known[1]


def outlived(chunk: Chunk, now: int) -> bool:
    """Return whether the only delivery of a push has ended if its status is gone: a status outlives what is open. An
    entry of several pushes may outlive the status of one that ended long before the others."""
    return chunk.total == 1 and not (is_short(chunk) and chunk.expires_at <= now)


def counted(chunk: Chunk, unread: Mapping[str, int]) -> Chunk:
    """Return the chunk with how many pushes are unread at each of its devices, if its message says so and as far as
    that is known."""
    if not unread or not chunk.message.counts:
        return chunk
    targets = tuple(
        t
        if (number := unread.get(t.device_id or "")) is None
        else CountedTarget(t.index, t.token, t.device_id, t.kind, t.owner, number)
        for t in chunk.targets
    )
    return replace(chunk, targets=targets)


def _left_out(chunk: Chunk, listed: Listed) -> tuple[dict[int, End], dict[int, str]]:
    """Return the targets that are sent nothing because their tokens are dead, or were erased after they were chosen: a
    device is chosen when the push starts, or later. The live channel needs no token."""
    dead = listed.dead if chunk.channel not in CARRIERS else frozenset()
    skip: dict[int, End] = {target.index: "suppressed" for target in chunk.targets if target.token in dead}
    why: dict[int, str] = {}
    accepted = accepted_at(chunk) if listed.erased else 0
    for target in chunk.targets if listed.erased else ():
        if listed.covers(target.token, accepted if target.device_id is None else chunk.starts_at):
            skip[target.index], why[target.index] = "cancelled", ERASED
    return skip, why


def _changed(chunk: Chunk, found: Present, listed: Listed, skip: dict[int, End], why: dict[int, str]) -> Chunk:
    """Return the chunk with the devices as the registry has them now. A device that was removed with its user was
    erased, not moved."""
    for index in found.renewed:
        skip.pop(index, None)
        why.pop(index, None)
    accepted = accepted_at(chunk) if listed.erased else 0
    for target in chunk.targets if found.gone else ():
        if target.index in found.gone:
            ended: tuple[End, str] = ("suppressed", found.gone[target.index])
            if listed.covers(target.token, accepted):
                ended = ("cancelled", ERASED)
            skip[target.index], why[target.index] = ended
    return found.chunk


def entries_of(flat: Sequence[bytes]) -> list[Entry]:
    """Return the entries of a script's answer: id, blob, id, blob, .."""
    return [Entry(entry_id.decode(), blob) for entry_id, blob in zip(flat[::2], flat[1::2], strict=True)]


Answer: TypeAlias = Iterable[tuple[bytes, dict[bytes, bytes] | None]]
"""The entries of a stream in XREADGROUP's answer. One that was deleted while pending has no fields."""


def entries_read(answer: Answer) -> list[Entry]:
    """Return the entries; nothing can be decoded of one without fields."""
    return [Entry(entry_id.decode(), (fields or {}).get(b"c", b"")) for entry_id, fields in answer]


def requeued_ids(answer: Answer) -> list[str]:
    """Return the ids of the entries that requeue.lua has added."""
    return [entry_id.decode() for entry_id, fields in answer if fields and b"a" in fields]
