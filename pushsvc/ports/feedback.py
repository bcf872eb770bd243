"""What the feedback stage knows and does besides receipts and the registry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from ..model.devices import Device
from ..model.push import Platform
from ..rules.freeze import Slots


class RecentAnswers(Protocol):
    """What the providers answered of tokens lately. Whoever takes a receipt finds its answer counted."""

    async def read(self, app: str, platform: Platform, first: int, last: int) -> Slots:
        """The counts of a route from one slot to another, both included. They are kept for a day."""
        ...


class Suppressions(Protocol):
    """Tokens that are not sent to, whoever posts them."""

    async def add(self, app: str, tokens: Sequence[tuple[Platform, str, int]]) -> None:
        """Suppress each token on a route, as of an instant in Unix ms. Doing it twice is the same as once."""
        ...

    async def remove(self, app: str, tokens: Sequence[tuple[Platform, str]]) -> int:
        """As if these tokens of a platform, in their canonical form, had never been suppressed on any of its routes; on
        how many routes they were."""
        ...

    async def lift(self, app: str, devices: Iterable[Device], *, always: bool = False) -> None:
        """Send to these devices' tokens again, where they were suppressed before they were registered, or always."""
        ...
