"""Ends deliveries that wait in streams of devices that are gone or pruned, or have another user or platform.

The registry's step names these deliveries, since their streams end in it. Where the process or
Redis fails between the two, they wait for their `ttl`, or for the channel that is to carry them on and finds the device
changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...model.delivery import Arrival
from ...ports.queue import Arrivals
from ..link.unreadable import readable
from ..registry.wire import Departed
from .facts import decode_facts


async def end_moved(arrivals: Arrivals, app: str, waiting: Sequence[Departed], now: int) -> None:
    """End these deliveries as suppressed at `now`, in Unix ms. One of a push that cannot be read is left alone."""
    found: dict[str, list[Arrival]] = {}
    for each in waiting:
        push = readable(decode_facts, each.push, "live_push", app)
        if push is not None:
            found.setdefault(each.why, []).append(push.arrival(each.place, each.platform, each.device_id, now))
    for why, own in found.items():
        await arrivals.suppress(app, own, why)
