"""The records of webhooks in Redis, one for each app and log of events, and the batches that were given up: read, and
changed as a whole.

Every change names the owner of the record: if a process was assumed dead and is not, its later changes are ignored
(see webhook.lua).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ...model.status import DeviceEvent, EventKind, FeedbackEvent
from ...ports.receipts import EventPage
from ...ports.webhooks import DeadBatch, WebhookCallNote
from .. import keys
from ..feedback.log import EventLog, parse_event_id
from ..link.unreadable import readable
from ..part import StoreContext, StorePart

_pack = msgspec.msgpack.Encoder().encode
_decode_dead = msgspec.json.Decoder(DeadBatch).decode
_decode_call = msgspec.json.Decoder(WebhookCallNote).decode
CALLS = 50
"""The number of calls that are kept."""
CALLS_TTL = 7 * 86_400
"""Seconds for which they are kept after the last one."""
Log: TypeAlias = EventLog[FeedbackEvent] | EventLog[DeviceEvent]
Page: TypeAlias = EventPage[FeedbackEvent] | EventPage[DeviceEvent]
_FIELDS = ("after", "last", "n", "tries", "fails", "off", "most", "gap")


class RecordChange(Struct, frozen=True):
    """A change of a record; see webhook.lua."""

    seconds: float
    """The time until other workers may take it."""
    stays: bool = True
    """Whether its owner stays its owner."""
    put: dict[str, str | int] = {}
    delete: Sequence[str] = ()
    dead: Sequence[DeadBatch] = ()
    drop: Sequence[str] = ()
    answered: Sequence[str] = ()
    ask: Sequence[DeadBatch] = ()


def recorded_at(event_id: str) -> int:
    """Return when the event was recorded, in Unix ms by the clock of Redis."""
    return parse_event_id(event_id)[0]


class WebhookRecords(StorePart):
    """The records of all apps for one log of events."""

    def __init__(self, context: StoreContext, log: Log) -> None:
        super().__init__(context)
        self._log = log
        self.now = context.clock

    @property
    def kind(self) -> EventKind:
        return self._log.kind

    async def look(self, app: str) -> tuple[list[str], str]:
        """Return the fields of the record, and the id of the first batch that was asked for, if any."""
        fields, asked = await self._link.many(
            [("HMGET", keys.hook(app, self.kind), *_FIELDS), ("ZRANGE", keys.hook_asked(app, self.kind), 0, 0)]
        )
        return [text(field) for field in fields], text(asked[0] if asked else None)

    async def dead_one(self, app: str, batch_id: str) -> tuple[DeadBatch | None, bool]:
        """Return the batch, and whether there is one: what cannot be read is kept, and not called again."""
        blob = await self._link.call("HGET", keys.hook_dead(app, self.kind), batch_id)
        return None if blob is None else readable(_decode_dead, blob, "dead_batch", app), blob is not None

    async def events(self, app: str, after: str, last: str, limit: int) -> Page:
        """Return up to `limit` events after one, up to and including `last`, or to the end if it is empty."""
        page = await self._log.events(app, after=after, limit=limit)
        if not last:
            return page
        end = parse_event_id(last)
        return replace(page, events=[pair for pair in page.events if parse_event_id(pair[0]) <= end])

    async def expired(self, app: str) -> list[str]:
        """Return the dead batches whose events are no longer stored."""
        oldest = self.now() - self._config.events_ttl * 1000
        return [batch.id for batch in await self.dead(app, until=oldest)]

    async def change(self, app: str, owner: str, what: RecordChange) -> bool:
        """Change the record. Returns False, without a change, if it belongs to another owner."""
        change = (
            owner,
            what.stays,
            int(what.seconds * 1000),
            [str(part) for pair in what.put.items() for part in pair],
            what.delete,
            [part for batch in what.dead for part in (batch.id, msgspec.json.encode(batch).decode())],
            what.drop,
            what.answered,
            asking(what.ask),
        )
        return bool(await self._link.script("webhook", self.keys_of(app), [_pack(change)]))

    def keys_of(self, app: str) -> list[str]:
        """Return the keys that ask.lua and webhook.lua take."""
        return [key(app, self.kind) for key in (keys.hook, keys.hook_dead, keys.hook_asked)]

    async def asked(self, app: str) -> list[str]:
        return [member.decode() for member in await self._link.call("ZRANGE", keys.hook_asked(app, self.kind), 0, -1)]

    async def note(self, app: str, call: WebhookCallNote) -> None:
        """Keep a call, and the last ones before it."""
        key, blob = keys.hook_calls(app, self.kind), msgspec.json.encode(call)
        added = ("XADD", key, "MAXLEN", CALLS, "*", "c", blob)
        await self._link.many([added, ("PEXPIRE", key, CALLS_TTL * 1000)])

    async def calls(self, app: str) -> list[WebhookCallNote]:
        entries = await self._link.call("XREVRANGE", keys.hook_calls(app, self.kind), "+", "-", "COUNT", CALLS)
        read = (readable(_decode_call, fields.get(b"c", b""), "webhook_call", app) for _, fields in entries)
        return [call for call in read if call is not None]

    async def dead(self, app: str, *, since: int | None = None, until: int | None = None) -> list[DeadBatch]:
        read: dict[bytes, DeadBatch | None] = {}
        async for part in self._link.values(keys.hook_dead(app, self.kind)):
            read |= {field: readable(_decode_dead, blob, "dead_batch", app) for field, blob in part.items()}
        return sorted(
            (
                batch
                for batch in read.values()
                if batch is not None
                and (since is None or recorded_at(batch.last) >= since)
                and (until is None or recorded_at(batch.last) < until)
            ),
            key=lambda batch: parse_event_id(batch.last),
        )


def asking(batches: Sequence[DeadBatch]) -> list[str | int]:
    """Return the place in the order, and the id, of each batch that is called again."""
    return [part for batch in batches for part in (recorded_at(batch.last), batch.id)]


def text(field: bytes | None) -> str:
    """Return a field of a record as text, empty where there is none."""
    return (field or b"").decode()
