"""The spans of deliveries whose outcomes are recorded, for the pushes that are part of a trace. Pure.

Deliveries of one entry that are recorded together and have ended alike are one span, with their number: an audience of
a million makes some thousand spans, and a push to one device has one of its own.

    deliver             from the lane of the queue to the answer
      queue             until a dispatcher has taken it
      send <platform>   from the request to the answer; nothing was asked of a delivery that was taken back or held back
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Final, TypeAlias

from ...model.delivery import Ended, Expired, Obsolete, Outcome, Sent, Settlement, Unconfirmed
from ...telemetry.traces import Attributes, Recorded
from .metrics import snake

_MS: Final = 1_000_000
_WELL: Final = (Sent, Unconfirmed, Expired, Obsolete)
"""The outcomes that are no failure of the attempt."""

_Alike: TypeAlias = tuple[int, type[Outcome] | None, int, str, str]


def spans_of(settlements: Iterable[Settlement]) -> Iterator[tuple[Recorded, bytes]]:
    """Yield the spans of a batch, each with the trace that it is part of."""
    groups: dict[_Alike, list[Settlement]] = {}
    for each in settlements:
        chunk, outcome = each.delivery.chunk, each.outcome
        if chunk.trace:
            status = 0 if outcome is None else outcome.status
            alike = (id(chunk), None if outcome is None else type(outcome), status, each.reason, _state_of(each))
            groups.setdefault(alike, []).append(each)
    for (_, _, _, reason, state), group in groups.items():
        yield _deliver(group, reason, state), group[0].delivery.chunk.trace


def _deliver(group: Sequence[Settlement], reason: str, state: str) -> Recorded:
    first, count = group[0], len(group)
    chunk = first.delivery.chunk
    start, end, taken, asked = first.at, 0, 0, None
    for each in group:  # one pass: most groups are of one delivery
        at, passed, asked_at = each.at, each.delivery.passed, each.asked_at
        if at > end:
            end = at
        if passed is not None:
            start, taken = min(start, passed[0]), max(taken, passed[1])
        if asked_at is not None:
            asked = asked_at if asked is None or asked_at < asked else asked
    if asked is not None:
        start = min(start, asked)
    children = []
    if taken:
        children.append(Recorded("queue", "internal", start * _MS, max(start, taken) * _MS))
    if first.outcome is not None and asked is not None:
        children.append(_send(chunk.channel, first.outcome, asked, end, alone=count == 1))
    alike: Attributes = (
        ("pushsvc.app", chunk.app),
        ("pushsvc.platform", chunk.channel),
        ("pushsvc.lane", chunk.lane),
        ("pushsvc.attempt", chunk.attempt),
        ("pushsvc.deliveries", count),
        ("pushsvc.state", state),
    )
    if reason:
        alike += (("pushsvc.reason", reason),)
    own = (("pushsvc.push_id", chunk.push_id),)
    return Recorded("deliver", "consumer", start * _MS, end * _MS, alike, own, children=children)


def _send(platform: str, outcome: Outcome, start: int, end: int, *, alone: bool) -> Recorded:
    kind = _named(type(outcome))
    alike: Attributes = (("pushsvc.outcome", kind),)
    if outcome.status:
        alike += (("http.response.status_code", outcome.status),)
    own: Attributes = ()
    if alone and isinstance(outcome, Sent) and outcome.provider_id:
        own = (("pushsvc.provider_id", outcome.provider_id),)
    error = "" if isinstance(outcome, _WELL) else outcome.reason or kind
    return Recorded(f"send {platform}", "client", start * _MS, end * _MS, alike, own, error)


@cache
def _named(kind: type[Outcome]) -> str:
    return snake(kind.__name__)


def _state_of(settlement: Settlement) -> str:
    verdict = settlement.verdict
    return verdict.end if isinstance(verdict, Ended) else "retrying"
