"""Erasure: everything that is kept of a user goes, and what was done can be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from ..model.devices import Device


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


class KeeperStep(Struct, frozen=True):
    """What one step of a pass has done."""

    removed: Counter[tuple[str, str]]
    """How many of what, by whose they were and what."""
    cursor: str | None
    """Where the next step begins; None: nothing of these users is left there."""
    wait: float = 0.0
    """Seconds until there may be more to do: somebody else has it at present."""


class ErasurePass(Protocol):
    """One way through everything that is kept, for all users whose erasure waited when it began."""

    place: str
    """Where it goes on; empty at its beginning."""

    async def step(self, keeper: str, cursor: str) -> KeeperStep:
        """Take what a keeper of data has of these users, in one bounded step, which may run twice."""
        ...

    async def note(self, keeper: str, stepped: KeeperStep, place: str) -> None:
        """Record what a step has removed, and that the pass goes on at `place`."""
        ...

    async def learn(self) -> bool:
        """Record the tokens of these users that the steps came across and nobody knew of. Returns whether there were
        any."""
        ...

    async def end(self, *, finished: bool) -> None:
        """Let the pass be over; with `finished` so are the erasures that it began with, but for those that were asked
        for again since: what was accepted between the two may stand where it had been already."""
        ...


class ErasureSteps(Protocol):
    """What an erasure does in the store, step by step; see `stages.erase` for their order."""

    async def record(self, app: str, user: str, devices: Sequence[Device]) -> bool:
        """Record that these devices of a user are to be erased, and let nobody send to their tokens any more. Returns
        whether all dispatchers have let go of what they held."""
        ...

    async def hides(self, app: str, user: str) -> bool:
        """Return whether the user has devices that this version cannot read."""
        ...

    async def forget_name(self, app: str, user: str, cursor: str) -> tuple[Mapping[str, int], str | None]:
        """Take the name of a user out of some audiences that wait. Returns what was removed, and where the next step
        begins, or None."""
        ...

    async def under_way(self, app: str, user: str) -> Erasure | None:
        """Return how far the erasure of a user has come, or None where none is under way. Raises `Unreadable`."""
        ...

    async def report(self, app: str, user: str) -> Erasure:
        """Return what the last erasure of a user has removed, for an hour after its end."""
        ...

    async def waiting(self, apps: Sequence[str]) -> list[str]:
        """Return the apps in which somebody is being erased."""
        ...

    async def open_pass(self, app: str) -> ErasurePass | None:
        """Return the pass that is under way, or a new one for all users that wait; None: nobody does."""
        ...


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
