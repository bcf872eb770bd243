"""From an audience to its deliveries: how far each push has come, and the step that takes it further."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from ..model.push import Lane, Platform, Push, Target


class Expansion(Struct, frozen=True):
    """How far the expansion of a push has come."""

    push: Push
    """Without targets; its `audience` says whom it is for."""
    step: int
    """How many steps were taken."""
    cursor: str
    """Where the next one begins, in the words of `Registry.members`."""
    total: int
    """Deliveries that were made so far: the index of the next one."""


class Waiting(Struct, frozen=True):
    """A push whose audience nobody looks up at present, and whose time has come."""

    app: str
    push_id: str
    lane: Lane
    since: int
    """When it was to begin, Unix ms; later where somebody who worked on it has died, or it could not be done."""


class Expansions(Protocol):
    """Pushes whose audience is being looked up. Each step is atomic; of two that begin at the same place one counts.

    Who works on a push is not locked: whoever does puts off the instant at which it is taken up by others (`take_up`,
    `advance`), and when two work on it all the same the later one to speak is told to leave it.
    """

    async def due(self, apps: Iterable[str]) -> list[Waiting]:
        """Of each app and lane those that have waited longest."""
        ...

    async def lapsed(self, apps: Iterable[str]) -> list[Waiting]:
        """Those that are due and whose `ttl` is over: all that is left to do for apps that are not configured any more
        is to end them."""
        ...

    async def take_up(self, which: Waiting, *, lease: int) -> bool:
        """Lease it to the caller for `lease` ms. False: another process was faster, or it is over."""
        ...

    async def release(self, at: Expansion) -> None:
        """Nobody works on it: it waits again, at the place that it had in its app and lane."""
        ...

    async def put_off(self, which: Waiting) -> int:
        """It could not be done: wait before it is tried again, each time twice as long. Those ms."""
        ...

    async def set_aside(self, which: Waiting, why: str) -> None:
        """Its record cannot be read: keep it in the quarantine, and end the push with what it has."""
        ...

    async def load(self, app: str, push_id: str) -> Expansion | None:
        """None: there is nothing left to do; it is done, or cancelled, or its time ran out."""
        ...

    async def advance(
        self, at: Expansion, found: Mapping[Platform, Sequence[Target]], *, cursor: str | None, lease: int
    ) -> Expansion | None:
        """Put these targets, numbered from `at.total` on, into their lanes and move on to `cursor`, in one atomic step.

        A `cursor` of None says that they are the last: then the push has its total, and is done when all of them are.
        None comes back where the step did not take place: the push was cancelled, or somebody else has gone on.
        `lease` is as in `keep`.
        """
        ...
