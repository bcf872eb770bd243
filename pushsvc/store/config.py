"""The configuration of the store, with defaults for one machine."""

from __future__ import annotations

from msgspec import Struct

from ..model.address import NO_ADDRESSES, Addresses

DAY = 24 * 60 * 60
OPEN_MOST = 29 * DAY * 1000
"""Milliseconds for which a delivery may be open once its push is being sent: the longest `ttl`, and a day."""


class StoreConfig(Struct, frozen=True, kw_only=True):
    """The configuration of the store. Lifetimes are in seconds."""

    addresses: Addresses = NO_ADDRESSES
    """The kinds of addresses of all platforms: how their tokens are compared."""
    shards: int | dict[str, int] = 1
    """The number of slots of an app, for all apps or by name. It decides where a push is stored: change it only while
    nothing is queued or scheduled, and expect earlier status documents to be lost."""
    chunk_size: int = 500
    """Targets in one stream entry."""
    status_ttl: int = 7 * DAY
    """How long a status document is kept after its last change."""
    dead_ttl: int = 30 * DAY
    dead_max: int = 1_000_000
    """The approximate maximum number of dead letters of an app; the oldest are removed."""
    suppression_ttl: int = 180 * DAY
    events_ttl: int = 30 * DAY
    events_max: int = 1_000_000
    """The approximate maximum number of feedback events of an app shard."""
    consumer: str = ""
    """The name of this consumer in the groups, for one running process at a time.

    A process that starts with the name of an earlier one continues its entries at once. Empty: a unique name, and the
    entries of a process that died are taken over once its sign of life has expired.
    """
    alive_ttl: float = 15.0
    history: int | dict[str, int] = 200
    """The most publications that the stream of a device keeps, for all apps or by name."""
    history_age: int | dict[str, int] = 7 * DAY
    """How long a stream keeps a publication, in seconds from the beginning of its push, and up to two hours longer."""
    window: int | dict[str, int] = 32
    """The most publications that are on their way to a connected device: a full stream keeps them."""
    fsync: bool = False
    """Answer for a push only when the server's disk has it; see durable.py."""
    replicas: int | None = None
    """The number of replicas that must have a push, or any other promise, before it is answered. None: those of a Redis
    with failover, if there are any. See replicas.py."""
    timeout: float = 5.0
    """How long a round trip to Redis, and a flush of its disk, may take."""

    def shards_of(self, app: str) -> int:
        return self.shards if isinstance(self.shards, int) else self.shards.get(app, 1)

    def history_of(self, app: str) -> int:
        return self.history if isinstance(self.history, int) else self.history.get(app, 200)

    def window_of(self, app: str) -> int:
        return self.window if isinstance(self.window, int) else self.window.get(app, 32)

    def history_hours(self, app: str) -> int:
        """Return `history_age` of an app in whole hours."""
        age = self.history_age if isinstance(self.history_age, int) else self.history_age.get(app, 7 * DAY)
        return -(-age // 3600)

    @property
    def lifetimes(self) -> tuple[int, int]:
        """The lifetime of a status once its push has ended, and that of a dead letter, in ms."""
        return self.status_ttl * 1000, self.dead_ttl * 1000

    def dead_most(self, app: str) -> int:
        return -(-self.dead_max // self.shards_of(app))

    def __post_init__(self) -> None:
        counts = [self.shards] if isinstance(self.shards, int) else list(self.shards.values())
        if any(count < 1 for count in counts):
            raise ValueError("an app has at least 1 shard")
        if not 1 <= self.chunk_size <= 5000:
            raise ValueError("chunk_size is between 1 and 5000")
