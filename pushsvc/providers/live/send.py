"""Sends by appending to the streams of devices and poking the gateways that they are connected to.

Deliveries that are submitted while a batch is under way form the next one. A batch keeps the contents, appends, and
pokes: three round trips, however many deliveries and pushes it has. Batches follow one another, so that pushes stand in
a stream in the order in which they were submitted.

    the append says                                                the outcome
    written to a connected device                                  unconfirmed, until the time to acknowledge is over
    the device is not connected                                    unconfirmed: the next channel carries it on at once
    a provider comes first, and this channel again at last         unconfirmed: the same, and nothing is poked
    now or never, not connected, and no channel follows            expired
    a later push of its `collapse` is there                        obsolete
    there is no such device any more                               obsolete
    its stream cannot be read by this version                      unconfirmed: the same as not connected
    Redis is away                                                  unavailable, which costs no attempt

A push that replaced an older one of its `collapse` in a stream ends the older one's delivery, which no
device can acknowledge any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple, TypeAlias

import msgspec

from ...errors import StoreUnavailable
from ...model.delivery import Arrival, Delivery, Expired, Obsolete, Outcome, Sent, Unavailable, Unconfirmed
from ...model.instants import instant
from ...model.push import Chunk, Route
from ...model.routing import platform_of
from ...ports.live import Append, Appended, InboxItem, Live, LivePush, Receiver, pokes_of
from ...ports.provider import OnOutcome
from ...ports.queue import Arrivals
from ...telemetry import get_logger
from .render import ACK_WITHIN, NOW_OR_NEVER

WINDOW: Final = 4000
"""The maximum number of deliveries that wait for their batch or are in it."""
BATCH: Final = 2000
"""The maximum number of deliveries of one batch."""
POKED_BODY: Final = 4096
"""The largest content in bytes that travels to the gateways with the poke; they read a larger one from the store."""

_Submitted: TypeAlias = tuple[Delivery, OnOutcome]
_encode = msgspec.json.Encoder().encode

AWAY: Final = Unconfirmed(reason="away")
FIRST: Final = Unconfirmed(reason="provider_first")
UNREADABLE: Final = Unconfirmed(reason="unreadable")
NEVER: Final = Expired(reason="ttl")
SUPERSEDED: Final = Obsolete(reason="superseded")
MOVED: Final = Obsolete(reason="moved")
STORE_AWAY: Final = Unavailable(reason="store_away")
FAILED: Final = Unavailable(reason="internal_error")
DRY_RUN: Final = Sent(reason="dry_run")


class _Part(NamedTuple):
    """The deliveries of one chunk in a batch."""

    chunk: Chunk
    push: LivePush
    submitted: list[_Submitted]

    @property
    def append(self) -> Append:
        """What is appended for them."""
        receivers = [Receiver(d.target.device_id or d.target.token, d.target.index) for d, _ in self.submitted]
        now_or_never = NOW_OR_NEVER in self.chunk.message.headers
        return Append(self.push, receivers, platform_of(self.chunk.platform), now_or_never)

    def passed(self, now: int) -> tuple[int, int, int] | None:
        """Return when they were queued, taken and written, which is `now`, in ms after the push was to be sent; None
        if that is not known."""
        passed, at = self.submitted[0][0].passed, self.push.at
        return None if passed is None else (passed[0] - at, passed[1] - at, now - at)


class LiveProvider:
    """`ports.provider.Provider` for the live channel of one app. Belongs to one event loop."""

    trouble = refused = ""

    def __init__(self, route: Route, live: Live, arrivals: Arrivals, *, ack_within: float, clock: Callable[[], int]):
        """Begin to send. `ack_within` is for pushes that name no time of their own; `clock` returns Unix ms."""
        self.route = route
        self._live = live
        self._arrivals = arrivals
        self._ack_within = ack_within
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Submitted] = []
        self._in_batch = 0
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
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
        self._idle.clear()

    def on_room(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)

    def remedy(self, reason: str) -> str:
        return ""

    async def aclose(self) -> None:
        await self._idle.wait()
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)

    async def _send_all(self) -> None:
        while True:
            await self._more.wait()
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            self._in_batch = len(batch)
            if not self._waiting:
                self._more.clear()
            had_room = self.room > 0
            try:
                outcomes = await self._send(batch)
            except StoreUnavailable:
                outcomes = [STORE_AWAY] * len(batch)
            except Exception as error:
                get_logger("live").error("live_batch_failed", app=self.route.app, error=type(error).__name__)
                outcomes = [FAILED] * len(batch)
            self._in_batch = 0
            for (delivery, on_outcome), outcome in zip(batch, outcomes, strict=True):
                on_outcome(delivery, outcome)
            if not self._waiting:
                self._idle.set()
            if not had_room:
                for wake in self._wakes:
                    wake()

    async def _send(self, batch: Sequence[_Submitted]) -> list[Outcome]:
        """Send a batch and return the outcomes in its order. Raises `StoreUnavailable`."""
        parts = _parts_of(batch)
        contents = {part.push.id: (part.push, _content(part)) for part in parts}
        # Before anything refers to them. What is stored already is not changed.
        await self._live.keep_all(self.route.app, list(contents.values()))
        appended = await self._live.append_all(self.route.app, [part.append for part in parts])
        await self._poke(parts, appended, {name: body for name, (_, body) in contents.items()})
        await self._close_replaced(appended)
        absent = await self._absent(parts, appended)
        outcomes: dict[int, Outcome] = {}
        for part, results in zip(parts, appended, strict=True):
            for (delivery, _), result in zip(part.submitted, results, strict=True):
                outcomes[id(delivery)] = self._outcome(part.chunk, delivery, result, absent)
        return [outcomes[id(delivery)] for delivery, _ in batch]

    async def _poke(
        self, parts: Sequence[_Part], appended: Sequence[Sequence[Appended]], contents: Mapping[str, bytes]
    ) -> None:
        found: dict[str, list[InboxItem]] = {}
        now = self._clock()
        for part, results in zip(parts, appended, strict=True):
            if not _comes_again(part.chunk, self.route):
                body = contents[part.push.id]
                body = body if len(body) <= POKED_BODY else b""
                pokes = pokes_of(self.route.app, part.push, part.append.receivers, results, body, part.passed(now))
                for gateway, items in pokes.items():
                    found.setdefault(gateway, []).extend(items)
        if found:
            await self._live.poke(found)

    async def _close_replaced(self, appended: Sequence[Sequence[Appended]]) -> None:
        now = self._clock()
        replaced = [
            Arrival(each.push.id, each.index, each.push.total, each.push.lane, each.platform, None, now)
            for results in appended
            for result in results
            if (each := result.replaced) is not None
        ]
        if replaced:
            await self._arrivals.replaced(self.route.app, replaced)

    async def _absent(self, parts: Sequence[_Part], appended: Sequence[Sequence[Appended]]) -> set[str]:
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

    def _outcome(self, chunk: Chunk, delivery: Delivery, appended: Appended, absent: set[str]) -> Outcome:
        match appended.status:
            case "superseded":
                return SUPERSEDED
            case "absent":
                target = delivery.target
                return MOVED if (target.device_id or target.token) in absent else UNREADABLE
            case "away" if not chunk.fallbacks:
                return NEVER
        if _comes_again(chunk, self.route):
            return FIRST
        if appended.route is None:
            return AWAY
        within = chunk.message.headers.get(ACK_WITHIN)
        return Unconfirmed(reason="written", within=float(within) if within else self._ack_within)


def _comes_again(chunk: Chunk, route: Route) -> bool:
    """Return whether a provider is asked first and this channel after it, if need be: see `rules.channels`."""
    return any(following.channel == route.platform for following in chunk.fallbacks)


def _parts_of(batch: Sequence[_Submitted]) -> list[_Part]:
    """Return a batch by chunk. A device that is in it twice gets both pushes in their order, since chunks keep it."""
    parts: dict[int, _Part] = {}
    for delivery, on_outcome in batch:
        chunk = delivery.chunk
        part = parts.get(id(chunk))
        if part is None:
            part = parts[id(chunk)] = _Part(chunk, _push_of(chunk), [])
        part.submitted.append((delivery, on_outcome))
    return list(parts.values())


def _push_of(chunk: Chunk) -> LivePush:
    message = chunk.message
    at = message.since or chunk.starts_at
    return LivePush(chunk.push_id, at, chunk.expires_at, chunk.lane, chunk.total, message.collapse)


def _content(part: _Part) -> bytes:
    """Return the object of a publication's `data`, without what differs by device."""
    push = part.push
    head = {"id": push.id, "at": instant(push.at), "expires_at": instant(push.expires_at), "lane": push.lane}
    return _encode(head)[:-1] + b"," + part.chunk.message.body[1:]


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
