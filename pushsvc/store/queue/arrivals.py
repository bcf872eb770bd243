"""Acknowledgements of devices become what `settle.lua` reads: deliveries end as sent, in whichever turn is recorded.

So do deliveries that no device can acknowledge any more: they end as suppressed. Pure. The row of each says at which
channel that was. It has no token hash: a device is known there by its id.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from ...model.codec import decode_chunk, encode_chunk, encode_row, is_large
from ...model.delivery import Arrival, End, Retry
from ...model.push import Lane, Platform
from ...model.routing import platform_of
from ...model.status import DeliveryRow
from ..layout import SMALL
from .record import Group, RetryOf, Single, lua_string
from .settling import Closed, guard_of, mark_of_retry, mask_of, packed_end, retry_chunk

ANY_TURN = 0


class EndOfAny(NamedTuple):
    """How deliveries end in whichever turn is recorded."""

    end: End
    reason: str = ""


ARRIVED: Final = EndOfAny("sent")


def pack_arrivals(arrivals: Iterable[Arrival], how: EndOfAny = ARRIVED) -> tuple[list[Group], list[Single]]:
    """Return the `groups` and the `singles` of one app shard. A delivery that is named twice ends once."""
    singles: dict[tuple[Platform, Lane], list[Any]] = {}
    pushes: dict[tuple[str, Platform], dict[int, Arrival]] = {}
    push_id = channel = ""
    for arrival in arrivals:
        if arrival.total == 1:
            flat = singles.setdefault((arrival.channel, arrival.lane), [])
            flat += (arrival.push_id, lua_string(encode_row(row_of_arrival(arrival, how))))
            continue
        if arrival.push_id != push_id or arrival.channel != channel:  # Those of one push mostly come together.
            push_id, channel = arrival.push_id, arrival.channel
            same = pushes.setdefault((push_id, channel), {})
        same.setdefault(arrival.index, arrival)
    return (
        [_group([own[index] for index in sorted(own)], how) for own in pushes.values()],
        [Single(*place, how.end, ANY_TURN, 0, flat) for place, flat in singles.items()],
    )


def _group(arrivals: list[Arrival], how: EndOfAny) -> Group:
    """The arrivals of one push, in the order of their indexes: those that have a row come first."""
    first = arrivals[0]
    large, indexes = is_large(first.total), [arrival.index for arrival in arrivals]
    rows = [
        (arrival.index, row_of_arrival(arrival, how))
        for arrival in (arrivals if first.total <= SMALL or how.end != "sent" else ())
        if arrival.index < SMALL or how.end != "sent"
    ]
    byte, mask = mask_of(indexes) if large else (0, b"")
    return Group(
        push_id=first.push_id,
        channel=first.channel,
        lane=first.lane,
        total=first.total,
        turn=ANY_TURN,
        indexes=indexes,
        first=byte,
        mask=lua_string(mask),
        ends=[packed_end(how.end, len(arrivals), rows, 0, large=large)],
        retries=[],
        dead=[],
        receipts=[],
        asked=0,
        counted=0,
        entry="",
    )


def beside(arrivals: Iterable[Arrival], ended: Closed) -> list[Arrival]:
    """Return the other arrivals of pushes of which some had `ended`: what is recorded together goes again without
    these. See settle.lua."""
    pushes = {push_id for push_id, _ in ended}
    return [each for each in arrivals if each.push_id in pushes and (each.push_id, each.index) not in ended]


def pack_fallback(blob: bytes, index: int) -> Group:
    """Return the group with which one delivery of an encoded chunk that waits goes on at once, in its next turn. Raises
    `CodecError`."""
    chunk = decode_chunk(blob)
    targets = [target for target in chunk.targets if target.index == index]
    again = retry_chunk(chunk, targets, Retry(0, chunk.attempt, chunk.part, chunk.counted))
    mark = mark_of_retry(again, 0, unconfirmed=False)
    following = RetryOf(0, 1, lua_string(encode_chunk(again)), 0, again.channel, guard_of(again, 0), mark)
    return Group(
        push_id=chunk.push_id,
        channel=chunk.channel,
        lane=chunk.lane,
        total=chunk.total,
        turn=chunk.turn,
        indexes=[index],
        first=0,
        mask=lua_string(b""),
        ends=[],
        retries=[following],
        dead=[],
        receipts=[],
        asked=0,
        counted=0,
        entry="",
    )


def row_of_arrival(arrival: Arrival, how: EndOfAny = ARRIVED) -> DeliveryRow:
    """Return the row of the status for a delivery that a device has acknowledged, or cannot acknowledge any more."""
    return DeliveryRow(
        platform=platform_of(arrival.platform),
        device_id=arrival.device_id,
        token_hash="",
        outcome=how.end,
        reason=how.reason,
        status=0,
        attempts=1,
        provider_id="",
        at=arrival.at,
        channel=arrival.channel,
    )
