"""The store of the feedback stage: receipts in, suppressions and feedback events out.

A receipt is acknowledged in the step that appends its event. If the suppression list of a token is in another shard,
the token is suppressed before that: suppressing twice is harmless, and none is lost if the process dies in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ...errors import Fault, Gone, InvalidRequest
from ...model.codec import CodecError, decode_event, decode_receipt, encode_event
from ...model.delivery import Receipt
from ...model.push import Platform
from ...model.status import FeedbackEvent
from ...ports.receipts import EventPage
from .. import keys
from ..config import StoreConfig
from ..link.clock import Clock
from ..link.link import Link
from ..queue.entries import entries_of
from ..queue.quarantine import set_aside
from ..revoke.suppression import Suppression
from ..work.liveness import Liveness

_POLL = 0.05
SETTLED = 1000
"""The minimum age in ms of events from several shards before they are merged: no shard appends an earlier one later."""

_BEFORE_ALL = (0, 0, -1)


class RedisReceipts:
    """`ReceiptLog` over Redis Streams."""

    def __init__(
        self, link: Link, config: StoreConfig, suppression: Suppression, liveness: Liveness, clock: Clock
    ) -> None:
        self._link = link
        self._config = config
        self._suppression = suppression
        self._liveness = liveness
        self._clock = clock
        self._looked: dict[str, float] = {}

    async def take(self, app: str, *, limit: int, wait_ms: int) -> list[tuple[str, Receipt]]:
        """Return new receipts. What this consumer took and has not recorded is returned again by each call."""
        loop = asyncio.get_running_loop()
        await self._liveness.beat()
        if loop.time() >= self._looked.get(app, 0.0):
            await self._take_over(app)
            self._looked[app] = loop.time() + self._config.alive_ttl / 3
        deadline = loop.time() + wait_ms / 1000
        while True:
            found = await self._read(app, limit)
            left = deadline - loop.time()
            if found or left <= 0:
                return found
            await self._wait(app, max(1, int(left * 1000)))

    async def _read(self, app: str, limit: int) -> list[tuple[str, Receipt]]:
        found: list[tuple[str, Receipt]] = []
        for shard in range(self._config.shards_of(app)):
            room = limit - len(found)
            if room <= 0:
                break
            stream = keys.receipts(app, shard)
            history = self._link.history
            flat = await self._link.script("receipts", [stream], [keys.FEEDBACK, self._config.consumer, room])
            for entry in entries_of(flat):
                try:
                    found.append((f"{shard}:{entry.id}:{history}", decode_receipt(entry.blob)))
                except CodecError as error:
                    quarantine = keys.quarantine(app, shard)
                    await set_aside(self._link, stream, keys.FEEDBACK, quarantine, entry.id, error, history=history)
        return found

    async def _wait(self, app: str, wait_ms: int) -> None:
        """Wait until there is a new receipt, or the time is over. The receipt becomes pending for this consumer."""
        shards = self._config.shards_of(app)
        if self._link.cluster and shards > 1:
            await asyncio.sleep(min(_POLL, wait_ms / 1000))
            return
        streams = [keys.receipts(app, shard) for shard in range(shards)]
        command = ("XREADGROUP", "GROUP", keys.FEEDBACK, self._config.consumer, "COUNT", 1, "BLOCK", wait_ms)
        await self._link.wait([(*command, "STREAMS", *streams, *(">" for _ in streams))], wait_ms)

    async def _take_over(self, app: str) -> None:
        """Make what dead consumers have left our own, to be read with the next call."""
        streams = [keys.receipts(app, shard) for shard in range(self._config.shards_of(app))]
        leavers = await self._liveness.leavers(streams, keys.FEEDBACK)
        for stream, names in zip(streams, leavers, strict=True):
            if names:
                await self._link.script("reclaim", [stream], [keys.FEEDBACK, self._config.consumer, 1000, *names])

    async def record(self, app: str, done: Sequence[tuple[str, Receipt, FeedbackEvent | None]]) -> None:
        """Append the events and acknowledge the receipts.

        A `pruned` token was suppressed before its device was pruned.
        """
        by_shard: dict[int, list[Any]] = {}
        foreign: list[tuple[Platform, str, int]] = []
        for entry, receipt, event in done:
            shard_text, entry_id, history = entry.split(":")
            if int(history) != self._link.history:
                continue  # another server is the primary by now: it comes again from there
            shard = int(shard_text)
            route, digest, since = "", b"", receipt.at
            if event is not None and event.action == "suppressed":
                place, digest = self._suppression.locate(app, receipt.token)
                if place == shard:
                    route = receipt.platform
                    since = self._suppression.counted_from(route, receipt.token, receipt.at)
                else:
                    foreign.append((receipt.platform, receipt.token, receipt.at))
            blob = encode_event(event) if event is not None else b""
            by_shard.setdefault(shard, []).extend((entry_id, blob, route, digest, since))
        await self._suppression.add(app, foreign)
        oldest = self._suppression.oldest
        for shard, args in by_shard.items():
            await self._link.script(
                "record",
                [keys.receipts(app, shard), keys.events(app, shard), keys.gone(app, shard)],
                [
                    keys.prefix(app, shard),
                    keys.FEEDBACK,
                    self._config.events_max,
                    max(0, self._clock() - self._config.events_ttl * 1000),
                    oldest,
                    *args,
                ],
            )
        own = [receipt.token for _, receipt, event in done if event is not None and event.action == "suppressed"]
        await self._suppression.announce(app, own)

    async def events(self, app: str, *, after: str, limit: int) -> EventPage:
        """Return events in order, after the one with the id `after`, or from the beginning if it is empty.

        The id is that of the stream. With several shards, that of the shard is appended, and events of the last second
        are left for the next call, so that the merged order never changes behind a cursor. Whether retention has
        removed events is checked after they are read, because it may happen in between. Raises `InvalidRequest` for a
        malformed id, and `Gone` for one that no event has had yet.
        """
        while True:
            page, set_aside_too = await self._events(app, after, limit)
            if page.events or not set_aside_too:
                return page

    async def _events(self, app: str, after: str, limit: int) -> tuple[EventPage, bool]:
        """Return a page, and whether some of its events could not be read and were moved to quarantine."""
        cursor = ms, sequence, behind = parse_event_id(after)
        shards, history = self._config.shards_of(app), self._link.history
        end = "+" if shards == 1 else str(await self._server_ms() - SETTLED)
        found = await self._link.many(
            [
                ("XRANGE", keys.events(app, shard), start_of(ms, sequence, shard <= behind), end, "COUNT", limit)
                for shard in range(shards)
            ]
            + [("GET", keys.gone(app, shard)) for shard in range(shards)]
        )
        answers, removed = found[:shards], found[shards:]
        missing = max(_places(removed), default=_BEFORE_ALL)
        if ms > self._clock() + SETTLED and not await self._was_given(app, cursor):
            raise Gone("No event has had this cursor: it lies in the future. Begin without `after`.")
        merged = sorted(
            (*map(int, entry_id.split(b"-")), shard, fields.get(b"e", b""))
            for shard, entries in enumerate(answers)
            for entry_id, fields in entries
        )
        readable: list[tuple[str, FeedbackEvent]] = []
        page = merged[:limit]
        for ms, sequence, shard, blob in page:
            try:
                event = decode_event(blob)
            except CodecError as error:
                stream, quarantine = keys.events(app, shard), keys.quarantine(app, shard)
                entry_id = f"{ms}-{sequence}"
                await set_aside(self._link, stream, "", quarantine, entry_id, error, history=history)
                continue
            readable.append((_event_id(ms, sequence, shard, shards), event))
        missing_to = _event_id(*missing, shards) if after and missing > cursor else ""
        return EventPage(readable, missing_to=missing_to), len(readable) < len(page)

    async def _was_given(self, app: str, cursor: tuple[int, int, int]) -> bool:
        """Return whether an event has this id or a later one: Redis' clock may have gone back."""
        shards = self._config.shards_of(app)
        commands = [("XREVRANGE", keys.events(app, shard), "+", "-", "COUNT", 1) for shard in range(shards)]
        newest = [entries[0][0] if entries else None for entries in await self._link.many(commands)]
        return max(_places(newest), default=_BEFORE_ALL) >= cursor

    async def _server_ms(self) -> int:
        seconds, micros = await self._link.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000


def _places(ids: Sequence[bytes | None]) -> list[tuple[int, int, int]]:
    """Return the places of entries in the order of all events. The index in `ids` is the number of the shard."""
    return [(*parse_event_id(entry.decode())[:2], shard) for shard, entry in enumerate(ids) if entry is not None]


def _event_id(ms: int, sequence: int, shard: int, shards: int) -> str:
    return f"{ms}-{sequence}" if shards == 1 else f"{ms}-{sequence}.{shard}"


def parse_event_id(text: str) -> tuple[int, int, int]:
    """Return milliseconds, sequence and shard of an event id; `(0, 0, -1)`, before all others, for an empty one."""
    if not text:
        return _BEFORE_ALL
    entry, _, shard = text.partition(".")
    ms, _, sequence = entry.partition("-")
    parts = (ms, sequence or "0", shard or "0")
    if not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts):
        raise InvalidRequest(faults=[Fault("after", "is not a cursor that an earlier call has given")])
    return int(parts[0]), int(parts[1]), int(parts[2])


def start_of(ms: int, sequence: int, passed: bool) -> str:
    """Return where a stream is read on, after an entry that it has itself passed, or not."""
    return f"({ms}-{sequence}" if passed else f"{ms}-{sequence}"
