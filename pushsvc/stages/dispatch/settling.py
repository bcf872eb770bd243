"""Settlements gathered and recorded in batches, each batch one atomic step in Redis.

An entry is acknowledged in the same step as its last outcome. Batches of one app go one after the other, because an
acknowledgement must not overtake an outcome. When Redis is away the same batch is tried again until it is back:
settling twice changes nothing.

What is urgent is recorded first, then what is normal: a delivery that goes on from the live channel to a provider goes
there once that is recorded, and so waits for two batches at most, however much of a broadcast is unrecorded. An entry
is of one lane, so that its outcomes keep their order.

What is held of a push is known here, from its admission to the record of its last outcome. So is how much of it is in
flight, between two batches: that is the moment in which a revocation is acknowledged.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Final, TypeAlias

from ...model.delivery import Ended, Retry, Settlement, Unconfirmed
from ...model.push import LANES, Lane, Route
from ...ports.entries import EntryRef, News
from ...ports.queue import DeliveryQueue
from ...telemetry import StageSeconds, traces
from ..outage import Patience
from .lanes import OpenEntry, Withdrawn
from .metrics import count_ended, passed
from .spans import spans_of

BATCH: Final = 400
"""Settlements of a step: enough to share its cost, few enough that Redis serves others in between."""

ENTRIES: Final = 200
"""Entries that a step ends, at most: one that is a push takes Redis far longer than a settlement of a large push."""

FAIR: Final = 8
"""One step of this number takes the lanes in the opposite order, so that each gets on whatever the others do."""

LINGER: Final = 0.004
"""Seconds that a batch waits for more to come. It delays the record, never a push."""

QUIET: Final = 0.01
"""Seconds without a record after which an outcome does not wait: as a rule no other follows it soon."""

ACKED: Final = 0.1
"""Seconds that an outcome waits, or up to twice as long, if its device is yet to acknowledge it: most do so until then,
and the end of their deliveries leaves no wait to record. It delays no other outcome."""

BOUND: Final = 20_000
"""Unrecorded settlements at which sending stops until Redis has caught up."""

REPLICATED_BOUND: Final = 2_000
"""The same where a failover may undo what is not on replicas: what another dispatcher may then send again."""


Waiting: TypeAlias = "deque[tuple[Settlement | None, OpenEntry]]"


class _Line:
    """What waits to be recorded of one lane. All numbers are of settlements, from the first on."""

    __slots__ = ("added", "due", "recorded", "waiting")

    def __init__(self) -> None:
        self.waiting: Waiting = deque()
        self.added = 0
        self.due = 0
        """The number up to the last settlement that does not wait for a device."""
        self.recorded = 0

    @property
    def drawn(self) -> int:
        return self.added - len(self.waiting)


class Settler:
    def __init__(
        self,
        app: str,
        queue: DeliveryQueue,
        on_relief: Callable[[], None],
        on_retry: Callable[[Route, int], None] = lambda route, due_at: None,
    ) -> None:
        """Call `on_relief` when sending may go on, and `on_retry` with each retry that is recorded."""
        self._app = app
        self._queue = queue
        self._on_relief = on_relief
        self._on_retry = on_retry
        self._bound = REPLICATED_BOUND if queue.replicated else BOUND
        self._lines: dict[Lane, _Line] = {lane: _Line() for lane in LANES}
        self._size = 0
        """How many settlements wait in all lines."""
        self._recording: list[OpenEntry] = []
        """The entries of the settlements that are being recorded."""
        self._forgotten: list[EntryRef] = []
        """Entries that may be taken again once these are recorded."""
        self._steps = 0
        self._hurry = asyncio.Event()
        self._held: set[OpenEntry] = set()
        self._news: deque[tuple[News, asyncio.Future[None]]] = deque()
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._stages = StageSeconds()

    @property
    def congested(self) -> bool:
        """Whether too much is unrecorded to send more."""
        return self._size >= self._bound

    @property
    def handed_over(self) -> Mapping[Lane, int]:
        """The number of settlements of each lane that were ever passed on to be recorded."""
        return {lane: line.added for lane, line in self._lines.items()}

    def has_recorded(self, handed_over: Mapping[Lane, int]) -> bool:
        """Return whether all is recorded that had been passed on then."""
        return all(line.recorded >= handed_over[lane] for lane, line in self._lines.items())

    def hold(self, entry: OpenEntry) -> None:
        """Register an entry that was taken and of which some targets may be sent."""
        self._held.add(entry)

    def held(self, pushes: Collection[str]) -> Sequence[OpenEntry]:
        """Return the entries of these pushes that are not settled. It looks at all that are held: revocations are rare,
        and an index by push would cost every entry more."""
        return [entry for entry in self._held if entry.chunk.push_id in pushes] if pushes else ()

    def drop(self, given_up: Withdrawn) -> None:
        """Give up these targets, whose entries another dispatcher may have by now. What was drawn of them is still
        recorded; then the entries are taken again, as far as they still belong to this consumer."""
        over: list[EntryRef] = []
        recording = set(self._recording)
        for entry, targets in given_up:
            entry.dropped = True
            entry.unsettled -= len(targets)
            if not entry.unsettled:
                self._held.discard(entry)
                (self._forgotten if entry in recording else over).append(entry.ref)
        self._queue.forget(over)

    def spare(self, entry: OpenEntry, targets: int) -> None:
        """Record nothing of this many targets of an entry, which have ended meanwhile and were not submitted."""
        entry.unsettled -= targets
        if not entry.unsettled:
            self.finish(entry)

    async def acknowledge(self, news: News) -> None:
        """Wait until the store knows that nothing of these revocations will be submitted any more, and how many
        deliveries of the cancelled pushes are in flight."""
        known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._news.append((news, known))
        self._press()
        self._more.set()
        await known

    def add(self, settled: Sequence[tuple[Settlement, OpenEntry]]) -> None:
        """Record these outcomes soon."""
        self._add(settled)
        if self._size >= self._bound // 2 or not all(_waits_for_device(settlement) for settlement, _ in settled):
            self._press()

    def finish(self, entry: OpenEntry) -> None:
        """Acknowledge an entry of which nothing was left to settle."""
        self._add([(None, entry)])
        self._press()

    def _add(self, settled: Sequence[tuple[Settlement | None, OpenEntry]]) -> None:
        lines = self._lines
        for each in settled:
            line = lines[each[1].chunk.lane]
            line.waiting.append(each)
            line.added += 1
        self._size += len(settled)
        if self._idle.is_set():
            self._idle.clear()
            self._more.set()

    def _press(self) -> None:
        """Let nothing of what was added wait for its device."""
        for line in self._lines.values():
            line.due = line.added
        self._hurry.set()

    def flush_metrics(self) -> None:
        """Make the last figures visible."""
        self._stages.flush()

    async def drain(self) -> None:
        """Wait until everything that was added has been recorded."""
        self._press()
        await self._idle.wait()

    def close(self) -> None:
        """Give up what is unrecorded, if anything is."""
        self._closed = True
        self._press()
        self._more.set()

    async def run(self) -> None:
        """Record until closed or cancelled."""
        loop = asyncio.get_running_loop()
        recorded_at = float("-inf")
        while not self._closed:
            await self._more.wait()
            while self._news:
                while self._ends_of(self._news[0][0].revoked.pushes):
                    await self._record_next()
                await self._acknowledge(*self._news[0])
                self._news.popleft()
            if self._size:
                if all(line.due <= line.drawn for line in self._lines.values()):
                    await self._wait_for_devices()
                elif self._size < BATCH and loop.time() - recorded_at < QUIET:
                    await asyncio.sleep(LINGER)
                was_congested = self.congested
                await self._record_next()
                recorded_at = loop.time()
                if was_congested and not self.congested:
                    self._on_relief()
            if not self._size and not self._news:
                self._more.clear()
                self._idle.set()

    async def _wait_for_devices(self) -> None:
        self._hurry.clear()
        written = self.handed_over
        with suppress(TimeoutError):
            async with asyncio.timeout(ACKED):
                await self._hurry.wait()
        for lane, line in self._lines.items():
            line.due = max(line.due, written[lane])  # what came meanwhile waits as long itself

    async def _record_next(self) -> None:
        settlements, finished = self._next_batch()
        drawn = [(line, line.drawn) for line in self._lines.values()]
        await self._record(settlements, finished)
        for line, count in drawn:
            line.recorded = count
        forgotten, self._forgotten, self._recording = self._forgotten, [], []
        self._queue.forget(forgotten)

    def _ends_of(self, pushes: Collection[str]) -> bool:
        """Return whether an unsent delivery of these pushes has ended otherwise than by the cancel and is not recorded:
        it would count as cancelled from now on, and later change."""
        return (
            bool(pushes)
            and not self._closed
            and any(
                settlement is not None
                and settlement.outcome is None
                and isinstance(settlement.verdict, Ended)
                and settlement.verdict.end != "cancelled"
                and entry.chunk.push_id in pushes
                for settlement, entry in self._waiting()
            )
        )

    def _waiting(self) -> Iterator[tuple[Settlement | None, OpenEntry]]:
        return chain.from_iterable(line.waiting for line in self._lines.values())

    async def _acknowledge(self, news: News, known: asyncio.Future[None]) -> None:
        """Acknowledge a revocation with how much of its pushes is in flight, and complete `known`."""
        in_flight = self._in_flight(news.revoked.pushes)
        await self._until_recorded(lambda: self._queue.acknowledge(news, in_flight))
        if not known.done():
            known.set_result(None)

    def _in_flight(self, pushes: Collection[str]) -> dict[str, int]:
        """Return the number of deliveries that were submitted and are not recorded, of each of these pushes."""
        counts: Counter[str] = Counter()
        for entry in self.held(pushes):
            counts[entry.chunk.push_id] += entry.unsettled - len(entry.left)
        if counts:
            for settlement, entry in self._waiting():
                push_id = entry.chunk.push_id
                if push_id in counts and settlement is not None and settlement.outcome is None:
                    counts[push_id] -= 1
        return counts

    def _next_batch(self) -> tuple[list[Settlement], list[EntryRef]]:
        """Return what is recorded next, and the entries that it ends."""
        settlements: list[Settlement] = []
        finished: list[EntryRef] = []
        self._steps += 1
        room = BATCH
        for lane in LANES if self._steps % FAIR else reversed(LANES):
            line = self._lines[lane]
            while line.drawn < line.due and room and len(finished) < ENTRIES:
                room -= 1
                settlement, entry = line.waiting.popleft()
                if settlement is not None:
                    settlements.append(settlement)
                    self._recording.append(entry)
                    entry.unsettled -= 1
                if not entry.unsettled:
                    (self._forgotten if entry.dropped else finished).append(entry.ref)
                    self._held.discard(entry)
        self._size -= BATCH - room
        return settlements, finished

    async def _record(self, settlements: list[Settlement], finished: list[EntryRef]) -> None:
        attempts = 0

        async def settle() -> None:
            nonlocal attempts
            attempts += 1
            took = await self._queue.settle(self._app, settlements, finished)
            # An attempt whose answer was lost may have recorded what takes no effect now.
            count_ended(took if attempts == 1 else settlements)
            retries = {
                (verdict.channel or each.delivery.chunk.channel, verdict.due_at)
                for each in settlements
                if type(verdict := each.verdict) is Retry
            }
            for channel, due_at in retries:
                self._on_retry(Route(self._app, channel), due_at)
            self._stages.passed(passed(settlements), "answered")
            if traces.tracer is not None:
                for span, trace in spans_of(settlements):
                    traces.tracer.record(span, trace)

        await self._until_recorded(settle)

    async def _until_recorded(self, step: Callable[[], Awaitable[object]]) -> None:
        patience = Patience(("settle", self._app), unrecorded=lambda: self._size)
        while not self._closed:
            async with patience:
                await step()
                return


def _waits_for_device(settlement: Settlement) -> bool:
    """Return whether it was written to its device, which has yet to acknowledge it. Where it may follow that it
    replaces an older push, it is recorded at once."""
    outcome = settlement.outcome
    written = type(outcome) is Unconfirmed and outcome.within > 0 and type(settlement.verdict) is Retry
    return written and not settlement.delivery.chunk.message.collapse
