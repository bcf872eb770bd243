"""A cleanup: sweep after sweep, step after step, with a rest after each that keeps everybody else quick.

The rest is as long as the step times what the configured share of the time leaves to others. So it grows by itself on
a machine that is busy, where a step takes longer.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from ...ports.cleanup import Leftovers, Removed, Swept
from ...ports.registry import Registry
from .ageing import STALE, SUSPECT, Ages, revise

LOCK: Final = "cleanup"
"""The lock of whoever cleans up, since of several one does."""
WHAT: Final = {STALE: "stale", SUSPECT: "suspects"}
NAP: Final = 0.1
"""Seconds until a rest hears that it is to stop."""
_PAGE: Final = 200
"""Devices looked at in one step."""

Step: TypeAlias = Callable[[str], Awaitable[Swept]]


class Sweep(Struct, frozen=True):
    """One way through the store, from cursor to cursor."""

    name: str
    """Unique within a cleanup; without a space at its end."""
    step: Step


class Progress(Struct, frozen=True):
    """Where a cleanup stands after a step."""

    sweep: str
    done: float
    """Which part of the sweep lies behind, from 0 to 1."""
    removed: Removed
    """By this step."""
    place: str
    """Where it goes on: give it to `clean` later."""


class Cleaned(Struct, frozen=True):
    """What a cleanup, or a part of it, has removed."""

    removed: Removed
    place: str | None
    """Where it was left when it was told to stop; None: it is done."""


def sweeps(
    registry: Registry,
    leftovers: Leftovers,
    apps: Sequence[str],
    ages: Ages,
    *,
    clock: Callable[[], int],
    dry_run: bool,
) -> list[Sweep]:
    """All that a cleanup of these apps does. `clock` gives Unix ms."""

    def indexes(app: str) -> Step:
        return lambda cursor: leftovers.indexes(app, cursor=cursor, dry_run=dry_run)

    def devices(app: str) -> Step:
        return lambda cursor: _devices(registry, app, cursor, ages, clock, dry_run=dry_run)

    found = []
    for app in apps:
        found.append(Sweep(f"{app} devices", devices(app)))
        found.append(Sweep(f"{app} indexes", indexes(app)))
    found.append(Sweep("keys", lambda cursor: leftovers.keys(apps, cursor=cursor, now=clock(), dry_run=dry_run)))
    return found


async def clean(
    plan: Sequence[Sweep],
    *,
    share: float,
    place: str = "",
    stopping: Callable[[], bool] = lambda: False,
    after: Callable[[Progress], Awaitable[None]] | None = None,
) -> Cleaned:
    """Take the steps, from `place` on, until all are taken or it is `stopping`; `after` each it is told.

    `share` is the part of the time in which it works, from above 0 to 1. A place of another configuration, whose sweep
    is not in the plan any more, is the beginning, and one that a step cannot read is that of its sweep.
    """
    removed: Counter[tuple[str, str]] = Counter()
    names = [sweep.name for sweep in plan]
    name, _, cursor = place.partition("\n")
    first = names.index(name) if name in names else 0
    if name not in names:
        cursor = ""
    given = True
    for at in range(first, len(plan)):
        sweep, following = plan[at], plan[at + 1].name if at + 1 < len(plan) else ""
        while True:
            began = time.monotonic()
            try:
                swept = await sweep.step(cursor)
            except (ValueError, msgspec.MsgspecError):
                if not (given and cursor):
                    raise
                swept = await sweep.step("")
            given = False
            removed.update(swept.removed)
            over = swept.cursor is None
            cursor = swept.cursor or ""
            place = f"{following}\n" if over else f"{sweep.name}\n{cursor}"
            if after is not None:
                await after(Progress(sweep.name, 1.0 if over else swept.done, swept.removed, place))
            if over and not following:
                return Cleaned(removed, None)
            await _rest((time.monotonic() - began) * (1 / share - 1), stopping)
            if stopping():
                return Cleaned(removed, place)
            if over:
                break
    return Cleaned(removed, None)


async def _rest(seconds: float, stopping: Callable[[], bool]) -> None:
    while seconds > 0 and not stopping():
        await asyncio.sleep(min(seconds, NAP))
        seconds -= NAP


async def _devices(
    registry: Registry, app: str, cursor: str, ages: Ages, clock: Callable[[], int], *, dry_run: bool
) -> Swept:
    """Look at a page of devices: those that have outlived their use become tombstones, and old tombstones go."""
    now = clock()
    page = await registry.scan(app, after=cursor, limit=_PAGE)
    old = [device.id for device in page.devices if revise(device, now, ages) is not device]
    changes = await registry.revise(app, old, lambda device: revise(device, now, ages), dry_run=dry_run) if old else []
    removed = Counter((app, "tombstones" if after is None else WHAT[after.pruned_for]) for _, after in changes)
    return Swept(removed, page.cursor, page.done)
