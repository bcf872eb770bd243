"""What the store in memory holds: pushes, streams with their one consumer group, and everything that is shared."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from msgspec.structs import replace

from pushsvc.model.codec import split
from pushsvc.model.delivery import (
    ENDS,
    Arrival,
    End,
    Receipt,
    Sent,
    Settlement,
    TokenDead,
    TokenSuspect,
)
from pushsvc.model.devices import Device
from pushsvc.model.push import Chunk, Lane, Platform, Push, PushState, Route
from pushsvc.model.status import DeliveryRow, FeedbackEvent, PushStatus
from pushsvc.ports.entries import Revoked
from pushsvc.ports.letters import ReplayStatus
from pushsvc.rules.freeze import Answers
from pushsvc.store.config import StoreConfig
from pushsvc.store.layout import SMALL
from pushsvc.store.link.clock import Clock
from pushsvc.store.pushes.status import counts_of, live_of, state_of
from pushsvc.store.queue.arrivals import ARRIVED, EndOfAny, row_of_arrival
from pushsvc.store.queue.letter import DeadLetter
from pushsvc.store.registry.changes import Kept
from pushsvc.store.revoke.revocations import PATIENCE

from .live import LiveState

T = TypeVar("T")


@dataclass
class Walk:
    """How far the expansion of an audience has come, and when it is taken up by somebody else."""

    due: int
    step: int = 0
    cursor: str = ""
    faults: int = 0
    failed: int | None = None
    """When it failed first since the last step."""
    why: str = ""


@dataclass
class Record:
    """What is known of a push. One that is made from an audience gets its targets step by step."""

    push: Push
    state: PushState
    updated_at: int
    ended: dict[int, End] = field(default_factory=dict)
    rows: dict[int, DeliveryRow] = field(default_factory=dict)
    turns: dict[int, int] = field(default_factory=dict)
    places: dict[int, Platform] = field(default_factory=dict)
    """The channel that carries a delivery, by index."""
    marks: dict[int, str] = field(default_factory=dict)
    """How the status counts what the live channel has carried, by index: `w` waits for its device, `f` goes on."""
    acked: int = 0
    fallback: int = 0
    carried: bool = False
    """Whether any of these was ever counted."""
    launched: bool = False
    """Its chunks were put into the lanes: a push that is cancelled before its time never is."""
    walk: Walk | None = None
    revoked: int = 0
    """Where its cancel stands among the revocations."""
    flying: int = 0
    """How many of a cancelled push are in flight, as far as dispatchers have said."""
    in_flight: int | None = None
    """The same once all have."""

    @property
    def left(self) -> int:
        """Deliveries that have not ended."""
        return self.push.total - len(self.ended) if self.launched or self.state == "scheduled" else 0

    def open(self, index: int, turn: int) -> bool:
        return index not in self.ended and self.turns.get(index, 1) == turn

    def end(self, index: int, row: DeliveryRow) -> None:
        """Record how a delivery has ended."""
        push = self.push
        self.ended[index] = row.outcome
        self.turns.pop(index, None)
        self.marks.pop(index, None)
        if push.total <= SMALL or row.outcome != "sent" or (push.audience and index < SMALL):
            self.rows[index] = row
        if len(self.ended) == push.total and self.state == "sending":
            self.state = "done"

    def mark(self, index: int, mark: str) -> None:
        """Count a delivery that goes on."""
        before = self.marks.pop(index, "")
        if mark:
            self.marks[index] = mark
        self.fallback += before != mark == "f"
        self.carried = self.carried or bool(mark)

    def status(self) -> PushStatus:
        ended: dict[str, int] = {end: sum(1 for own in self.ended.values() if own == end) for end in ENDS}
        counts = counts_of(self.state, self.push.total, len(self.turns), ended, self.in_flight)
        return PushStatus(
            id=self.push.id,
            app=self.push.app,
            state=state_of(self.state, counts),
            created_at=self.push.created_at,
            updated_at=self.updated_at,
            counts=counts,
            send_at=self.push.send_at,
            live=live_of(counts, self.acked, self.fallback, list(self.marks.values()).count("w"))
            if self.carried
            else None,
            trace=self.push.trace[:16].hex(),
        )


class Stream(Generic[T]):
    """A stream with one consumer group: entries by id, each with its owner, or None while nobody has read it."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self.entries: dict[str, T] = {}
        self.owner: dict[str, str | None] = {}

    def add(self, value: T) -> None:
        entry_id = f"{next(self._numbers)}-0"
        self.entries[entry_id] = value
        self.owner[entry_id] = None

    def of(self, consumers: frozenset[str | None] | set[str | None]) -> list[str]:
        return [entry_id for entry_id, owner in self.owner.items() if owner in consumers]

    def remove(self, entry_id: str) -> bool:
        self.owner.pop(entry_id, None)
        return self.entries.pop(entry_id, None) is not None


class State:
    """Everything; several consumers share it."""

    def __init__(self, config: StoreConfig, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.numbers = itertools.count(1)
        self.pushes: dict[tuple[str, str], Record] = {}
        self.lanes: dict[tuple[str, Platform, Lane], Stream[Chunk]] = defaultdict(lambda: Stream(self.numbers))
        self.retries: dict[Route, list[tuple[int, Chunk]]] = defaultdict(list)
        self.receipts: dict[str, Stream[Receipt]] = defaultdict(lambda: Stream(self.numbers))
        self.events: dict[str, list[tuple[str, FeedbackEvent]]] = defaultdict(list)
        self.answers: dict[Route, dict[int, Answers]] = defaultdict(lambda: defaultdict(Answers))
        self.dead: dict[str, dict[int, DeadLetter]] = defaultdict(dict)
        self.replays: dict[tuple[str, str], ReplayStatus] = {}
        self.replay_ends: dict[str, tuple[int, int]] = {}
        self.suppressed: dict[tuple[str, Platform, str], int] = {}
        """App, platform and token, with the instant from which they are."""
        self.moved: set[tuple[str, Platform, bytes]] = set()
        """App, platform and token digest of devices that changed after a target may have been made of them."""
        self.successors: set[tuple[str, Platform, str, str]] = set()
        """App, platform and token of devices that are gone, each with the id under which its user has it now."""
        self.superseding: dict[tuple[str, ...], str] = {}
        """App and what two messages must have in common to replace each other, with the newest order accepted."""
        self.behind: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        """The same, with the orders that wait."""
        self.devices: dict[str, dict[str, Kept]] = defaultdict(dict)
        """Of an app, by id, in the order of their ordinals."""
        self.owners: dict[str, dict[tuple[Platform, str], str]] = defaultdict(dict)
        """Of an app, who has a token."""
        self.crowds: dict[str, Counter[str]] = defaultdict(Counter)
        """Of an app, how many devices a user has."""
        """By app and digest of the user."""
        self.once: dict[tuple[str, bytes], bytes] = {}
        self.alive: set[str] = set()
        self.live = LiveState()
        self.revoked: dict[str, list[Revoked]] = defaultdict(list)
        """Of an app, in order; the number of one is its place."""
        self.acknowledged: dict[str, dict[str, int]] = defaultdict(dict)
        """Of an app, by consumer, how many of them it has applied."""
        self._changed: list[asyncio.Future[None]] = []

    def count_answer(self, route: Route, slot: int, settlement: Settlement) -> None:
        """Count what the provider said of the token, if it was asked."""
        match settlement.outcome:
            case Sent(status=status) if status or not settlement.delivery.chunk.dry_run:
                self.answers[route][slot] += Answers(sent=1)
            case TokenDead():
                self.answers[route][slot] += Answers(dead=1)
            case TokenSuspect():
                self.answers[route][slot] += Answers(suspect=1)

    def lift(self, app: str, devices: Iterable[Device], *, always: bool = False) -> None:
        """Suppress these devices' tokens no more, where they were suppressed before they were registered, or always."""
        for device in devices:
            for route in self.config.addresses.routes_of(device.platform):
                key = (app, route, device.token)
                if key in self.suppressed and (always or self.suppressed[key] <= device.registered_at):
                    del self.suppressed[key]

    def live_unread(self, app: str) -> dict[str, int]:
        """By device with a stream, how many pushes are unread there."""
        streams = {name: self.live.streams.get((app, kept.n)) for name, kept in self.devices[app].items()}
        now = self.clock()
        return {
            name: sum(each.push.expires_at > now for each in stream.after(stream.read))
            for name, stream in streams.items()
            if stream is not None
        }

    def end_any(self, app: str, arrivals: Iterable[Arrival], how: EndOfAny) -> int:
        """End deliveries in whichever turn is recorded."""
        ended = 0
        for arrival in arrivals:
            record = self.pushes.get((app, arrival.push_id))
            if record is None or record.state == "cancelled" or arrival.index in record.ended:
                continue
            mark = record.marks.get(arrival.index, "")
            if how is ARRIVED:
                record.acked, record.fallback, record.carried = record.acked + 1, record.fallback - (mark == "f"), True
            elif arrival.index in record.turns and mark != "w":
                continue
            record.end(arrival.index, row_of_arrival(arrival, how))
            record.updated_at = self.clock()
            ended += 1
        for route, waiting in self.retries.items():
            if route.app == app:
                waiting[:] = [(due_at, chunk) for due_at, chunk in waiting if self._left(chunk)]
        return ended

    def _left(self, chunk: Chunk) -> bool:
        """Whether any of what waits is open."""
        record = self.pushes[chunk.app, chunk.push_id]
        return any(record.open(target.index, chunk.turn) for target in chunk.targets)

    def launch(self, record: Record) -> None:
        """Put its chunks into the lanes, without what has ended before."""
        for chunk in split(record.push, self.config.chunk_size):
            left = tuple(target for target in chunk.targets if target.index not in record.ended)
            if len(left) < len(chunk.targets):
                chunk = replace(chunk, targets=left)
            if left:
                self.lanes[record.push.app, chunk.channel, chunk.lane].add(chunk)
                record.places.update((target.index, chunk.channel) for target in left)
        record.launched = True
        self.change()

    def revoke(self, app: str, revoked: Revoked) -> int:
        """Append a revocation, and return the place to wait for."""
        self.revoked[app].append(revoked)
        self.change()
        return len(self.revoked[app])

    async def applied(self, app: str, place: int) -> bool:
        """Wait until every consumer has acknowledged that place, for `PATIENCE` at most; whether they have."""
        until = asyncio.get_running_loop().time() + PATIENCE
        while any(at < place for at in self.acknowledged[app].values()):
            if not await self.changed(until):
                return False
        return True

    def change(self) -> None:
        """Wake the tasks that wait for an entry."""
        waiting, self._changed = self._changed, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def changed(self, until: float) -> bool:
        """Wait for the next change; false when the time is over."""
        loop = asyncio.get_running_loop()
        if loop.time() >= until:
            return False
        future = loop.create_future()
        self._changed.append(future)
        await asyncio.wait([future], timeout=until - loop.time())
        return future.done()

    def gone(self, consumer: str | None) -> bool:
        return consumer is not None and consumer not in self.alive
