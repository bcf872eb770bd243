"""Encode and decode the model: MessagePack with a leading version byte, validated strictly when read.

A reader refuses an unknown version instead of guessing: an older dispatcher must not settle what it cannot read.

A chunk has two forms. A chunk of a small push, of up to `FEW` deliveries, is encoded whole, with its message. A chunk
of a larger push, or of a push made from an audience, names the variant of the push's content, which is stored once
beside the push. If their tokens are hexadecimal, its targets are packed: see columns.py.

Pushes to one target that were accepted together share an entry, which is then their chunks one behind the other: it is
written, read and deleted once for all of them. Each of them ends by itself, and who reads the entry again asks which of
them are open. One that cannot be read is set aside alone: the others of its entry are sent.

A queued APNs delivery takes 263 bytes of Redis at 1 a push and 33 at 1,000 (`python -m tests.bench.sizes`). With its
content beside the push, a push of one delivery takes a fifth more, one of 32 little more than half. Small pushes stay
whole nevertheless: a key beside the push costs two more commands when it is accepted, one more read before it is sent
and one more command when it ends, and most pushes have one delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from .columns import Columns, columns_of, targets_of
from .delivery import Receipt
from .devices import Audience, ByTopic
from .push import Chunk, Fallback, Lane, Message, Platform, Push, Target
from .routing import CARRIERS, path_of, platform_of
from .status import DeliveryRow, DeviceEvent, FeedbackEvent

VERSION = b"\x01"
PACKED = b"\x81"
"""The version of a packed chunk."""
HOMED: Final = {VERSION: b"\x02", PACKED: b"\x82"}
"""The versions of chunks that a device may acknowledge. An older reader would take their channel for the platform of
their targets, so it must set them aside."""
SEVERAL: Final = b"\x03"
"""The version of an entry of several chunks: behind it stands each with its size before it, in `_SIZE` bytes."""
_SIZE: Final = 4
FEW: Final = 32
"""Pushes of up to this many deliveries are small: their content stands in their entries, their rows in their hash."""
T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode
_chunk = msgspec.msgpack.Decoder(Chunk)


class CodecError(ValueError):
    """Bytes that this version of pushsvc cannot read."""


def read(decoder: msgspec.msgpack.Decoder[T], blob: bytes, what: str, *, version: bytes = VERSION) -> T:
    """Return the value of a blob that begins with `version`. Raises `CodecError`, whose text names `what` was
    expected."""
    if blob[:1] != version:
        raise CodecError(f"unknown version {blob[:1]!r}: written by a newer pushsvc?")
    try:
        return decoder.decode(blob[1:])  # a copy of a few hundred bytes costs less than a view
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CodecError(f"not {what}: {error}") from None


def form(decoder: msgspec.msgpack.Decoder[T], what: str) -> tuple[Callable[[T], bytes], Callable[[bytes], T]]:
    """Return the functions that encode and decode the values of a decoder. The latter raises `CodecError`."""
    return lambda value: VERSION + _encode(value), lambda blob: read(decoder, blob, what)


def is_large(total: int) -> bool:
    """Return whether a push of this many deliveries is large. 0 is an audience, which has not been counted yet."""
    return total > FEW or total == 0


class _Packed(Struct, frozen=True, array_like=True, gc=False):
    """A chunk of a large push without its message."""

    push_id: str
    app: str
    channel: Platform
    lane: Lane
    total: int
    starts_at: int
    expires_at: int
    attempt: int
    turn: int
    dry_run: bool
    part: str
    topic: str
    counted: bool
    variant: str
    columns: Columns | None
    rows: tuple[Target, ...]
    """The targets, if they are not packed in columns."""
    home: Platform = ""
    fallbacks: tuple[Platform, ...] = ()
    trace: bytes = b""


_packed = msgspec.msgpack.Decoder(_Packed)


def encode_chunk(chunk: Chunk) -> bytes:
    if not chunk.variant or not is_large(chunk.total):
        return (HOMED[VERSION] if chunk.home else VERSION) + _whole(chunk)
    columns = columns_of(chunk.targets)
    return (HOMED[PACKED] if chunk.home else PACKED) + _encode(
        (
            *(chunk.push_id, chunk.app, chunk.channel, chunk.lane, chunk.total, chunk.starts_at, chunk.expires_at),
            *(chunk.attempt, chunk.turn, chunk.dry_run, chunk.part, chunk.topic, chunk.counted, chunk.variant),
            *(columns, () if columns else chunk.targets),
            *(chunk.home, [following.channel for following in chunk.fallbacks]),
            *((chunk.trace,) if chunk.trace else ()),
        )
    )


def _whole(chunk: Chunk) -> bytes:
    """Return the chunk as its struct is encoded, less the last fields that have their defaults, which a reader takes.
    Of a push to one token that is a twelfth of the entry, and the server answers a read of many in fewer steps."""
    return _encode(
        (
            *(chunk.push_id, chunk.app, chunk.channel, chunk.lane, chunk.total, chunk.starts_at, chunk.expires_at),
            _short_message(chunk.message),
            [_short_target(target) for target in chunk.targets],
            *(chunk.attempt, chunk.turn, chunk.dry_run, chunk.part, chunk.topic, chunk.counted, chunk.variant),
            *((chunk.home, chunk.fallbacks) if chunk.home or chunk.fallbacks or chunk.trace else ()),
            *((chunk.trace,) if chunk.trace else ()),
        )
    )


def _short_message(message: Message) -> Any:
    extra = message.spans or message.instants or message.dated or message.collapse or message.since or message.counts
    return message if extra else (message.platform, message.body, message.headers)


def _short_target(target: Target) -> Any:
    extra = target.kind != "token" or target.device_id is not None or target.owner
    return target if extra else (target.index, target.token)


def encode_single(push: Push) -> tuple[Platform, bytes]:
    """Return the channel that carries the one delivery of a push first, and its encoded chunk. Where only the route of
    the target carries it, no chunk is made for this, which would take twice as long."""
    path, (target,) = next((path, targets) for path, targets in push.targets.items() if targets)
    message = push.messages.get(path)
    if message is None or path in CARRIERS or push.audience:
        (chunk,) = split(push, 1)
        return chunk.channel, encode_chunk(chunk)
    return path, VERSION + _encode(
        (
            *(push.id, push.app, path, push.lane, 1, push.starts_at, push.expires_at),
            *(_short_message(message), (_short_target(target),)),
            *(1, 1, push.dry_run, "", "", False, path),
            *(("", (), push.trace) if push.trace else ()),
        )
    )


def decode_chunk(blob: bytes) -> Chunk:
    """Decode a chunk. That of a large push lacks its content."""
    version = blob[:1]
    if version not in (PACKED, HOMED[PACKED]):
        return read(_chunk, blob, "a chunk", version=version if version == HOMED[VERSION] else VERSION)
    it = read(_packed, blob, "a chunk", version=version)
    try:
        targets = it.rows if it.columns is None else targets_of(it.columns)
    except ValueError as error:
        raise CodecError(f"not a chunk: {error}") from None
    return Chunk(
        push_id=it.push_id,
        app=it.app,
        channel=it.channel,
        lane=it.lane,
        total=it.total,
        starts_at=it.starts_at,
        expires_at=it.expires_at,
        message=_nothing(it.channel),
        targets=targets,
        attempt=it.attempt,
        turn=it.turn,
        dry_run=it.dry_run,
        part=it.part,
        topic=it.topic,
        counted=it.counted,
        variant=it.variant,
        home=it.home,
        fallbacks=tuple(Fallback(name, _nothing(name)) for name in it.fallbacks),
        trace=it.trace,
    )


class UnreadableChunk(NamedTuple):
    """An encoded chunk that this version cannot read, and why."""

    blob: bytes
    error: CodecError


def encode_entry(chunks: Iterable[Chunk], unreadable: Iterable[UnreadableChunk] = ()) -> bytes:
    """Return an entry of these chunks, and of those that could not be read."""
    blobs = [*map(encode_chunk, chunks), *(each.blob for each in unreadable)]
    if len(blobs) == 1:
        return blobs[0]
    return SEVERAL + b"".join(part for blob in blobs for part in (len(blob).to_bytes(_SIZE), blob))


def decode_entry(blob: bytes) -> tuple[list[Chunk], list[UnreadableChunk]]:
    """Decode the chunks of an entry, and return beside them those that this version cannot read."""
    chunks, unreadable = [], []
    for part in _parts_of(blob):
        try:
            chunks.append(decode_chunk(part))
        except CodecError as error:
            unreadable.append(UnreadableChunk(part, error))
    return chunks, unreadable


def _parts_of(blob: bytes) -> list[bytes]:
    """Return the encoded chunks of an entry. Of one that was cut off the last is no chunk."""
    parts, at = [], 1
    while blob[:1] == SEVERAL and at < len(blob):
        start = at + _SIZE
        at = start + int.from_bytes(blob[at:start])
        parts.append(blob[start:at])
    return parts or [blob]


def _nothing(channel: Platform) -> Message:
    """Return the empty message of a channel whose content is stored apart from the push."""
    return Message(platform_of(channel), b"")


encode_message, decode_message = form(msgspec.msgpack.Decoder(Message), "a message")
encode_row, decode_row = form(msgspec.msgpack.Decoder(DeliveryRow), "a delivery row")
encode_receipt, decode_receipt = form(msgspec.msgpack.Decoder(Receipt), "a receipt")
encode_event, decode_event = form(msgspec.msgpack.Decoder(FeedbackEvent), "a feedback event")
encode_reported, decode_reported = form(msgspec.msgpack.Decoder(DeviceEvent), "an event of a device")
encode_push, decode_push = form(msgspec.msgpack.Decoder(Push), "a push")
_audience: msgspec.msgpack.Decoder[Audience] = msgspec.msgpack.Decoder(Audience)
encode_audience, decode_audience = form(_audience, "an audience")
_rows: msgspec.msgpack.Decoder[list[tuple[int, DeliveryRow]]] = msgspec.msgpack.Decoder(list[tuple[int, DeliveryRow]])
encode_rows, decode_rows = form(_rows, "delivery rows")
"""Rows of one push, each with the index of its delivery."""


def split(push: Push, size: int) -> list[Chunk]:
    """Return the push as chunks of at most `size` targets, route by route."""
    return chunks_of(push, push.targets, push.total, size)


def chunks_of(push: Push, found: Mapping[Platform, Sequence[Target]], total: int, size: int) -> list[Chunk]:
    """Return some targets of the push, by path, as chunks. `total` is 0 if more may follow.

    Targets that no route of the app reaches are put into the lane of another route, without a message: its dispatcher
    records that they failed. So they are counted and have their rows like all others.
    """
    topic, starts_at = topic_of(push), push.starts_at
    chunks = []
    for path, targets in found.items():
        channel, variant, message, home, fallbacks = _carried(push, path)
        for start in range(0, len(targets), size):
            chunk = Chunk(
                push_id=push.id,
                app=push.app,
                channel=channel,
                lane=push.lane,
                total=total,
                starts_at=starts_at,
                expires_at=push.expires_at,
                message=message,
                targets=tuple(targets[start : start + size]),
                dry_run=push.dry_run,
                topic=topic,
                variant=variant,
                home=home,
                fallbacks=fallbacks,
                trace=push.trace,
            )
            chunks.append(chunk)
    return chunks


def topic_of(push: Push) -> str:
    """Return the topic that the push is for, or the empty string."""
    audience = decode_audience(push.audience) if push.audience else None
    return audience.topic if isinstance(audience, ByTopic) else ""


def contents_of(push: Push, chunks: Sequence[Chunk]) -> Mapping[str, Message]:
    """Return the variants of the push's content that its chunks name when encoded: they must be stored beside it."""
    if push.audience:
        return push.messages
    if not chunks or not is_large(chunks[0].total):
        return {}
    found = {chunk.variant: chunk.message for chunk in chunks if chunk.variant}
    return found | {following.channel: following.message for chunk in chunks for following in chunk.fallbacks}


def without_contents(push: Push) -> Push:
    """Return the push with an empty message under each name, for what is stored beside its contents."""
    empty = {name: Message(message.platform, b"") for name, message in push.messages.items()}
    return msgspec.structs.replace(push, messages=empty)


def _carried(push: Push, path: Platform) -> tuple[Platform, str, Message, Platform, tuple[Fallback, ...]]:
    """Return what the chunks of a path have in common: the channel that carries them first, their variant's name and
    their message, their home and the channels that follow."""
    message = push.messages.get(path)
    if message is not None and path not in CARRIERS:
        return path, path, message, "", ()
    route, channels = path_of(path)
    known = [Fallback(name, push.messages[name]) for name in channels if name in push.messages]
    home = "" if path == route and route not in CARRIERS else route
    if known:
        first, *rest = known
        return first.channel, first.channel, first.message, home, tuple(rest)
    platform = platform_of(route)
    related = [name for name in push.messages if platform_of(name) == platform]
    return next(iter(related or push.messages)), "", Message(platform, b""), home, ()
