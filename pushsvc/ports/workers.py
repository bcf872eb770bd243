"""The processes of the service: each reports that it lives and what it serves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from msgspec import Struct

from ..model.push import Route


class Configured(Struct, frozen=True):
    """What a process reports of its configuration."""

    refused_since: int | None = None
    """Since when it refuses the one on disk and runs on an older one, in Unix ms."""
    restart: tuple[str, ...] = ()
    """The sections that have changed on disk and need its restart."""


class Worker(Struct, frozen=True):
    """A process that has reported."""

    part: str
    """`serve`, `dispatch`, `feedback`, `jobs` or `live`."""
    consumer: str
    serves: frozenset[str]
    """A dispatcher's routes as `app/platform`; the apps of other parts."""
    last_sign: int = 0
    """When it last reported, in Unix ms."""
    lives: bool = True
    """Whether its last report is still valid."""
    refused_since: int | None = None
    restart: tuple[str, ...] = ()


FRESH: Final = Configured()


class Workers(Protocol):
    """The living processes, including this one."""

    @property
    def lifetime(self) -> float:
        """Return the seconds for which a report is valid."""

    async def report(
        self, part: str, serves: Iterable[str], routes: Iterable[Route] = (), configured: Configured = FRESH
    ) -> None:
        """Report that this process lives as `part`, serves `serves` and has `routes` in its configuration. The report
        is valid for `lifetime`."""

    async def leave(self, part: str) -> None:
        """Report that this process ends."""

    async def routes(self) -> set[Route]:
        """Return every route that any process has ever had in its configuration."""

    async def known(self) -> list[Worker]:
        """Return the processes that have reported and have not left, also those that no longer live."""

    async def living(self) -> list[Worker]:
        """Return the processes whose last report is still valid."""
