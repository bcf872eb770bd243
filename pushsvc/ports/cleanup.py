"""Cleanup: the steps that find expired data in the store, and the record of the runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from ..errors import PushsvcError

Removed: TypeAlias = Mapping[tuple[str, str], int]
"""Counts of removed things, by app and kind (one of `WHAT`)."""


WHAT = (
    *("stale", "suspects", "tombstones", "orphans"),
    *("dead_letters", "events", "suppressions", "cancelled", "statuses", "lifetimes", "publications"),
)
"""The kinds that are counted: devices that became tombstones, tombstones and entries that were removed, and keys that
were removed or were given their lifetime again."""


class Swept(Struct, frozen=True):
    """What one step found and, unless it was a dry run, removed."""

    removed: Removed
    cursor: str | None
    """Where the next step begins, or None after the last step."""
    done: float
    """The part of the sweep that is complete, from 0 to 1, approximately."""
    wait: float = 0.0
    """The least number of seconds until there may be more to do."""


class Leftovers(Protocol):
    """Finds data that nothing uses and no lifetime removes. Each step occupies the server for a millisecond or two. The
    `cursor` of the first step is empty."""

    async def indexes(self, app: str, *, cursor: str, dry_run: bool) -> Swept:
        """Find index entries (by id, token and user) of the registry that lead to no device: `orphans`."""

    async def keys(self, apps: Sequence[str], *, cursor: str, now: int, dry_run: bool) -> Swept:
        """Examine some keys of these apps once. `now` is in Unix ms. Counted are `orphans` of topics and tombstones;
        expired `dead_letters`, `events`, `suppressions` and marks of `cancelled` pushes; `statuses` of pushes that
        could never end; and `lifetimes`, the keys that had lost theirs."""


class CleanupRecord(Struct, frozen=True):
    """What is recorded of cleanups: the one that runs in slices now, and what all of them removed."""

    place: str | None
    """Where the current cleanup continues, or None where none is running."""
    began_at: int = 0
    """When the current cleanup began, in Unix ms."""
    removed: Removed = {}
    """What the current cleanup, or else the last one, has removed."""
    ended_at: int = 0
    """When the last cleanup ended, in Unix ms; 0 where there was none."""
    total: Removed = {}
    """What all cleanups of this store have removed."""


class ClocksApart(PushsvcError):
    """The clock of this machine and that of Redis differ by more than a minute."""


class Cleanups(Protocol):
    """The record of the cleanups, by which an interrupted one can continue."""

    async def clock(self) -> Callable[[], int]:
        """Return the clock by which a cleanup judges, in Unix ms: that of Redis, which all machines share. Raises
        `ClocksApart` where this machine's clock differs: it is unknown which one is right, and a removal cannot be
        undone."""

    async def request(self, *, every: float = 0.0) -> None:
        """Request a cleanup in slices, unless one is running or has begun within the last `every` seconds."""

    async def give_up(self) -> None:
        """Abandon the cleanup that is running; the next one starts from the beginning."""

    async def record(self) -> CleanupRecord: ...

    async def note(self, removed: Removed, *, place: str | None = None) -> None:
        """Record what a step removed and, with `place`, where the running cleanup continues."""

    async def finish(self, removed: Removed) -> None:
        """Record that a complete cleanup has ended, with everything that it removed."""
