"""The targets of a chunk packed in columns: the tokens as bytes, and a value that all targets share once.

Only tokens that are hexadecimal can be packed, and device ids that stand for tokens.
"""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Sequence
from itertools import repeat

from msgspec import Struct

from .push import Target

_UUID, _OWNER = 16, 8
"""Bytes of a device id that is a UUID, and of an owner."""


class Columns(Struct, frozen=True, array_like=True, gc=False):
    """Targets of one kind, whose tokens are all hexadecimal digits in lower case of the same length, or all the ids of
    their devices."""

    indexes: int | list[int]
    """The first index, if each is one more than the one before."""
    tokens: bytes
    """The bytes of the tokens; none if these are ids that are no UUIDs."""
    width: int
    """Bytes of one token."""
    kind: str
    device_ids: list[str | None] | None
    owners: list[bytes] | bytes | None
    """Both are None if no target has a device id or an owner. Bytes: one behind the other, 8 of each."""
    by_id: bool = False
    """Whether the tokens are the ids of the devices."""


def columns_of(targets: Sequence[Target]) -> Columns | None:
    """Return the targets in columns, or None where they are of several kinds or their tokens cannot be packed."""
    # Tokens of one platform look alike, so the first one saves looking at the others.
    by_id = bool(targets) and targets[0].token == targets[0].device_id
    if not targets or not (by_id or _bytes_of([targets[0].token])):
        return None
    tokens = [target.token for target in targets]
    kinds = [target.kind for target in targets]
    if kinds.count(kinds[0]) != len(kinds):
        return None
    indexes = [target.index for target in targets]
    first = indexes[0]
    places = first if indexes == list(range(first, first + len(indexes))) else indexes
    device_ids, owners = _holders_of(targets)
    if by_id and device_ids == tokens:
        raw = _uuids_of(tokens)
        width, others = (_UUID, None) if raw else (0, device_ids)
        return Columns(places, raw, width, kinds[0], others, _joined(owners or ()), by_id=True)
    raw = _bytes_of(tokens)
    return Columns(places, raw, len(raw) // len(tokens), kinds[0], device_ids, owners) if raw else None


def _joined(owners: Sequence[bytes]) -> list[bytes] | bytes | None:
    """Return the owners in their shortest form."""
    if not any(owners):
        return None
    return b"".join(owners) if all(len(owner) == _OWNER for owner in owners) else list(owners)


def _uuids_of(names: Sequence[str]) -> bytes:
    """Return the bytes of names that are all UUIDs in lower case; else no bytes."""
    if any(len(name) != 36 for name in names):
        return b""
    raw = _bytes_of([name.replace("-", "") for name in names])
    return raw if len(raw) == _UUID * len(names) and _names_of(raw) == list(names) else b""


def _names_of(raw: bytes) -> list[str]:
    digits = raw.hex(" ", _UUID).split(" ") if raw else []
    return [f"{each[:8]}-{each[8:12]}-{each[12:16]}-{each[16:20]}-{each[20:]}" for each in digits]


def _holders_of(targets: Sequence[Target]) -> tuple[list[str | None] | None, list[bytes] | None]:
    """Return the device ids and the owners of the targets, or None twice if there are none."""
    device_ids = [target.device_id for target in targets]
    owners = [target.owner for target in targets]
    return (device_ids, owners) if any(owners) or device_ids.count(None) < len(device_ids) else (None, None)


def _bytes_of(tokens: Sequence[str]) -> bytes:
    """Return the bytes of tokens that are all hexadecimal, in lower case and of the same length; else no bytes."""
    count, step = len(tokens), len(tokens[0])
    text = "".join(tokens)
    try:
        raw = unhexlify(text)
    except ValueError:
        return b""
    # Between tokens of the same length the separators stand at equal distances.
    if len(text) != step * count or " ".join(tokens)[step :: step + 1] != " " * (count - 1):
        return b""
    return b"" if any(digit in text for digit in "ABCDEF") else raw


def targets_of(columns: Columns) -> tuple[Target, ...]:
    """Return the targets that were packed. Raises `ValueError` where the columns are damaged."""
    raw, width, indexes = columns.tokens, columns.width, columns.indexes
    device_ids: Sequence[str | None]
    if columns.by_id:
        tokens = _names_of(raw) if width else [name or "" for name in columns.device_ids or ()]
        device_ids = tokens
    else:
        tokens = raw.hex(" ", width).split(" ") if 0 < width <= len(raw) else []
        device_ids = columns.device_ids or [None] * len(tokens)
    count = len(tokens)
    places = range(indexes, indexes + count) if isinstance(indexes, int) else indexes
    owners = columns.owners or [b""] * count
    if isinstance(owners, bytes):
        owners = [owners[at : at + _OWNER] for at in range(0, len(owners), _OWNER)]
    if not count == len(places) == len(device_ids) == len(owners):
        raise ValueError("its columns differ in length")
    return tuple(map(Target, places, tokens, device_ids, repeat(columns.kind), owners))
