"""The input of `settle.lua`, field by field. It is typed here only.

The script unpacks each of these structs by the same names in the same order, and a test compares the two. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from ...model.push import Lane, Platform


def lua_string(blob: bytes) -> Raw:
    """Return bytes as MessagePack's `str`: the `cmsgpack` of Redis and Valkey does not know its `bin`."""
    size = len(blob)
    if size < 256:
        return Raw(b"\xd9" + size.to_bytes(1, "big") + blob)
    return Raw(b"\xdb" + size.to_bytes(4, "big") + blob)


class EndOf(Struct, frozen=True, array_like=True, gc=False):
    """Deliveries of a group with the same end."""

    name: str
    count: int
    rows: list[Any]
    """Of a small push an encoded DeliveryRow for each. Of a large one index, member, index, member, .. of those that
    need a row."""
    together: int
    """1 where a member has the rows of several deliveries."""
    flew: int
    """1 where they were submitted, of a `counted` group."""


class RetryOf(Struct, frozen=True, array_like=True, gc=False):
    """Deliveries of a group that are retried together."""

    due: int
    """Unix milliseconds, or 0 where they go at once."""
    count: int
    chunk: Raw
    """The encoded chunk, with its next turn."""
    flew: int
    """1 where they were submitted, of a `counted` group."""
    channel: Platform
    """The channel that carries them then."""
    guard: str
    """What waiting.lua reads in front of what an acknowledgement may end; empty: none may."""
    mark: str
    """How they are counted in the status: see fence.lua."""


class Note(Struct, frozen=True, array_like=True, gc=False):
    """A dead letter, with the place of its delivery in the group's `indexes`, from 1."""

    place: int
    blob: Raw


class ReceiptOf(Struct, frozen=True, array_like=True, gc=False):
    """A receipt, with the place of its delivery in the group's `indexes`, from 1."""

    place: int
    blob: Raw
    dead: int
    """1 if the token is dead, 0 if it is suspect."""


class Group(Struct, frozen=True, array_like=True, gc=False):
    """What is recorded of the deliveries of one chunk."""

    push_id: str
    channel: Platform
    lane: Lane
    total: int
    turn: int
    """Their turn, or 0 of what ends in whichever turn is recorded."""
    indexes: list[int]
    """The indexes of all its deliveries, each once: first those that end, in the order of `ends`, then `retries`."""
    first: int
    mask: Raw
    """Empty or, of a large push, the bits of all `indexes` from the byte `first` of the bitmap on: see fence.lua."""
    ends: list[EndOf]
    retries: list[RetryOf]
    dead: list[Note]
    receipts: list[ReceiptOf]
    asked: int
    """1 if the provider was asked; 0 for a dry run that the provider has no request for."""
    counted: int
    """1 for a cancelled push whose deliveries in flight this dispatcher has counted: see acknowledge.lua."""
    entry: str
    """The id of the entry that the chunk was read from; empty: it was not read from one."""


class Single(Struct, frozen=True, array_like=True, gc=False):
    """Ends of pushes with a total of 1, of index 0, that leave no more than a row."""

    channel: Platform
    lane: Lane
    name: str
    turn: int
    """As that of a group."""
    kept: int
    """1 where their statuses have had a lifetime since they were accepted: see accept.lua."""
    list: list[Any]
    """Push id, encoded row, push id, encoded row, .."""


class Finished(Struct, frozen=True, array_like=True, gc=False):
    """Entries of one lane to acknowledge."""

    platform: Platform
    lane: Lane
    entry_ids: list[str]


class Record(Struct, frozen=True, array_like=True, gc=False):
    """One atomic step. Instants are Unix milliseconds, lifetimes milliseconds."""

    now: int
    ttl: int
    """Lifetime of a status once all its deliveries have ended."""
    dead_ttl: int
    groups: Sequence[Group]
    singles: Sequence[Single]
    finished: Sequence[Finished]
    slot: int
    """The instant of the providers' answers, in tens of seconds since the epoch."""
    answers_ttl: int
    dead_most: int
    """The approximate number of dead letters to keep."""
    consumer: str
    """The consumer whose entries these are."""


encode_record = msgspec.msgpack.Encoder().encode
