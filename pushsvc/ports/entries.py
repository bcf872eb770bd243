"""What a dispatcher holds of the queue, and what it is told to let go of."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final
from zlib import crc32

from msgspec import Struct

from ..model.delivery import End
from ..model.push import Chunk, Lane, Platform


class EntryRef(Struct, frozen=True, gc=False):
    """Where a stream entry lives: enough to acknowledge it."""

    app: str
    shard: int
    platform: Platform
    lane: Lane
    entry_id: str
    history: int = 0
    """Which server it was read from: that of one `DeliveryQueue.history`."""


NOBODY: Final[Mapping[int, Any]] = MappingProxyType({})
"""No target is left out."""


class Taken(Struct, frozen=True):
    """An entry read for sending."""

    ref: EntryRef
    chunk: Chunk
    """Only the targets that still await an outcome in this turn."""
    skip: Mapping[int, End] = NOBODY
    """Targets, by index, that must not be sent: `cancelled` or `suppressed`. Settle them so."""
    why: Mapping[int, str] = NOBODY
    """The reason of some of these, where it is not the end itself: `audience.present` says which there are."""
    again: bool = False
    """Somebody has had it before: what limits count was, or may have been, counted then."""


class Revoked(Struct, frozen=True):
    """What was taken back since it was read. The store holds the truth of it; this says where to look again.

    Deliveries of `pushes` end as cancelled. Those to `tokens` and of `entries` are given back unsent: whoever takes
    them next finds what has become of them. Tokens are told as `token_mark` says, which tells nobody a token; two
    tokens of one mark cost a needless way back and nothing else.
    """

    pushes: frozenset[str] = frozenset()
    tokens: frozenset[int] = frozenset()
    entries: frozenset[EntryRef] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.pushes or self.tokens or self.entries)

    def __or__(self, other: Revoked) -> Revoked:
        return Revoked(self.pushes | other.pushes, self.tokens | other.tokens, self.entries | other.entries)


class News(Struct, frozen=True):
    """Revocations of one app shard, up to `place`: acknowledge it when they are applied."""

    app: str
    shard: int
    place: str
    revoked: Revoked


def token_mark(token: str) -> int:
    """The few bits by which a revocation names a token."""
    return crc32(token.encode())
