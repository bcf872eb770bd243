"""The twin of the store in plain dictionaries, for tests of everything above the ports.

It keeps the same promises as Redis behind the ports (fencing by turn, counts that always balance, take-over of what a
dead consumer held) and is held to them by the same contract suite. It forgets everything with the process, never
expires anything, and knows one shard.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import reduce
from operator import or_

import msgspec

from pushsvc.errors import Conflict
from pushsvc.model.delivery import (
    SUPERSEDED,
    Arrival,
    End,
    Ended,
    Receipt,
    Retry,
    Settlement,
    TokenDead,
    TokenSuspect,
    Unconfirmed,
)
from pushsvc.model.devices import Environment
from pushsvc.model.push import (
    LANES,
    Chunk,
    Lane,
    Platform,
    Push,
    Route,
    Target,
)
from pushsvc.model.routing import CARRIERS, platform_of
from pushsvc.model.status import DeliveryRow, FeedbackEvent, PushStatus
from pushsvc.ports.entries import EntryRef, News, Revoked, Taken, token_mark
from pushsvc.ports.figures import Gauges
from pushsvc.ports.pushes import DevicePushes, KeptPush, ListedPush, PushFilter
from pushsvc.ports.receipts import EventPage
from pushsvc.rules.audience import is_successor, present
from pushsvc.rules.policy import dead_until
from pushsvc.runtime.providers import addresses
from pushsvc.store.config import StoreConfig
from pushsvc.store.feedback.log import parse_event_id
from pushsvc.store.figures.answers import slot_of
from pushsvc.store.hashing import token_digest
from pushsvc.store.layout import SMALL
from pushsvc.store.link.clock import Clock, wall_clock
from pushsvc.store.pushes.pushes import after_cursor, page
from pushsvc.store.queue.arrivals import ARRIVED, EndOfAny
from pushsvc.store.queue.entries import counted
from pushsvc.store.queue.letter import DeadLetter, note_dropped
from pushsvc.store.queue.results import dead_letter_of, head_of, receipt_of, row_of
from pushsvc.store.queue.settling import mark_of_retry, retry_chunk
from pushsvc.store.revoke.supersession import order_at, order_of, places_at, places_of, was_accepted

from .expansions import MemoryExpansions
from .feedback import MemoryAnswers, MemorySuppressions
from .gauges import figures
from .letters import MemoryDeadLetters
from .live import MemoryLive
from .registry import MemoryRegistry
from .state import Record, State, Stream, Walk


class MemoryPushes:
    """`PushStore` in memory."""

    def __init__(self, state: State) -> None:
        self._state = state

    @property
    def pending(self) -> int:
        """Deliveries that have not ended."""
        return sum(record.left for record in self._state.pushes.values())

    async def recount(self, apps: Iterable[str]) -> int:
        return self.pending

    async def accept(self, push: Push) -> None:
        state = self._state
        if (push.app, push.id) not in state.pushes:
            record = state.pushes[push.app, push.id] = Record(push, push.first_state, push.created_at)
            if push.audience:
                record.walk = Walk(due=push.starts_at)
            elif record.state == "sending":
                state.launch(record)

    async def accept_once(self, pushes: Sequence[Push], *, key: bytes, record: bytes) -> bytes | None:
        app = pushes[0].app
        kept = self._state.once.get((app, key))
        if kept is not None:
            return None if (app, pushes[0].id) in self._state.pushes else kept
        self._state.once[app, key] = record
        for push in pushes:
            await self.accept(push)
        return None

    def beside(self, app: str, push_id: str, key: bytes) -> bool:
        return True

    async def recall(self, app: str, key: bytes) -> bytes | None:
        return self._state.once.get((app, key))

    async def status(self, app: str, push_id: str) -> PushStatus | None:
        record = self._state.pushes.get((app, push_id))
        return record.status() if record else None

    async def statuses(self, pushes: Sequence[tuple[str, str]]) -> list[PushStatus | None]:
        return [await self.status(*push) for push in pushes]

    async def recent(
        self, app: str, which: PushFilter, *, cursor: str, limit: int
    ) -> tuple[list[ListedPush], str | None]:
        raise NotImplementedError

    async def schedules(self, app: str, *, cursor: str, limit: int) -> tuple[list[ListedPush], str | None]:
        raise NotImplementedError

    async def due(self, app: str, until: int | None = None) -> int:
        raise NotImplementedError

    async def kept(self, app: str, push_id: str) -> KeptPush | None:
        raise NotImplementedError

    async def deliveries(
        self, app: str, push_id: str, *, outcome: End | None, cursor: str, limit: int
    ) -> tuple[list[DeliveryRow], str | None] | None:
        start = after_cursor(cursor)
        record = self._state.pushes.get((app, push_id))
        if record is None:
            return None
        rows = [
            (index, row)
            for index, row in sorted(record.rows.items())
            if index >= start and (row.outcome != "sent" or record.push.total <= SMALL)
        ]
        return page(iter(rows), outcome, limit)

    async def to_device(self, app: str, device_id: str, token_hash: str, *, cursor: str, limit: int) -> DevicePushes:
        raise NotImplementedError

    async def cancel(self, app: str, push_id: str) -> PushStatus | None:
        record = self._state.pushes.get((app, push_id))
        if record is None:
            return None
        if record.state == "done":
            raise Conflict("Every delivery of this push has ended: there is nothing left to cancel.")
        if record.state != "cancelled":
            if record.state != "scheduled":
                self._state.live.withdraw(app, push_id, record.push.starts_at)
            record.in_flight = 0 if record.state == "scheduled" else None
            record.state = "cancelled"
            record.walk = None
            record.updated_at = self._state.clock()
            if record.in_flight is None:
                record.revoked = self._state.revoke(app, Revoked(pushes=frozenset((push_id,))))
        if record.in_flight is None and await self._state.applied(app, record.revoked):
            record.in_flight = record.flying
        return record.status()

    async def ping(self) -> None: ...


class MemoryQueue:
    """`DeliveryQueue` in memory, for one consumer."""

    def __init__(self, state: State, consumer: str) -> None:
        self._state = state
        self._consumer = consumer
        self._held: set[str] = set()
        self._places: dict[str, int] = {}
        self._counted: Counter[tuple[str, str]] = Counter()

    async def take(self, route: Route, lane: Lane, *, targets: int, wait_ms: int) -> list[Taken]:
        self._state.alive.add(self._consumer)
        until = asyncio.get_running_loop().time() + wait_ms / 1000
        stream = self._state.lanes[route.app, route.platform, lane]
        while True:
            own = [entry_id for entry_id in stream.of({self._consumer}) if entry_id not in self._held]
            taken = self._open(route, lane, own, again=True)
            if not taken:
                chosen, total = [], 0
                for entry_id in stream.of({None}):
                    if total >= targets:
                        break
                    chosen.append(entry_id)
                    total += len(stream.entries[entry_id].targets)
                taken = self._open(route, lane, chosen)
            if taken or not await self._state.changed(until):
                return taken

    def drained(self, route: Route, lane: Lane) -> bool:
        return not self._state.lanes[route.app, route.platform, lane].of({None})

    def _open(self, route: Route, lane: Lane, entry_ids: Sequence[str], *, again: bool = False) -> list[Taken]:
        stream = self._state.lanes[route.app, route.platform, lane]
        taken = []
        for entry_id in entry_ids:
            chunk = stream.entries[entry_id]
            record = self._state.pushes[chunk.app, chunk.push_id]
            if again or (chunk.home and chunk.turn > 1):
                left = tuple(target for target in chunk.targets if record.open(target.index, chunk.turn))
                if not left:
                    stream.remove(entry_id)
                    continue
                chunk = msgspec.structs.replace(chunk, targets=left)
            stream.owner[entry_id] = self._consumer
            self._held.add(entry_id)
            skip: dict[int, End] = {}
            for target in chunk.targets:
                if record.state == "cancelled":
                    skip[target.index] = "cancelled"
                elif (
                    route.app,
                    chunk.platform,
                    target.token,
                ) in self._state.suppressed and route.platform not in CARRIERS:
                    skip[target.index] = "suppressed"
            why: dict[int, str] = {}
            environments: dict[int, Environment] = {}
            if record.state != "cancelled":
                chunk, why, environments = self._present(route, chunk, skip)
                if chunk.message.collapse and not chunk.dry_run:
                    self._superseded(chunk, skip, why)
            if chunk.message.counts:
                chunk = counted(chunk, self._state.live_unread(route.app))
            ref = EntryRef(app=route.app, shard=0, platform=route.platform, lane=lane, entry_id=entry_id)
            taken.append(Taken(ref, chunk, skip=skip, why=why, environments=environments, again=again))
        return taken

    def _present(
        self, route: Route, chunk: Chunk, skip: dict[int, End]
    ) -> tuple[Chunk, dict[int, str], dict[int, Environment]]:
        """The chunk as the registry has its devices now, why some are sent nothing, and their environments."""
        state, platform = self._state, platform_of(chunk.platform)
        why: dict[int, str] = {}
        environments: dict[int, Environment] = {}
        targets = list(chunk.targets)
        for place, target in enumerate(targets):
            if target.device_id is None:
                continue
            if (route.app, platform, token_digest(b"", target.token)) not in state.moved:
                continue
            kept = state.devices[route.app].get(target.device_id)
            if kept is None:
                owner = state.owners[route.app].get(state.config.addresses.identity(platform, target.token), "")
                if (route.app, platform, target.token, owner) in state.successors:
                    successor = state.devices[route.app][owner]
                    kept = successor if is_successor(successor.device, target, chunk) else None
            if kept is not None:
                environments[target.index] = kept.device.environment
            judged = present(target, None if kept is None else kept.device, chunk)
            if isinstance(judged, str):
                skip[target.index], why[target.index] = "suppressed", judged
            elif judged is not target:
                skip.pop(target.index, None)
                targets[place] = judged
        return msgspec.structs.replace(chunk, targets=tuple(targets)), why, environments

    def _superseded(self, chunk: Chunk, skip: dict[int, End], why: dict[int, str]) -> None:
        for target in chunk.targets:
            places = [(chunk.app, *place) for place in places_of(chunk, target, self._state.config.addresses)]
            newest = max(self._state.superseding.get(place, "") for place in places)
            for place in places:
                self._state.behind[place].add(order_of(chunk))
            if newest > order_of(chunk) and target.index not in skip:
                skip[target.index], why[target.index] = "suppressed", SUPERSEDED

    def _supersede(self, settlement: Settlement) -> None:
        """What was accepted, and what waits."""
        state, verdict = self._state, settlement.verdict
        chunk, target = settlement.delivery.chunk, settlement.delivery.target
        if not chunk.message.collapse or chunk.dry_run:
            return
        order = order_of(chunk)
        for each in places_of(chunk, target, self._state.config.addresses):
            place = (chunk.app, *each)
            if was_accepted(settlement):
                self._accept(place, order, target.token)
            if isinstance(verdict, Ended) and not verdict.dead_letter:
                state.behind[place].discard(order)

    def _accept(self, place: tuple[str, ...], order: str, token: str) -> None:
        state = self._state
        state.superseding[place] = max(order, state.superseding.get(place, ""))
        if min(state.behind[place], default=order) < order:
            state.revoke(place[0], Revoked(tokens=frozenset((token_mark(token),))))

    async def outstanding(self, app: str, chunks: Sequence[Chunk]) -> list[list[int]]:
        return [
            [t.index for t in chunk.targets if self._state.pushes[app, chunk.push_id].open(t.index, chunk.turn)]
            for chunk in chunks
        ]

    async def settle(
        self, app: str, settlements: Sequence[Settlement], finished: Sequence[EntryRef]
    ) -> Sequence[Settlement]:
        state = self._state
        for settlement in settlements:
            self._supersede(settlement)
        took = []
        lost: set[str] = set()
        again: dict[tuple[int, Retry, bool, bool], tuple[Chunk, list[Target]]] = {}
        for settlement in settlements:
            delivery, verdict = settlement.delivery, settlement.verdict
            chunk, target = delivery.chunk, delivery.target
            record = state.pushes[app, chunk.push_id]
            if not record.open(target.index, chunk.turn):
                continue
            owner = state.lanes[app, chunk.channel, chunk.lane].owner.get(settlement.entry_id)
            if settlement.entry_id and owner != self._consumer and not isinstance(verdict, Ended):
                lost.add(settlement.entry_id)
                continue
            took.append(settlement)
            if self._counted[app, chunk.push_id] and settlement.outcome is not None:
                self._counted[app, chunk.push_id] -= 1
                record.flying -= 1
                if record.in_flight is not None:
                    record.in_flight = record.flying
            record.updated_at = state.clock()
            state.count_answer(Route(app, chunk.channel), slot_of(settlements, 0), settlement)
            if isinstance(settlement.outcome, TokenDead | TokenSuspect):
                state.receipts[app].add(receipt_of(settlement, settlement.outcome))
            if isinstance(verdict, Ended):
                self._end(record, settlement, verdict)
            else:
                record.turns[target.index] = chunk.turn + 1
                at_once = bool(verdict.channel) and verdict.due_at <= settlement.at
                unconfirmed = isinstance(settlement.outcome, Unconfirmed)
                again.setdefault((id(chunk), verdict, at_once, unconfirmed), (chunk, []))[1].append(target)
        for (_, retry, at_once, unconfirmed), (chunk, targets) in again.items():
            following = retry_chunk(chunk, targets, retry)
            record = state.pushes[app, chunk.push_id]
            mark = mark_of_retry(following, 0 if at_once else retry.due_at, unconfirmed=unconfirmed)
            for target in targets:
                record.places[target.index] = following.channel
                record.mark(target.index, mark.rstrip("r") if chunk.home else "")
            if at_once:
                state.lanes[app, following.channel, following.lane].add(following)
            else:
                state.retries[Route(app, following.channel)].append((retry.due_at, following))
        for ref in finished:
            if ref.entry_id not in lost:
                state.lanes[ref.app, ref.platform, ref.lane].remove(ref.entry_id)
            self._held.discard(ref.entry_id)
        state.change()
        return took

    def _end(self, record: Record, settlement: Settlement, verdict: Ended) -> None:
        push = record.push
        record.end(settlement.delivery.target.index, row_of(settlement, verdict))
        if verdict.dead_letter:
            letters = self._state.dead[push.app]
            letters[next(self._state.numbers)] = dead_letter_of(settlement, head_of(settlement.delivery.chunk))
            if len(letters) > self._state.config.dead_max:
                del letters[next(iter(letters))]
                note_dropped(push.app, 1)

    async def arrived(self, app: str, arrivals: Sequence[Arrival]) -> int:
        for arrival in arrivals:
            kept = self._state.devices[app].get(arrival.device_id or "")
            if arrival.collapse and kept is not None:
                device = kept.device
                target = device.platform, device.kind, device.token, device.id
                for place in places_at(*target, arrival.collapse, self._state.config.addresses):
                    self._accept((app, *place), order_at(arrival.since, arrival.push_id), device.token)
        return self._state.end_any(app, arrivals, ARRIVED)

    async def suppress(self, app: str, arrivals: Sequence[Arrival], why: str) -> int:
        return self._state.end_any(app, arrivals, EndOfAny("suppressed", why))

    async def fall_back(self, app: str, arrivals: Sequence[Arrival]) -> int:
        moved = 0
        for arrival in arrivals:
            record = self._state.pushes.get((app, arrival.push_id))
            if record is None or record.state == "cancelled" or record.marks.get(arrival.index) != "w":
                continue
            waiting = [chunk for route, own in self._state.retries.items() if route.app == app for _, chunk in own]
            for chunk in waiting:
                own = [target for target in chunk.targets if target.index == arrival.index]
                if chunk.push_id == arrival.push_id and own and record.open(arrival.index, chunk.turn):
                    following = retry_chunk(chunk, own, Retry(0, chunk.attempt, chunk.part, chunk.counted))
                    record.turns[arrival.index] = following.turn
                    record.mark(arrival.index, mark_of_retry(following, 0, unconfirmed=False))
                    self._state.lanes[app, following.channel, following.lane].add(following)
                    moved += 1
                    break
        self._state.change()
        return moved

    async def promote(self, route: Route, now: int) -> int:
        due, later = [], []
        for due_at, chunk in self._state.retries[route]:
            cancelled = self._state.pushes[chunk.app, chunk.push_id].state == "cancelled"
            if due_at <= now or cancelled:
                due.append(chunk)
                record = self._state.pushes[chunk.app, chunk.push_id]
                for target in chunk.targets:
                    if record.open(target.index, chunk.turn) and record.marks.get(target.index) == "w":
                        record.mark(target.index, "" if cancelled or route.platform in CARRIERS else "f")
            else:
                later.append((due_at, chunk))
        self._state.retries[route] = later
        for chunk in due:
            self._state.lanes[route.app, route.platform, chunk.lane].add(chunk)
        if due:
            self._state.change()
        opened = (self._state.pushes[chunk.app, chunk.push_id] for chunk in due)
        return sum(
            record.open(target.index, chunk.turn)
            for chunk, record in zip(due, opened, strict=True)
            for target in chunk.targets
        )

    async def next_retry(self, route: Route) -> int | None:
        pushes = self._state.pushes
        return min(
            (
                0 if pushes[chunk.app, chunk.push_id].state == "cancelled" else due_at
                for due_at, chunk in self._state.retries[route]
            ),
            default=None,
        )

    async def next_launch(self, app: str) -> int | None:
        return min((record.push.starts_at for record in self._scheduled(app)), default=None)

    def _scheduled(self, app: str) -> list[Record]:
        return [
            record
            for (owner, _), record in self._state.pushes.items()
            if owner == app and record.state == "scheduled" and not record.walk
        ]

    async def launch(self, app: str, now: int) -> int:
        due = [record for record in self._scheduled(app) if record.push.starts_at <= now]
        for record in due:
            record.state = "sending"
            record.updated_at = now
            self._state.launch(record)
        return len(due)

    async def reclaim(self, route: Route) -> list[Taken]:
        taken: list[Taken] = []
        for lane in LANES:
            stream = self._state.lanes[route.app, route.platform, lane]
            left = [entry_id for entry_id, owner in stream.owner.items() if self._state.gone(owner)]
            taken += self._open(route, lane, left, again=True)
        return taken

    async def lapsed(self, route: Route, lane: Lane, now: int) -> list[Taken]:
        stream = self._state.lanes[route.app, route.platform, lane]
        over = [entry_id for entry_id, owner in stream.owner.items() if owner is None]
        over = [entry_id for entry_id in over if stream.entries[entry_id].expires_at <= now]
        return self._open(route, lane, over, again=True)

    async def enrol(self, app: str) -> None:
        self._state.acknowledged[app].setdefault(self._consumer, len(self._state.revoked[app]))

    async def revoked(self, apps: Collection[str], wait_ms: int) -> Sequence[News]:
        state = self._state
        until = asyncio.get_running_loop().time() + wait_ms / 1000
        while True:
            news = []
            for app in apps:
                reported, after = (
                    state.revoked[app],
                    self._places.get(app, state.acknowledged[app].get(self._consumer, 0)),
                )
                if len(reported) > after:
                    self._places[app] = len(reported)
                    news.append(News(app, 0, str(len(reported)), reduce(or_, reported[after:])))
            if news or not await state.changed(until):
                return news

    async def acknowledge(self, news: News, in_flight: Mapping[str, int]) -> None:
        for push_id, count in in_flight.items():
            self._state.pushes[news.app, push_id].flying += count
            self._counted[news.app, push_id] += count
        self._state.acknowledged[news.app][self._consumer] = int(news.place)
        self._state.change()

    def forget(self, refs: Iterable[EntryRef]) -> None:
        self._held -= {ref.entry_id for ref in refs}

    def release(self, route: Route) -> None:
        for lane in LANES:
            self._held -= set(self._state.lanes[route.app, route.platform, lane].owner)

    history = 0
    replicated = False

    @property
    def missed(self) -> int:
        return 0

    async def beat(self, held: Mapping[str, str] | None = None, worked: Mapping[str, float] | None = None) -> None:
        self._state.alive.add(self._consumer)

    async def retire(self) -> None:
        self._state.alive.discard(self._consumer)
        for acknowledged in self._state.acknowledged.values():
            acknowledged.pop(self._consumer, None)


class MemoryReceipts:
    """`ReceiptLog` in memory."""

    def __init__(self, state: State, consumer: str) -> None:
        self._state = state
        self._consumer = consumer

    async def take(self, app: str, *, limit: int, wait_ms: int) -> list[tuple[str, Receipt]]:
        self._state.alive.add(self._consumer)
        until = asyncio.get_running_loop().time() + wait_ms / 1000
        stream = self._state.receipts[app]
        while True:
            for entry_id, owner in stream.owner.items():
                if self._state.gone(owner):
                    stream.owner[entry_id] = self._consumer
            chosen = [*stream.of({self._consumer}), *stream.of({None})][:limit]
            for entry_id in chosen:
                stream.owner[entry_id] = self._consumer
            if chosen or not await self._state.changed(until):
                return [(entry_id, stream.entries[entry_id]) for entry_id in chosen]

    async def record(self, app: str, done: Sequence[tuple[str, Receipt, FeedbackEvent | None]]) -> None:
        for entry_id, receipt, event in done:
            if self._state.receipts[app].remove(entry_id) and event is not None:
                self._state.events[app].append((f"{next(self._state.numbers)}-0", event))
                if event.action == "suppressed":
                    self._state.suppressed[app, receipt.platform, receipt.token] = dead_until(receipt)
                    self._state.revoke(app, Revoked(tokens=frozenset((token_mark(receipt.token),))))

    async def events(self, app: str, *, after: str, limit: int) -> EventPage[FeedbackEvent]:
        start = parse_event_id(after)[:2]
        return EventPage([entry for entry in self._state.events[app] if parse_event_id(entry[0])[:2] > start][:limit])


class MemoryStore:
    """The face of `Store`, for one consumer. `as_consumer` gives another one of the same store."""

    hash_key = bytes(32)

    def __init__(
        self,
        config: StoreConfig | None = None,
        *,
        consumer: str = "memory",
        clock: Clock = wall_clock,
        _state: State | None = None,
    ) -> None:
        self._state = _state or State(config or StoreConfig(addresses=addresses()), clock)
        self.config = self._state.config
        self.consumer = consumer
        self.pushes = MemoryPushes(self._state)
        self.queue = self.arrivals = MemoryQueue(self._state, consumer)
        self.receipts = MemoryReceipts(self._state, consumer)
        self.answers = MemoryAnswers(self._state)
        self.suppressions = MemorySuppressions(self._state)
        self.dead = MemoryDeadLetters(self._state)
        self.registry = MemoryRegistry(self._state)
        self.expansions = MemoryExpansions(self._state)
        self.live = MemoryLive(self._state, self.registry)

    def as_consumer(self, consumer: str) -> MemoryStore:
        """What a process of that name would see that has just started."""
        return MemoryStore(consumer=consumer, _state=self._state)

    def kill(self, consumer: str) -> None:
        """Let that consumer show no sign of life any more."""
        self._state.alive.discard(consumer)

    def lane(self, route: Route, lane: Lane) -> Stream[Chunk]:
        return self._state.lanes[route.app, route.platform, lane]

    def dead_letters(self, app: str) -> list[DeadLetter]:
        return list(self._state.dead[app].values())

    async def gauges(self, routes: Mapping[str, Sequence[Platform]]) -> Gauges:
        return Gauges(apps={app: figures(self._state, app, platforms) for app, platforms in routes.items()})
