"""Turns settlements into the input of `settle.lua`: grouped by chunk, with rows, retries, dead letters and receipts.

Pure. It runs for every delivery, so it avoids costs: one dictionary look-up finds the group (by the identity of the
chunk, which all deliveries of an entry share), and only what must be kept is encoded. The sent deliveries of a large
push are one value with all rows, and a mask of bits, so that Redis has no work for each delivery.

Retries of one chunk that fall due within the same step stay one chunk, at the time of the last of them, so that none is
sent before it is due. All others are separate: their content is stored once beside the push.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias, cast

import msgspec

from ...model.codec import encode_chunk, encode_receipt, encode_row, encode_rows, is_large
from ...model.delivery import (
    End,
    Ended,
    Retry,
    Settlement,
    TokenDead,
    TokenSuspect,
    Unconfirmed,
)
from ...model.push import Chunk, Lane, Platform, Push, Target
from ...model.routing import has_provider_fallback
from ...model.status import DeliveryRow
from ...ports.entries import EntryRef
from ..layout import SMALL
from .letter import encode_dead
from .record import EndOf, Finished, Group, Note, ReceiptOf, RetryOf, Single, lua_string
from .results import dead_letter_of, head_of, receipt_of, row_of

RetryGroup: TypeAlias = tuple[int, str, bool, str, bool, bool]
"""What retries in one chunk have in common: the fields of a `Retry` other than its time, whether they were submitted,
and whether a device has yet to acknowledge them."""
STEP_MS: Final = 100
"""Retries that fall due within the same step of this many milliseconds share a chunk."""
Segment: TypeAlias = tuple[str, bool]
"""An end, and whether its deliveries were submitted."""
SHORT_MS: Final = 24 * 60 * 60 * 1000
"""The longest life of a single push whose status has its lifetime from acceptance on: it stays that much longer."""
WIDEST = 1024
"""The maximum number of bytes of a mask."""

Place: TypeAlias = tuple[str, int]
"""Push id and index of a delivery."""
Closed: TypeAlias = set[Place]
"""Deliveries that the store has closed."""


class _End:
    """Deliveries of a chunk that have ended alike: their indexes, and the rows of those that need one."""

    __slots__ = ("places", "rows")

    def __init__(self) -> None:
        self.places: list[int] = []
        self.rows: list[tuple[int, DeliveryRow]] = []


class _Group:
    """What is to be recorded of the deliveries of one chunk."""

    __slots__ = (
        *("asked", "chunk", "counted", "dead", "ends", "entry", "head", "receipts", "retries", "rows_of_sent", "seen"),
    )

    def __init__(self, chunk: Chunk, entry: str, counted: bool) -> None:
        self.chunk = chunk
        self.entry = entry
        self.asked = not chunk.dry_run
        self.counted = counted
        """Whether the deliveries in flight were counted when the push was cancelled: their outcomes are then recorded
        apart."""
        # The final size of a push with an audience is unknown: it may exceed SMALL.
        self.rows_of_sent = 0 if chunk.total > SMALL else SMALL
        """Deliveries from this index on need no row when they end as `sent`."""
        self.seen: set[int] = set()
        self.ends: dict[Segment, _End] = {}
        self.retries: dict[RetryGroup, list[tuple[int, Target]]] = {}
        self.head = b""
        """The chunk without targets, encoded for dead letters."""
        self.dead: list[tuple[int, msgspec.Raw]] = []
        self.receipts: list[tuple[int, msgspec.Raw, int]] = []

    def packed(self) -> Group:
        """Return the group as settle.lua reads it."""
        chunk = self.chunk
        large = is_large(chunk.total)
        indexes: list[int] = []
        ends = []
        for segment, end in self.ends.items():
            indexes += end.places
            ends.append(packed_end(segment[0], len(end.places), end.rows, int(segment[1]), large=large))
        first, mask = mask_of(indexes) if large and not self.retries else (0, b"")
        retries = []
        for (attempt, part, counted, channel, flew, unconfirmed), waiting in self.retries.items():
            for due_at, targets in together(waiting):
                indexes += [target.index for target in targets]
                again = retry_chunk(chunk, targets, Retry(due_at, attempt, part, counted, channel))
                guard = guard_of(again, due_at) if chunk.home else ""
                blob = lua_string(encode_chunk(again))
                mark = mark_of_retry(again, due_at, unconfirmed=unconfirmed) if guard else ""
                retries.append(RetryOf(due_at, len(targets), blob, int(flew), again.channel, guard, mark))
        # Few deliveries have either, so this is seldom made.
        places = {index: place for place, index in enumerate(indexes, 1)} if self.dead or self.receipts else {}
        return Group(
            chunk.push_id,
            chunk.channel,
            chunk.lane,
            chunk.total,
            chunk.turn,
            indexes,
            first,
            lua_string(mask),
            ends,
            retries,
            [Note(places[index], blob) for index, blob in self.dead],
            [ReceiptOf(places[index], blob, dead) for index, blob, dead in self.receipts],
            int(self.asked),
            int(self.counted),
            self.entry,
        )


def packed_end(end: str, count: int, rows: list[tuple[int, DeliveryRow]], flew: int, *, large: bool) -> EndOf:
    """Return `count` deliveries with the same end, and the `rows` that are kept of them, by index. The `sent` ones of a
    large push are kept together; what is not `sent` may be taken back one by one, by a replay."""
    if not large:
        return EndOf(end, count, [lua_string(encode_row(row)) for _, row in rows], 0, flew)
    together = int(end == "sent" and bool(rows))
    members = [rows] if together else [[row] for row in rows]
    kept = [word for some in members for word in (some[0][0], lua_string(member_of(some)))]
    return EndOf(end, count, kept, together, flew)


def mask_of(indexes: Sequence[int]) -> tuple[int, bytes]:
    """Return the bits of these indexes in a bitmap of Redis, and the number of their first byte. The first bit of a
    byte is its highest (https://redis.io/docs/latest/commands/setbit/). Returns no bytes where the indexes are so far
    apart that a command a bit is cheaper."""
    first, last = min(indexes) >> 3, max(indexes) >> 3
    if last - first >= WIDEST:
        return 0, b""
    end = (last << 3) + 7
    bits = 0
    for index in indexes:
        bits |= 1 << (end - index)
    return first, bits.to_bytes(last - first + 1, "big")


def member_of(rows: list[tuple[int, DeliveryRow]]) -> bytes:
    """Return the member of a large push's sorted set with these rows, under the first of their indexes."""
    return b"%d %s" % (rows[0][0], encode_rows(rows))


def is_short(it: Chunk | Push) -> bool:
    """Return whether the status of a push, or of that of a chunk, has its lifetime from acceptance on."""
    return it.total == 1 and it.expires_at - it.starts_at <= SHORT_MS


def pack(
    settlements: Iterable[Settlement], closed: Closed | None = None, *, counted: Collection[str] = ()
) -> tuple[list[Group], list[Single]]:
    """Return the `groups` and the `singles` of one app shard, without deliveries that are known to be closed. `counted`
    are the cancelled pushes whose deliveries in flight were reported."""
    groups: dict[int, _Group] = {}
    made: list[_Group] = []
    singles: dict[tuple[Platform, Lane, End, int, int], list[Any]] = {}
    for settlement in settlements:
        delivery = settlement.delivery
        chunk = delivery.chunk
        target = delivery.target
        if closed and (chunk.push_id, target.index) in closed:
            continue
        verdict = settlement.verdict
        outcome = settlement.outcome
        token_judged = type(outcome) is TokenDead or type(outcome) is TokenSuspect
        if (
            chunk.total == 1
            and type(verdict) is Ended
            and not verdict.dead_letter
            and not token_judged
            and not chunk.dry_run
            and target.index == 0
        ):
            kept = int(is_short(chunk) and settlement.at <= chunk.expires_at)
            kind = (chunk.channel, chunk.lane, verdict.end, chunk.turn, kept)
            single = singles.get(kind)
            if single is None:
                single = singles[kind] = []
            single.append(chunk.push_id)
            single.append(lua_string(encode_row(row_of(settlement, verdict))))
            continue
        group = groups.get(id(chunk))
        if group is None or target.index in group.seen:
            # The first outcome of a delivery counts: the script finds it closed in a later group.
            group = groups[id(chunk)] = _Group(chunk, settlement.entry_id, chunk.push_id in counted)
            made.append(group)
        group.seen.add(target.index)
        if not group.asked and outcome is not None and outcome.status:
            group.asked = True  # a dry run that the provider has answered
        flew = group.counted and outcome is not None
        if type(verdict) is Ended:
            segment = (verdict.end, flew)
            end = group.ends.get(segment)
            if end is None:
                end = group.ends[segment] = _End()
            end.places.append(target.index)
            if verdict.end != "sent" or target.index < group.rows_of_sent:
                end.rows.append((target.index, row_of(settlement, verdict)))
                if verdict.dead_letter:
                    group.head = group.head or head_of(chunk)
                    letter = dead_letter_of(settlement, group.head)
                    group.dead.append((target.index, lua_string(encode_dead(letter))))
        else:
            retry = cast(Retry, verdict)
            unconfirmed = type(outcome) is Unconfirmed
            again = (retry.attempt, retry.part, retry.counted, retry.channel, flew, unconfirmed)
            due_at = 0 if retry.channel and retry.due_at <= settlement.at else retry.due_at
            group.retries.setdefault(again, []).append((due_at, target))
        if token_judged:
            receipt = receipt_of(settlement, cast(TokenDead | TokenSuspect, outcome))
            group.receipts.append((target.index, lua_string(encode_receipt(receipt)), int(receipt.kind == "dead")))
    return [group.packed() for group in made], [Single(*kind, flat) for kind, flat in singles.items()]


def pack_finished(refs: Iterable[EntryRef]) -> list[Finished]:
    """Return the entries to acknowledge, by platform and lane."""
    found: dict[tuple[Platform, Lane], list[str]] = {}
    for ref in refs:
        found.setdefault((ref.platform, ref.lane), []).append(ref.entry_id)
    return [Finished(*place, ids) for place, ids in found.items()]


def places_of(flat: Sequence[Any]) -> list[Place]:
    """Return the deliveries of a script's answer: push id, index, push id, index, .."""
    return [(push_id.decode(), index) for push_id, index in zip(flat[::2], flat[1::2], strict=True)]


def place_of(settlement: Settlement) -> Place:
    """Return the delivery of a settlement."""
    delivery = settlement.delivery
    return delivery.chunk.push_id, delivery.target.index


def among(settlements: Iterable[Settlement], closed: Closed) -> list[Settlement]:
    """Return the settlements of the chunks that have any of these deliveries."""
    settlements = list(settlements)
    chunks = {id(each.delivery.chunk) for each in settlements if place_of(each) in closed}
    return [each for each in settlements if id(each.delivery.chunk) in chunks]


def without(settlements: Sequence[Settlement], void: Iterable[Iterable[Place]]) -> list[Settlement]:
    """Return the settlements less those of these deliveries. Of one that was settled twice the last goes."""
    left = Counter(place for places in void for place in places)
    took = []
    for settlement in reversed(settlements):
        place = place_of(settlement)
        if left[place]:
            left[place] -= 1
        else:
            took.append(settlement)
    return took[::-1]


def written_of(settlements: Iterable[Settlement]) -> list[Chunk]:
    """Return the chunks of deliveries that were written to devices and are to wait until these acknowledge them, each
    with their targets alone."""
    found: dict[int, tuple[Chunk, list[Target]]] = {}
    for settlement in settlements:
        outcome, delivery = settlement.outcome, settlement.delivery
        if type(outcome) is Unconfirmed and outcome.within > 0 and type(settlement.verdict) is Retry:
            found.setdefault(id(delivery.chunk), (delivery.chunk, []))[1].append(delivery.target)
    return [
        chunk if len(targets) == len(chunk.targets) else msgspec.structs.replace(chunk, targets=tuple(targets))
        for chunk, targets in found.values()
    ]


def batches(settlements: Sequence[Settlement], size: int) -> Iterator[tuple[Sequence[Settlement], bool]]:
    """Yield slices of at most `size`, and whether each is the last; one empty slice where there is nothing."""
    for start in range(0, max(len(settlements), 1), size):
        yield settlements[start : start + size], start + size >= len(settlements)


def together(waiting: Sequence[tuple[int, Target]]) -> list[tuple[int, list[Target]]]:
    """Return the targets by the instant at which they are retried together: that of the last of them in the same
    step."""
    groups: dict[int, list[tuple[int, Target]]] = {}
    for due_at, target in waiting:
        groups.setdefault(due_at // STEP_MS, []).append((due_at, target))
    return [(max(due for due, _ in group), [target for _, target in group]) for group in groups.values()]


def retry_chunk(chunk: Chunk, targets: Sequence[Target], retry: Retry) -> Chunk:
    """Return the chunk of some targets to retry, at the same channel, or at the one that the verdict names: a fallback,
    or another account at the same provider, which takes the same message."""
    channel, message, variant, fallbacks = chunk.channel, chunk.message, chunk.variant, chunk.fallbacks
    home = chunk.home
    following = [each.channel for each in fallbacks]
    if retry.channel in following:
        place = following.index(retry.channel)
        channel, message = fallbacks[place].channel, fallbacks[place].message
        variant, fallbacks = channel, fallbacks[place + 1 :]
    elif retry.channel:
        channel, home = retry.channel, home and retry.channel
    return msgspec.structs.replace(
        chunk,
        targets=tuple(targets),
        attempt=retry.attempt,
        turn=chunk.turn + 1,
        part=retry.part,
        counted=retry.counted,
        channel=channel,
        message=message,
        variant=variant,
        home=home,
        fallbacks=fallbacks,
    )


def mark_of_retry(again: Chunk, due_at: int, *, unconfirmed: bool) -> str:
    """Return how deliveries that go on as `again` are counted: as fence.lua marks them. They are due at `due_at`, or at
    once if that is 0; `unconfirmed` are those that a device may acknowledge until then."""
    if unconfirmed and due_at:
        return "w"
    return ("f" if has_provider_fallback(again) else "") + ("r" if due_at else "")


def recorded_turn(chunk: Chunk) -> str:
    """Return the turn of these deliveries as fence.lua records it."""
    mark = " f" if has_provider_fallback(chunk) else ""
    return f"{chunk.turn} {chunk.channel}:{chunk.lane}{mark}" if chunk.home else str(chunk.turn)


def guard_of(chunk: Chunk, due_at: int) -> str:
    """Return the prefix of a retry that an acknowledgement may end before it is due: see waiting.lua."""
    spans: list[list[int]] = []
    for index in sorted(target.index for target in chunk.targets):
        if spans and spans[-1][1] == index - 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    indexes = ";".join(f"{first}-{last}" for first, last in spans)
    return f"@{due_at},{chunk.total},{chunk.turn},{indexes},{chunk.push_id}"
