"""The header fields of requests to APNs, and the id of each. Pure."""

from __future__ import annotations

import functools
import hashlib
import uuid
from typing import Final

from ...model.push import Chunk
from ...net.http2.transport import field, path

NAMESPACE: Final = uuid.UUID("6d1c4d0c-2f0b-5f0a-9c43-6f0a3c1b7a52")
"""The namespace of all apns-ids. It must never change: another one would break the promise of `apns_id`."""
_NAMESPACE: Final = NAMESPACE.bytes
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def apns_id(push_id: str, index: int) -> str:
    """Return the UUIDv5 of push and target, so that a repeat after a crash has the same id."""
    return id_of_digest(hashlib.sha1(hashed(push_id) + b"%d" % index, usedforsecurity=False).hexdigest())


def hashed(push_id: str) -> bytes:
    """Return what is hashed for the ids of a push, in front of the index of the target."""
    return _NAMESPACE + f"{push_id}:".encode()


def id_of_digest(digest: str) -> str:
    """Return the UUID of a digest, as RFC 9562 5.5: the first 128 bits of SHA-1, with version 5 and the variant set."""
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{_VARIANT[digest[16]]}{digest[17:20]}-{digest[20:32]}"


# `field` checks name and value by pattern, at 1.4 microseconds. For the fields that differ from push to push, and for
# values that need no pattern, the bytes in front of the value are looked up instead, at a sixth of that.


@functools.lru_cache(maxsize=4096)
def _opening(name: str, size: int) -> bytes:
    """Return the bytes that precede a value of `size` bytes."""
    return field(name, "0" * size)[:-size]


@functools.lru_cache(maxsize=1024)
def field_of(name: str, value: str) -> bytes:
    """Return the same as `field`. Pushes of the same second have most fields in common, so they are kept."""
    if value and value.isascii() and value.isprintable() and value[0] != " " != value[-1]:
        return _opening(name, len(value)) + value.encode()
    return field(name, value)


APNS_ID: Final = _opening("apns-id", 36)


def device_path(token: str) -> bytes:
    """Return the field of the path to a device."""
    raw = token.encode()
    if raw.isalnum():  # of bytes that is ASCII alone, and twice as fast as of text
        return _opening(":path", 10 + len(raw)) + b"/3/device/" + raw
    return path("/3/device/" + token)


def headers_of(chunk: Chunk) -> dict[str, str]:
    """Return the headers of the push, with the instant at which the chunk expires where the service chose it."""
    message = chunk.message
    return {**message.headers, message.dated: str(chunk.expires_at // 1000)} if message.dated else message.headers
