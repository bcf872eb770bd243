"""Streams with entries about deliveries: dead letters, receipts, events, and entries that could not be read.
An entry about a subject is removed completely. Content that only dead letters name is removed with the last of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from ...model.codec import CodecError, decode_event, decode_receipt, decode_reported
from ...ports.erasure import KeeperStep
from .. import keys
from ..cursors import SetCursor
from ..part import StoreContext, StorePart
from ..queue.letter import decode_dead
from .subjects import Counts, Subjects

_PAGE = 200
"""Entries examined in one step."""

T = TypeVar("T")
Fields: TypeAlias = dict[bytes, bytes]
Entry: TypeAlias = tuple[bytes, Fields]
Whose: TypeAlias = Callable[[Subjects, Fields], str | None]


class Log(StorePart):
    """A `Keeper` of one kind of stream. `whose` returns the record key of the subject of an entry, or None."""

    def __init__(
        self, context: StoreContext, what: str, key: Callable[[str, int], str], whose: Whose, *, group: str = ""
    ) -> None:
        super().__init__(context)
        self._what = what
        self._key = key
        self._whose = whose
        self._group = group

    async def step(self, app: str, who: Subjects, cursor: str) -> KeeperStep:
        at = SetCursor.read(cursor)
        if at.place >= self._config.shards_of(app):
            return KeeperStep(Counter(), None)
        key, history = self._key(app, at.place), self._link.history
        entries = await self._link.call("XRANGE", key, f"({at.position}" if at.position else "-", "+", "COUNT", _PAGE)
        removed: Counts = Counter()
        gone: list[Entry] = []
        for entry_id, fields in entries:
            owner = self._whose(who, fields)
            if owner is not None:
                gone.append((entry_id, fields))
                removed[owner, self._what] += 1
        if gone:
            await who.keep_found()
            self._link.require(history)
            await self._remove(app, at.place, gone)
        further = SetCursor(at.place, entries[-1][0].decode()) if len(entries) == _PAGE else SetCursor(at.place + 1)
        return KeeperStep(removed, further.written())

    async def _remove(self, app: str, shard: int, gone: Sequence[Entry]) -> None:
        await self._link.record("forget", [self._key(app, shard)], [self._group, *(entry_id for entry_id, _ in gone)])


class Letters(Log):
    """A `Keeper` of dead letters. The content of a push that has ended is removed with the last letter that names
    it."""

    def __init__(self, context: StoreContext) -> None:
        super().__init__(context, "dead_letters", keys.dead, of_letter)

    async def _remove(self, app: str, shard: int, gone: Sequence[Entry]) -> None:
        pushes = [decode_dead(fields[b"d"]).push_id for _, fields in gone]
        named = [key(app, shard, push_id) for push_id in pushes for key in (keys.push, keys.content)]
        await self._link.record("forget_letters", [keys.dead(app, shard), *named], [entry_id for entry_id, _ in gone])


def _of(field: bytes, decode: Callable[[bytes], T], owner: Callable[[Subjects, T], str | None]) -> Whose:
    """Return the function that finds the subject of an entry in what a field of it encodes, if that can be read."""

    def whose(who: Subjects, fields: Fields) -> str | None:
        try:
            return owner(who, decode(fields.get(field, b"")))
        except CodecError:
            return None

    return whose


of_letter = _of(b"d", decode_dead, lambda who, it: who.of(it.target.device_id, it.platform, it.target.token))
of_receipt = _of(b"r", decode_receipt, lambda who, it: who.of(it.device_id, it.platform, it.token))
of_event = _of(b"e", decode_event, lambda who, it: who.of(it.device_id, it.platform, it.token))
of_reported = _of(b"e", decode_reported, lambda who, it: who.of_id(it.device_id))


def of_bytes(who: Subjects, fields: Fields) -> str | None:
    return who.within(b"\0".join(fields.values()))
