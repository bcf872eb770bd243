"""Encode and decode the model: MessagePack with a leading version byte, validated strictly when read.

A reader refuses an unknown version instead of guessing: an older dispatcher must not settle what it cannot read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from .delivery import Receipt
from .devices import Audience, ByTopic
from .push import Chunk, Message, Platform, Push, Target
from .routing import platform_of
from .status import DeliveryRow, FeedbackEvent

VERSION = b"\x01"
T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode
_chunk = msgspec.msgpack.Decoder(Chunk)
_row = msgspec.msgpack.Decoder(DeliveryRow)
_rows: msgspec.msgpack.Decoder[list[tuple[int, DeliveryRow]]] = msgspec.msgpack.Decoder(list[tuple[int, DeliveryRow]])
_receipt = msgspec.msgpack.Decoder(Receipt)
_event = msgspec.msgpack.Decoder(FeedbackEvent)
_push = msgspec.msgpack.Decoder(Push)
_audience: msgspec.msgpack.Decoder[Audience] = msgspec.msgpack.Decoder(Audience)


class CodecError(ValueError):
    """Bytes that this version of pushsvc cannot read."""


def read(decoder: msgspec.msgpack.Decoder[T], blob: bytes, what: str) -> T:
    """Return the value of a blob that begins with `VERSION`.

    Raises `CodecError`, whose text names `what` was expected.
    """
    if blob[:1] != VERSION:
        raise CodecError(f"unknown version {blob[:1]!r}: written by a newer pushsvc?")
    try:
        return decoder.decode(memoryview(blob)[1:])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CodecError(f"not {what}: {error}") from None


def encode_chunk(chunk: Chunk) -> bytes:
    return VERSION + _encode(chunk)


def decode_chunk(blob: bytes) -> Chunk:
    return read(_chunk, blob, "a chunk")


def encode_row(row: DeliveryRow) -> bytes:
    return VERSION + _encode(row)


def decode_row(blob: bytes) -> DeliveryRow:
    return read(_row, blob, "a delivery row")


def encode_rows(rows: Sequence[tuple[int, DeliveryRow]]) -> bytes:
    """Rows of one push, each with the index of its delivery."""
    return VERSION + _encode(rows)


def decode_rows(blob: bytes) -> list[tuple[int, DeliveryRow]]:
    return read(_rows, blob, "delivery rows")


def encode_receipt(receipt: Receipt) -> bytes:
    return VERSION + _encode(receipt)


def decode_receipt(blob: bytes) -> Receipt:
    return read(_receipt, blob, "a receipt")


def encode_event(event: FeedbackEvent) -> bytes:
    return VERSION + _encode(event)


def decode_event(blob: bytes) -> FeedbackEvent:
    return read(_event, blob, "a feedback event")


def encode_push(push: Push) -> bytes:
    return VERSION + _encode(push)


def decode_push(blob: bytes) -> Push:
    return read(_push, blob, "a push")


def encode_audience(audience: Audience) -> bytes:
    return VERSION + _encode(audience)


def decode_audience(blob: bytes) -> Audience:
    return read(_audience, blob, "an audience")


def split(push: Push, size: int) -> list[Chunk]:
    """Return the push as chunks of at most `size` targets, route by route."""
    return chunks_of(push, push.targets, push.total, size)


def chunks_of(push: Push, found: Mapping[Platform, Sequence[Target]], total: int, size: int) -> list[Chunk]:
    """Return some targets of the push, by route, as chunks. `total` is 0 if more may follow.

    Targets that no route of the app reaches are put into the lane of another route, without a message: its dispatcher
    records that they failed. So they are counted and have their rows like all others.
    """
    topic = topic_of(push)
    return [
        Chunk(
            push_id=push.id,
            app=push.app,
            platform=lane,
            lane=push.lane,
            total=total,
            starts_at=push.starts_at,
            expires_at=push.expires_at,
            message=message,
            targets=tuple(targets[start : start + size]),
            dry_run=push.dry_run,
            topic=topic,
        )
        for route, targets in found.items()
        for lane, message in (_carried(push, route),)
        for start in range(0, len(targets), size)
    ]


def topic_of(push: Push) -> str:
    """Return the topic that the push is for, or the empty string."""
    audience = decode_audience(push.audience) if push.audience else None
    return audience.topic if isinstance(audience, ByTopic) else ""


def _carried(push: Push, route: Platform) -> tuple[Platform, Message]:
    """Return the route in whose lane the targets of `route` are queued, and their message."""
    message = push.messages.get(route)
    if message is not None:
        return route, message
    platform = platform_of(route)
    related = [name for name in push.messages if platform_of(name) == platform]
    return next(iter(related or push.messages)), Message(platform, b"")
