"""The spans of deliveries whose outcomes are recorded, for the pushes that are part of a trace. Pure.

Deliveries of one entry that are recorded together and have ended alike are one span, with their number: an audience of
a million makes some thousand spans, and a push to one device has one of its own.

    deliver             from the lane of the queue to the answer
      queue             until a dispatcher has taken it
      send <platform>   from the request to the answer; nothing was asked of a delivery that was taken back or held back
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from ...model.delivery import Ended, Expired, Obsolete, Outcome, Sent, Settlement, Unconfirmed
from ...telemetry.traces import Recorded
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
    for group in groups.values():
        yield _deliver(group), group[0].delivery.chunk.trace


def _deliver(group: Sequence[Settlement]) -> Recorded:
    first = group[0]
    chunk = first.delivery.chunk
    about: dict[str, str | int] = {
        "pushsvc.app": chunk.app,
        "pushsvc.push_id": chunk.push_id,
        "pushsvc.platform": chunk.channel,
        "pushsvc.lane": chunk.lane,
        "pushsvc.attempt": chunk.attempt,
        "pushsvc.deliveries": len(group),
        "pushsvc.state": _state_of(first),
    }
    if first.reason:
        about["pushsvc.reason"] = first.reason
    end = max(each.at for each in group)
    passed = [each.delivery.passed for each in group if each.delivery.passed is not None]
    asked = [each.asked_at for each in group if each.asked_at is not None]
    start = min([end, *(queued for queued, _ in passed), *asked])
    children = []
    if passed:
        taken = max(start, *(at for _, at in passed))
        children.append(Recorded("queue", "internal", start * _MS, taken * _MS))
    if first.outcome is not None and asked:
        children.append(_send(chunk.channel, first.outcome, min(asked), end, alone=len(group) == 1))
    return Recorded("deliver", "consumer", start * _MS, end * _MS, about, children=children)


def _send(platform: str, outcome: Outcome, start: int, end: int, *, alone: bool) -> Recorded:
    about: dict[str, str | int] = {"pushsvc.outcome": snake(type(outcome).__name__)}
    if outcome.status:
        about["http.response.status_code"] = outcome.status
    if alone and isinstance(outcome, Sent) and outcome.provider_id:
        about["pushsvc.provider_id"] = outcome.provider_id
    error = "" if isinstance(outcome, _WELL) else outcome.reason or about["pushsvc.outcome"]
    return Recorded(f"send {platform}", "client", start * _MS, end * _MS, about, str(error))


def _state_of(settlement: Settlement) -> str:
    verdict = settlement.verdict
    return verdict.end if isinstance(verdict, Ended) else "retrying"
