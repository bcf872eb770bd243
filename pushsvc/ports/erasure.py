"""Erasure: the removal of everything stored about a user, with a report of what was removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from ..model.devices import Device


class Erasure(Struct, frozen=True):
    """How far the erasure of a user has come."""

    devices: int
    """The number of devices removed from the registry."""
    done: bool
    """Whether nothing is left. Otherwise the next call, or `pushsvc jobs`, continues."""
    removed: Mapping[str, int] = {}
    """What was removed so far, by kind (one of `WHAT`)."""
    confirmed: bool = True
    """Whether all dispatchers confirmed in time that they dropped what they had read. One that did not is paused or was
    killed, and may send until its lease expires."""


UNCONFIRMED: Final = (
    "a dispatcher has not confirmed in time that it dropped what it had read, and may send some of that until "
    "`dispatch.takeover` has passed; look for one that is paused or was killed, and start it again"
)
"""The text that explains `confirmed` being False."""

WHAT = ("deliveries", "dead_letters", "receipts", "events", "statuses", "suppressions", "quarantined", "pushes")
"""The kinds that are counted: `deliveries` that were queued and end as `cancelled`; rows of `statuses`, which stay
without the user's data; `pushes` whose audience named only this user, which end and lose their content; entries of the
other kinds."""


class KeeperStep(Struct, frozen=True):
    removed: Counter[tuple[str, str]]
    """What was removed, by user and kind."""
    cursor: str | None
    """Where the next step begins, or None where nothing of these users is left at this keeper."""
    wait: float = 0.0
    """Seconds until there may be more to do, because another process is using the data."""


class ErasurePass(Protocol):
    """One pass through everything stored, for all users whose erasure waited when the pass began."""

    @property
    def place(self) -> str:
        """Where the pass continues; empty at its beginning."""

    async def step(self, keeper: str, cursor: str) -> KeeperStep:
        """Remove what a keeper of data stores about these users, in one bounded step that may be repeated. Tokens of
        theirs that it finds are recorded before anything is removed."""

    async def note(self, keeper: str, stepped: KeeperStep, place: str) -> None:
        """Record what a step removed, and that the pass continues at `place`."""

    async def end(self) -> None:
        """End the pass. If it has found no further tokens, its erasures end too, except those that were requested again
        since it began: the pass may have missed what was accepted in between. Otherwise another pass follows, because
        tokens of earlier registrations may be in places that this one had already visited."""


class ErasureSteps(Protocol):
    """The steps of an erasure in the store; `stages.erase` has their order."""

    async def record(self, app: str, user: str, devices: Sequence[Device]) -> bool:
        """Record that these devices of a user are to be erased, and stop all sending to their tokens. Returns whether
        all dispatchers have dropped what they had read for them."""

    async def hides(self, app: str, user: str) -> bool:
        """Return whether the user has devices that this version cannot read."""

    async def forget_name(self, app: str, user: str, cursor: str) -> tuple[Mapping[str, int], str | None]:
        """Remove the name of a user from some of the waiting audiences. Returns what was removed, and where the next
        step begins, or None after the last one."""

    async def under_way(self, app: str, user: str) -> Erasure | None:
        """Return how far the erasure of a user has come, or None where none is under way. Raises `Unreadable`."""

    async def report(self, app: str, user: str) -> Erasure:
        """Return what the last erasure of a user removed, for an hour after its end."""

    async def waiting(self, apps: Sequence[str]) -> list[str]:
        """Return the apps with an erasure under way."""

    async def open_pass(self, app: str) -> ErasurePass | None:
        """Return the pass that is under way, or a new one for all users that wait, or None where no user waits."""


class Erasures(Protocol):
    """Erases what is stored about the devices that a user has when the erasure begins, found by their ids and tokens.

    Nothing that was accepted before the end of the erasure is sent to these tokens afterwards, unless they are
    registered again. The erasure is recorded before anything is removed, so that it completes even when a process dies.
    The record holds the ids and tokens, and is removed last.
    """

    async def erase(self, app: str, user: str, *, wait: float) -> Erasure:
        """Begin or continue an erasure, and work on it for up to `wait` seconds. When this returns, the devices are
        gone and nothing more is sent to their tokens, whatever is left to do. For an hour after its end a repeat
        returns the same result."""

    async def unfinished(self, apps: Sequence[str]) -> list[str]:
        """Return the apps with an erasure that no process works on."""

    async def work(self, app: str, *, stopping: Callable[[], bool]) -> bool:
        """Continue the erasures of an app. Returns whether nothing is left to do."""
