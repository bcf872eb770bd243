"""The live channel in Redis: streams, connections and their gateways, contents, and events that devices report."""

from .gateways import RedisGateways
from .live import RedisLive

__all__ = ["RedisGateways", "RedisLive"]
