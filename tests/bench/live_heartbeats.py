"""How often a device in the background is pinged, behind networks that forget idle connections, in simulated time.

    python -m tests.bench.live_heartbeats

The gateway's own session beats, and its own memory of what devices can hold agrees the interval; only the clock and
the network are simulated. A connection that the network has forgotten swallows everything: the gateway ends it when no
pong comes, and the device comes back when no ping has come in time, as the official clients do. Every few hours the
device also changes its network, without a close frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from msgspec import Struct

from pushsvc.lab.phones.wire import JSON as PHONE
from pushsvc.live.config import LiveAppConfig
from pushsvc.live.gateway.heartbeats import Heartbeats
from pushsvc.live.protocol.codec import JSON
from pushsvc.live.protocol.effects import Close
from pushsvc.live.protocol.heartbeat import Bounds
from pushsvc.live.protocol.limits import Limits
from pushsvc.live.protocol.session import Session
from pushsvc.ports.live import Connected, Page

from .figures import record

BOUNDS = Bounds(default=25.0, least=4.0, most=900.0)
GRACE = 10.0
"""Seconds after the time of a ping, after which an official client comes back."""
STAY = 4 * 3600.0
"""Seconds between two changes of the network, on average."""
DAY = 86_400.0
DEVICE = ("app", "device")
NEW_STREAM = Connected(0, False, Page("e", 0, [], False, 0), 0, 0, None)


class Day(Struct):
    """One day of a device."""

    interval: float = 0.0
    """The interval that was agreed last."""
    messages: float = 0.0
    """Pings and pongs an hour."""
    lost: float = 0
    """Connections that the network forgot."""
    deaf: float = 0.0
    """The share of the day in which the device could not be reached."""


def days(span: float, requested: float | None, count: int, *, seed: str, bounds: Bounds = BOUNDS) -> list[Day]:
    """Return the days of a device whose network forgets a connection after `span` idle seconds."""
    random = Random(seed)
    heartbeats, limits = Heartbeats(bounds), Limits()
    found = [Day() for _ in range(count)]
    now = 0.0
    while now < count * DAY:
        interval = heartbeats.agree(DEVICE, requested, foreground=False)
        session = Session(JSON, "client", now, spread=random.random(), limits=limits)
        session.received(PHONE.connect(1, "token", {}, None), now)
        session.connected(1, NEW_STREAM, {}, LiveAppConfig(), heartbeat=interval, ttl=DAY * 365, now=now)
        began = heard = now
        leaves = min(began + random.expovariate(1 / STAY), count * DAY)
        while (due := session.due) < leaves:
            now = due
            day = found[int(now // DAY)]
            day.interval = interval
            if any(isinstance(effect, Close) for effect in session.tick(now)):
                # The device has heard no ping either.
                now = max(now, heard + interval + GRACE)
                day.lost += 1
                day.deaf += (now - heard - span) / DAY
                break
            if now - heard < span:
                heard = now
                day.messages += 2 / 24
                session.received(PHONE.pong, now)
        else:
            now = leaves
        heartbeats.ended(DEVICE, interval, now - began, clean=False)
    return found


def main() -> None:
    """Print the first day, and the days of the second week."""
    fixed = days(math.inf, 25.0, 1, seed="fixed")[0].messages
    print(f"pings and pongs an hour at a fixed 25 s: {fixed:.0f}")
    print(
        "forgotten after, requested | first day: an hour, forgotten | days 8 to 14: interval, an hour, forgotten, deaf"
    )
    for span in (30.0, 60.0, 240.0, 300.0, 600.0, math.inf):
        for requested in (None, 900.0):
            every = [days(span, requested, 14, seed=f"{span} {device}") for device in range(20)]
            first = mean([each[0] for each in every])
            later = mean([day for each in every for day in each[7:]])
            shown = "none" if requested is None else f"{requested:.0f}"
            after = f"{later.interval:20.0f} s {later.messages:8.1f} {later.lost:10.2f} {later.deaf:7.3%}"
            record(f"interval where networks forget after {span:.0f} s, {shown} requested", "s", later.interval)
            print(f"{span:12.0f} s {shown:>6} | {first.messages:17.1f} {first.lost:11.1f} | {after}")


def mean(every: Sequence[Day]) -> Day:
    """Return the mean day, with the interval that is in the middle."""
    count = len(every)
    return Day(
        sorted(day.interval for day in every)[count // 2],
        sum(day.messages for day in every) / count,
        sum(day.lost for day in every) / count,
        sum(day.deaf for day in every) / count,
    )


if __name__ == "__main__":
    main()
