"""The processes of the service: each reports that it lives and what it serves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from ..model.push import Route


class Worker(Struct, frozen=True):
    """A living process."""

    part: str
    """`serve`, `dispatch`, `feedback`, `jobs` or `live`."""
    consumer: str
    serves: frozenset[str]
    """A dispatcher's routes as `app/platform`; the apps of other parts."""
    last_sign: int = 0
    """When it last reported, in Unix ms."""


class Workers(Protocol):
    """The living processes, including this one."""

    @property
    def lifetime(self) -> float:
        """Return the seconds for which a report is valid."""
        ...

    async def report(self, part: str, serves: Iterable[str], routes: Iterable[Route] = ()) -> None:
        """Report that this process lives as `part`, serves `serves` and has `routes` in its configuration. The report
        is valid for `lifetime`."""
        ...

    async def leave(self, part: str) -> None:
        """Report that this process ends."""
        ...

    async def routes(self) -> set[Route]:
        """Return every route that any process has ever had in its configuration."""
        ...

    async def living(self) -> list[Worker]:
        """Return the processes whose last report is still valid."""
        ...
