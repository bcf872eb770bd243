"""Takes the acknowledgements of all connections of a process, in batches.

First their deliveries end as sent, then the streams have them: so no delivery is acknowledged without having ended.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from ... import telemetry
from ...model.delivery import Arrival
from ...ports.live import Acked, LiveStreams, Position, Reference
from .metrics import GatewayMetrics, Passed, acknowledged

AT_ONCE: Final = 400
"""Acknowledgements of one step."""
LINGER: Final = 0.004
"""Seconds that a step waits for more to come: its fixed cost is shared by all that it takes."""
QUIET: Final = 0.01
"""Seconds without a step after which one does not wait: as a rule no other follows it soon."""
CLOCKED: Final = 65_536
"""Deliveries of which a gateway remembers when they passed the stages before it, until they are acknowledged: the
oldest are forgotten where more wait."""


Confirm: TypeAlias = Callable[[str, Sequence[Arrival]], Awaitable[object]]
"""End deliveries of an app as sent; a repeat changes nothing. Raises `StoreUnavailable`."""


class _Ack(Struct, frozen=True):
    """An acknowledgement that waits for its batch."""

    app: str
    device_id: str
    position: Position
    given: Sequence[Reference] | None
    """The deliveries that it ends, where the connection knows them."""
    done: Callable[[Acked | Exception], None]
    """Called with the result."""


class Acks:
    """The acknowledgements that wait. `wall` are Unix seconds."""

    def __init__(self, live: LiveStreams, confirm: Confirm, metrics: GatewayMetrics, wall: Callable[[], float]) -> None:
        self._live = live
        self._confirm = confirm
        self._metrics = metrics
        self._wall = wall
        self._waiting: list[_Ack] = []
        self._more = asyncio.Event()
        self._all_taken = asyncio.Event()
        self._all_taken.set()
        self._passed: OrderedDict[tuple[str, int], Passed] = OrderedDict()
        """By push and index of deliveries."""

    async def ack(
        self, app: str, device_id: str, position: Position, given: Sequence[Reference] | None = None
    ) -> Acked:
        """Acknowledge everything up to a position. Raises `StoreUnavailable`; the device repeats it then."""
        answer: asyncio.Future[Acked] = asyncio.get_running_loop().create_future()

        def done(result: Acked | Exception) -> None:
            if answer.done():
                return
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        self.take(app, device_id, position, given, done)
        return await answer

    def take(
        self,
        app: str,
        device_id: str,
        position: Position,
        given: Sequence[Reference] | None,
        done: Callable[[Acked | Exception], None],
    ) -> None:
        """Acknowledge everything up to a position, together with what other devices acknowledge at the same time, and
        call `done`: a task for each acknowledgement would cost as much as all that it does. `given` are the deliveries
        up to there that are not acknowledged yet, as far as a connection knows: the stream is asked only where it has
        others."""
        if not self._waiting:
            self._all_taken.clear()
            self._more.set()
        self._waiting.append(_Ack(app, device_id, position, given, done))

    def remember(self, push_id: str, indexes: Iterable[int], passed: Passed) -> None:
        """Note when deliveries of a push passed the stages before the gateway."""
        self._passed.update(((push_id, index), passed) for index in indexes)
        while len(self._passed) > CLOCKED:
            self._passed.popitem(last=False)

    async def run(self) -> None:
        """Take acknowledgements until cancelled."""
        loop = asyncio.get_running_loop()
        taken_at = -math.inf
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
                if len(self._waiting) < AT_ONCE and loop.time() - taken_at < QUIET:
                    await asyncio.sleep(LINGER)
                batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
                by_app: dict[str, list[_Ack]] = {}
                for each in batch:
                    by_app.setdefault(each.app, []).append(each)
                for app, own in by_app.items():
                    results: Sequence[Acked | Exception]
                    try:
                        results = await self._take_all(app, own)
                    except Exception as error:  # Each device is answered with it, and the others go on.
                        results = [error] * len(own)
                    for each, result in zip(own, results, strict=True):
                        each.done(result)
                taken_at = loop.time()
            self._all_taken.set()

    async def all_taken(self) -> None:
        """Wait until no acknowledgement waits."""
        await self._all_taken.wait()

    async def _take_all(self, app: str, acks: Sequence[_Ack]) -> list[Acked]:
        ended: set[tuple[str, int]] = set()
        results = await self._end_all(app, acks, ended)
        # A stream may have more than its connection knows: what has expired, or what was never given.
        unknown = [place for place, result in enumerate(results) if result.fault == "open"]
        if unknown:
            again = await self._end_all(app, [replace(acks[place], given=None) for place in unknown], ended)
            for place, result in zip(unknown, again, strict=True):
                results[place] = result
        self._metrics.flush()
        return results

    async def _end_all(self, app: str, acks: Sequence[_Ack], ended: set[tuple[str, int]]) -> list[Acked]:
        """End the deliveries that were given, or that the stream names, then acknowledge these and no others. `ended`,
        which grows, are those that have ended, by device and offset."""
        at = int(self._wall() * 1000)
        positions = [(each.device_id, each.position) for each in acks]
        given = [each.given for each in acks]
        results: dict[int, Acked] = {}
        if unknown := [place for place, own in enumerate(given) if own is None]:
            named = await self._live.acking(app, [positions[place] for place in unknown])
            for place, found in zip(unknown, named, strict=True):
                given[place], results[place] = found.newly, found
        taken = [place for place in range(len(acks)) if place not in results or not results[place].fault]
        ending: dict[tuple[str, int], Arrival] = {}
        for place in taken:
            device_id = acks[place].device_id
            for each in given[place] or ():
                ending[device_id, each.offset] = each.push.arrival(each.index, each.platform, device_id, at)
        if left := [arrival for key, arrival in ending.items() if key not in ended]:
            await self._confirm(app, left)
            ended.update(ending)
        offsets = [[each.offset for each in given[place] or ()] for place in taken]
        newly: list[Reference] = []
        acked = await self._live.ack(app, [positions[place] for place in taken], offsets)
        for place, result in zip(taken, acked, strict=True):
            results[place] = result
            newly += [each for each in given[place] or () if result.before < each.offset <= result.acked]
        self._count(app, newly, at)
        return [results[place] for place in range(len(acks))]

    def _count(self, app: str, references: Sequence[Reference], at: int) -> None:
        deliveries = []
        for reference in references:
            key, start = (reference.push.id, reference.index), reference.push.at
            passed = self._passed.pop(key, None)
            deliveries.append((start, passed))
            if passed is not None and passed[3] and telemetry.traces.tracer is not None:
                telemetry.traces.tracer.record(acknowledged(app, reference, start + passed[2], at), passed[3])
        self._metrics.acked(app, Counter(deliveries), at)
