"""Webhooks over Redis: their progress in the feedback events, the current batch, and batches that were given up.

The events themselves are those of `GET /v1/feedback`, merged over the shards in one order; a webhook is a cursor into
them, and a batch a pair of ids. Nothing is copied, so that nothing has to be erased twice.

There is one record per app. A worker has it under a lease, by the clock of Redis, and every change names its owner: if
a process was assumed dead and is not, its later changes are ignored (see webhook.lua).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from ...background import lease_kept
from ...model.status import FeedbackEvent
from ...ports.receipts import EventPage, ReceiptLog
from ...ports.webhooks import Batch, DeadBatch, Standing
from ...telemetry import FEEDBACK_GAPS, get_logger
from .. import keys
from ..config import StoreConfig
from ..feedback.receipts import SETTLED, parse_event_id, start_of
from ..link.clock import Clock
from ..link.link import Link
from ..link.unreadable import readable

log = get_logger("webhooks")
_pack = msgspec.msgpack.Encoder().encode
_decode_dead = msgspec.json.Decoder(DeadBatch).decode
_FIELDS = ("after", "last", "n", "tries", "fails", "why", "off", "most", "at")
_SHOWN = ("after", "tries", "fails", "why", "since", "off", "at", "own", "until")
_UNDER_WAY = ("last", "n", "tries")


class RecordChange(Struct, frozen=True):
    """A change of a record; see webhook.lua."""

    seconds: float
    """The time until other workers may take it."""
    stays: bool = True
    """Whether its owner stays its owner."""
    put: dict[str, str | int] = {}
    delete: Sequence[str] = ()
    bury: Sequence[DeadBatch] = ()
    drop: Sequence[str] = ()
    answered: Sequence[str] = ()
    ask: Sequence[DeadBatch] = ()


class _Span(Struct, frozen=True):
    """The batch that a claim works on, by the events that it began with."""

    id: str
    after: str
    last: str
    events: int


def batch_id(app: str, last: str) -> str:
    """Return the id of the batch that ends with the event `last`. No two batches end with the same.

    It omits the full stop of an event id, which would make a signature's id and time ambiguous. As text, ids have the
    order of the events, by which Redis orders those that were recorded in the same millisecond.
    """
    ms, sequence, shard = parse_event_id(last)
    return f"feedback_{app}_{ms}-{sequence:012}_{shard:05}"


def recorded_at(event_id: str) -> int:
    """Return when the event was recorded, in Unix ms by the clock of Redis."""
    return parse_event_id(event_id)[0]


class RedisWebhooks:
    """`Webhooks` over Redis."""

    def __init__(self, link: Link, config: StoreConfig, receipts: ReceiptLog, clock: Clock) -> None:
        self._link = link
        self._config = config
        self._receipts = receipts
        self._clock = clock

    async def due(self, app: str, place: str) -> bool:
        left, (fields, asked) = await asyncio.gather(
            self._link.script("claim", [keys.hook(app)], ["", 0, place]),
            self._link.many(
                [("HMGET", keys.hook(app), "after", "last", "off"), ("EXISTS", keys.hook_asked(app))],
            ),
        )
        after, last, off = map(_text, fields)
        if left or off == place:
            return False
        if asked or last:
            return True
        since = (await self._waiting({app: after}))[app]
        if since is None or self._config.shards_of(app) == 1:
            return since is not None
        # Events of several shards have their order, and can be read, when they have settled.
        return since <= self._clock() - SETTLED

    @asynccontextmanager
    async def claimed(self, app: str, place: str, *, lease: float) -> AsyncIterator[RedisWebhookClaim | None]:
        owner = secrets.token_hex(8)
        if await self._link.script("claim", [keys.hook(app)], [owner, int(lease * 1000), place]):
            yield None
            return
        claim = RedisWebhookClaim(self, app, place, owner, lease)
        async with lease_kept(claim.renew, partial(claim.rest, 0.0), lease=lease, name=f"webhook:{app}"):
            yield claim

    async def standings(self, places: Mapping[str, str]) -> dict[str, Standing]:
        if not places:
            return {}
        answers = await self._link.many(
            [
                command
                for app in places
                for command in (
                    ("HMGET", keys.hook(app), *_SHOWN),
                    ("HLEN", keys.hook_dead(app)),
                    ("ZCARD", keys.hook_asked(app)),
                )
            ]
        )
        records = {app: answers[3 * at : 3 * at + 3] for at, app in enumerate(places)}
        waiting = await self._waiting({app: _text(fields[0]) for app, (fields, _, _) in records.items()})
        now = self._clock()
        return {
            app: _standing(places[app], list(map(_text, fields)), dead, asked, waiting[app], now)
            for app, (fields, dead, asked) in records.items()
        }

    async def standing(self, app: str, place: str) -> Standing:
        return (await self.standings({app: place}))[app]

    async def _waiting(self, cursors: Mapping[str, str]) -> dict[str, int | None]:
        """Return when the first event behind each app's cursor was recorded, in Unix ms."""
        commands: list[tuple[Any, ...]] = []
        asked: list[str] = []
        for app, after in cursors.items():
            ms, sequence, behind = parse_event_id(after)
            for shard in range(self._config.shards_of(app)):
                start = start_of(ms, sequence, shard <= behind)
                commands.append(("XRANGE", keys.events(app, shard), start, "+", "COUNT", 1))
                asked.append(app)
        found: dict[str, list[int]] = {app: [] for app in cursors}
        for app, entries in zip(asked, await self._link.many(commands), strict=True):
            found[app] += [recorded_at(entry.decode()) for entry, _ in entries]
        return {app: min(instants, default=None) for app, instants in found.items()}

    async def dead(self, app: str, *, since: int | None = None, until: int | None = None) -> list[DeadBatch]:
        read = [
            readable(_decode_dead, blob, "dead_batch", app)
            for blob in await self._link.call("HVALS", keys.hook_dead(app))
        ]
        return sorted(
            (
                batch
                for batch in read
                if batch is not None
                and (since is None or recorded_at(batch.last) >= since)
                and (until is None or recorded_at(batch.last) < until)
            ),
            key=lambda batch: parse_event_id(batch.last),
        )

    async def ask_again(self, app: str, batches: Sequence[DeadBatch]) -> int:
        asked: int = await self._link.script("ask", _keys(app), _asking(batches))
        return asked

    async def asked(self, app: str) -> list[str]:
        return [member.decode() for member in await self._link.call("ZRANGE", keys.hook_asked(app), 0, -1)]

    async def resume(self, app: str) -> None:
        await self._link.script("ask", _keys(app), [])

    # --- for a claim ----------------------------------------------------------------------------

    async def look(self, app: str) -> tuple[list[str], str]:
        """Return the fields of the record, and the id of the first batch that was asked for, if any."""
        fields, asked = await self._link.many(
            [("HMGET", keys.hook(app), *_FIELDS), ("ZRANGE", keys.hook_asked(app), 0, 0)]
        )
        return [_text(field) for field in fields], _text(asked[0] if asked else None)

    async def dead_one(self, app: str, batch_id: str) -> tuple[DeadBatch | None, bool]:
        """Return the batch, and whether there is one: what cannot be read is kept, and not called again."""
        blob = await self._link.call("HGET", keys.hook_dead(app), batch_id)
        return None if blob is None else readable(_decode_dead, blob, "dead_batch", app), blob is not None

    async def events(self, app: str, after: str, last: str, limit: int) -> EventPage:
        """Return up to `limit` events after one, up to and including `last`, or to the end if it is empty."""
        page = await self._receipts.events(app, after=after, limit=limit)
        if not last:
            return page
        end = parse_event_id(last)
        return EventPage([pair for pair in page.events if parse_event_id(pair[0]) <= end], page.missing_to)

    async def expired(self, app: str) -> list[str]:
        """Return the dead batches whose events are no longer stored."""
        oldest = self._clock() - self._config.events_ttl * 1000
        return [batch.id for batch in await self.dead(app, until=oldest)]

    async def change(self, app: str, owner: str, what: RecordChange) -> bool:
        """Change the record. Returns False, without a change, if it belongs to another owner."""
        told = (
            owner,
            what.stays,
            int(what.seconds * 1000),
            [str(part) for pair in what.put.items() for part in pair],
            what.delete,
            [part for batch in what.bury for part in (batch.id, msgspec.json.encode(batch).decode())],
            what.drop,
            what.answered,
            _asking(what.ask),
        )
        return bool(await self._link.script("webhook", _keys(app), [_pack(told)]))

    def now(self) -> int:
        """Return the time in Unix ms, by the clock of Redis."""
        return self._clock()


class RedisWebhookClaim:
    """`WebhookClaim` over Redis."""

    def __init__(self, webhooks: RedisWebhooks, app: str, place: str, owner: str, lease: float) -> None:
        self._webhooks = webhooks
        self._app = app
        self._place = place
        self._owner = owner
        self._lease = lease
        self._span = _Span("", "", "", 0)
        self._wanted = 0
        self._most = 0

    async def renew(self) -> bool:
        """Keep the claim for another lease; Returns False if another worker has it."""
        return await self._change(RecordChange(self._lease))

    async def next(self, most: int) -> Batch | None:
        while True:
            (after, last, count, tries, fails, _, off, taken, _), asked = await self._webhooks.look(self._app)
            if off == self._place:
                return None
            self._wanted = most
            self._most = min(most, int(taken or most))
            failures = int(fails or 0)
            if asked:
                dead, kept = await self._webhooks.dead_one(self._app, asked)
                if dead is not None:
                    self._span = _Span(dead.id, dead.after, dead.last, dead.events)
                    page = await self._events()
                    self._say_missing(page)
                    if page.events:
                        return Batch(dead.id, page.events, dead.attempts, failures, again=True)
                # Its events are no longer kept, or this version cannot read which they are.
                over = (
                    RecordChange(self._lease, answered=[asked])
                    if kept and dead is None
                    else RecordChange(self._lease, drop=[asked])
                )
                if not await self._change(over):
                    return None
            elif last:
                self._span = _Span(batch_id(self._app, last), after, last, int(count))
                page = await self._events()
                if page.missing_to:
                    if not await self._pass_over(page, last):
                        return None
                elif len(page.events) > self._most:
                    if not await self._change(RecordChange(self._lease, put=_pinned(page.events[: self._most]))):
                        return None
                elif page.events:
                    return Batch(self._span.id, page.events, int(tries or 0), failures)
                elif not await self._change(RecordChange(self._lease, put={"after": last}, delete=_UNDER_WAY)):
                    return None
            else:
                page = await self._webhooks.events(self._app, after, "", self._most)
                if page.missing_to:
                    if not await self._pass_over(page, ""):
                        return None
                    continue
                if not page.events:
                    return None
                put = _pinned(page.events)
                if not after:
                    put["after"] = _just_before(page.events[0][0])
                if not await self._change(RecordChange(self._lease, put=put)):
                    return None

    async def _pass_over(self, page: EventPage, last: str) -> bool:
        """Continue behind the events that retention has removed, or behind the batch that ends with `last` if all of
        it is gone.
        """
        whole = bool(last) and parse_event_id(last) <= parse_event_id(page.missing_to)
        delete = _UNDER_WAY if whole else ()
        held = await self._change(RecordChange(self._lease, put={"after": page.missing_to}, delete=delete))
        if held:
            self._say_missing(page)
        return held

    def _say_missing(self, page: EventPage) -> None:
        if page.missing_to:
            FEEDBACK_GAPS.labels(self._app, "webhook").inc()
            log.warning("feedback_events_missing", app=self._app, reader="webhook", missing_to=page.missing_to)

    async def told(self, batch: Batch) -> bool:
        if batch.again:
            return await self._change(RecordChange(self._lease, delete=["fails", "why"], drop=[batch.id]))
        put: dict[str, str | int] = {"after": self._span.last}
        delete = [*_UNDER_WAY, "fails", "why"]
        if self._most < self._wanted and len(batch.events) >= self._most:
            # One more the next time, so that a single 413 does not make calls small for good.
            if self._most + 1 < self._wanted:
                put["most"] = self._most + 1
            else:
                delete.append("most")
        return await self._change(RecordChange(self._lease, put=put, delete=delete))

    async def failed(self, batch: Batch, reason: str, *, wait: float) -> bool:
        put: dict[str, str | int] = {"tries": batch.attempts + 1, "fails": batch.failures + 1, "why": reason}
        return await self._change(RecordChange(wait, stays=False, put=put))

    async def bury(self, batch: Batch, reason: str) -> bool:
        span = self._span
        dead = DeadBatch(batch.id, span.after, span.last, span.events, batch.attempts + 1, reason, self._webhooks.now())
        if batch.again:
            return await self._change(RecordChange(self._lease, bury=[dead], answered=[batch.id]))
        put: dict[str, str | int] = {"after": span.last, "fails": batch.failures + 1, "why": reason}
        expired = await self._webhooks.expired(self._app)
        return await self._change(RecordChange(self._lease, put=put, delete=_UNDER_WAY, bury=[dead], drop=expired))

    async def halve(self, batch: Batch, reason: str) -> bool:
        half = batch.events[: len(batch.events) // 2]
        if not batch.again:
            put = {**_pinned(half), "tries": batch.attempts + 1, "most": len(half)}
            return await self._change(RecordChange(self._lease, put=put))
        span, last, now = self._span, half[-1][0], self._webhooks.now()
        tried = batch.attempts + 1
        both = [
            DeadBatch(batch_id(self._app, last), span.after, last, len(half), tried, reason, now),
            DeadBatch(span.id, last, span.last, len(batch.events) - len(half), tried, reason, now),
        ]
        return await self._change(RecordChange(self._lease, bury=both, ask=both))

    async def drop_asked(self) -> bool:
        return await self._change(RecordChange(self._lease, answered=await self._webhooks.asked(self._app)))

    async def switch_off(self, reason: str) -> bool:
        return await self._change(RecordChange(0.0, stays=False, put={"off": self._place, "why": reason}))

    async def rest(self, wait: float, reason: str = "") -> bool:
        return await self._change(RecordChange(wait, stays=False, put={"why": reason} if reason else {}))

    async def _events(self) -> EventPage:
        return await self._webhooks.events(self._app, self._span.after, self._span.last, self._span.events)

    async def _change(self, what: RecordChange) -> bool:
        return await self._webhooks.change(self._app, self._owner, what)


def _standing(
    place: str, fields: Sequence[str], dead: int, asked: int, waiting_since: int | None, now: int
) -> Standing:
    """Return the state of a webhook from its record, whose fields have the order of `_SHOWN`; see claim.lua."""
    after, tries, fails, why, since, off, at, own, until = fields
    moved = at != place
    if moved:
        tries = fails = why = since = ""
    return Standing(
        cursor=after,
        waiting_since=waiting_since,
        attempts=int(tries or 0),
        failures=int(fails or 0),
        reason=why,
        failing_since=int(since) if since else None,
        due_in=max(0, int(until or 0) - now) if own or not moved else 0,
        off=off == place,
        dead=dead,
        asked=asked,
    )


def _keys(app: str) -> list[str]:
    return [keys.hook(app), keys.hook_dead(app), keys.hook_asked(app)]


def _asking(batches: Sequence[DeadBatch]) -> list[str | int]:
    """Place in the order and id of each."""
    return [part for batch in batches for part in (recorded_at(batch.last), batch.id)]


def _pinned(events: Sequence[tuple[str, FeedbackEvent]]) -> dict[str, str | int]:
    """Return the fields of the batch under way that has these."""
    return {"last": events[-1][0], "n": len(events)}


def _just_before(event_id: str) -> str:
    """Return a place before this event with none between, so that its removal shows.

    A first batch has no other before it.
    """
    ms, sequence, _ = parse_event_id(event_id)
    return f"{ms}-{sequence - 1}" if sequence else f"{ms - 1}-{10**18}"


def _text(field: bytes | None) -> str:
    return (field or b"").decode()
