"""The interface of a keeper of data."""

from __future__ import annotations

from typing import Protocol

from ...ports.erasure import KeeperStep
from .subjects import Subjects


class Keeper(Protocol):
    """Finds one kind of key that may contain data of devices, and removes that data. A step is bounded, may be
    repeated, and leaves the data of others as it is. The `cursor` of the first step is empty."""

    async def step(self, app: str, who: Subjects, cursor: str) -> KeeperStep: ...
