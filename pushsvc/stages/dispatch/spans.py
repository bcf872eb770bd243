"""The spans of deliveries whose outcomes are recorded, for the pushes that are part of a trace. Pure.

A push to one device has a span for each attempt, with the times of its parts. Of a larger push, deliveries that end
alike are one span until spans are sent: so a trace grows with the time that a push takes and not with its audience.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from ...model.delivery import Ended, Expired, Obsolete, Outcome, Sent, Settlement, Unconfirmed
from ...model.push import Chunk, Lane, Platform
from ...telemetry.traces import DELIVERIES, Alike, Attributes, Names, Recorded
from .metrics import snake

_MS: Final = 1_000_000
_WELL: Final = (Sent, Unconfirmed, Expired, Obsolete)
"""The outcomes that are no failure of the attempt."""

_NUMBERS: Final = ("pushsvc.queue_ms", "pushsvc.send_ms", DELIVERIES)
_NAMES: Final = Names(("pushsvc.push_id",), _NUMBERS)
_NAMES_WITH_ID: Final = Names(("pushsvc.push_id", "pushsvc.provider_id"), _NUMBERS)

_Likeness: TypeAlias = tuple[type[Outcome] | None, int, str, str]
"""Outcome, status, reason and state of a delivery."""


def spans_of(settlements: Iterable[Settlement]) -> Iterator[tuple[Recorded, bytes]]:
    """Yield the spans of a batch, each with the trace that it is part of."""
    groups: dict[tuple[int, _Likeness], list[Settlement]] = {}
    for each in settlements:
        chunk = each.delivery.chunk
        if not chunk.trace:
            continue
        outcome, verdict = each.outcome, each.verdict
        state = verdict.end if type(verdict) is Ended else "retrying"
        likeness: _Likeness = (None, 0, each.reason, state)
        if outcome is not None:
            likeness = (type(outcome), outcome.status, each.reason, state)
        if chunk.total == 1:
            yield _deliver(chunk, likeness, (each,)), chunk.trace
        else:
            groups.setdefault((id(chunk), likeness), []).append(each)
    for (_, likeness), group in groups.items():
        chunk = group[0].delivery.chunk
        yield _deliver(chunk, likeness, group), chunk.trace


def _deliver(chunk: Chunk, likeness: _Likeness, group: Sequence[Settlement]) -> Recorded:
    """Return the span from the lane to the answer. The wait in the lane and the request are times of it: as spans of
    their own, three in place of one, they made a push to one device cost a tenth more."""
    first = group[0]
    start = end = first.at
    queue = send = 0
    for each in group:
        at, passed, asked_at = each.at, each.delivery.passed, each.asked_at
        if at > end:
            end = at
        if passed is not None:
            queued, taken = passed
            if queued < start:
                start = queued
            if taken - queued > queue:
                queue = taken - queued
        if asked_at is not None:
            if asked_at < start:
                start = asked_at
            if at - asked_at > send:
                send = at - asked_at
    names = _NAMES
    texts: tuple[str, ...] = (chunk.push_id,)
    joined = chunk.total != 1
    if not joined and type(first.outcome) is Sent and first.outcome.provider_id:
        names, texts = _NAMES_WITH_ID, (chunk.push_id, first.outcome.provider_id)
    alike = _alike(chunk.app, chunk.channel, chunk.lane, chunk.attempt, *likeness, names)
    return Recorded(alike, start * _MS, end * _MS, texts, (queue, send, len(group)), joined)


@lru_cache(maxsize=1024)
def _alike(
    app: str,
    platform: Platform,
    lane: Lane,
    attempt: int,
    outcome: type[Outcome] | None,
    status: int,
    reason: str,
    state: str,
    names: Names,
) -> Alike:
    about: Attributes = (
        ("pushsvc.app", app),
        ("pushsvc.platform", platform),
        ("pushsvc.lane", lane),
        ("pushsvc.attempt", attempt),
        ("pushsvc.state", state),
    )
    kind = ""
    if outcome is not None:
        kind = snake(outcome.__name__)
        about += (("pushsvc.outcome", kind),)
    if status:
        about += (("http.response.status_code", status),)
    if reason:
        about += (("pushsvc.reason", reason),)
    failed = outcome is not None and outcome not in _WELL
    return Alike("deliver", "consumer", about, (reason or kind) if failed else "", names)
