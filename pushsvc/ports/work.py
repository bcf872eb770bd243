"""How the processes of the service work together: which of them live, what they serve and what none does, locks that
all share, and the bell that wakes those of `jobs` for new work, so that they need not look for it often."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from msgspec import Struct

from ..model.push import Route


class Configured(Struct, frozen=True):
    """What a process reports of its configuration."""

    refused_since: int | None = None
    """Since when it refuses the one on disk and runs on an older one, in Unix ms."""
    restart: tuple[str, ...] = ()
    """The sections that have changed on disk and need its restart."""
    refusal: str = ""
    """Why it refuses the one on disk, in one line."""


class Worker(Struct, frozen=True):
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
    refusal: str = ""


FRESH: Final = Configured()


class Workers(Protocol):
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


class RemovedRoute(Struct, frozen=True):
    """A route that no configuration in use has, while deliveries wait for it."""

    route: Route
    waiting: int
    """Deliveries of the route that have not ended, including those that wait for a retry."""
    pushes: int = 0
    """Pushes of an app without any account that wait for their time or for their expansion. Their routes are unknown
    until then."""


class Locks(Protocol):
    """Locks by name. The lock of an owner that died becomes free when its lease expires."""

    def held(self, name: str, *, lease: float) -> AbstractAsyncContextManager[Callable[[], bool] | None]:
        """Take a lock for the block, with a lease of `lease` seconds that is renewed meanwhile. Yields None where
        another process has the lock. Otherwise yields a function that returns whether the lock was lost: this process
        stood still for longer than the lease, and another one took it."""

    async def holder(self, name: str) -> str | None:
        """Return a readable name of the lock's owner, or None where the lock is free."""

    async def hold(self, name: str, owner: str, *, lease: float) -> bool:
        """Take a lock for `lease` seconds, from now on if `owner` has it: also where the answer to an earlier call was
        lost. Returns False if another owner has it."""

    async def release(self, name: str, owner: str) -> None:
        """Free a lock now, if it belongs to `owner`."""


class Bell(Protocol):
    """One bell for all processes. Work that is missed is found at the next look all the same."""

    def ring(self) -> None:
        """Wake them soon, because there is work. Neither waits nor fails."""

    async def wait(self, seconds: float) -> bool:
        """Wait until it has rung since the last call, for `seconds` at most, and return whether it has. Raises
        `StoreUnavailable`."""
