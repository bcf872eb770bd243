"""What the tests of dispatch share: a provider without a network, a queue that can be away, and pushes by the dozen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pushsvc.errors import StoreUnavailable
from pushsvc.model.delivery import Delivery, Ended, Outcome, Sent, Settlement
from pushsvc.model.push import (
    Chunk,
    Lane,
    Message,
    Platform,
    Push,
    Route,
    Target,
)
from pushsvc.ports.entries import EntryRef, News, Taken
from pushsvc.ports.provider import OnOutcome, Uplink

from ..fakes import MemoryStore

START = 1_700_000_000.0
"""Unix seconds at the beginning of virtual time."""

ROUTE = Route("shop", "apns")


def wall_clock() -> float:
    """Unix seconds, in step with the running loop's clock."""
    return START + asyncio.get_running_loop().time()


def now_ms() -> int:
    return int(wall_clock() * 1000)


def push(
    name: str,
    *tokens: str,
    lane: Lane = "normal",
    platform: Platform = "apns",
    ttl: float = 3600.0,
    app: str = "shop",
    wait: float | None = None,
) -> Push:
    """A push that is accepted now, to be sent in `wait` seconds where that is given."""
    send_at = None if wait is None else now_ms() + int(wait * 1000)
    targets = tuple(Target(index, token) for index, token in enumerate(tokens))
    return Push(
        id=name,
        app=app,
        lane=lane,
        created_at=now_ms(),
        expires_at=(now_ms() if send_at is None else send_at) + int(ttl * 1000),
        messages={platform: Message(platform, b"{}")},
        targets={platform: targets},
        send_at=send_at,
    )


def many(name: str, count: int) -> list[str]:
    return [f"{name}-{number}" for number in range(count)]


def chunk(*tokens: str, name: str = "p", lane: Lane = "normal", platform: Platform = "apns") -> Chunk:
    """A chunk of a push of its own."""
    targets = tuple(Target(index, token) for index, token in enumerate(tokens))
    return Chunk(name, "shop", platform, lane, len(tokens), 0, 1 << 50, Message(platform, b"{}"), targets)


async def judged() -> None:
    """Let a dispatcher judge what a provider has answered: it does so at the next turn of the loop."""
    await asyncio.sleep(0)


class FakeProvider:
    """`ports.provider.Provider`: keeps what is submitted until the test answers it."""

    def __init__(self, route: Route = ROUTE, *, room: int = 1000) -> None:
        self.route = route
        self.window = room
        self.trouble = ""
        self.silence = 0.0
        self.parts: dict[str, Uplink] = {}
        self.refused = ""
        self.submitted: list[Delivery] = []
        self.open: list[tuple[Delivery, OnOutcome]] = []
        self.closed = asyncio.Event()
        self.close_waits = True
        """Whether `aclose` waits until everything has been answered, as the real one does."""
        self.says: Callable[[Delivery], Outcome] | None = None
        """Answers everything by itself, at the next turn of the loop; None: the test answers."""
        self._wakes: list[Callable[[], None]] = []

    @property
    def room(self) -> int:
        return max(0, self.window - len(self.open))

    @property
    def tokens(self) -> list[str]:
        """Those submitted so far, in order."""
        return [delivery.target.token for delivery in self.submitted]

    def submit(self, delivery: Delivery, on_outcome: OnOutcome) -> None:
        assert self.room > 0, "submitted without room"
        assert not self.closed.is_set(), "submitted after the close"
        self.submitted.append(delivery)
        self.open.append((delivery, on_outcome))
        if self.says is not None:
            asyncio.get_running_loop().call_soon(self._answer_by_itself, self.says)

    def _answer_by_itself(self, says: Callable[[Delivery], Outcome]) -> None:
        if self.open:
            self.answer(says(self.open[0][0]), 1)

    def on_room(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)

    def remedy(self, reason: str) -> str:
        return f"look after {reason}"

    def widen(self, window: int) -> None:
        """Another window, and say so."""
        self.window = window
        for wake in self._wakes:
            wake()

    def answer(self, outcome: Outcome | None = None, count: int | None = None) -> int:
        """Answer the oldest `count` of what is open, all by default. Returns how many."""
        answered, self.open = self.open[:count], self.open[len(self.open[:count]) :]
        for delivery, on_outcome in answered:
            on_outcome(delivery, Sent(status=200) if outcome is None else outcome)
        return len(answered)

    async def aclose(self) -> None:
        self.closed.set()
        while self.close_waits and self.open:
            await asyncio.sleep(0.01)


@dataclass
class FakeQueue:
    """`ports.DeliveryQueue` that notes what is settled. `away` counts the calls of a kind that still fail."""

    settled: list[tuple[list[Settlement], list[EntryRef]]] = field(default_factory=list)
    attempts: list[list[Settlement]] = field(default_factory=list)
    away: int = 0
    seconds: float = 0.0
    history: int = 0
    replicated: bool = False
    """How long a settle takes."""
    entries: list[Taken] = field(default_factory=list)
    fault: BaseException | None = None
    retired: int = 0
    beats: int = 0
    missed: int = 0
    news: list[News] = field(default_factory=list)
    """What `revoked` says next."""
    acknowledged: list[tuple[News, dict[str, int]]] = field(default_factory=list)
    forgotten: list[EntryRef] = field(default_factory=list)
    enrolled: list[str] = field(default_factory=list)
    void: set[str] = field(default_factory=set)
    """Tokens of which no settlement takes effect."""

    def _come(self) -> None:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("connection refused")

    async def outstanding(self, app: str, chunks: Sequence[Chunk]) -> list[list[int]]:
        return [[target.index for target in chunk.targets] for chunk in chunks]

    async def settle(
        self, app: str, settlements: Sequence[Settlement], finished: Sequence[EntryRef]
    ) -> Sequence[Settlement]:
        self.attempts.append(list(settlements))
        await asyncio.sleep(self.seconds)
        if self.fault is not None:
            raise self.fault
        self._come()
        self.settled.append((list(settlements), list(finished)))
        return [each for each in settlements if each.delivery.target.token not in self.void]

    async def take(self, route: Route, lane: Lane, *, targets: int, wait_ms: int) -> list[Taken]:
        self._come()
        taken = [entry for entry in self.entries if entry.ref.lane == lane and entry.ref.platform == route.platform]
        self.entries = [entry for entry in self.entries if entry not in taken]
        if not taken:
            await asyncio.sleep(wait_ms / 1000)
        return taken

    def drained(self, route: Route, lane: Lane) -> bool:
        return True

    async def next_retry(self, route: Route) -> int | None:
        self._come()
        return None

    async def next_launch(self, app: str) -> int | None:
        self._come()
        return None

    async def promote(self, route: Route, now: int) -> int:
        self._come()
        return 0

    async def launch(self, app: str, now: int) -> int:
        self._come()
        return 0

    async def lapsed(self, route: Route, lane: Lane, now: int) -> list[Taken]:
        return []

    async def reclaim(self, route: Route) -> list[Taken]:
        return []

    async def beat(self, held: Mapping[str, str] | None = None, worked: Mapping[str, float] | None = None) -> None:
        self._come()
        self.beats += 1

    async def enrol(self, app: str) -> None:
        self.enrolled.append(app)

    async def revoked(self, apps: Collection[str], wait_ms: int) -> Sequence[News]:
        if not self.news:
            await asyncio.sleep(wait_ms / 1000)
        news, self.news = self.news, []
        return news

    async def acknowledge(self, news: News, in_flight: Mapping[str, int]) -> None:
        self.acknowledged.append((news, dict(in_flight)))

    def forget(self, refs: Iterable[EntryRef]) -> None:
        self.forgotten += refs

    def release(self, route: Route) -> None:
        """Nothing is kept of a route."""

    async def retire(self) -> None:
        self._come()
        self.retired += 1


def taken(own: Chunk, entry_id: str = "1-0") -> Taken:
    """The chunk as the queue would hand it out."""
    return Taken(ref=EntryRef("shop", 0, own.platform, own.lane, entry_id), chunk=own, skip={})


def settlement(own: Chunk, target: Target, *, reason: str = "") -> Settlement:
    """That it was sent."""
    return Settlement(Delivery(own, target), Sent(status=200), Ended("sent"), 0, "", reason)


def memory_store() -> MemoryStore:
    """A store in step with virtual time."""
    return MemoryStore(clock=now_ms)


async def counts(store: MemoryStore, name: str, app: str = "shop") -> dict[str, int]:
    """The counts of a push, without the zeros; they must balance."""
    status = await store.pushes.status(app, name)
    assert status is not None
    reported = {key: getattr(status.counts, key) for key in status.counts.__struct_fields__}
    assert reported["total"] == sum(count for key, count in reported.items() if key != "total"), reported
    return {key: count for key, count in reported.items() if count}
