"""Expansion: the steps that turn the audience of a push into deliveries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from ..model.push import Lane, Platform, Push, Target


class Expansion(Struct, frozen=True):
    """How far the expansion of a push has come."""

    push: Push
    """The push without targets; its `audience` names the receivers."""
    step: int
    """The number of steps that were taken."""
    cursor: str
    """Where the next step begins: a cursor of `Registry.members`."""
    total: int
    """The number of deliveries made so far, which is the index of the next one."""


class Waiting(Struct, frozen=True):
    """A push whose expansion is due and that no process works on."""

    app: str
    push_id: str
    lane: Lane
    since: int
    """When the expansion was due, in Unix ms; later where a process died during it or it was postponed."""


class FailingExpansion(Struct, frozen=True):
    """A push whose expansion failed and has taken no step since."""

    app: str
    push_id: str
    why: str
    """The name of the last error."""
    since: int
    """When it failed first, in Unix ms."""


class Expansions(Protocol):
    """Pushes whose audience is being expanded. Each step is atomic; of two that begin at the same place one takes
    effect. A push is leased, not locked: a process that works on it postpones the instant at which others take it up
    (`take_up`, `advance`). When two work on it all the same, the step of the later one returns None."""

    async def due(self, apps: Iterable[str]) -> list[Waiting]:
        """Return the pushes of each app and lane that have waited longest."""

    async def lapsed(self, apps: Iterable[str]) -> list[Waiting]:
        """Return the due pushes whose `ttl` is over. Those of apps that are no longer configured can only be ended."""

    async def take_up(self, which: Waiting, *, lease: int) -> bool:
        """Lease a push to the caller for `lease` ms. Returns False where another process was faster or the push is
        over."""

    async def release(self, at: Expansion) -> None:
        """End the lease: the push waits again, at its place in its app and lane."""

    async def put_off(self, which: Waiting, why: str) -> int:
        """Postpone a push whose expansion failed, each time for twice as long. Returns the wait in ms. `why` is the
        name of the error."""

    async def failing(self, apps: Iterable[str]) -> list[FailingExpansion]:
        """Return pushes of these apps whose expansion fails: some dozen of each shard and lane at most."""

    async def set_aside(self, which: Waiting, why: str) -> None:
        """Move a record that cannot be read to the quarantine, and end the push with the deliveries that it has."""

    async def load(self, app: str, push_id: str) -> Expansion | None:
        """Return the state of an expansion, or None where nothing is left to do: it is complete, cancelled or
        expired."""

    async def advance(
        self, at: Expansion, found: Mapping[Platform, Sequence[Target]], *, cursor: str | None, lease: int
    ) -> Expansion | None:
        """Put these targets, numbered from `at.total` on, into their lanes and move on to `cursor`, in one atomic step.

        A `cursor` of None marks the last targets: the push then has its total, and is done when all its deliveries are.
        Returns None where the step did not take place, because the push was cancelled or another process has moved on.
        `lease` is in ms, as for `take_up`.
        """
