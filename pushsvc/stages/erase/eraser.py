"""The steps of an erasure in their order: who begins it, who goes on with it, and when it is over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from msgspec.structs import replace

from ...errors import Unreadable
from ...ports.erasure import Erasure, ErasurePass, ErasureSteps, KeeperStep
from ...ports.registry import Registry
from ...ports.work import Locks
from ..walk import Leg, walk

LEASE: Final = 5.0
"""Seconds after which the lock of a process that has died is free."""
SHARE: Final = 0.5
"""The part of the time in which a pass works; the rest it leaves to others."""
LOOK: Final = 0.02
"""Seconds between two looks at an erasure that another process carries out."""

ORDER: Final = (
    *("audiences", "letters", "queue", "later letters"),
    *("receipts", "events", "reported", "quarantine", "rows", "late"),
)
"""Each before those that its data may still move to: audiences and, by a replay, letters go into the queue; a delivery
that was on its way becomes a letter, a receipt, a row; a receipt becomes an event. Rows stay where they are. `late`
is the queue once more, for what was accepted meanwhile."""


class Eraser:
    """`Erasures` by the steps of the store."""

    def __init__(self, registry: Registry, steps: ErasureSteps, locks: Locks) -> None:
        self._registry = registry
        self._steps = steps
        self._locks = locks

    async def erase(self, app: str, user: str, *, wait: float) -> Erasure:
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait
        begun, confirmed = await self._begin(app, user)
        if not begun:
            if (removed := await self._forget_name(app, user, lambda: clock() > deadline)) is not None:
                return Erasure(0, True, removed) if removed else await self._steps.report(app, user)
            await self._steps.record(app, user, ())
        while True:
            await self.work(app, stopping=lambda: clock() >= deadline)
            under_way = await self._steps.under_way(app, user)
            if under_way is None:
                return replace(await self._steps.report(app, user), confirmed=confirmed)
            if clock() >= deadline:
                return replace(under_way, confirmed=confirmed)
            await asyncio.sleep(LOOK)

    async def unfinished(self, apps: Sequence[str]) -> list[str]:
        return [app for app in await self._steps.waiting(apps) if not await self._locks.holder(_lock(app))]

    async def work(self, app: str, *, stopping: Callable[[], bool]) -> bool:
        async with self._locks.held(_lock(app), lease=LEASE) as lost:
            if lost is None:
                return False
            while not stopping() and not lost() and (present := await self._steps.open_pass(app)) is not None:
                await _continue_pass(present, stopping, lost)
            return not await self._steps.waiting([app])

    async def _begin(self, app: str, user: str) -> tuple[bool, bool]:
        """Record the user's devices, mark their tokens and remove them from the registry, in this order.

        Returns whether there is a user to erase, and whether all dispatchers have dropped what they held. Raises
        Unreadable if a device remains because this version cannot read it.
        """
        begun, confirmed = await self._steps.under_way(app, user) is not None, True
        while devices := await self._registry.of_user(app, user):
            confirmed &= await self._steps.record(app, user, devices)
            begun = True
            ids = [device.id for device in devices]
            await self._registry.revise(app, ids, lambda device: None if device.user == user else device, erases=True)
        if await self._steps.hides(app, user):
            raise Unreadable("A device of this user, which is not erased,")
        return begun, confirmed

    async def _forget_name(self, app: str, user: str, late: Callable[[], bool]) -> dict[str, int] | None:
        """Remove the name of a user without devices, of which nothing else is kept, from audiences that wait. Returns
        counts of what was removed, or None if the time ended before all audiences were looked at."""
        removed: Counter[str] = Counter()
        cursor: str | None = ""
        while cursor is not None:
            gone, cursor = await self._steps.forget_name(app, user, cursor)
            removed.update(gone)
            if cursor is not None and late():
                return None
        return dict(removed)


async def _continue_pass(present: ErasurePass, stopping: Callable[[], bool], lost: Callable[[], bool]) -> None:
    """Continue a pass, and end it after its last step. Once the lock is lost, the pass is another process's."""

    async def note(keeper: str, stepped: KeeperStep, place: str) -> None:
        if not lost():
            await present.note(keeper, stepped, place)

    legs = [Leg(name, partial(present.step, name)) for name in ORDER]
    left = await walk(legs, share=SHARE, place=present.place, stopping=lambda: stopping() or lost(), after=note)
    if left is None and not lost():
        await present.end()


def _lock(app: str) -> str:
    return f"erasure-{app}"
