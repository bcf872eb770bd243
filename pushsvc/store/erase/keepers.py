"""What a keeper of data is to an erasure."""

from __future__ import annotations

from typing import Protocol

from ...ports.erasure import KeeperStep
from .subjects import Subjects


class Keeper(Protocol):
    """Knows one kind of key in which data of devices may stand, and how it is taken out.

    A step is bounded, may run twice, and leaves everybody else's data as it is. `cursor` is empty at first.
    """

    async def step(self, app: str, who: Subjects, cursor: str) -> KeeperStep: ...
