"""Cleanup: what has outlived its use in the store, found step by step, and the record of the runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from ..errors import PushsvcError

Removed: TypeAlias = Mapping[tuple[str, str], int]
"""How many of what, by app and what: `orphans`, `dead_letters` .."""


WHAT = (
    *("stale", "suspects", "tombstones", "orphans"),
    *("dead_letters", "events", "suppressions", "cancelled", "statuses", "lifetimes"),
)
"""What is counted: devices that became tombstones and tombstones that went; entries; and keys that went, or have a
lifetime again."""


class Swept(Struct, frozen=True):
    """What one step has found and, unless it was a dry run, removed."""

    removed: Removed
    cursor: str | None
    """Where the next step begins; None: there is none."""
    done: float
    """Which part of the sweep lies behind, from 0 to 1, about."""
    wait: float = 0.0
    """Seconds until there may be more to do, at least."""


class Leftovers(Protocol):
    """What nobody uses any more and no lifetime takes away. A step keeps the server from others for a millisecond or
    two; `cursor` is empty at first."""

    async def indexes(self, app: str, *, cursor: str, dry_run: bool) -> Swept:
        """Entries of the registry's indexes by id, token and user that lead to no device: `orphans`."""
        ...

    async def keys(self, apps: Sequence[str], *, cursor: str, now: int, dry_run: bool) -> Swept:
        """One look at each key of these apps: `orphans` of topics and tombstones; `dead_letters`, `events`,
        `suppressions` and marks of `cancelled` pushes that are too old at `now` (Unix ms); `statuses` that were never
        to end; and keys that were to have a `lifetimes` and have it from now on."""
        ...


class CleanupRecord(Struct, frozen=True):
    """What is known of cleanups: the one that is under way by slices, and what all of them have removed."""

    place: str | None
    """Where the one under way goes on; None: none is."""
    began_at: int = 0
    """When it began, Unix ms."""
    removed: Removed = {}
    """What it has removed so far, or the last one, whoever ran it."""
    ended_at: int = 0
    """When the last one ended, Unix ms; 0: there was none."""
    total: Removed = {}
    """What all of them have removed, as long as the store lives."""


class ClocksApart(PushsvcError):
    """This machine's clock and Redis' differ by more than a minute."""


class Cleanups(Protocol):
    """The record of the cleanups: a run that is interrupted may go on."""

    async def clock(self) -> Callable[[], int]:
        """The clock by which a cleanup judges, Unix ms: Redis' own, which all machines share. What it removes is gone
        for good, so it raises `ClocksApart` where this machine's is another: nobody knows which one is right."""
        ...

    async def request(self, *, every: float = 0.0) -> None:
        """Let one begin, to be done in slices, unless one is under way or has begun within `every` seconds."""
        ...

    async def give_up(self) -> None:
        """Leave the one under way as it is; the next one begins anew."""
        ...

    async def record(self) -> CleanupRecord: ...

    async def note(self, removed: Removed, *, place: str | None = None) -> None:
        """This was removed; the one under way goes on at `place`, where it is given."""
        ...

    async def finish(self, removed: Removed) -> None:
        """A whole cleanup has ended, and this is what it removed. None is under way any more."""
        ...
