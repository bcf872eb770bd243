"""What the feedback stage reads and changes besides receipts and the registry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from ..model.devices import Device
from ..model.push import Platform
from ..rules.freeze import Slots


class RecentAnswers(Protocol):
    """The recent answers of the providers about tokens. A receipt is only handed out after its answer was counted."""

    async def read(self, app: str, platform: Platform, first: int, last: int) -> Slots:
        """Return the counts of a route in the slots from `first` to `last`, both included. Counts are kept for a
        day."""

    async def release(self, app: str, platform: Platform, until: int) -> None:
        """Let a route prune until an instant, in Unix ms, whatever its answers are; 0 ends that."""

    async def released(self, app: str) -> dict[Platform, int]:
        """Return the routes that may prune whatever their answers are, each with the instant at which that ends."""


class Suppressions(Protocol):
    """Tokens that nothing is sent to."""

    async def add(self, app: str, tokens: Sequence[tuple[Platform, str, int]]) -> None:
        """Suppress each token on a route from an instant on, in Unix ms. A repeat changes nothing."""

    async def known(self, app: str, tokens: Sequence[tuple[Platform, str]]) -> int:
        """Return the number of routes on which these tokens, in their canonical form, are suppressed."""

    async def remove(self, app: str, tokens: Sequence[tuple[Platform, str]]) -> int:
        """Remove the suppression of these tokens, in their canonical form, on all routes of their platform. Returns the
        number of routes on which they were suppressed."""

    async def lift(self, app: str, devices: Iterable[Device], *, always: bool = False) -> None:
        """Remove the suppression of these devices' tokens where it is older than their registration, or always."""
