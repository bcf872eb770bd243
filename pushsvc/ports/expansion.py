"""From an audience to its deliveries: how far each push has come, and the step that takes it further."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from ..model import Platform, Push, Target


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


class Expansions(Protocol):
    """Pushes whose audience is being looked up. Each step is atomic; of two that begin at the same place one counts.

    Who works on a push is not locked: whoever does puts off the instant at which it is taken up by others (`keep`,
    `advance`), and when two work on it all the same the later one to speak is told to leave it.
    """

    async def due(self, apps: Iterable[str]) -> list[tuple[str, str]]:
        """App and id of pushes that nobody works on at present, and whose time has come; some of them, if many."""
        ...

    async def keep(self, app: str, push_id: str, *, lease: int) -> None:
        """Say that somebody works on it for so many ms, or soon will; 0: nobody does."""
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
