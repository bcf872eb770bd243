"""Settlements become what `settle.lua` reads: grouped by chunk, with rows, retries, dead letters and receipts.

Pure. It runs once a delivery, so it avoids what costs: one dictionary look-up finds the group (by the identity of
the chunk, which all deliveries of an entry share), and only what must be kept is encoded.

Retries of one chunk that fall due at about the same time travel on as one chunk, at the time of the last of them: a
held route would else turn an entry of 500 targets into 500 copies of its message. "About" is a sixteenth of the wait,
so that jitter keeps its use and nobody goes before it is due.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias, cast

import msgspec

from ..codec import encode_chunk, encode_receipt, encode_row
from ..model import (
    Chunk,
    DeliveryRow,
    Ended,
    Receipt,
    Retry,
    Sent,
    Settlement,
    Target,
    TokenDead,
    TokenSuspect,
)
from ..ports import EntryRef
from .dead import DeadLetter, encode_dead
from .keys import SMALL

Bucket: TypeAlias = tuple[int, int]
RENEWAL = 16
"""A push that ends within a sixteenth of its status TTL keeps the one from its beginning: one command less."""

Closed: TypeAlias = set[tuple[str, int]]
"""Push id and index of deliveries that the store has closed."""


def lua_string(blob: bytes) -> msgspec.Raw:
    """Bytes as MessagePack's `str`: the `cmsgpack` of Redis and Valkey does not know its `bin`."""
    size = len(blob)
    if size < 256:
        return msgspec.Raw(b"\xd9" + size.to_bytes(1, "big") + blob)
    return msgspec.Raw(b"\xdb" + size.to_bytes(4, "big") + blob)


class _Group:
    """What is to be recorded of the deliveries of one chunk."""

    __slots__ = ("asked", "chunk", "dead", "ends", "receipts", "retries", "rows_of_sent")

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.asked = not chunk.dry_run
        # Of a push that is made from an audience nobody knows yet whether it will have more than SMALL.
        self.rows_of_sent = 0 if chunk.total > SMALL else SMALL
        """Deliveries from this index on need no row when they end as `sent`."""
        self.ends: dict[str, tuple[list[int], list[msgspec.Raw | bool]]] = {}
        self.retries: dict[Bucket, tuple[list[Target], list[int]]] = {}
        self.dead: list[tuple[str, int, msgspec.Raw]] = []
        self.receipts: list[tuple[object, int, msgspec.Raw]] = []

    def packed(self) -> list[Any]:
        """The group in the shape that settle.lua documents."""
        chunk = self.chunk
        indexes: list[int] = []
        starts: dict[object, int] = {}
        ends = []
        for end, (places, rows) in self.ends.items():
            starts[end] = len(indexes) + 1
            indexes += places
            ends.append((end, len(places), rows))
        retries = []
        for bucket, (targets, dues) in self.retries.items():
            starts[bucket] = len(indexes) + 1
            indexes += [target.index for target in targets]
            again = msgspec.structs.replace(chunk, targets=tuple(targets), attempt=bucket[1], turn=chunk.turn + 1)
            retries.append((max(dues), len(targets), lua_string(encode_chunk(again))))
        letter = encode_chunk(msgspec.structs.replace(chunk, targets=())) if self.dead else b""
        return [
            chunk.push_id,
            chunk.platform,
            chunk.lane,
            chunk.total,
            chunk.turn,
            indexes,
            ends,
            retries,
            lua_string(letter),
            [(starts[end] + place, blob) for end, place, blob in self.dead],
            [(starts[segment] + place, blob) for segment, place, blob in self.receipts],
            int(self.asked),
        ]


def pack(
    settlements: Iterable[Settlement], closed: Closed | None = None, *, renew_before: int = 0
) -> tuple[list[list[Any]], list[tuple[Any, ...]]]:
    """The `groups` and the `singles` of one app shard, less what is known to be closed.

    The status of a push that was to be sent before `renew_before` (Unix ms) has its lifetime renewed at the end.
    """
    groups: dict[int, _Group] = {}
    singles: dict[tuple[str, str, str, int, int], list[Any]] = {}
    for settlement in settlements:
        delivery = settlement.delivery
        chunk = delivery.chunk
        target = delivery.target
        if closed and (chunk.push_id, target.index) in closed:
            continue
        verdict = settlement.verdict
        outcome = settlement.outcome
        spoken = type(outcome) is TokenDead or type(outcome) is TokenSuspect
        if (
            chunk.total == 1
            and type(verdict) is Ended
            and not verdict.dead_letter
            and not spoken
            and not chunk.dry_run
            and target.index == 0
        ):
            kind = (chunk.platform, chunk.lane, verdict.end, chunk.turn, int(chunk.starts_at < renew_before))
            single = singles.get(kind)
            if single is None:
                single = singles[kind] = []
            single.append(chunk.push_id)
            single.append(lua_string(encode_row(row_of(settlement, verdict))))
            continue
        group = groups.get(id(chunk))
        if group is None:
            group = groups[id(chunk)] = _Group(chunk)
        if not group.asked and outcome is not None and outcome.status:
            group.asked = True  # a dry run that the provider has a word for
        segment: object
        if type(verdict) is Ended:
            end = segment = verdict.end
            held = group.ends.get(end)
            if held is None:
                held = group.ends[end] = ([], [])
            places, rows = held
            place = len(places)
            places.append(target.index)
            if end != "sent" or target.index < group.rows_of_sent:
                rows.append(lua_string(encode_row(row_of(settlement, verdict))))
                if verdict.dead_letter:
                    group.dead.append((end, place, lua_string(encode_dead(dead_letter_of(settlement)))))
            elif group.rows_of_sent:
                rows.append(False)  # a row of a later place may follow
        else:
            retry = cast(Retry, verdict)
            segment = bucket = _bucket(retry, settlement.at)
            waiting = group.retries.get(bucket)
            if waiting is None:
                waiting = group.retries[bucket] = ([], [])
            place = len(waiting[0])
            waiting[0].append(target)
            waiting[1].append(retry.due_at)
        if spoken:
            group.receipts.append(
                (
                    segment,
                    place,
                    lua_string(encode_receipt(receipt_of(settlement, cast(TokenDead | TokenSuspect, outcome)))),
                )
            )
    return [group.packed() for group in groups.values()], [(*kind, flat) for kind, flat in singles.items()]


def pack_finished(refs: Iterable[EntryRef]) -> list[tuple[str, str, list[str]]]:
    """Entries to acknowledge, by platform and lane."""
    found: dict[tuple[str, str], list[str]] = {}
    for ref in refs:
        found.setdefault((ref.platform, ref.lane), []).append(ref.entry_id)
    return [(platform, lane, ids) for (platform, lane), ids in found.items()]


def batches(settlements: Sequence[Settlement], size: int) -> Iterator[tuple[Sequence[Settlement], bool]]:
    """Slices of at most `size`, and whether it is the last; one empty slice where there is nothing."""
    for start in range(0, max(len(settlements), 1), size):
        yield settlements[start : start + size], start + size >= len(settlements)


def _bucket(retry: Retry, at: int) -> Bucket:
    width = 1 << max((max(retry.due_at - at, 1) // 16).bit_length() - 1, 0)
    return retry.due_at // width * width, retry.attempt


def row_of(settlement: Settlement, verdict: Ended) -> DeliveryRow:
    """The row that status keeps of a delivery that has ended."""
    delivery = settlement.delivery
    outcome = settlement.outcome
    return DeliveryRow(
        platform=delivery.chunk.platform,
        device_id=delivery.target.device_id,
        token_hash=settlement.token_hash,
        outcome=verdict.end,
        reason=settlement.reason or (outcome.reason if outcome else ""),
        status=outcome.status if outcome else 0,
        attempts=attempts_of(settlement),
        provider_id=outcome.provider_id if type(outcome) is Sent else "",
        at=settlement.at,
    )


def dead_letter_of(settlement: Settlement) -> DeadLetter:
    delivery = settlement.delivery
    outcome = settlement.outcome
    return DeadLetter(
        push_id=delivery.chunk.push_id,
        platform=delivery.chunk.platform,
        target=delivery.target,
        token_hash=settlement.token_hash,
        reason=settlement.reason or (outcome.reason if outcome else ""),
        status=outcome.status if outcome else 0,
        attempts=attempts_of(settlement),
        at=settlement.at,
        turn=delivery.chunk.turn,
    )


def receipt_of(settlement: Settlement, outcome: TokenDead | TokenSuspect) -> Receipt:
    """What feedback must know."""
    delivery = settlement.delivery
    dead = isinstance(outcome, TokenDead)
    return Receipt(
        app=delivery.chunk.app,
        platform=delivery.chunk.platform,
        token=delivery.target.token,
        token_hash=settlement.token_hash,
        kind="dead" if dead else "suspect",
        reason=outcome.reason or settlement.reason,
        at=settlement.at,
        since=outcome.since if isinstance(outcome, TokenDead) else None,
        device_id=delivery.target.device_id,
        push_id=delivery.chunk.push_id,
    )


def attempts_of(settlement: Settlement) -> int:
    """How often it was attempted: a delivery that was never sent does not count the attempt that was to come."""
    attempt = settlement.delivery.chunk.attempt
    return attempt if settlement.outcome is not None else attempt - 1
