"""Erasure: everything that is kept of a user goes, and what was done can be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct


class Erasure(Struct, frozen=True):
    """How far the erasure of a user has come."""

    devices: int
    """Removed from the registry."""
    done: bool
    """Nothing is left. Else it goes on: by whoever asks again, and by `pushsvc jobs`."""
    removed: Mapping[str, int] = {}
    """How many of what, by the names of `WHAT`, so far."""
    heard: bool = True
    """Whether all dispatchers have said in time that they let go of what they held. One that has not is paused or was
    killed, and may send of it until its lease runs out."""


UNHEARD: Final = (
    "a dispatcher has not confirmed in time that it lets go of what it had read, and may send of that until "
    "`dispatch.takeover` has passed; look for one that is paused or was killed, and start it again"
)
"""What `heard` being False means, for people."""

WHAT = ("deliveries", "dead_letters", "receipts", "events", "statuses", "suppressions", "quarantined", "pushes")
"""`deliveries` that were queued and end as `cancelled`; rows of `statuses`, which stay without saying whose they are;
`pushes` whose audience named nobody else, which end with their text; entries of the others."""


class Erasures(Protocol):
    """What is erased is what is kept of the devices that the user has when it begins: by their ids and their tokens.
    Nothing that was accepted before it is done is sent to these tokens afterwards, unless they are registered again.

    It is recorded before anything is removed, so that it is carried out to its end whoever dies meanwhile. The record
    holds the ids and tokens, and is the last that goes.
    """

    async def erase(self, app: str, user: str, *, wait: float) -> Erasure:
        """Begin, or go on, and take part for up to `wait` seconds. The devices are gone, and nothing more is sent to
        their tokens, when this returns, whatever is left to do. For an hour after its end this tells the same again."""
        ...

    async def unfinished(self, apps: Sequence[str]) -> list[str]:
        """The apps in which somebody is being erased, and nobody works on it."""
        ...

    async def work(self, app: str, *, stopping: Callable[[], bool]) -> bool:
        """Go on with the erasures of an app; whether there is nothing left to do."""
        ...
