"""What a keeper of data is to an erasure."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from .subjects import Counts, Subjects


class KeeperStep(Struct, frozen=True):
    """What one step of a keeper has done."""

    removed: Counts
    cursor: str | None
    """Where the next step begins; None: nothing of these subjects is left here."""
    wait: float = 0.0
    """Seconds until there may be more to do: somebody else has it at present."""


class Keeper(Protocol):
    """Knows one kind of key in which data of devices may stand, and how it is taken out.

    A step is bounded, may run twice, and leaves everybody else's data as it is. `cursor` is empty at first.
    """

    async def step(self, app: str, who: Subjects, cursor: str) -> KeeperStep: ...
