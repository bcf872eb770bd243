"""What the store may be told; every value has a default that serves one machine."""

from __future__ import annotations

import msgspec
from msgspec import Struct

DAY = 24 * 60 * 60
OPEN_MOST = 29 * DAY * 1000
"""Milliseconds for which a delivery may be open once its push is being sent: the longest `ttl`, and a day in hand."""


class StoreConfig(Struct, frozen=True, kw_only=True):
    """Lifetimes are in seconds."""

    shards: int | dict[str, int] = 1
    """Slots an app is spread over, for all apps or by name. It decides where a push lives: change it only while
    nothing is queued or scheduled, and expect the status documents of before to be gone."""
    chunk_size: int = 500
    """Targets in one stream entry."""
    status_ttl: int = 7 * DAY
    """How long a status document is kept after the last thing that happened to it."""
    dead_ttl: int = 30 * DAY
    dead_max: int = 1_000_000
    """Dead letters kept for an app, about; the oldest make room."""
    suppression_ttl: int = 180 * DAY
    events_ttl: int = 30 * DAY
    events_max: int = 1_000_000
    """Feedback events kept for one app shard, about."""
    consumer: str = ""
    """The name of this consumer in the groups, for one living process at a time. A process that starts with the name
    of one that is gone goes on with its entries at once. Empty: a name nobody else has, and the entries of a process
    that died are taken over once its sign of life has run out."""
    alive_ttl: float = 15.0
    fsync: bool = False
    """Answer for a push only when the server's disk has it; see durable.py."""
    replicas: int | None = None
    """Answer for a push, or for any other promise, only when this number of replicas have it. None: when those of
    a Redis that fails over have it, where there are any. See replicas.py."""
    timeout: float = 5.0
    """How long Redis may take over one round trip, and its disk over one flush."""

    def shards_of(self, app: str) -> int:
        return self.shards if isinstance(self.shards, int) else self.shards.get(app, 1)

    def dead_most(self, app: str) -> int:
        """Dead letters kept in one shard of the app."""
        return -(-self.dead_max // self.shards_of(app))

    def __post_init__(self) -> None:
        counts = [self.shards] if isinstance(self.shards, int) else list(self.shards.values())
        if any(count < 1 for count in counts):
            raise ValueError("an app has at least 1 shard")
        if not 1 <= self.chunk_size <= 5000:
            raise ValueError("chunk_size is between 1 and 5000")


def with_consumer(config: StoreConfig, consumer: str) -> StoreConfig:
    """The same, for another consumer."""
    return msgspec.structs.replace(config, consumer=consumer)
