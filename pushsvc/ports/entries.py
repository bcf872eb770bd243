"""Stream entries that a dispatcher has read, and the revocations that it must apply to them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final
from zlib import crc32

from msgspec import Struct
from msgspec.structs import replace

from ..model.delivery import End
from ..model.devices import Environment
from ..model.push import Chunk, Lane, Platform


class EntryRef(Struct, frozen=True, gc=False):
    """Where a stream entry is stored: enough to acknowledge it."""

    app: str
    shard: int
    platform: Platform
    lane: Lane
    entry_id: str
    """The server's name of the entry: when it was put into its lane, in Unix ms, a hyphen, and a number."""
    history: int = 0
    """The value of `DeliveryQueue.history` when the entry was read: it identifies the server that it was read from."""
    part: int = -1
    """Which of its pushes this is, in an entry of several; -1: the entry itself."""

    @property
    def whole(self) -> EntryRef:
        """The entry itself."""
        return self if self.part < 0 else replace(self, part=-1)


NOBODY: Final[Mapping[int, Any]] = MappingProxyType({})
"""The `skip` or `why` of an entry of which no target is left out."""


class Taken(Struct, frozen=True):
    ref: EntryRef
    chunk: Chunk
    """The chunk with only those targets that still await an outcome in this turn."""
    skip: Mapping[int, End] = NOBODY
    """Targets, by index, that must not be sent. Settle each with its end: `cancelled` or `suppressed`."""
    why: Mapping[int, str] = NOBODY
    """The reason of some targets of `skip`, where it differs from the end; see `audience.present`."""
    environments: Mapping[int, Environment] = NOBODY
    """The environment of the devices, by index, that may have changed since their targets were queued."""
    again: bool = False
    """Whether a dispatcher has read the entry before: the limits then have counted its targets, or may have."""


class Revoked(Struct, frozen=True):
    """What was revoked since it was read. This names where to look; the store holds the state that counts.

    Deliveries of `pushes` end as cancelled. Deliveries to `tokens`, and those of `entries`, are returned unsent, and
    the next reader finds their state in the store. Tokens are named by their `token_mark`, which does not reveal them;
    when two tokens share a mark, one of them is returned needlessly and nothing else happens.
    """

    pushes: frozenset[str] = frozenset()
    tokens: frozenset[int] = frozenset()
    entries: frozenset[EntryRef] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.pushes or self.tokens or self.entries)

    def __or__(self, other: Revoked) -> Revoked:
        return Revoked(self.pushes | other.pushes, self.tokens | other.tokens, self.entries | other.entries)


class News(Struct, frozen=True):
    """Revocations of one app shard up to `place`. Acknowledge them when they are applied."""

    app: str
    shard: int
    """-1: those of the registry."""
    place: str
    revoked: Revoked
    history: int = 0
    """The value of `DeliveryQueue.history` when they were read: another server has other places."""


def token_mark(token: str) -> int:
    """Return the 32-bit checksum by which a revocation names a token."""
    return crc32(token.encode())
