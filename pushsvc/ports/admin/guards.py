"""The guards of routes against mass pruning, and what was pruned."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from ...model.documents import Time
from ...model.push import Platform
from .stats import AnswerCounts


class FreezeShare(Struct, frozen=True):
    """Shares, or numbers, of dead and of suspect answers."""

    dead: float
    suspect: float


class GuardState(Struct, frozen=True, kw_only=True):
    """The guard of a route against mass pruning."""

    route: str
    frozen: bool
    why: str
    answers: Annotated[AnswerCounts, Meta(description="Within the window.")]
    share: Annotated[FreezeShare, Meta(description="Of these answers, from 0 to 1.")]
    limit: Annotated[FreezeShare, Meta(description="The shares above which pruning freezes.")]
    least: Annotated[FreezeShare, Meta(description="The numbers of answers below which it does not.")]
    window: Annotated[float, Meta(description="Seconds.")]
    prune_anyway_until: Annotated[Time | None, Meta(description="Until when it prunes nevertheless.")]
    waits_for: Annotated[str, Meta(description="What ends the freeze; empty without one.")]


class PruneCount(Struct, frozen=True):
    """Feedback events of one day, platform, reason and action."""

    day: str
    platform: Platform
    reason: str
    action: str
    count: int


class FeedbackState(Struct, frozen=True):
    """The guards of the app's routes, and what was pruned in the last week."""

    routes: list[GuardState]
    days: list[PruneCount]
    complete: Annotated[bool, Meta(description="Whether all events of the week were counted.")]
    receipts: Annotated[int, Meta(description="Answers that `pushsvc feedback` has not processed yet.")]
