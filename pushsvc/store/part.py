"""What all parts of the store share."""

from __future__ import annotations

from typing import NamedTuple

from . import keys
from .config import StoreConfig
from .link.clock import Clock
from .link.link import Link


class StoreContext(NamedTuple):
    link: Link
    config: StoreConfig
    hash_key: bytes
    """The key of all digests, which is the same in every process of this Redis."""
    clock: Clock


class StorePart:
    """A part of the store, for one process and one event loop."""

    def __init__(self, context: StoreContext) -> None:
        self._link, self._config, self._hash_key, self._clock = context

    def _shard(self, app: str, push_id: str) -> int:
        return keys.shard_of(push_id, self._config.shards_of(app))
