"""What a push's hash says, as a status document. Pure; the twin in memory reckons by the same rule.

Queued is what is left when everything else is counted. In a cancelled push all that has not ended counts as
cancelled, so that the sum holds at once; what was in flight just then and ends as sent moves over. Of a push that was
cancelled before its time that is all there ever is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from ..model import ENDS, Counts, PushState, PushStatus

FIELDS: tuple[str, ...] = ("st", "n", "at", "up", "due", "rt", *(f"n:{end}" for end in ENDS))


def counts_of(state: PushState, total: int, retrying: int, ended: Mapping[str, int]) -> Counts:
    """`retrying` of those that have not ended are being retried."""
    left = total - sum(ended.values())
    if state == "cancelled":
        return Counts(total=total, **{**ended, "cancelled": ended.get("cancelled", 0) + left})
    return Counts(total=total, queued=left - retrying, retrying=retrying, **ended)


def status_of(app: str, push_id: str, values: Sequence[Any] | None) -> PushStatus | None:
    """The document from the values of `FIELDS`; None when there is no such push."""
    if not values or values[0] is None:
        return None
    state = cast(PushState, values[0].decode())
    total, created, updated, due, retrying, *ends = (int(value or 0) for value in values[1:])
    return PushStatus(
        id=push_id,
        app=app,
        state=state,
        created_at=created,
        updated_at=updated,
        counts=counts_of(state, total, retrying, dict(zip(ENDS, ends, strict=True))),
        send_at=due or None,
    )
