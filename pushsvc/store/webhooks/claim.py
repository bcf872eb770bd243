"""The claim of one worker to the webhook of one app: what is called next, and what follows from an answer."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from ...model.status import EventKind
from ...ports.webhooks import Batch, DeadBatch, WebhookCallNote
from ...telemetry import FEEDBACK_GAPS, get_logger
from ..feedback.log import LAST, parse_event_id
from .record import Page, RecordChange, WebhookRecords

log = get_logger("webhooks")
_UNDER_WAY = ("last", "n", "tries")
"""The fields of the batch that is under way."""


def batch_id(app: str, last: str, kind: EventKind = "feedback") -> str:
    """Return the id of the batch that ends with the event `last`. No two batches end with the same.

    It omits the full stop of an event id, which would make a signature's id and time ambiguous. As text, ids have the
    order of the events, by which Redis orders those that were recorded in the same millisecond.
    """
    ms, sequence, shard = parse_event_id(last)
    return f"{kind}_{app}_{ms}-{sequence:012}_{shard:05}"


class _Span(Struct, frozen=True):
    """The batch that a claim works on, by the events that it began with."""

    id: str
    after: str
    last: str
    events: int


class RedisWebhookClaim:
    def __init__(self, records: WebhookRecords, app: str, place: str, owner: str, lease: float) -> None:
        self._records = records
        self._app = app
        self._place = place
        self._owner = owner
        self._lease = lease
        self._span = _Span("", "", "", 0)
        self._wanted = 0
        self._most = 0
        self._gap = ""

    async def renew(self) -> bool:
        """Keep the claim for another lease. Returns False if another worker has it."""
        return await self._change(RecordChange(self._lease))

    async def next(self, most: int) -> Batch | None:
        while True:
            (after, last, count, tries, fails, off, taken, self._gap), asked = await self._records.look(self._app)
            if off == self._place:
                return None
            self._wanted = most
            self._most = min(most, int(taken or most))
            failures = int(fails or 0)
            if asked:
                batch, continues = await self._asked_for(asked, failures)
            elif last:
                self._span = _Span(batch_id(self._app, last, self._records.kind), after, last, int(count))
                batch, continues = await self._under_way(int(tries or 0), failures)
            else:
                batch, continues = None, await self._begin(after)
            if batch is not None or not continues:
                return batch

    async def _asked_for(self, asked: str, failures: int) -> tuple[Batch | None, bool]:
        """Return the batch that was asked for. Without one its request is over, and whether the next is looked for
        follows: its events are no longer kept, or this version cannot read which they are."""
        dead, kept = await self._records.dead_one(self._app, asked)
        if dead is None:
            over = RecordChange(self._lease, answered=[asked]) if kept else RecordChange(self._lease, drop=[asked])
            return None, await self._change(over)
        self._span = _Span(dead.id, dead.after, dead.last, dead.events)
        page = await self._events()
        if not await self._report_gap(page):
            return None, False
        if page.events:
            return Batch(dead.id, page.events, dead.attempts, failures, again=True), True
        return None, await self._change(RecordChange(self._lease, drop=[asked]))

    async def _under_way(self, tries: int, failures: int) -> tuple[Batch | None, bool]:
        """Return the batch that is under way, without the events that are no longer kept. Without a batch the record is
        changed, and whether the next is looked for follows: there are too many for one call, or none are left."""
        last, page = self._span.last, await self._events()
        if not await self._report_gap(page):
            return None, False
        if len(page.events) > self._most:
            return None, await self._change(RecordChange(self._lease, put=_pinned(page.events[: self._most])))
        if page.events:
            return Batch(self._span.id, page.events, tries, failures), True
        return None, await self._change(RecordChange(self._lease, put={"after": last}, delete=_UNDER_WAY))

    async def _begin(self, after: str) -> bool:
        """Make the next events the batch that is under way. Returns whether to look again; False without events.

        Without events the claim continues behind those that retention has removed, but never before: what was removed
        in one shard may be newer than what is kept in another."""
        page = await self._records.events(self._app, after, "", self._most)
        if not await self._report_gap(page):
            return False
        if not page.events:
            if page.missing_to:
                await self._change(RecordChange(self._lease, put={"after": page.missing_to}))
            return False
        put = _pinned(page.events)
        if not after:
            put["after"] = _just_before(page.events[0][0])
        return await self._change(RecordChange(self._lease, put=put))

    async def _report_gap(self, page: Page) -> bool:
        """Report events that retention has removed before they were sent, once. Returns False where another worker has
        the claim."""
        if not page.missing_to or parse_event_id(page.missing_to) <= parse_event_id(self._gap):
            return True
        held = await self._change(RecordChange(self._lease, put={"gap": page.missing_to}))
        if held:
            self._gap = page.missing_to
            FEEDBACK_GAPS.labels(self._app, "webhook").inc()
            log.warning(
                "feedback_events_missing",
                app=self._app,
                reader="webhook",
                kind=self._records.kind,
                missing_to=page.missing_to,
            )
        return held

    async def delivered(self, batch: Batch) -> bool:
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

    async def give_up(self, batch: Batch, reason: str) -> bool:
        span = self._span
        dead = DeadBatch(batch.id, span.after, span.last, span.events, batch.attempts + 1, reason, self._records.now())
        if batch.again:
            return await self._change(RecordChange(self._lease, dead=[dead], answered=[batch.id]))
        put: dict[str, str | int] = {"after": span.last, "fails": batch.failures + 1, "why": reason}
        expired = await self._records.expired(self._app)
        return await self._change(RecordChange(self._lease, put=put, delete=_UNDER_WAY, dead=[dead], drop=expired))

    async def halve(self, batch: Batch, reason: str) -> bool:
        half = batch.events[: len(batch.events) // 2]
        if not batch.again:
            put = {**_pinned(half), "tries": batch.attempts + 1, "most": len(half)}
            return await self._change(RecordChange(self._lease, put=put))
        span, last, now = self._span, half[-1][0], self._records.now()
        tried = batch.attempts + 1
        both = [
            DeadBatch(batch_id(self._app, last, self._records.kind), span.after, last, len(half), tried, reason, now),
            DeadBatch(span.id, last, span.last, len(batch.events) - len(half), tried, reason, now),
        ]
        return await self._change(RecordChange(self._lease, dead=both, ask=both))

    async def drop_asked(self) -> bool:
        return await self._change(RecordChange(self._lease, answered=await self._records.asked(self._app)))

    async def switch_off(self, reason: str) -> bool:
        return await self._change(RecordChange(0.0, stays=False, put={"off": self._place, "why": reason}))

    async def note(self, call: WebhookCallNote) -> None:
        await self._records.note(self._app, call)

    async def rest(self, wait: float, reason: str = "") -> bool:
        return await self._change(RecordChange(wait, stays=False, put={"why": reason} if reason else {}))

    async def _events(self) -> Page:
        return await self._records.events(self._app, self._span.after, self._span.last, self._span.events)

    async def _change(self, what: RecordChange) -> bool:
        return await self._records.change(self._app, self._owner, what)


def _pinned(events: Sequence[tuple[str, object]]) -> dict[str, str | int]:
    """Return the fields that record these events as the current batch."""
    return {"last": events[-1][0], "n": len(events)}


def _just_before(event_id: str) -> str:
    """Return the place directly before this event, so that its removal is noticed. A first batch has no other before
    it."""
    ms, sequence, _ = parse_event_id(event_id)
    return f"{ms}-{sequence - 1}" if sequence else f"{ms - 1}-{LAST}"
