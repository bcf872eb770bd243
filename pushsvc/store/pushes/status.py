"""Computes the status of a push from its hash. Pure; the fake store of the tests uses it too.

Queued is what remains when everything else is counted. A cancelled push is `sending` while any of it is open. Once
every dispatcher has reported what it has in flight, only that is queued, and everything else that has not ended counts
as cancelled, wherever it waits, because it will not be sent. Until then the recorded states count. Either way a count
of an end only grows. A push that was cancelled before its time has nothing in flight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ...model.delivery import ENDS
from ...model.push import PushState
from ...model.status import Counts, LiveCounts, PushStatus

FIELDS: tuple[str, ...] = ("st", "n", "at", "up", "due", "rt", "fi", "ck", *(f"n:{end}" for end in ENDS))
LIVE: tuple[str, ...] = ("la", "lf", "lw")
FIELDS += LIVE
FIELDS += ("tr",)


def counts_of(
    state: PushState, total: int, retrying: int, ended: Mapping[str, int], in_flight: int | None = None
) -> Counts:
    """Return the counts of a push. `retrying` of the deliveries that have not ended are being retried; `in_flight` is
    known of a cancelled push when all dispatchers have confirmed."""
    left = total - sum(ended.values())
    if state == "cancelled" and in_flight is not None:
        flying = min(max(0, in_flight), left)
        cancelled = ended.get("cancelled", 0) + left - flying
        return Counts(total=total, queued=flying, **{**ended, "cancelled": cancelled})
    return Counts(total=total, queued=left - retrying, retrying=retrying, **ended)


def live_of(counts: Counts, acked: int, fallback: int, waiting: int) -> LiveCounts:
    """Return the counts of the live channel. Nothing of a cancelled push waits."""
    return LiveCounts(acked, fallback, min(waiting, counts.queued + counts.retrying))


def state_of(state: PushState, counts: Counts) -> PushState:
    """Return the state to show. A cancelled push is `cancelled` once none of its deliveries is open."""
    return "sending" if state == "cancelled" and counts.queued + counts.retrying else state


def status_of(app: str, push_id: str, values: Sequence[Any] | None) -> PushStatus | None:
    """Return the status from the values of `FIELDS`, or None where there is no such push."""
    if not values or values[0] is None:
        return None
    state = cast(PushState, values[0].decode())
    *values, trace = values
    total, created, updated, due, retrying, flying, confirmed, *rest = (int(value or 0) for value in values[1:])
    ends, live = rest[: -len(LIVE)], rest[-len(LIVE) :]
    ended: dict[str, int] = dict(zip(ENDS, ends, strict=True))
    counts = counts_of(state, total, retrying, ended, flying if confirmed else None)
    return PushStatus(
        id=push_id,
        app=app,
        state=state_of(state, counts),
        created_at=created,
        updated_at=updated or created,
        counts=counts,
        send_at=due or None,
        live=None if values[-len(LIVE) :].count(None) == len(LIVE) else live_of(counts, *live),
        trace=(trace or b"").hex(),
    )
