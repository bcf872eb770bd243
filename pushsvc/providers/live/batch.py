"""A batch of deliveries as the live channel sees it: what is appended for it, and what the results mean. Pure.

The result of its append gives each delivery its outcome:

    result of the append                                           outcome
    written to a connected device                                  unconfirmed, until the time to acknowledge is over
    the device is not connected                                    unconfirmed: the next channel carries it on at once
    a provider comes first, and this channel again at last         unconfirmed: the same, and nothing is poked
    now or never, not connected, and no channel follows            expired
    a later push of its `collapse` is there                        obsolete
    it was cancelled                                               obsolete, and ends as cancelled
    there is no such device any more, or it has another user       obsolete
    its stream cannot be read by this version                      unavailable, which costs no attempt
    Redis is away, or this part of the batch fails                 the same
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec

from ...model.delivery import SUPERSEDED, Delivery, Expired, Obsolete, Outcome, Sent, Unavailable, Unconfirmed
from ...model.instants import instant
from ...model.push import Chunk
from ...model.routing import platform_of
from ...ports.live import MAX_NAMED, Append, Appended, InboxItem, LiveContent, LivePush, Receiver, pokes_of
from ...ports.provider import OnOutcome
from .render import ACK_WITHIN, NOW_OR_NEVER, PLATFORM

LARGEST: Final = 2000
"""The maximum number of deliveries of one batch."""
CONTENTS: Final = 4 << 20
"""The contents in bytes with which a batch takes no further push."""
POKED_BODY: Final = 4096
"""The largest content in bytes that travels to the gateways with the poke; they read a larger one from the store."""

AWAY: Final = Unconfirmed(reason="away")
FIRST: Final = Unconfirmed(reason="provider_first")
NEVER: Final = Expired(reason="ttl")
MOVED: Final = Obsolete(reason="moved")
UNREADABLE: Final = Unavailable(reason="unreadable")
CANCELLED: Final = Obsolete(reason="cancelled", end="cancelled")
STORE_AWAY: Final = Unavailable(reason="store_away")
FAILED: Final = Unavailable(reason="internal_error")
DRY_RUN: Final = Sent(reason="dry_run")

Submitted: TypeAlias = tuple[Delivery, OnOutcome]

_encode = msgspec.json.Encoder().encode


class BatchPart(NamedTuple):
    """The deliveries of one chunk in a batch."""

    chunk: Chunk
    deliveries: Sequence[Delivery]
    append: Append
    """What is appended for them."""

    @property
    def push(self) -> LivePush:
        """The push as streams know it."""
        return self.append.push

    @property
    def is_fallback_too(self) -> bool:
        """Whether a provider is asked first and this channel after it, if need be: see `rules.channels`."""
        return any(following.channel == PLATFORM for following in self.chunk.fallbacks)

    @property
    def content(self) -> bytes:
        """The object of a publication's `data`, without what differs by device."""
        push = self.push
        head = {"id": push.id, "at": instant(push.at), "expires_at": instant(push.expires_at), "lane": push.lane}
        return _encode(head)[:-1] + b"," + self.chunk.message.body[1:]

    def passed(self, now: int) -> tuple[int, int, int] | None:
        """Return when they were queued, taken and written, which is `now`, in ms after the push was to be sent; None
        if that is not known."""
        passed, at = self.deliveries[0].passed, self.push.at
        return None if passed is None else (passed[0] - at, passed[1] - at, now - at)

    def pokes(self, results: Sequence[Appended], content: bytes, now: int) -> dict[str, list[InboxItem]]:
        """Return what to send to each gateway after the append."""
        if self.is_fallback_too:
            return {}
        body = content if len(content) <= POKED_BODY else b""
        append, chunk = self.append, self.chunk
        return pokes_of(
            chunk.app, self.push, append.receivers, results, body, self.passed(now), chunk.trace, append.platform
        )

    def outcomes(self, results: Sequence[Appended], absent: set[str], *, ack_within: float) -> list[Outcome]:
        """Return the outcomes of the deliveries. `absent` are devices that the registry does not know, `ack_within` is
        for a push that names no time of its own."""
        within = self.chunk.message.headers.get(ACK_WITHIN)
        written = Unconfirmed(reason="written", within=float(within) if within else ack_within)
        here, away = (FIRST, FIRST) if self.is_fallback_too else (written, AWAY)
        return [
            (away if result.route is None else here)
            if result.status in ("new", "known")
            else self._not_appended(delivery, result, absent) or away
            for delivery, result in zip(self.deliveries, results, strict=True)
        ]

    def _not_appended(self, delivery: Delivery, appended: Appended, absent: set[str]) -> Outcome | None:
        """Return the outcome of a delivery that stands in no stream; None if it goes on at the next channel."""
        match appended.status:
            case "superseded":
                return Obsolete(reason=SUPERSEDED)
            case "withdrawn":
                return CANCELLED
            case "moved":
                return MOVED
            case "absent":
                target = delivery.target
                return MOVED if (target.device_id or target.token) in absent else UNREADABLE
            case "away" if not self.chunk.fallbacks:
                return NEVER
        return None


def size_of_next(waiting: Sequence[Submitted]) -> int:
    """Return how many of the deliveries that wait form the next batch: at least one push, however large it is."""
    count = size = 0
    pushes: set[str] = set()
    for delivery, _ in waiting[:LARGEST]:
        chunk = delivery.chunk
        if chunk.push_id not in pushes:
            size += len(chunk.message.body)
            if pushes and size > CONTENTS:
                break
            pushes.add(chunk.push_id)
        count += 1
    return count


def parts_of(batch: Sequence[Submitted]) -> list[BatchPart]:
    """Return a batch by chunk. A device that is in it twice gets its pushes in the order of their submission: where
    that needs it, a chunk has several parts."""
    parts: list[list[Delivery]] = []
    place_of: dict[int, int] = {}
    latest: dict[str, int] = {}
    for delivery, _ in batch:
        chunk, device_id = delivery.chunk, delivery.target.device_id or delivery.target.token
        place = place_of.get(id(chunk), -1)
        if place < latest.get(device_id, 0):
            place = place_of[id(chunk)] = len(parts)
            parts.append([])
        latest[device_id] = place
        parts[place].append(delivery)
    return [BatchPart(own[0].chunk, own, _append_of(own)) for own in parts]


def contents_of(parts: Sequence[BatchPart]) -> dict[str, LiveContent]:
    """Return the content of each push, by id, with the devices that it is for if these may be few."""
    found: dict[str, LiveContent] = {}
    for part in parts:
        device_ids = [each.device_id for each in part.append.receivers]
        if part.push.id in found:
            known = found[part.push.id]
            found[part.push.id] = known._replace(device_ids=[*known.device_ids, *device_ids])
        else:
            found[part.push.id] = LiveContent(part.push, part.content, device_ids)
    return {
        name: each._replace(device_ids=()) if max(each.push.total, len(each.device_ids)) > MAX_NAMED else each
        for name, each in found.items()
    }


def all_with(parts: Sequence[BatchPart], outcome: Outcome) -> dict[int, Outcome]:
    """Return the same outcome for each delivery, by its `id`."""
    return {id(delivery): outcome for part in parts for delivery in part.deliveries}


def _append_of(deliveries: Sequence[Delivery]) -> Append:
    """Return what is appended for deliveries of one chunk."""
    chunk = deliveries[0].chunk
    receivers = [
        Receiver(each.device_id or each.token, each.index, each.owner if each.device_id else None)
        for each in (delivery.target for delivery in deliveries)
    ]
    now_or_never = NOW_OR_NEVER in chunk.message.headers
    return Append(_push_of(chunk), receivers, platform_of(chunk.platform), now_or_never, not chunk.fallbacks)


def _push_of(chunk: Chunk) -> LivePush:
    message = chunk.message
    at = message.since or chunk.starts_at
    return LivePush(chunk.push_id, at, chunk.expires_at, chunk.lane, chunk.total, message.collapse)
