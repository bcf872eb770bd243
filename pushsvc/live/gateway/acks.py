"""Takes the acknowledgements of all connections of a process, in batches.

First their deliveries end as sent, then the streams have them: so no delivery is acknowledged without having ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct

from ... import telemetry
from ...ports.live import Acked, LiveStreams, Position, Reference
from .metrics import GatewayMetrics, acknowledged

AT_ONCE: Final = 400
"""Acknowledgements of one step."""
CLOCKED: Final = 65_536
"""Deliveries of which a gateway remembers when they passed the stages before it, until they are acknowledged: the first
ones are forgotten where more wait."""


class Acknowledged(Struct, frozen=True, gc=False):
    """A delivery that a device has acknowledged."""

    device_id: str
    reference: Reference
    at: int
    """Unix milliseconds."""


Confirm: TypeAlias = Callable[[str, Sequence[Acknowledged]], Awaitable[object]]
"""End deliveries of an app as sent; a repeat changes nothing. Raises `StoreUnavailable`."""


class _Ack(NamedTuple):
    """An acknowledgement that waits for its batch."""

    app: str
    device_id: str
    position: Position
    done: Callable[[Acked | Exception], None]
    """Is called with what has become of it."""


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
        self._passed: dict[tuple[str, int], tuple[int, int, int, bytes]] = {}
        """When deliveries, by push and index, were queued, taken and written, in ms after they were to be sent, and the
        traces of their pushes."""

    async def ack(self, app: str, device_id: str, position: Position) -> Acked:
        """Acknowledge everything up to a position. Raises `StoreUnavailable`; the device repeats it then."""
        answer: asyncio.Future[Acked] = asyncio.get_running_loop().create_future()

        def done(result: Acked | Exception) -> None:
            if answer.done():
                return
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        self.take(app, device_id, position, done)
        return await answer

    def take(self, app: str, device_id: str, position: Position, done: Callable[[Acked | Exception], None]) -> None:
        """Acknowledge everything up to a position, together with what other devices acknowledge at the same time, and
        call `done`: a task for each acknowledgement would cost as much as all that it does."""
        self._waiting.append(_Ack(app, device_id, position, done))
        self._all_taken.clear()
        self._more.set()

    def remember(self, push_id: str, index: int, passed: tuple[int, int, int, bytes]) -> None:
        """Note when a delivery passed the stages before the gateway, and the trace of its push."""
        if len(self._passed) >= CLOCKED:
            del self._passed[next(iter(self._passed))]
        self._passed[push_id, index] = passed

    async def run(self) -> None:
        """Take acknowledgements until cancelled."""
        while True:
            await self._more.wait()
            self._more.clear()
            while self._waiting:
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
            self._all_taken.set()

    async def all_taken(self) -> None:
        """Wait until no acknowledgement waits."""
        await self._all_taken.wait()

    async def _take_all(self, app: str, acks: Sequence[_Ack]) -> list[Acked]:
        at = int(self._wall() * 1000)
        ending: dict[tuple[str, int], Acknowledged] = {}
        positions = [(each.device_id, each.position) for each in acks]
        results = await self._live.acking(app, positions)
        for each, found in zip(acks, results, strict=True):
            if not found.fault:
                for reference in found.newly:
                    ending[each.device_id, reference.offset] = Acknowledged(each.device_id, reference, at)
        if ending:
            await self._confirm(app, list(ending.values()))
        # The others are not asked again: what is appended by then would be acknowledged without having ended.
        accepted = [place for place, found in enumerate(results) if not found.fault]
        taken = await self._live.ack(app, [positions[each] for each in accepted], named=False)
        newly: list[Reference] = []
        for place, acked in zip(accepted, taken, strict=True):
            if not acked.fault:
                newly += [each for each in results[place].newly if each.offset > acked.before]
            results[place] = acked
        self._count(app, newly, at)
        self._metrics.flush()
        return results

    def _count(self, app: str, references: Sequence[Reference], at: int) -> None:
        self._metrics.acked(app, [max(0.0, (at - each.push.at) / 1000) for each in references])
        known = []
        for reference in references:
            start = reference.push.at
            passed = self._passed.pop((reference.push.id, reference.index), None)
            if passed is not None:
                queued, taken, written, trace = passed
                known.append((start, (start + queued, start + taken), start + written, at))
                if trace and telemetry.traces.tracer is not None:
                    telemetry.traces.tracer.record(acknowledged(app, reference, start + written, at), trace)
        self._metrics.passed(known)
