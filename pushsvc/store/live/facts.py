"""The facts about a push that streams need: their binary format, and their keys. Pure.

The scripts read the first fields: version, expiry and instant (6 bytes each), lane, number of deliveries (4 bytes), the
id with its length before it, and the collapse in what is left.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from struct import Struct as Layout
from typing import NamedTuple

from ...model.codec import CodecError
from ...model.push import LANES
from ...ports.live import LivePush

HOUR = 3_600_000
"""Milliseconds of the time of pushes that is one part of the table; its number has 16 bits."""
WITHDRAWN = 0
"""The expiry of a push that was withdrawn."""
_VERSION = 1
_HEAD = Layout(">BHIHIBIB")
"""Version, expiry and instant as their high 2 and low 4 bytes, lane, total, length of the id."""
_LOW = 0xFFFF_FFFF


class Facts(NamedTuple):
    """A push in the form that the scripts take."""

    blob: bytes
    hour: int
    digest: bytes
    """4 bytes: where two pushes of an hour have the same, the script takes the next number."""
    collapse: bytes
    """4 bytes, or nothing. A script that finds it compares the collapse itself."""


def hour_of(instant: int) -> int:
    return instant // HOUR % 65536


def facts_of(push: LivePush) -> Facts:
    blob = encode_facts(push)
    collapse = digest_of(push.collapse) if push.collapse else b""
    return Facts(blob, hour_of(push.at), digest_of(push.id), collapse)


def digest_of(text: str) -> bytes:
    """Return a digest of 4 bytes that is never all 0, because 0 means no collapse."""
    digest = blake2b(text.encode(), digest_size=4).digest()
    return digest if any(digest) else b"\0\0\0\1"


def encode_facts(push: LivePush) -> bytes:
    name, expiry, at = push.id.encode(), push.expires_at, push.at
    head = _HEAD.pack(
        *(_VERSION, expiry >> 32, expiry & _LOW, at >> 32, at & _LOW),
        *(LANES.index(push.lane), push.total, len(name)),
    )
    return head + name + push.collapse.encode()


@lru_cache(maxsize=4096)
def decode_facts(blob: bytes) -> LivePush:
    """Decode the facts about a push. Raises `CodecError` for bytes that this version of pushsvc cannot read."""
    if blob[:1] != bytes([_VERSION]):
        raise CodecError(f"unknown version {blob[:1]!r}: written by a newer pushsvc?")
    try:
        _, high, low, at_high, at_low, lane, total, size = _HEAD.unpack_from(blob)
        behind = _HEAD.size + size
        return LivePush(
            id=blob[_HEAD.size : behind].decode(),
            at=at_high << 32 | at_low,
            expires_at=high << 32 | low,
            lane=LANES[lane],
            total=total,
            collapse=blob[behind:].decode(),
        )
    except (ValueError, IndexError) as error:
        raise CodecError(f"not a push of a stream: {type(error).__name__}") from None
