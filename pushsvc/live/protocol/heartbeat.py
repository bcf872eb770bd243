"""Which interval between pings a device and the networks before it can hold.

A device may request an interval, within the gateway's bounds; otherwise it is short while the app is in the foreground,
and long in the background, where every ping costs battery. A network that forgets idle connections earlier (NAT, 240 s
to 600 s and more) shows itself by connections that end without a close frame: such an end counts against the interval
that was agreed. The search halves the distance to the longest interval that has held, stays there, and tries a longer
one only after many that held; each try that fails makes the next one rarer.

Source: Tencent Mars, "smart heartbeat" of WeChat, https://github.com/Tencent/mars
"""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct

_HELD: Final = 3
"""A connection that has lived through this number of intervals has shown that its network holds them."""
_STRIKES: Final = 3
"""Ends in a row that disprove an interval which has held before: one may have any cause."""
_CLOSE: Final = 15.0
"""Seconds: nearer than this to an interval that held, no other is searched."""
_LONGER: Final = 1.25
"""By what factor a longer interval is tried."""
_PATIENCE: Final = 8
"""Connections that must hold before a longer interval is tried, at first."""
_MOST_PATIENCE: Final = 512


class Bounds(Struct, frozen=True, kw_only=True):
    """The gateway's intervals, in seconds."""

    default: float = 25.0
    """For a device that requests none, with the app in the foreground."""
    least: float = 4.0
    most: float = 900.0
    background: float = 240.0
    """For a device that requests none, with the app in the background."""


class Learned(Struct, frozen=True, gc=False):
    """What the connections of one device have shown so far."""

    cap: float = math.inf
    """No longer interval is agreed."""
    proven: float = 0.0
    """The longest interval that has held, below `cap`."""
    strikes: int = 0
    """Ends in a row against an interval that had held."""
    held: int = 0
    """Connections that held since `cap` was changed."""
    patience: int = _PATIENCE
    """How many must hold before a longer interval is tried."""


NOTHING: Final = Learned()


def agree(bounds: Bounds, learned: Learned, requested: float | None, foreground: bool | None) -> float:
    """Return the interval of a new connection."""
    if requested is None:
        requested = bounds.background if foreground is False else bounds.default
    return max(bounds.least, min(requested, learned.cap, bounds.most))


def ended(bounds: Bounds, learned: Learned, agreed: float, lived: float, *, clean: bool) -> Learned:
    """Return what is learned from the end of a connection that lasted `lived` seconds with the `agreed` interval.

    `clean`: a close frame came, or the gateway ended the connection for a reason that is not its silence.
    """
    if lived >= _HELD * agreed:
        return _held(learned, agreed)
    if clean:
        return learned
    if agreed <= learned.proven and learned.strikes + 1 < _STRIKES:
        return Learned(learned.cap, learned.proven, learned.strikes + 1, 0, learned.patience)
    proven = learned.proven if learned.proven < agreed else 0.0
    cap = (max(proven, bounds.least) + agreed) / 2
    if cap - proven < _CLOSE:
        cap = proven
    patience = min(learned.patience * 2, _MOST_PATIENCE) if proven else learned.patience
    return Learned(max(cap, bounds.least), proven, 0, 0, patience)


def _held(learned: Learned, agreed: float) -> Learned:
    proven = max(learned.proven, agreed)
    held = learned.held + 1
    cap = learned.cap
    if agreed >= cap and held >= learned.patience:
        cap, held = cap * _LONGER, 0
    return Learned(cap, proven, 0, held, learned.patience)
