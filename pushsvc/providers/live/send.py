"""Sends by appending to the streams of devices and poking the gateways that they are connected to.

Deliveries that are submitted while a batch is under way form the next one. A batch keeps the contents and appends, and
pokes: two round trips, however many deliveries and pushes it has. Batches follow one another, so that pushes stand in
a stream in the order in which they were submitted. A batch that fails at once is sent again in halves, down to the part
that is to blame: a repeat of what stands in a stream appends nothing.

`rules.policy` decides when what is unavailable here goes on at the next channel, so the route takes deliveries whatever
its `trouble`.

A push that replaced an older one of its `collapse` in a stream, or for which one has left the full stream that waited
for the device alone, ends the older one's delivery, which no device can acknowledge any more. One that has left the
stream of a connected device and has another channel goes on there.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from ...errors import StoreError, StoreUnavailable
from ...model.delivery import SUPERSEDED, Arrival, Delivery, Outcome
from ...model.push import Route
from ...ports.live import Appended, InboxItem, Live, LiveContent, Receiver, Reference
from ...ports.provider import STREAMS, OnOutcome, Uplink
from ...ports.queue import Arrivals
from ...telemetry import get_logger
from .batch import DRY_RUN, FAILED, STORE_AWAY, BatchPart, Submitted, all_with, contents_of, parts_of, size_of_next

WINDOW: Final = 4000
"""The maximum number of deliveries that wait for their batch or are in it."""
KEPT: Final = 1024
KEPT_FOR: Final = 10.0
"""The number of pushes, and the seconds, for which a content that was stored is not sent to the store again."""
TRIES: Final = 32
"""The number of failures at which the rest of a batch is not sent again in halves. To find one part takes 12."""
QUICK: Final = 0.5
"""The seconds of a failure after which it is not either."""
RECORDED: Final = 0.5
"""Seconds within which it is recorded, as a rule, that a delivery waits for its device."""
DISPLACED: Final = 10_000
"""The number of deliveries without a place in a stream that are kept while they cannot be recorded."""
LASTS: Final = 5.0
"""The least seconds for which trouble is shown, and those between two looks whether it is over."""
QUIET: Final = 60.0
"""Seconds after a failure for which trouble is shown if nothing was appended since, though the store answers."""


class LiveProvider:
    """`ports.provider.Provider` for the live channel of one app. Belongs to one event loop."""

    trouble = refused = ""
    silence = 0.0
    parts: Mapping[str, Uplink] = {}

    def __init__(self, route: Route, live: Live, arrivals: Arrivals, *, ack_within: float, clock: Callable[[], int]):
        """Begin to send. `ack_within` is for pushes that name no time of their own; `clock` returns Unix ms."""
        self.route = route
        self._live = live
        self._arrivals = arrivals
        self._ack_within = ack_within
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiting: list[Submitted] = []
        self._in_batch = 0
        self._more = asyncio.Event()
        self._closing = False
        self._failed_at = 0.0
        self._works_again = False
        """Whether a batch has worked since then."""
        self._kept: OrderedDict[str, float] = OrderedDict()
        """The pushes whose contents were stored lately, and when."""
        self._displaced: list[tuple[str, Arrival]] = []
        """Deliveries that have lost their place in a stream and are not recorded as ended, and why."""
        self._carrying: set[asyncio.Task[None]] = set()
        self._wakes: list[Callable[[], None]] = []
        self._sending = asyncio.create_task(self._send_all(), name=f"live:{route.app}")

    @property
    def room(self) -> int:
        return WINDOW - len(self._waiting) - self._in_batch

    def submit(self, delivery: Delivery, on_outcome: OnOutcome) -> None:
        if delivery.chunk.dry_run:
            # There is no way to check it without delivering.
            self._loop.call_soon(on_outcome, delivery, DRY_RUN)
            return
        self._waiting.append((delivery, on_outcome))
        self._more.set()

    def on_room(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)

    def remedy(self, reason: str) -> str:
        return ""

    async def aclose(self) -> None:
        self._closing = True
        self._more.set()
        await asyncio.wait([self._sending])
        for task in self._carrying:
            task.cancel()  # These deliveries go on when the time of their devices is over.
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def _send_all(self) -> None:
        """Send until closed. No error ends it: one of the store is an outcome, and one of a callback is logged."""
        while await self._has_more():
            self._in_batch = size_of_next(self._waiting)
            batch, self._waiting = self._waiting[: self._in_batch], self._waiting[self._in_batch :]
            outcomes = await self._outcomes(parts_of(batch))
            wakes = () if self.room > 0 else self._wakes
            self._in_batch = 0
            self._report(batch, outcomes, wakes)

    async def _has_more(self) -> bool:
        """Wait until a delivery waits, and return False once there is none and this is closed. In trouble, look
        meanwhile whether it is over."""
        while not (self._waiting or self._closing):
            self._more.clear()
            try:
                async with asyncio.timeout(LASTS if self.trouble else None):
                    await self._more.wait()
            except TimeoutError:
                with suppress(Exception):
                    await self._live.presence(self.route.app, ["-"])
                    self._recovers()
        return bool(self._waiting)

    def _report(
        self, batch: Sequence[Submitted], outcomes: Mapping[int, Outcome], wakes: Sequence[Callable[[], None]]
    ) -> None:
        """Call back with each outcome, then these, also after a call that fails."""
        faults: Counter[str] = Counter()
        for delivery, on_outcome in batch:
            try:
                on_outcome(delivery, outcomes[id(delivery)])
            except Exception as error:
                faults[type(error).__name__] += 1
        for wake in wakes:
            try:
                wake()
            except Exception as error:
                faults[type(error).__name__] += 1
        for error_name, times in faults.items():
            get_logger("live").error("live_outcome_failed", app=self.route.app, error=error_name, times=times)

    async def _outcomes(self, parts: Sequence[BatchPart]) -> dict[int, Outcome]:
        """Send a batch and return the outcomes by the `id` of the delivery."""
        found: dict[int, Outcome] = {}
        left, tries = [parts], TRIES
        while left:
            some, began = left.pop(), self._loop.time()
            try:
                found |= await self._send(some)
                if self.trouble:
                    self._works_again = True
                    self._recovers()
            except Exception as error:
                outcome = STORE_AWAY if isinstance(error, StoreUnavailable) else FAILED
                self._fails(str(error) if isinstance(error, StoreError) else f"a fault, {type(error).__name__}")
                tries -= 1
                middle = len(some) // 2
                if not tries or self._loop.time() - began > QUICK:
                    # It is not about a part of them, or the others would wait for it as long.
                    found |= all_with([*some, *(part for each in left for part in each)], outcome)
                    left.clear()
                elif middle:
                    left += (some[middle:], some[:middle])
                else:
                    found |= all_with(some, outcome)
        return found

    def _fails(self, why: str) -> None:
        self.trouble = f"{STREAMS}cannot be written ({why}): deliveries with another channel use that, the rest wait"
        self._failed_at, self._works_again = self._loop.time(), False
        self._kept.clear()

    def _recovers(self) -> None:
        if self._loop.time() - self._failed_at >= (LASTS if self._works_again else QUIET):
            self.trouble = ""

    async def _send(self, parts: Sequence[BatchPart]) -> dict[int, Outcome]:
        """Send these parts and return the outcomes by the `id` of the delivery. Raises `StoreUnavailable`."""
        contents = contents_of(parts)
        fresh, now = self._fresh(contents), self._loop.time()
        appended = await self._live.append_all(self.route.app, [part.append for part in parts], list(fresh.values()))
        self._kept.update(dict.fromkeys(fresh, now))
        self._note_displaced(parts, appended)
        # Before the poke: a repeat of the append names them again for some minutes only.
        await self._end_displaced()
        await self._poke(parts, appended, contents)
        absent = await self._absent(parts, appended)
        found: dict[int, Outcome] = {}
        for part, results in zip(parts, appended, strict=True):
            outcomes = part.outcomes(results, absent, ack_within=self._ack_within)
            found.update(zip(map(id, part.deliveries), outcomes, strict=True))
        return found

    def _fresh(self, contents: Mapping[str, LiveContent]) -> dict[str, LiveContent]:
        """Return the contents that are to be stored. What is for few devices gets those that are new."""
        now, kept = self._loop.time(), self._kept
        while kept and (len(kept) > KEPT or next(iter(kept.values())) <= now - KEPT_FOR):
            kept.popitem(last=False)
        return {name: content for name, content in contents.items() if content.device_ids or name not in kept}

    async def _poke(
        self, parts: Sequence[BatchPart], appended: Sequence[Sequence[Appended]], contents: Mapping[str, LiveContent]
    ) -> None:
        found: dict[str, list[InboxItem]] = {}
        now = self._clock()
        for part, results in zip(parts, appended, strict=True):
            for gateway, items in part.pokes(results, contents[part.push.id].body, now).items():
                found.setdefault(gateway, []).extend(items)
        if found:
            await self._live.poke(found)

    def _note_displaced(self, parts: Sequence[BatchPart], appended: Sequence[Sequence[Appended]]) -> None:
        carried: list[Arrival] = []
        for part, results in zip(parts, appended, strict=True):
            for receiver, result in zip(part.append.receivers, results, strict=True):
                if result.replaced is None and not (result.overrun or result.carried):
                    continue
                self._displaced += [("overflow", self._arrival(receiver, old)) for old in result.overrun]
                if result.replaced is not None:
                    self._displaced.append((SUPERSEDED, self._arrival(receiver, result.replaced)))
                carried += [self._arrival(receiver, old) for old in result.carried]
        if carried:
            task = self._loop.create_task(self._fall_back(carried))
            self._carrying.add(task)
            task.add_done_callback(self._carrying.discard)

    def _arrival(self, receiver: Receiver, old: Reference) -> Arrival:
        return old.push.arrival(old.index, old.platform, receiver.device_id, self._clock())

    async def _fall_back(self, carried: Sequence[Arrival]) -> None:
        """Let deliveries without a place in a stream go on at their next channel, once it is recorded that they wait.
        What is missed here goes on when the time of its device is over."""
        await asyncio.sleep(RECORDED)
        with suppress(StoreError):
            await self._arrivals.fall_back(self.route.app, carried)

    async def _end_displaced(self) -> None:
        """End what has lost its place. While Redis does not take it, it is tried again with the next batch."""
        displaced, self._displaced = self._displaced[-DISPLACED:], []
        for why in dict.fromkeys(reason for reason, _ in displaced):
            own = [arrival for reason, arrival in displaced if reason == why]
            try:
                await self._arrivals.suppress(self.route.app, own, why)
            except StoreUnavailable:
                self._displaced += [(why, arrival) for arrival in own]

    async def _absent(self, parts: Sequence[BatchPart], appended: Sequence[Sequence[Appended]]) -> set[str]:
        """Return those ids without a stream that the registry does not know; the streams of others are unreadable."""
        asked = [
            receiver.device_id
            for part, results in zip(parts, appended, strict=True)
            for receiver, result in zip(part.append.receivers, results, strict=True)
            if result.status == "absent"
        ]
        if not asked:
            return set()
        found = await self._live.presence(self.route.app, asked)
        return {device_id for device_id, presence in zip(asked, found, strict=True) if presence is None}


@asynccontextmanager
async def open_provider(
    route: Route, *, live: Live, arrivals: Arrivals, ack_within: float, clock: Callable[[], int]
) -> AsyncIterator[LiveProvider]:
    """Open the live route of an app; on leaving, what was submitted ends first."""
    provider = LiveProvider(route, live, arrivals, ack_within=ack_within, clock=clock)
    try:
        yield provider
    finally:
        await provider.aclose()
