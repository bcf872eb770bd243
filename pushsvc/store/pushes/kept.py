"""What is left of one push besides its status: who posted it, its content and its receivers.

The content of a large push stands beside it. That of a small one is only in what waits or has failed: the parts of a
scheduled push, its entries in the lanes, its retries, its dead letters. So nothing is left of one that was sent.

What waits may be much, and has the tokens of other pushes too. It is read in steps of few bytes, so that no other
command of the process waits long behind one, and only where the content does not stand beside the push.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Any, Final, TypeAlias

from ...model.codec import CodecError, decode_audience, decode_entry, decode_message, decode_push, is_large
from ...model.push import LANES, Chunk, Message, Platform, Push
from ...model.status import PushStatus
from ...ports.pushes import KeptPush, ListedPush
from .. import keys, layout
from ..link.link import Link
from ..queue.letter import decode_dead
from .listing import ENTRIES, PushEntry, read_entry, shown_id
from .named import named

LISTED: Final = 10_000
"""Entries of the list of pushes that are examined on either side of an instant."""
MOST: Final = 1000
"""Entries of a lane on either side of an instant, retries or dead letters that are examined."""
FIRST: Final = 4
"""Entries in the first step; each later one has as many as fit into `STEP`, if none is larger than those before."""
STEP: Final = 128 * 1024
"""Bytes that a step reads of a key, in each direction."""
LOOK: Final = 2 * 1024 * 1024
"""Bytes of a lane, retries or dead letters that are examined."""
SLACK: Final = 60_000
"""Milliseconds by which the clocks of the API and of Redis may differ, and a write may take."""

Entry: TypeAlias = tuple[bytes, Mapping[bytes, bytes]]
Turn: TypeAlias = AbstractAsyncContextManager[None]


async def read_kept(link: Link, turn: Turn, status: PushStatus, shard: int) -> KeptPush:
    """Return what is left of the push of this status. Each step is taken in a `turn`, of which there is one."""
    app, name = status.app, status.id
    contents, parts, whole, (note, *replayed) = await link.many(
        [
            ("HGETALL", keys.content(app, shard, name)),
            ("LRANGE", keys.waiting(app, shard, name), 0, 4 * (1 if is_large(status.counts.total) else layout.FEW) - 1),
            ("HGET", keys.expansion(app, shard, name), "push"),
            ("HMGET", keys.push(app, shard, name), "x", "ff", "ra"),
        ]
    )
    entry = await _entry(link, turn, status, shard)
    messages = {}
    for variant, blob in contents.items():
        with suppress(CodecError, UnicodeDecodeError):
            messages[variant.decode()] = decode_message(blob)
    push: Push | None = None
    audience = named(note)
    if whole is not None:
        with suppress(CodecError):
            push = decode_push(whole)
            audience = decode_audience(push.audience)
    chunks = list(_chunks(parts[3::4], name))
    if not (chunks or contents or push or is_large(status.counts.total)):
        chunks = await _waiting(link, turn, status, shard, entry)
    for chunk in chunks:
        messages = {**_messages(chunk), **messages}
    first = next(iter(chunks), push)
    failed_at, replayed_at = (None if at is None else int(at) for at in replayed)
    return KeptPush(
        ListedPush(status) if entry is None else ListedPush(status, entry.lane, entry.key),
        messages,
        audience,
        next((chunk.topic for chunk in chunks if chunk.topic), ""),
        looked_up=note is not None,
        dry_run=entry.dry_run if entry is not None else None if first is None else first.dry_run,
        via=entry.via if entry is not None else None if push is None else push.via,
        ttl=None if first is None else max(0, first.expires_at - first.starts_at) // 1000,
        failed_at=failed_at,
        replayed_at=replayed_at,
    )


async def _entry(link: Link, turn: Turn, status: PushStatus, shard: int) -> PushEntry | None:
    key, shown = keys.recent(status.app, shard), shown_id(status.id)[0]
    near = _near(link, turn, key, status.created_at, last=status.created_at + SLACK, most=LISTED)
    async with aclosing(near) as looked:
        async for entries in looked:
            for entry_id, fields in entries:
                for each in read_entry(shard, entry_id, fields[b"p"]) if shown in fields[b"p"] else ():
                    if each.id == status.id:
                        return each
    return None


async def _near(
    link: Link, turn: Turn, key: str, at: int, *, last: int | str, most: int, look: float = float("inf")
) -> AsyncGenerator[list[Entry], None]:
    """Yield the entries of a stream around an instant, those next to it first, as far as a bounded look goes."""
    ways: dict[str, tuple[Any, Any]] = {"XRANGE": (at, last), "XREVRANGE": (max(0, at - 1), max(0, at - SLACK))}
    count, seen = FIRST, 0
    while ways and seen < most and look > 0:
        async with turn:
            answers = await link.many([(way, key, *span, "COUNT", count) for way, span in ways.items()])
            await asyncio.sleep(0)
        found = [entry for answer in answers for entry in answer]
        yield found
        for (way, (_, end)), answer in zip(list(ways.items()), answers, strict=True):
            if len(answer) < count:
                del ways[way]
            else:
                ways[way] = f"({answer[-1][0].decode()}", end
        seen += count
        sizes = [sum(map(len, fields.values())) for _, fields in found]
        look -= sum(sizes)
        count = _next_count(sizes)


def _next_count(sizes: Iterable[int]) -> int:
    """Return how many entries the next step reads, after entries of these sizes in bytes."""
    return max(1, min(ENTRIES, STEP // max(max(sizes, default=1), 1)))


def _messages(chunk: Chunk) -> dict[Platform, Message]:
    found = {following.channel: following.message for following in chunk.fallbacks} | {chunk.channel: chunk.message}
    return {channel: message for channel, message in found.items() if message.body}


async def _waiting(link: Link, turn: Turn, status: PushStatus, shard: int, entry: PushEntry | None) -> list[Chunk]:
    """Return chunks of the push among what waits and what has failed, as far as a bounded look finds them."""
    app, counts, found = status.app, status.counts, list[Chunk]()
    if counts.failed:
        key = keys.dead(app, shard)
        found += await _first(_near(link, turn, key, status.created_at, last="+", most=MOST, look=LOOK), status.id)
    if counts.queued or counts.retrying:
        fields = await link.call("HKEYS", keys.pending(app, shard))
        start = status.send_at or status.created_at
        for channel in sorted({field.decode().rpartition(":")[0] for field in fields} - {""}):
            for lane in LANES if entry is None else (entry.lane,):
                key = keys.lane(app, shard, channel, lane)
                found += await _first(_near(link, turn, key, start, last="+", most=MOST, look=LOOK), status.id)
            if counts.retrying:
                found += await _first(_retries(link, turn, keys.retries(app, shard, channel)), status.id)
    return found


async def _retries(link: Link, turn: Turn, key: str) -> AsyncGenerator[list[bytes], None]:
    """Yield retries, the next first, as far as a bounded look goes."""
    count, at, look = FIRST, 0, LOOK
    while at < MOST and look > 0:
        async with turn:
            found = await link.call("ZRANGE", key, at, at + count - 1)
            await asyncio.sleep(0)
        yield found
        if len(found) < count:
            return
        at += count
        sizes = list(map(len, found))
        look -= sum(sizes)
        count = _next_count(sizes)


async def _first(steps: AsyncGenerator[list[Any], None], name: str) -> list[Chunk]:
    """Return the chunks of the push among these. They stand together: after the first ones, others follow at once."""
    found: list[Chunk] = []
    async with aclosing(steps) as looked:
        async for entries in looked:
            more = list(_chunks(_blobs(entries, name.encode()), name))
            if found and not more:
                break
            found += more
    return found


def _blobs(answer: Iterable[Any], name: bytes) -> Iterator[bytes]:
    """Yield the encoded chunks of an answer that belong to a push: of entries of a lane, dead letters, or retries."""
    for each in answer:
        if isinstance(each, bytes):
            if name in each:
                yield each.split(b" ", 2)[-1]
            continue
        _, fields = each
        if b"c" in fields:
            yield fields[b"c"]
        elif name in (blob := fields.get(b"d", b"")):
            with suppress(CodecError):
                yield decode_dead(blob).head


def _chunks(blobs: Iterable[bytes], name: str) -> Iterator[Chunk]:
    for blob in blobs:
        if name.encode() in blob:
            yield from (chunk for chunk in decode_entry(blob)[0] if chunk.push_id == name)
