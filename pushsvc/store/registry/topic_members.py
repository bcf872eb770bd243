"""The binary format of a topic's members: containers for 4,096 ordinals. Pure; registry_apply.lua writes them.

A container is a list of 2-byte numbers, big-endian and unordered, or a bitmap of 512 bytes if that is shorter.
"""

from __future__ import annotations

import struct
from collections.abc import Collection

from ..layout import CONTAINER, DENSE


def members_of(number: int, value: bytes) -> list[int]:
    """Return the ordinals in container `number`."""
    base = number * CONTAINER
    if len(value) < DENSE:
        return [base + low for (low,) in struct.iter_unpack(">H", value[: len(value) // 2 * 2])]
    return [base + at * 8 + bit for at, byte in enumerate(value) if byte for bit in range(8) if byte & (0x80 >> bit)]


def without(number: int, value: bytes, ordinals: Collection[int]) -> bytes:
    """Return the container without these ordinals; empty where none is left."""
    lows = {n - number * CONTAINER for n in ordinals}
    if len(value) < DENSE:
        return b"".join(struct.pack(">H", low) for (low,) in struct.iter_unpack(">H", value) if low not in lows)
    bitmap = bytearray(value)
    for low in lows:
        bitmap[low // 8] &= ~(0x80 >> low % 8) & 0xFF
    return bytes(bitmap) if any(bitmap) else b""
