"""What a look at every key of an app finds: rows of statuses, and counts of rate limits.

There is no index from a device to the pushes that it was sent, so this goes through all that is kept. A row stays,
since it is the mark that its delivery ended, and says no longer whose it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from ...model.codec import CodecError, decode_row, decode_rows, encode_row, encode_rows
from ...model.status import DeliveryRow
from ...ports.erasure import KeeperStep
from .. import keys
from ..cursors import ListingCursor
from ..hashing import limiter_digests
from ..link.link import Link
from ..revoke.suppression import ERASED
from .subjects import Counts, Subjects

_KEYS = 200
"""Keys looked at in one step, about."""
_MEMBERS = 500
"""Members of one large push looked at in one step: rows that did not end as `sent`, and 1,000 others at most."""


_Rows: TypeAlias = list[tuple[int, DeliveryRow]]
_Kept: TypeAlias = tuple[bytes, bytes, _Rows]
"""Index, encoded form, rows."""


class _Cursor(ListingCursor, frozen=True, array_like=True):
    rank: int = 0
    """Where in the rows of the large push whose key waits first."""


class Rows:
    """See `Keeper`."""

    def __init__(self, link: Link, hash_key: bytes) -> None:
        self._link = link
        self._digests = limiter_digests(hash_key)

    async def step(self, app: str, who: Subjects, cursor: str) -> KeeperStep:
        at = _Cursor.read(cursor)
        removed: Counts = Counter()
        if at.waiting:
            further = await self._look_at_large(at.waiting[0], who, at.rank, removed)
            following = _Cursor(at.listing, at.waiting if further else at.waiting[1:], further)
        elif at.listing is None:
            return KeeperStep(removed, None)
        else:
            names, listing = await self._link.scan(f"ps:{{{app}.*", at.listing, _KEYS)
            later = await self._look_at_keys(app, who, [name.decode() for name in names], removed)
            following = _Cursor(listing, tuple(later))
        return KeeperStep(removed, following.written())

    async def _look_at_keys(self, app: str, who: Subjects, names: Sequence[str], removed: Counts) -> list[str]:
        """Rows of large pushes are left for later."""
        later: list[str] = []
        slots: dict[str, list[str]] = {}
        commands: list[tuple[Any, ...]] = []
        for key in names:
            name = keys.parse(key)
            if name is None or name.app != app or name.part == keys.DEVICES:
                continue
            if name.kind == "p":
                slots.setdefault(name.part, []).append(key)
            elif name.kind == "r":
                later.append(key)
            elif name.kind == "lim":
                commands.append(("HDEL", key, *self._digests([token for _, token in who.tokens])))
        for pushes in slots.values():
            for key, flat in zip(pushes, await self._link.script("rows", pushes, []), strict=True):
                found = []
                for index, blob in zip(flat[::2], flat[1::2], strict=True):
                    try:
                        found.append((index, blob, [(int(index), decode_row(blob))]))
                    except CodecError:
                        continue
                await self._disown(key, who, found, lambda rows: encode_row(rows[0][1]), removed)
        await self._link.many(commands)
        return later

    async def _look_at_large(self, key: str, who: Subjects, rank: int, removed: Counts) -> int:
        """Where to go on, or 0."""
        members = await self._link.call("ZRANGE", key, rank, rank + _MEMBERS - 1)
        found = []
        for index, _, blob in (member.partition(b" ") for member in members):
            try:
                found.append((index, blob, decode_rows(blob)))
            except CodecError:
                continue
        await self._disown(key, who, found, encode_rows, removed)
        return rank + _MEMBERS if len(members) == _MEMBERS else 0

    async def _disown(
        self, key: str, who: Subjects, found: Sequence[_Kept], encode: Callable[[_Rows], bytes], removed: Counts
    ) -> None:
        args: list[bytes] = []
        owners: list[tuple[str, str]] = []
        for index, blob, rows in found:
            bare: _Rows = []
            own: list[tuple[str, str]] = []
            for number, row in rows:
                owner = who.of_row(row.device_id, row.token_hash)
                if owner is None:
                    bare.append((number, row))
                else:
                    # A dispatcher has ended it for the erasure.
                    own.append((owner, "deliveries" if row.reason == ERASED else "statuses"))
                    bare.append(
                        (
                            number,
                            msgspec.structs.replace(row, device_id=None, token_hash="", provider_id="", unique_id=""),
                        )
                    )
            if own:
                args += (index, blob, encode(bare))
                owners += own
        if args:
            await self._link.script("disown", [key], args)
            removed.update(owners)
