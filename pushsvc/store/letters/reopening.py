"""Makes chunks of dead letters again. Pure. A replayed delivery is the same delivery: it has the same push and index,
and so the same apns-id, collapse id and tag. Its attempts and its time to live start again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from ...model.push import Chunk, Platform
from ..queue.letter import DeadLetter

Letter = tuple[str, DeadLetter]
"""A dead letter with the id of its entry."""


class Reopening(Struct, frozen=True):
    """A chunk to send, and the ids of its dead letters in the order of its targets."""

    chunk: Chunk
    entries: tuple[str, ...]
    failed_at: int
    """When the first of them failed, in Unix ms."""


def reopened(head: Chunk, found: Sequence[Letter], *, now: int) -> Reopening:
    """Return one chunk of dead letters that `grouped` has put together. `head` is their chunk without targets."""
    chunk = msgspec.structs.replace(
        head,
        targets=tuple(letter.target for _, letter in found),
        starts_at=now,
        expires_at=now + head.expires_at - head.starts_at,
        attempt=1,
        turn=found[0][1].turn + 1,
    )
    entries = tuple(entry_id for entry_id, _ in found)
    return Reopening(chunk, entries, min(letter.at for _, letter in found))


def grouped(found: Iterable[Letter], size: int) -> list[list[Letter]]:
    """Return groups of at most `size` dead letters that may share a chunk: of chunks that differ in their targets only.
    A device may acknowledge some deliveries of a push and not others, although both failed at the same channel."""
    groups: dict[tuple[str, Platform, bytes], list[Letter]] = {}
    for entry in found:
        letter = entry[1]
        groups.setdefault((letter.push_id, letter.platform, letter.head), []).append(entry)
    return [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]
