"""Rows of statuses, counts of rate limits, and contents of the live channel, which a pass through every key of an app
finds. There is no index from a device to its pushes, so this examines everything. A row stays, because it is the mark
that its delivery ended, but without the user's data. A content that is for devices of the user alone is removed."""

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
from ..registry.wire import Digests
from ..revoke.suppression import ERASED
from .subjects import Counts, Subjects

_KEYS = 200
"""The approximate number of keys that one step examines."""
_MEMBERS = 500
"""Members of one large push that one step examines: rows that did not end as `sent`, and up to 1,000 others."""


_Rows: TypeAlias = list[tuple[int, DeliveryRow]]
_Kept: TypeAlias = tuple[bytes, bytes, _Rows]
"""The index, the encoded form and the rows."""


class _Cursor(ListingCursor, frozen=True, array_like=True):
    index: int = 0
    """The first index of the large push whose row is examined next."""


class Rows:
    """A `Keeper` of rows, rate limits and contents of the live channel."""

    def __init__(self, link: Link, hash_key: bytes) -> None:
        self._link = link
        self._digests = limiter_digests(hash_key)
        self._digest = Digests(hash_key).of

    async def step(self, app: str, who: Subjects, cursor: str) -> KeeperStep:
        at = _Cursor.read(cursor)
        removed: Counts = Counter()
        if at.waiting:
            further = await self._look_at_large(at.waiting[0], who, at.index, removed)
            following = _Cursor(at.listing, at.waiting if further else at.waiting[1:], further)
        elif at.listing is None:
            return KeeperStep(removed, None)
        else:
            names, listing = await self._link.scan(f"ps:{{{app}.*", at.listing, _KEYS)
            later = await self._look_at_keys(app, who, [name.decode() for name in names], removed)
            following = _Cursor(listing, tuple(later))
        return KeeperStep(removed, following.written())

    async def _look_at_keys(self, app: str, who: Subjects, names: Sequence[str], removed: Counts) -> list[str]:
        """Examine some keys, and return those of the rows of large pushes, which are examined later."""
        later: list[str] = []
        slots: dict[str, list[str]] = {}
        contents: dict[str, list[str]] = {}
        commands: list[tuple[Any, ...]] = []
        for key in names:
            name = keys.parse(key)
            if name is None or name.app != app or name.part == keys.DEVICES:
                continue
            if name.kind == "p":
                slots.setdefault(name.part, []).append(key)
            elif name.kind == "r":
                later.append(key)
            elif name.kind == "live":
                contents.setdefault(name.part, []).append(key)
            elif name.kind == "lim":
                commands.append(("HDEL", key, *self._digests(who.identities, str)))
        for pushes in slots.values():
            for key, flat in zip(pushes, await self._link.script("rows", pushes, []), strict=True):
                found = []
                for index, blob in zip(flat[::2], flat[1::2], strict=True):
                    try:
                        found.append((index, blob, [(int(index), decode_row(blob))]))
                    except CodecError:
                        continue
                await self._clear_rows(key, who, found, lambda rows: encode_row(rows[0][1]), removed)
        await self._link.many(commands)
        devices = sorted(map(self._digest, who.device_ids))
        for of_part in contents.values():
            for at in range(0, len(devices), _MEMBERS):
                await self._link.script("live_disown", of_part, devices[at : at + _MEMBERS])
        return later

    async def _look_at_large(self, key: str, who: Subjects, first: int, removed: Counts) -> int:
        """Examine a page of the rows of a large push, from an index on, since a replay removes rows meanwhile. Returns
        where to continue, or 0 at the end."""
        members = await self._link.call("ZRANGEBYSCORE", key, first, "+inf", "LIMIT", 0, _MEMBERS)
        found = []
        for index, _, blob in (member.partition(b" ") for member in members):
            try:
                found.append((index, blob, decode_rows(blob)))
            except CodecError:
                continue
        await self._clear_rows(key, who, found, encode_rows, removed)
        return int(members[-1].partition(b" ")[0]) + 1 if len(members) == _MEMBERS else 0

    async def _clear_rows(
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
                    # A dispatcher has ended it because of the erasure.
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
