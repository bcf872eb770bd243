"""The content of large pushes: it is stored once beside the push, and each queue entry names a variant of it.

`ps:T:v:<id>` is a hash of encoded messages by the name of their variant; that is the name of the channel. Entries of
small pushes hold their message themselves: see `model/codec.py`. A dispatcher keeps the contents that it read last, so
that it reads each once, in one pipelined round trip for all that a read of entries names for the first time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

import msgspec

from ...model.codec import CodecError, decode_message, encode_message
from ...model.push import Chunk, Message
from ...ports.entries import EntryRef
from .. import keys
from ..config import DAY
from ..link.link import Link
from .record import lua_string

GRACE: Final = DAY * 1000
"""Milliseconds for which the content of a push is kept after the push expires, to allow for clocks that differ."""
MOST: Final = 512
"""The number of contents that one process keeps, each of a few kilobytes."""

Decoded: TypeAlias = tuple[EntryRef, Chunk]

_pack = msgspec.msgpack.Encoder().encode


def packed(contents: Mapping[str, Message], *, expires_at: int, now: int) -> bytes:
    """Return the contents of a push as accept.lua reads them: their lifetime in ms, then name, message, name, ..

    Return no bytes if there are none. Instants are Unix milliseconds.
    """
    if not contents:
        return b""
    blobs = [part for name, message in contents.items() for part in (name, lua_string(encode_message(message)))]
    return _pack((lifetime(expires_at, now), *blobs))


def lifetime(expires_at: int, now: int) -> int:
    """Return the milliseconds for which the content of a push that expires at `expires_at` (Unix ms) is kept."""
    return max(0, expires_at - now) + GRACE


class Looked(NamedTuple):
    """Entries whose contents have been looked up."""

    found: list[Decoded]
    lacking: list[tuple[Decoded, CodecError]]
    """Entries whose content is gone or cannot be read, with the reason."""


class Contents:
    """A bounded cache of the contents that one process read last."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._kept: dict[tuple[str, str, str], Message] = {}

    async def of(self, app: str, shard: int, decoded: list[Decoded]) -> Looked:
        """Look up the messages of the chunks of one app shard; those that are not cached are read in one round trip."""
        wanted = [chunk for _, chunk in decoded if not chunk.message.body and chunk.lacks_content]
        if not wanted:
            return Looked(decoded, [])
        known = await self._messages(app, shard, wanted)
        found: list[Decoded] = []
        lacking: list[tuple[Decoded, CodecError]] = []
        for each in decoded:
            ref, chunk = each
            if chunk.lacks_content:
                message = known[chunk.push_id, chunk.variant]
                if isinstance(message, CodecError):
                    lacking.append((each, message))
                    continue
                each = (ref, msgspec.structs.replace(chunk, message=message))
            found.append(each)
        return Looked(found, lacking)

    async def _messages(
        self, app: str, shard: int, chunks: Iterable[Chunk]
    ) -> dict[tuple[str, str], Message | CodecError]:
        places = dict.fromkeys((chunk.push_id, chunk.variant) for chunk in chunks)
        known: dict[tuple[str, str], Message | CodecError] = {
            place: message for place in places if (message := self._kept.get((app, *place))) is not None
        }
        unknown = [place for place in places if place not in known]
        blobs = await self._link.many([("HGET", keys.content(app, shard, push_id), name) for push_id, name in unknown])
        for place, blob in zip(unknown, blobs, strict=True):
            try:
                if blob is None:
                    raise CodecError("no content")
                message = decode_message(blob)
            except CodecError as error:
                known[place] = error
            else:
                known[place] = self._kept[(app, *place)] = message
        while len(self._kept) > MOST:
            del self._kept[next(iter(self._kept))]
        return known
