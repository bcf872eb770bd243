"""`ports.live.Live` over Redis, as one value."""

from __future__ import annotations

from .events import RedisEvents
from .streams import RedisStreams


class RedisLive(RedisStreams, RedisEvents):
    """See `ports.live.Live`."""
