"""What is left of one push besides its status: who posted it, its content and its receivers.

The content of a large push stands beside it. That of a small one is only in what waits or has failed: the parts of a
scheduled push, its entries in the lanes, its retries, its dead letters. So nothing is left of one that was sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

from ...model.codec import CodecError, decode_chunk, decode_message, decode_push
from ...model.push import LANES, Chunk, Lane, Message, Platform
from ...model.status import PushStatus
from ...ports.pushes import KeptPush, ListedPush
from .. import keys
from ..link.link import Link
from ..queue.letter import decode_dead
from .listing import read_entry

MOST: Final = 1000
"""Entries of a lane, retries or dead letters that are examined."""
SLACK: Final = 60_000
"""Milliseconds by which the clocks of the API and of Redis may differ, and a write may take."""


async def read_kept(link: Link, status: PushStatus, shard: int) -> KeptPush:
    """Return what is left of the push of this status."""
    app, name = status.app, status.id
    first = max(0, status.created_at - SLACK)
    listed, contents, parts, whole = await link.many(
        [
            ("XRANGE", keys.recent(app, shard), first, status.created_at + SLACK, "COUNT", 10 * MOST),
            ("HGETALL", keys.content(app, shard, name)),
            ("LRANGE", keys.waiting(app, shard, name), 0, 4 * MOST),
            ("HGET", keys.expansion(app, shard, name), "push"),
        ]
    )
    lane, key = _poster(shard, listed, name)
    messages = {}
    for variant, blob in contents.items():
        with suppress(CodecError, UnicodeDecodeError):
            messages[variant.decode()] = decode_message(blob)
    audience = b""
    if whole is not None:
        with suppress(CodecError):
            audience = decode_push(whole).audience
    topic = ""
    for chunk in _chunks(parts[3::4], name) if parts else await _waiting(link, status, shard, lane):
        topic = topic or chunk.topic
        messages = {**_messages(chunk), **messages}
    return KeptPush(ListedPush(status, lane, key), messages, audience, topic)


def _poster(shard: int, listed: Iterable[Any], name: str) -> tuple[Lane | None, str]:
    """Return the lane of a push and the name of the key that it was posted with, as the list of pushes has them."""
    for entry_id, fields in listed:
        for entry in read_entry(shard, entry_id, fields[b"p"]):
            if entry.id == name:
                return entry.lane, entry.key
    return None, ""


def _messages(chunk: Chunk) -> dict[Platform, Message]:
    found = {following.channel: following.message for following in chunk.fallbacks} | {chunk.channel: chunk.message}
    return {channel: message for channel, message in found.items() if message.body}


async def _waiting(link: Link, status: PushStatus, shard: int, lane: Lane | None) -> list[Chunk]:
    """Return chunks of the push among what waits and what has failed, as far as a bounded look finds them."""
    app, counts = status.app, status.counts
    commands: list[tuple[Any, ...]] = []
    if counts.failed:
        commands.append(("XRANGE", keys.dead(app, shard), max(0, status.created_at - SLACK), "+", "COUNT", MOST))
    if counts.queued or counts.retrying:
        fields = await link.call("HKEYS", keys.pending(app, shard))
        channels = {field.decode().rpartition(":")[0] for field in fields} - {""}
        start = max(0, (status.send_at or status.created_at) - SLACK)
        for channel in sorted(channels):
            commands += [
                ("XRANGE", keys.lane(app, shard, channel, each), start, "+", "COUNT", MOST)
                for each in (LANES if lane is None else (lane,))
            ]
            commands.append(("ZRANGE", keys.retries(app, shard, channel), 0, MOST - 1))
    found: list[Chunk] = []
    for answer in await link.many(commands):
        found += _chunks(_blobs(answer, status.id.encode()), status.id)
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
            with suppress(CodecError):
                chunk = decode_chunk(blob)
                if chunk.push_id == name:
                    yield chunk
