"""Model to bytes and back: MessagePack with the version in front, strict on the way in.

The first byte of each blob is the version of its form. A reader refuses a version that it does not know rather
than guess: an older dispatcher must not settle what it cannot read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from .devices import Audience
from .model import Chunk, DeliveryRow, FeedbackEvent, Platform, Push, Receipt, Target

VERSION = b"\x01"

_encode = msgspec.msgpack.Encoder().encode
_chunk = msgspec.msgpack.Decoder(Chunk)
_row = msgspec.msgpack.Decoder(DeliveryRow)
_receipt = msgspec.msgpack.Decoder(Receipt)
_event = msgspec.msgpack.Decoder(FeedbackEvent)
_push = msgspec.msgpack.Decoder(Push)
_audience: msgspec.msgpack.Decoder[Audience] = msgspec.msgpack.Decoder(Audience)


class CodecError(ValueError):
    """Bytes that this version of pushsvc cannot read."""


def _body(blob: bytes) -> memoryview:
    if blob[:1] != VERSION:
        raise CodecError(f"unknown version {blob[:1]!r}: written by a newer pushsvc?")
    return memoryview(blob)[1:]


def encode_chunk(chunk: Chunk) -> bytes:
    return VERSION + _encode(chunk)


def decode_chunk(blob: bytes) -> Chunk:
    try:
        return _chunk.decode(_body(blob))
    except msgspec.MsgspecError as error:
        raise CodecError(f"not a chunk: {error}") from None


def encode_row(row: DeliveryRow) -> bytes:
    return VERSION + _encode(row)


def decode_row(blob: bytes) -> DeliveryRow:
    try:
        return _row.decode(_body(blob))
    except msgspec.MsgspecError as error:
        raise CodecError(f"not a delivery row: {error}") from None


def encode_receipt(receipt: Receipt) -> bytes:
    return VERSION + _encode(receipt)


def decode_receipt(blob: bytes) -> Receipt:
    try:
        return _receipt.decode(_body(blob))
    except msgspec.MsgspecError as error:
        raise CodecError(f"not a receipt: {error}") from None


def encode_event(event: FeedbackEvent) -> bytes:
    return VERSION + _encode(event)


def decode_event(blob: bytes) -> FeedbackEvent:
    try:
        return _event.decode(_body(blob))
    except msgspec.MsgspecError as error:
        raise CodecError(f"not a feedback event: {error}") from None


def encode_push(push: Push) -> bytes:
    return VERSION + _encode(push)


def decode_push(blob: bytes) -> Push:
    try:
        return _push.decode(_body(blob))
    except msgspec.MsgspecError as error:
        raise CodecError(f"not a push: {error}") from None


def encode_audience(audience: Audience) -> bytes:
    return VERSION + _encode(audience)


def decode_audience(blob: bytes) -> Audience:
    try:
        return _audience.decode(_body(blob))
    except msgspec.MsgspecError as error:
        raise CodecError(f"not an audience: {error}") from None


def split(push: Push, size: int) -> list[Chunk]:
    """The push as chunks of at most `size` targets, platform by platform."""
    return chunks_of(push, push.targets, push.total, size)


def chunks_of(push: Push, found: Mapping[Platform, Sequence[Target]], total: int, size: int) -> list[Chunk]:
    """Some targets of the push as its chunks. `total` is 0 where there may be more of them."""
    return [
        Chunk(
            push_id=push.id,
            app=push.app,
            platform=platform,
            lane=push.lane,
            total=total,
            starts_at=push.starts_at,
            expires_at=push.expires_at,
            message=push.messages[platform],
            targets=tuple(targets[start : start + size]),
            dry_run=push.dry_run,
        )
        for platform, targets in found.items()
        for start in range(0, len(targets), size)
    ]
