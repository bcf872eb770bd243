"""The feedback loop: one task for each app takes receipts, has them judged, applies the judgement and records it.

The judgement is applied first, and the receipt is acknowledged afterwards, in one step with its event. A crash in
between repeats the judgement, which changes nothing: a device is pruned only while it has the judged token, registered
no later than the answer; and a prune or strike that took effect is recognised by the instant of its answer.

A burst of bad answers shows only when some of it has been counted. So a judgement with few other answers waits for a
second and counts again. A prune that still comes too early can be restored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final

from ...background import unless
from ...model.delivery import Receipt
from ..outage import Patience
from .apply import Effects
from .config import FeedbackConfig, FeedbackPorts
from .judge import judge
from .watch import Watch

BATCH: Final = 500
WAIT_MS: Final = 5000
LINGER: Final = 1.0
"""Seconds in which a burst of bad answers becomes visible."""


async def run(ports: FeedbackPorts, apps: Iterable[str], config: FeedbackConfig, stop: asyncio.Event) -> None:
    """Judge receipts until `stop` is set. Receipts that were taken by then are still recorded, or judged again
    later; one that is on its way here is taken again by the next call, or by another process."""
    async with asyncio.TaskGroup() as tasks:
        for app in apps:
            tasks.create_task(_Follower(ports, app, config).follow(stop), name=f"feedback:{app}")


class _Follower:
    def __init__(self, ports: FeedbackPorts, app: str, config: FeedbackConfig) -> None:
        self._ports = ports
        self._app = app
        self._config = config
        self._watch = Watch(ports, app, config)
        self._effects = Effects(ports, app, config.prune)

    async def follow(self, stop: asyncio.Event) -> None:
        patience = Patience(("receipts", self._app))
        while not stop.is_set():
            async with patience:
                taken = await unless(stop, self._ports.receipts.take(self._app, limit=BATCH, wait_ms=WAIT_MS))
                if taken:
                    await self._handle(taken, stop)
                elif not stop.is_set():
                    await self._watch.look_for_thaw()

    async def _handle(self, taken: Sequence[tuple[str, Receipt]], stop: asyncio.Event) -> None:
        receipts = [receipt for _, receipt in taken]
        healths = await self._watch.healths(receipts)
        if not all(health.proven or health.freeze for health in healths):
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LINGER)
                return  # these receipts come again
            healths = await self._watch.healths(receipts)
        self._watch.note(receipts, healths)
        cases = judge(taken, healths, await self._effects.holders(receipts), self._config)
        await self._effects.strike(cases)
        await self._effects.prune(cases)
        await self._effects.record(cases)
