"""Takes the acknowledgements of all connections of a process, in batches.

First their deliveries end as sent, then the streams have them: so no delivery is acknowledged without having ended.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol, TypeAlias

from msgspec.structs import replace

from ... import telemetry
from ...model.delivery import Arrival
from ...ports.live import Acked, LiveStreams, Position, Reference
from ..protocol.effects import AckRequested
from .metrics import GatewayMetrics, Passed, acknowledged

AT_ONCE: Final = 400
"""Acknowledgements of one step."""
LINGER: Final = 0.01
"""Seconds that a step waits for more to come: its fixed cost, as much as 25 acknowledgements, is shared by all that it
takes."""
QUIET: Final = 0.01
"""Seconds without a step after which one does not wait: as a rule no other follows it soon."""
CLOCKED: Final = 65_536
"""Deliveries of which a gateway remembers when they passed the stages before it, until they are acknowledged: the
oldest are forgotten where more wait."""


Confirm: TypeAlias = Callable[[str, Sequence[Arrival]], Awaitable[object]]
"""End deliveries of an app as sent; a repeat changes nothing. Raises `StoreUnavailable`."""


class Acknowledger(Protocol):
    """Acknowledges for a device."""

    app: str
    device_id: str

    def acked(self, command_id: int, result: Acked | Exception) -> None:
        """Take the result."""


_Ack: TypeAlias = tuple[Acknowledger, AckRequested]
"""An acknowledgement that waits for its batch."""


class _Caller:
    """An `Acknowledger` that waits for its one result."""

    def __init__(self, app: str, device_id: str) -> None:
        self.app = app
        self.device_id = device_id
        self.answer: asyncio.Future[Acked] = asyncio.get_running_loop().create_future()

    def acked(self, command_id: int, result: Acked | Exception) -> None:
        if self.answer.done():
            return
        if isinstance(result, Exception):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)


class Acks:
    """The acknowledgements that wait. `wall` are Unix seconds."""

    def __init__(self, live: LiveStreams, confirm: Confirm, metrics: GatewayMetrics, wall: Callable[[], float]) -> None:
        self._live = live
        self._confirm = confirm
        self._metrics = metrics
        self._wall = wall
        self._waiting: dict[str, list[_Ack]] = {}
        """By app, until nothing of it waits, nor is being taken."""
        self._taken_at: dict[str, float] = {}
        """When the last step of each app ended, by the clock of the event loop."""
        self._begun: list[str] = []
        """Apps of which something waits, and nothing is being taken."""
        self._more = asyncio.Event()
        self._all_taken = asyncio.Event()
        self._all_taken.set()
        self._passed: OrderedDict[tuple[str, int], Passed] = OrderedDict()
        """By push and index of deliveries."""

    async def ack(
        self,
        app: str,
        device_id: str,
        position: Position,
        given: Sequence[Reference] | None = None,
        shown: Sequence[int] | None = None,
    ) -> Acked:
        """Acknowledge everything up to a position. Raises `StoreUnavailable`; the device repeats it then."""
        caller, known = _Caller(app, device_id), None if given is None else tuple(given)
        offsets = None if shown is None else tuple(shown)
        self.take(caller, AckRequested(0, position.offset, position.epoch, known, offsets))
        return await caller.answer

    def take(self, acknowledger: Acknowledger, ask: AckRequested) -> None:
        """Acknowledge everything up to a position, together with what other devices acknowledge at the same time, and
        notify `acknowledger`: a task for each acknowledgement would cost as much as all that it does. The stream is
        asked only where it has other deliveries up to there than those that the connection was given."""
        waiting = self._waiting.get(acknowledger.app)
        if waiting is None:
            waiting = self._waiting[acknowledger.app] = []
            self._begun.append(acknowledger.app)
            self._all_taken.clear()
            self._more.set()
        waiting.append((acknowledger, ask))

    def remember(self, push_id: str, indexes: Iterable[int], passed: Passed) -> None:
        """Note when deliveries of a push passed the stages before the gateway."""
        for index in indexes:
            self._passed[push_id, index] = passed
        while len(self._passed) > CLOCKED:
            self._passed.popitem(last=False)

    async def run(self) -> None:
        """Take acknowledgements until cancelled, those of each app by themselves: Redis may be away for one."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._more.wait()
                self._more.clear()
                begun, self._begun = self._begun, []
                for app in begun:
                    tasks.create_task(self._take_waiting(app))

    async def _take_waiting(self, app: str) -> None:
        """Take the acknowledgements of an app until none waits."""
        loop = asyncio.get_running_loop()
        while waiting := self._waiting[app]:
            if len(waiting) < AT_ONCE and loop.time() - self._taken_at.get(app, -math.inf) < QUIET:
                await asyncio.sleep(LINGER)
            batch = waiting[:AT_ONCE]
            del waiting[:AT_ONCE]
            results: Sequence[Acked | Exception]
            try:
                results = await self._take_all(app, batch)
            except Exception as error:  # Each device is answered with it, and the others go on.
                results = [error] * len(batch)
            for (acknowledger, ask), result in zip(batch, results, strict=True):
                acknowledger.acked(ask.id, result)
            self._taken_at[app] = loop.time()
        del self._waiting[app]
        if not self._waiting:
            self._all_taken.set()

    async def all_taken(self) -> None:
        """Wait until no acknowledgement waits."""
        await self._all_taken.wait()

    async def _take_all(self, app: str, acks: Sequence[_Ack]) -> list[Acked]:
        ended: dict[tuple[str, int], Arrival] = {}
        results = await self._end_all(app, acks, ended)
        # A stream may have more than its connection knows: what has expired, or what was never given.
        unknown = [place for place, result in enumerate(results) if result.fault == "open"]
        if unknown:
            some = [acks[place] for place in unknown]
            asked = [(device, replace(ask, given=None, shown=ask.offsets)) for device, ask in some]
            for place, result in zip(unknown, await self._end_all(app, asked, ended), strict=True):
                results[place] = result
        self._metrics.flush()
        return results

    async def _end_all(self, app: str, acks: Sequence[_Ack], ended: dict[tuple[str, int], Arrival]) -> list[Acked]:
        """End the deliveries that were given, or that the stream names, then acknowledge these and no others. `ended`,
        which grows, are those that have ended, by push and index: offsets of two streams of a device may be the same.
        """
        at = int(self._wall() * 1000)
        faults: list[Acked | None] = [None] * len(acks)
        if unknown := [place for place, (_, ask) in enumerate(acks) if ask.given is None]:
            acks = list(acks)
            given = [acks[place][1].shown for place in unknown]
            named = await self._live.acking(app, [_asked(acks[place]) for place in unknown], given)
            for place, found in zip(unknown, named, strict=True):
                acknowledger, ask = acks[place]
                acks[place] = acknowledger, replace(ask, given=tuple(found.newly))
                faults[place] = found if found.fault else None
        taken = [ack for ack, fault in zip(acks, faults, strict=True) if fault is None]
        known = len(ended)
        for acknowledger, ask in taken:
            device_id = acknowledger.device_id
            for each in ask.given or ():
                key = each.push.id, each.index
                if key not in ended:
                    ended[key] = each.push.arrival(each.index, each.platform, device_id, at)
        if len(ended) > known:
            await self._confirm(app, list(ended.values())[known:])
        offsets = [[each.offset for each in ask.given or ()] for _, ask in taken]
        acked = await self._live.ack(app, list(map(_asked, taken)), offsets)
        newly = [
            each
            for (_, ask), result in zip(taken, acked, strict=True)
            for each in ask.given or ()
            if result.before < each.offset <= result.acked
        ]
        self._count(app, newly, at)
        rest = iter(acked)
        return [next(rest) if fault is None else fault for fault in faults]

    def _count(self, app: str, references: Sequence[Reference], at: int) -> None:
        deliveries = []
        for reference in references:
            key, start = (reference.push.id, reference.index), reference.push.at
            passed = self._passed.pop(key, None)
            deliveries.append((start, passed))
            if passed is not None and passed[3] and telemetry.traces.tracer is not None:
                telemetry.traces.tracer.record(acknowledged(app, reference, start + passed[2], at), passed[3])
        self._metrics.acked(app, Counter(deliveries), at)


def _asked(ack: _Ack) -> tuple[str, Position]:
    """Return the device of an acknowledgement, and the position up to which it acknowledges."""
    acknowledger, ask = ack
    return acknowledger.device_id, Position(ask.epoch, ask.offset)
