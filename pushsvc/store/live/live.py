"""`ports.live.Live` over Redis, as one value."""

from __future__ import annotations

from ...ports.registry import Registry
from ..config import StoreConfig
from ..link.clock import Clock
from ..link.link import Link
from .events import RedisEvents
from .gateways import RedisGateways
from .streams import RedisStreams


class RedisLive(RedisStreams, RedisGateways, RedisEvents):
    """See `ports.live.Live`."""

    def __init__(self, link: Link, config: StoreConfig, hash_key: bytes, registry: Registry, clock: Clock) -> None:
        RedisGateways.__init__(self, link, config, clock)
        RedisEvents.__init__(self, link, config, hash_key, clock)
        RedisStreams.__init__(self, link, config, hash_key, registry=registry, gateways=self, clock=clock)
