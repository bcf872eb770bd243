"""The dispatcher's side: entries read, settled, promoted, launched and taken over.

How an entry lives::

    accept ─────────────> lane ─take─> with a consumer ────settle─> deleted
      └> scheduled ─launch─^ ^                │      └─ its consumer dies ─reclaim─> with another, open targets only
                             └──promote── retry zset <─ settle with a Retry (turn + 1)

A read is never repeated blindly. When its answer is lost (fault, cancelled call) the server may have given this
consumer entries that it has never seen; as the consumer lives, no other takes them over. So a lane whose read failed is
*unsure*, as each is at the start, and the next `take` first asks for the consumer's own pending entries and returns
those that it does not work on. That is also how a process resumes that starts again with the same name. After a
failover every lane is unsure, and each is looked at every minute anyway: a server that was promoted may be behind. What
was acknowledged on the old one comes back then, and the fence finds what of it has ended; what was handed out comes
undelivered a second time. What was read from the old one is not sent from memory any more, and not acknowledged: its
ids may be those of other entries on the new one. It is read again there, and the fence knows what has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence

from redis.exceptions import ResponseError

from ...model.delivery import Settlement
from ...model.push import LANES, Chunk, Lane, Route
from ...ports.entries import EntryRef, News, Taken
from .. import keys
from ..figures.answers import slot_of
from ..link.together import all_of
from ..part import StoreContext
from ..revoke.presence import DevicePresence, newest_command, newest_of
from ..revoke.revocations import Following
from ..revoke.supersession import Supersession
from ..revoke.suppression import Suppression
from ..work.held import HeldRoutes
from ..work.liveness import Liveness
from .ending import SETTLE, Ending
from .entries import LaneRead, Opener, UnreadOf, entries_of, entries_read, requeued_ids
from .lanes import LanePlace, LaneState, ending
from .lapses import take_lapsed
from .letter import note_dropped
from .moving import Moving
from .settling import Place, among, batches, pack, pack_finished, places_of, without

_RECLAIM = 100
"""Entries that one call takes over from a lane."""
_BURST = 64
"""The maximum number of entries that one wait returns."""
_POLL = 0.05


class RedisQueue(Ending, Moving):
    """`DeliveryQueue` over Redis Streams, for one consumer."""

    def __init__(
        self,
        context: StoreContext,
        suppression: Suppression,
        presence: DevicePresence,
        liveness: Liveness,
        following: Following,
        supersession: Supersession,
        unread: UnreadOf,
    ) -> None:
        super().__init__(context)
        self._liveness = liveness
        self._following = following
        self._counted: dict[str, int] = {}
        """Cancelled pushes, with how many of our deliveries in flight the store has counted."""
        self._held = HeldRoutes(context)
        self._supersession = supersession
        self._opener = Opener(context, suppression, presence, supersession, unread)
        self._lanes: dict[LanePlace, LaneState] = {}
        self._lost: set[tuple[str, str]] = set()
        """Entries, by their lane's key and id, that were found to be another consumer's when a retry was settled."""
        self._link.on_change(self.recheck_all)

    # --- reading ----------------------------------------------------------------------------------

    async def take(self, route: Route, lane: Lane, *, targets: int, wait_ms: int) -> list[Taken]:
        """Read entries, this consumer's earlier ones first. At least one is returned where there is one, however
        large."""
        await self._liveness.begin()
        states = self._states(route, lane)
        now = asyncio.get_running_loop().time()
        for state in states:
            if state.unsure or now >= state.look_at:
                resumed = await self._resume(route, state, targets)
                if resumed:
                    return resumed
        try:
            # A wait returns at once where something is there: what comes in a trickle needs no look before it.
            look = wait_ms <= 0 or self._polls(states) or not all(state.drained for state in states)
            taken = await self._read(route, states, targets) if look else []
            if not taken and wait_ms > 0:
                taken = await self._wait(route, states, targets, wait_ms)
        except BaseException:
            for state in states:
                state.lost(wait_ms / 1000 + self._config.timeout)
            raise
        return taken

    def drained(self, route: Route, lane: Lane) -> bool:
        return all(state.drained for state in self._states(route, lane))

    def _states(self, route: Route, lane: Lane) -> list[LaneState]:
        found = []
        for shard in range(self._config.shards_of(route.app)):
            place = (route.app, shard, route.platform, lane)
            state = self._lanes.get(place)
            if state is None:
                state = self._lanes[place] = LaneState(route, shard, lane)
            found.append(state)
        return found

    async def _read(self, route: Route, states: Sequence[LaneState], targets: int) -> list[Taken]:
        share = max(1, -(-targets // len(states)))
        answers = await all_of(self._read_one(route, state, share) for state in states)
        return await self._opener.open(route, *zip(*answers, strict=True))

    async def _read_one(self, route: Route, state: LaneState, targets: int) -> tuple[LaneRead, int, float]:
        """Return what was read of one shard, the size of its suppression list, and when a device changed last."""
        (app, shard), history = state.place[:2], self._link.history
        entries, epoch, size, mark, again, drained = await self._link.read(
            "take",
            [
                state.key,
                keys.epoch(app, shard),
                keys.suppressed(app, shard, route.platform),
                keys.moved(app, shard, route.platform),
            ],
            [keys.DISPATCH, self._config.consumer, targets, state.expected],
        )
        state.drained = bool(drained)
        read = LaneRead(state, entries_of(entries), history, epoch, [each.decode() for each in again])
        return read, size, newest_of(mark)

    async def _wait(self, route: Route, states: Sequence[LaneState], targets: int, wait_ms: int) -> list[Taken]:
        if self._polls(states):
            return await self._poll(route, states, targets, wait_ms)
        app = route.app
        count = min(max(1, int(targets / len(states) / max(state.expected for state in states))), _BURST)
        command = ("XREADGROUP", "GROUP", keys.DISPATCH, self._config.consumer, "COUNT", count, "BLOCK", wait_ms)
        history = self._link.history
        answer, *rest = await self._link.wait(
            [
                (*command, "STREAMS", *(state.key for state in states), *(">" for _ in states)),
                *(("GET", keys.epoch(app, state.place[1])) for state in states),
                *(("ZCARD", keys.suppressed(app, state.place[1], route.platform)) for state in states),
                *(newest_command(app, state.place[1], route.platform) for state in states),
            ],
            wait_ms,
        )
        by_key = {key.decode(): entries for key, entries in answer or ()}
        for state in states:
            state.drained = len(by_key.get(state.key, ())) < count
        if not answer:
            return []
        epochs, sizes, marks = (rest[at : at + len(states)] for at in range(0, len(rest), len(states)))
        reads = [
            LaneRead(state, entries_read(own), history, epoch or b"", requeued_ids(own))
            for state, epoch in zip(states, epochs, strict=True)
            for own in [by_key.get(state.key, ())]
        ]
        return await self._opener.open(route, reads, sizes, list(map(newest_of, marks)))

    def _polls(self, states: Sequence[LaneState]) -> bool:
        """Return whether no command can wait for these streams, because they are in several slots of a cluster."""
        return self._link.cluster and len(states) > 1

    async def _poll(self, route: Route, states: Sequence[LaneState], targets: int, wait_ms: int) -> list[Taken]:
        """Read until there is something, with a pause before each read."""
        deadline = asyncio.get_running_loop().time() + wait_ms / 1000
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(_POLL, left))
            taken = await self._read(route, states, targets)
            if taken:
                return taken
        return []

    async def _resume(self, route: Route, state: LaneState, targets: int) -> list[Taken]:
        """Read entries pending for this consumer that it does not work on, with the targets without an outcome."""
        while True:
            count = min(max(1, int(targets / state.expected)), _BURST)
            history, losses = self._link.history, state.losses
            answer = await self._link.call(
                *("XREADGROUP", "GROUP", keys.DISPATCH, self._config.consumer, "COUNT", count),
                *("STREAMS", state.key, state.cursor),
                errors=True,
            )
            if isinstance(answer, ResponseError) and "NOGROUP" in str(answer):
                state.empty()  # nothing was ever read from this lane
                return []
            self._link.raised([answer])
            entries = entries_read(answer[0][1]) if answer else []
            if not entries:
                if losses != state.losses:
                    continue  # from the beginning: what was held and passed over may have been forgotten since
                state.empty()
                return []
            unheld = [entry for entry in entries if entry.id not in state.held]
            taken = await self._opener.open_again(route, [LaneRead(state, unheld, history)])
            if losses == state.losses:  # else the next look begins in front, perhaps on another server
                state.cursor = entries[-1].id
            if taken:
                return taken

    async def outstanding(self, app: str, chunks: Sequence[Chunk]) -> list[list[int]]:
        """See `DeliveryQueue.outstanding`; one atomic step a shard."""
        shards = self._config.shards_of(app)
        places: dict[int, list[int]] = {}
        for place, chunk in enumerate(chunks):
            places.setdefault(keys.shard_of(chunk.push_id, shards), []).append(place)
        answers = await all_of(
            self._opener.open_of(app, shard, [chunks[place] for place in own]) for shard, own in places.items()
        )
        found: dict[int, list[int]] = {}
        for own, answer in zip(places.values(), answers, strict=True):
            found.update(zip(own, answer, strict=True))
        return [found[place] for place in range(len(chunks))]

    # --- settling ---------------------------------------------------------------------------------

    async def settle(
        self, app: str, settlements: Sequence[Settlement], finished: Sequence[EntryRef]
    ) -> Sequence[Settlement]:
        """Settle deliveries. Entries are acknowledged with the last settlements of their shard, never before."""
        finished = [ref for ref in finished if ref.history == self._link.history]
        if app in self._supersession.apps:
            await self._supersession.record(app, settlements, finished)
        with ending(finished, self._state_of) as last:
            void = await all_of(
                self._settle_shard(app, shard, own, refs)
                for shard, (own, refs) in self._by_shard(app, settlements, last).items()
            )
        if self._counted:
            self._on_settled(settlements)
        if self._lost:
            self.forget([ref for ref in finished if lane_entry(ref) in self._lost])
        return without(settlements, void) if any(void) else settlements

    def _by_shard(
        self, app: str, settlements: Sequence[Settlement], finished: Sequence[EntryRef]
    ) -> Mapping[int, tuple[Sequence[Settlement], Sequence[EntryRef]]]:
        shards = self._config.shards_of(app)
        if shards == 1 and all(ref.shard == 0 for ref in finished):
            return {0: (settlements, finished)}
        found: dict[int, tuple[list[Settlement], list[EntryRef]]] = {}
        for settlement in settlements:
            shard = keys.shard_of(settlement.delivery.chunk.push_id, shards)
            found.setdefault(shard, ([], []))[0].append(settlement)
        for ref in finished:
            found.setdefault(ref.shard, ([], []))[1].append(ref)
        return found

    def _state_of(self, ref: EntryRef) -> LaneState | None:
        """Return the lane of an entry; None for one of a former primary, whose id may be another entry's by now."""
        if ref.history != self._link.history:
            return None
        return self._lanes.get((ref.app, ref.shard, ref.platform, ref.lane))

    async def _settle_shard(
        self, app: str, shard: int, settlements: Sequence[Settlement], finished: Sequence[EntryRef]
    ) -> list[Place]:
        """Return what took no effect."""
        found: list[Place] = []
        for batch, last in batches(settlements, SETTLE):
            closed = await self._opener.acknowledged(app, shard, batch)
            found += closed
            while True:
                refs = pack_finished(self._still_ours(finished)) if last else []
                groups, singles = pack(batch, closed, counted=self._counted)
                slot = slot_of(batch, self._clock())
                _, dropped, lost, void, *more = await self._record(app, shard, groups, singles, refs, slot)
                found += places_of(void)
                self._lost.update(
                    (key.decode(), entry.decode()) for key, entry in zip(lost[::2], lost[1::2], strict=True)
                )
                if dropped:
                    note_dropped(app, dropped)
                if not more:
                    break
                # Another consumer has settled some of what goes together: repeat that without them. See settle.lua.
                batch = among(batch, others := set(places_of(more)))
                found += others
                closed |= others
        return found

    def _still_ours(self, finished: Iterable[EntryRef]) -> list[EntryRef]:
        """Return those that this consumer has at the present primary, which may have changed since the last await."""
        history, lost = self._link.history, self._lost
        return [ref for ref in finished if ref.history == history and not (lost and lane_entry(ref) in lost)]

    # --- what others had --------------------------------------------------------------------------

    async def reclaim(self, route: Route) -> list[Taken]:
        """Take over up to 100 entries a lane and shard. Dead consumers without entries are removed from the group."""
        await self._liveness.begin()
        states = [state for lane in LANES for state in self._states(route, lane)]
        departed = await self._liveness.departed([state.key for state in states], keys.DISPATCH)
        claimed = []
        # A claim whose answer is lost leaves entries under our name, like any other read.
        try:
            for state, names in zip(states, departed, strict=True):
                if names:
                    history = self._link.history
                    flat = await self._link.read(
                        "reclaim", [state.key], [keys.DISPATCH, self._config.consumer, _RECLAIM, *names]
                    )
                    claimed.append(LaneRead(state, entries_of(flat), history, departed=names))
            return await self._opener.open_again(route, claimed)
        except BaseException:
            for state in states:
                state.lost(self._config.timeout)
            raise

    async def lapsed(self, route: Route, lane: Lane, now: int) -> list[Taken]:
        """Return expired entries of one page a shard: see lapses.py."""
        await self._liveness.begin()
        states = self._states(route, lane)
        try:
            found = [await take_lapsed(self._link, self._config.consumer, state, now) for state in states]
            return await self._opener.open_again(route, found)
        except BaseException:
            for state in states:
                state.lost(self._config.timeout)
            raise

    # --- what was taken back ------------------------------------------------------------------------

    async def enrol(self, app: str) -> None:
        await self._following.enrol(app)

    async def revoked(self, apps: Collection[str], wait_ms: int) -> Sequence[News]:
        return await self._following.news(apps, wait_ms)

    async def acknowledge(self, news: News, in_flight: Mapping[str, int]) -> None:
        await self._following.acknowledge(news, in_flight)
        self._counted.update({push_id: count for push_id, count in in_flight.items() if count})

    def _on_settled(self, settlements: Sequence[Settlement]) -> None:
        for settlement in settlements:
            push_id = settlement.delivery.chunk.push_id
            if settlement.outcome is not None and push_id in self._counted:
                self._counted[push_id] -= 1
                if self._counted[push_id] <= 0:
                    del self._counted[push_id]

    def forget(self, refs: Iterable[EntryRef]) -> None:
        self._supersession.forget(refs)
        for ref in refs:
            self._lost.discard(lane_entry(ref))
            if (state := self._state_of(ref)) is not None:
                state.give_back(ref)

    @property
    def history(self) -> int:
        return self._link.history

    @property
    def replicated(self) -> bool:
        return self._link.waits

    def recheck_all(self) -> None:
        """Note that another server answers from now on: entries may be pending on it that this process does not
        know."""
        for state in self._lanes.values():
            state.held.clear()
            state.lost(0.0)
        self._lost.clear()
        self._supersession.held.clear()
        self._counted_at = 0.0

    def release(self, route: Route) -> None:
        """Let the next `take` begin like a new process of this name, with its pending entries."""
        for place in [place for place in self._lanes if (place[0], place[2]) == (route.app, route.platform)]:
            del self._lanes[place]

    # --- signs of life ----------------------------------------------------------------------------

    async def beat(self, held: Mapping[str, str] | None = None, worked: Mapping[str, float] | None = None) -> None:
        await self._liveness.beat()
        if held is not None:
            await self._held.report(held, worked or {})
        await self._recount(place[:3] for place in self._lanes)

    async def retire(self) -> None:
        """Let others take over at once what this consumer has not settled. A later `take` registers it again."""
        await self._held.leave()
        await self._following.end()
        await self._liveness.end()


def lane_entry(ref: EntryRef) -> tuple[str, str]:
    """Return the key of the entry's lane, and its id."""
    return keys.lane(ref.app, ref.shard, ref.platform, ref.lane), ref.entry_id
