"""Decides how a sign of life changes a device. Pure; the clock is an argument.

Signs of life are registrations, connects and ends of connections in the live channel, and calls with a device's token.

    the device                                           becomes
    active                                               seen now
    a tombstone because it was silent (`SILENT`)         active, seen now, without strikes
    a tombstone because the provider called its token    a tombstone, seen now, that lives on: the provider is out, and
    dead                                                 the live channel reaches it, until its app registers the new
                                                         token, or an operator restores it
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from ..model.devices import Device, revived

STALE: Final = "stale"
SUSPECT: Final = "suspect"
SILENT: Final = frozenset((STALE, SUSPECT))
"""Reasons for a tombstone that one sign of life refutes."""


def seen(device: Device, now: int) -> Device:
    """Return the device after a sign of life at `now`, in Unix ms; the same where it changes nothing."""
    last = max(device.last_seen_at, now)
    if device.state == "active":
        return device if last == device.last_seen_at else replace(device, last_seen_at=last)
    if device.pruned_for not in SILENT:
        return replace(device, last_seen_at=last)
    return revived(device, last_seen_at=last)


def lives_on(device: Device) -> bool:
    """Return whether a device is a tombstone that has given a sign of life since its provider called its token dead:
    its app runs, and the live channel reaches it."""
    return device.state == "pruned" and device.pruned_for not in SILENT and device.last_seen_at > device.pruned_at
