"""The live channel in Redis: streams, connections and their gateways, contents, and events that devices report."""

from .events import RedisEvents
from .gateways import RedisGateways
from .streams import RedisStreams

__all__ = ["RedisGateways", "RedisLive"]


class RedisLive(RedisStreams, RedisEvents):
    """See `ports.live.Live`."""
