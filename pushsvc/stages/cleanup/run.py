"""A cleanup: sweeps of several steps each (see `walk.py`), and what they removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from msgspec import Struct

from ...model.devices import Device
from ...ports.cleanup import Leftovers, Removed, Swept
from ...ports.live import LiveStreams
from ...ports.registry import Registry
from ...rules.life import STALE, SUSPECT
from ..walk import Leg, walk
from .ageing import Ages, revise

LOCK: Final = "cleanup"
"""The name of the lock by which one of several processes cleans up."""
WHAT: Final = {STALE: "stale", SUSPECT: "suspects"}
_PAGE: Final = 200
"""Devices examined in one step."""

Step: TypeAlias = Callable[[str], Awaitable[Swept]]


Sweep: TypeAlias = Leg[Swept]
"""One pass through a part of the store."""


class Progress(Struct, frozen=True):
    sweep: str
    done: float
    """The part of the sweep that is complete, from 0 to 1."""
    removed: Removed
    """What this step removed."""
    place: str
    """Where `clean` can continue later."""


class Cleaned(Struct, frozen=True):
    removed: Removed
    place: str | None
    """Where it was stopped, or None where it is complete."""


def sweeps(
    registry: Registry,
    leftovers: Leftovers,
    live: LiveStreams,
    apps: Sequence[str],
    ages: Ages,
    *,
    clock: Callable[[], int],
    dry_run: bool,
) -> list[Sweep]:
    """Return all sweeps of a cleanup of these apps. `clock` gives Unix ms."""

    def indexes(app: str) -> Step:
        return lambda cursor: leftovers.indexes(app, cursor=cursor, dry_run=dry_run)

    def devices(app: str) -> Step:
        return lambda cursor: _devices(registry, live, app, cursor, ages, clock, dry_run=dry_run)

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
    """Take the steps from `place` on, until all are taken or `stopping` returns True. `after` is called after each. See
    `walk`."""
    removed: Counter[tuple[str, str]] = Counter()

    async def note(sweep: str, swept: Swept, place: str) -> None:
        removed.update(swept.removed)
        if after is not None:
            await after(Progress(sweep, 1.0 if swept.cursor is None else swept.done, swept.removed, place))

    left = await walk(plan, share=share, place=place, stopping=stopping, after=note)
    return Cleaned(removed, left)


async def _devices(
    registry: Registry,
    live: LiveStreams,
    app: str,
    cursor: str,
    ages: Ages,
    clock: Callable[[], int],
    *,
    dry_run: bool,
) -> Swept:
    """Examine a page of devices: expired ones become tombstones, and old tombstones are removed, unless they are
    online. One that connects meanwhile is seen when it is revised."""
    now = clock()
    page = await registry.scan(app, after=cursor, limit=_PAGE)
    old = [device.id for device in page.devices if revise(device, now, ages) is not device]
    if not old:
        return Swept({}, page.cursor, page.done)
    found = zip(old, await live.presence(app, old), strict=True)
    online = {device_id for device_id, presence in found if presence is not None and presence.route is not None}

    def judge(device: Device) -> Device | None:
        return revise(device, now, ages, online=device.id in online)

    changes = await registry.revise(app, old, judge, dry_run=dry_run)
    removed = Counter(
        (app, "tombstones" if after is None else WHAT[after.pruned_for])
        for _, after in changes
        if after is None or after.state == "pruned"
    )
    return Swept(removed, page.cursor, page.done)
