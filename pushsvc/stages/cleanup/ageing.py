"""Decides which devices have expired. Pure; the clock is an argument.

    the device                                              becomes
    a tombstone older than `tombstones`                     nothing: it is removed permanently
    not seen for longer than its platform's `stale`         a tombstone, reason `stale`
    struck, and not seen since for longer than `suspects`   a tombstone, reason `suspect`
    anything else                                           what it was
    any of these, but online in the live channel            seen now; see `rules/life.py`

A device in use is never deleted at once: a tombstone keeps all its data, can be restored by a command, and becomes a
device again when its app registers it.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from ...model.devices import Device
from ...model.push import Platform
from ...rules.life import STALE, SUSPECT, lives_on, seen


class Ages(Struct, frozen=True):
    """Spans in seconds; 0 means never."""

    tombstones: float = 30 * 86400.0
    suspects: float = 90 * 86400.0
    stale: Mapping[Platform, float] = {}
    """The spans of these platforms."""
    stale_else: float = 0.0
    """The span of all other platforms."""


def revise(device: Device, now: int, ages: Ages, *, online: bool = False) -> Device | None:
    """Return what a cleanup makes of a device: the same device if it stays, a tombstone if it has expired, or None if
    it is to be removed. A device that is online stays and counts as seen now. `now` is in Unix ms."""
    revised = _aged(device, now, ages)
    return revised if revised is device or not online else seen(device, now)


def _aged(device: Device, now: int, ages: Ages) -> Device | None:
    if device.state == "pruned":
        since = device.last_seen_at if lives_on(device) else device.pruned_at
        return None if _over(since, ages.tombstones, now) else device
    if _over(device.last_seen_at, ages.stale.get(device.platform, ages.stale_else), now):
        return replace(device, state="pruned", pruned_at=now, pruned_for=STALE, judged_by="")
    struck = device.strikes > 0 and device.last_seen_at <= device.struck_at
    if struck and _over(device.struck_at, ages.suspects, now):
        return replace(device, state="pruned", pruned_at=now, pruned_for=SUSPECT)
    return device


def _over(since: int, span: float, now: int) -> bool:
    return span > 0 and now - since > span * 1000
