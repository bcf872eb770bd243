"""The processes of the service: each reports that it lives and what it serves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from ..model.push import Route


class Worker(Struct, frozen=True):
    """A living process."""

    part: str
    """`serve`, `dispatch`, `feedback` or `jobs`."""
    consumer: str
    serves: frozenset[str]
    """Routes as `app/platform` of a dispatcher, apps of the others."""


class Workers(Protocol):
    """The living processes, this one among them."""

    @property
    def lifetime(self) -> float:
        """Seconds for which a sign of life is believed."""
        ...

    async def tell(self, part: str, serves: Iterable[str], routes: Iterable[Route] = ()) -> None:
        """Report that this process lives as `part`, serves `serves` and has `routes` in its configuration. The report
        is good for `lifetime`."""
        ...

    async def leave(self, part: str) -> None:
        """Report that this process ends."""
        ...

    async def routes(self) -> set[Route]:
        """Return every route that any process has ever had in its configuration."""
        ...

    async def living(self) -> list[Worker]:
        """Return the processes whose last report is still good."""
        ...
