"""What the stage is told, and what it works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec import Struct

from ..freeze import FreezePolicy
from ..model import Route
from ..policy import PrunePolicy
from ..ports import ReceiptLog
from ..ports.feedback import RecentAnswers, Suppressions
from ..ports.registry import Registry


class FeedbackConfig(Struct, frozen=True):
    """The rules."""

    prune: PrunePolicy = PrunePolicy()
    freeze: FreezePolicy = FreezePolicy()
    prune_anyway: Mapping[Route, int] = {}
    """Routes that are never frozen until an instant, Unix ms."""

    def freezes(self, route: Route, now: int) -> bool:
        """Whether the route may be frozen now."""
        return now >= self.prune_anyway.get(route, 0)


@dataclass(frozen=True)
class FeedbackPorts:
    """The store, by its ports."""

    receipts: ReceiptLog
    registry: Registry
    answers: RecentAnswers
    suppressions: Suppressions
    clock: Callable[[], int]
    """Unix ms."""
