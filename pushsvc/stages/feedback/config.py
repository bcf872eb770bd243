"""The configuration and the ports of the stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec import Struct

from ...model.delivery import Receipt
from ...model.devices import Environment
from ...model.push import Platform, Route
from ...ports.feedback import RecentAnswers, Suppressions
from ...ports.receipts import ReceiptLog
from ...ports.registry import Registry
from ...rules.freeze import FreezePolicy
from ...rules.policy import PrunePolicy


class FeedbackConfig(Struct, frozen=True):
    prune: PrunePolicy = PrunePolicy()
    freeze: FreezePolicy = FreezePolicy()
    prune_anyway: Mapping[Route, int] = {}
    """Routes that are never frozen until an instant, Unix ms."""
    environments: Mapping[Route, Environment] = {}
    """The environment of each account of a platform whose tokens belong to one."""

    def environment_of(self, receipt: Receipt) -> Environment | None:
        """Return the environment of the account that gave the answer, or None if it has none or was removed."""
        return self.environments.get(Route(receipt.app, receipt.platform))

    def freezes(self, route: Route, now: int, released: Mapping[Platform, int]) -> bool:
        """Return whether the route may be frozen now. `released` are those of its app that an operator has released,
        each until an instant."""
        return now >= max(self.prune_anyway.get(route, 0), released.get(route.platform, 0))


@dataclass(frozen=True)
class FeedbackPorts:
    receipts: ReceiptLog
    registry: Registry
    answers: RecentAnswers
    suppressions: Suppressions
    clock: Callable[[], int]
    """Unix ms."""
