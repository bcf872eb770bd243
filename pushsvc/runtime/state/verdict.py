"""What an operator reads first: whether all is well, and if not why, since when and what to do. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import structs

from ...model.instants import parse_instant
from ...ports.admin import Cause, LaneFigures, Rates, Verdict


def verdict_of(causes: Sequence[Cause], *, lanes: Sequence[LaneFigures], rates: Rates, now: int) -> Verdict:
    """Return the verdict over these causes at `now`, in Unix ms: the worst one with what to do, and how many others."""
    ordered = sorted(merged(causes), key=lambda cause: (cause.severity != "critical", cause.since or "~"))
    if not ordered:
        return Verdict("ok", _all_is_well(lanes, rates), [])
    first = ordered[0]
    state: Literal["warning", "critical"] = "critical" if first.severity == "critical" else "warning"
    what = ", ".join(first.routes) or first.what
    since = "" if first.since is None else f" for {span_of((now - parse_instant(first.since)) / 1000)}"
    others = len(ordered) - 1
    more = "" if not others else f" {others} more {'cause' if others == 1 else 'causes'}."
    waiting = "" if not first.waiting else f" {_waiting(first.waiting)}; none is lost."
    remedy = f" {_sentence(first.remedy[:1].upper() + first.remedy[1:])}." if first.remedy else ""
    return Verdict(state, f"{what}{since}: {_sentence(first.cause)}.{waiting}{remedy}{more}", ordered)


def merged(causes: Sequence[Cause]) -> list[Cause]:
    """Return the causes with those that say the same once, for all that they concern."""
    found: dict[tuple[str, ...], Cause] = {}
    for cause in causes:
        key = (cause.kind, cause.severity, cause.app, cause.reason, cause.cause)
        first = found.get(key)
        if first is None:
            found[key] = cause
            continue
        since = min(filter(None, (first.since, cause.since)), default=None)
        waiting = None if first.waiting is cause.waiting is None else (first.waiting or 0) + (cause.waiting or 0)
        found[key] = structs.replace(
            first,
            what=first.what if cause.what in first.what.split(", ") else f"{first.what}, {cause.what}",
            routes=list(dict.fromkeys([*first.routes, *cause.routes])),
            since=since,
            waiting=waiting,
        )
    return list(found.values())


def span_of(seconds: float) -> str:
    """Return a span as people say it: `9 min`, `3 h 5 min`, `2 days`."""
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} days"


def _all_is_well(lanes: Sequence[LaneFigures], rates: Rates) -> str:
    oldest = max((lane.oldest_age for lane in lanes if lane.oldest_age is not None), default=None)
    # The age of a retry begins when it is due: how long a delivery has waited in all is not known here.
    due = "is due" if oldest is None else f"has been due for longer than {_at_most(oldest)}"
    waiting = sum(lane.waiting for lane in lanes)
    waits = f"{_waiting(waiting)}, none {due}" if waiting else "nothing waits"
    sent = "" if rates.sent is None else f"{rates.sent:,.0f} deliveries a second; "
    return f"All is well: {sent}{waits}."


def _at_most(seconds: float) -> str:
    """Return a span, rounded up to the unit in which it is shown."""
    unit = 1 if seconds < 119 else 60 if seconds < 172_740 else 86_400
    return span_of(seconds + unit)


def _waiting(count: int) -> str:
    return "1 delivery waits" if count == 1 else f"{count:,} deliveries wait"


def _sentence(text: str) -> str:
    return text.rstrip(". ")
