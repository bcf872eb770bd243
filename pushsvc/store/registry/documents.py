"""The binary format of a device in the registry, which this module knows and, of `last_seen_at`, device_seen.lua. Pure.

MessagePack by position, preceded by the version of the format, as in `codec.py`. The largest parts are shortened: an
APNs token is 64 hexadecimal digits for 32 bytes, and ids are often UUIDs, 36 letters for 16 bytes. Both are stored as
those bytes, if formatting them again gives exactly the same text. `last_seen_at` is stored as its distance from
`registered_at`, which is mostly 0; what few devices have (tombstones and strikes) is one `nil` in the others.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from ...model.codec import CodecError
from ...model.devices import Device, TagValue
from ...model.push import Platform

VERSION: Final = b"\x02"
_CODES: Final[dict[Platform, int]] = {"apns": 1, "fcm": 2}
"""Platforms with millions of devices, in one byte. Every other one stands by its name."""
_PLATFORMS: Final = {code: platform for platform, code in _CODES.items()}
_UUID: Final = 16
"""Bytes of a UUID; a text of hexadecimal digits alone is kept as bytes only where there are more or fewer."""


class _Fate(Struct, array_like=True, frozen=True, gc=False):
    pruned: bool
    pruned_at: int
    pruned_for: str
    strikes: int
    struck_at: int
    struck_for: str = ""
    judged_by: str = ""
    """Text, also of a UUID: device_seen.lua reads no bytes here."""


_NO_FATE: Final = _Fate(False, 0, "", 0, 0)


class _Document(Struct, array_like=True, frozen=True, gc=False):
    id: Any
    """Text, or the bytes that it is stored as; msgspec supports no union of the two. The same is true of `token` and
    `user`."""
    platform: int | str
    token: Any
    registered_at: int
    seen_after: int
    user: Any
    locale: str | None
    timezone: str | None
    app_version: str | None
    tags: dict[str, TagValue]
    topics: tuple[str, ...]
    sandbox: bool
    kind: str
    """Empty for `token`."""
    fate: _Fate | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Document).decode


def encode_device(device: Device) -> bytes:
    fate: _Fate | None = _Fate(
        *(device.state == "pruned", device.pruned_at, device.pruned_for, device.strikes, device.struck_at),
        *(device.struck_for, device.judged_by),
    )
    if fate == _NO_FATE:
        fate = None
    return VERSION + _encode(
        _Document(
            _shortest(device.id),
            _CODES.get(device.platform, device.platform),
            _shortest(device.token),
            device.registered_at,
            device.last_seen_at - device.registered_at,
            None if device.user is None else _shortest(device.user),
            device.locale,
            device.timezone,
            device.app_version,
            device.tags,
            device.topics,
            device.environment == "sandbox",
            "" if device.kind == "token" else device.kind,
            fate,
        )
    )


def decode_device(blob: bytes) -> Device:
    """Decode a device. Raises `CodecError` for bytes that this version of pushsvc cannot read."""
    if not blob.startswith(VERSION):
        raise CodecError(f"unknown version {blob[:1]!r}: written by a newer pushsvc?")
    try:
        document = _decode(blob[1:])
        fate = document.fate
        token, user = document.token, document.user
        platform = document.platform
        device = Device(
            id=document.id if type(document.id) is str else _text(document.id),
            platform=platform if isinstance(platform, str) else _PLATFORMS[platform],
            token=token if type(token) is str else _text(token),
            kind=document.kind or "token",
            user=user if user is None or type(user) is str else _text(user),
            tags=document.tags,
            locale=document.locale,
            timezone=document.timezone,
            app_version=document.app_version,
            environment="sandbox" if document.sandbox else "production",
            registered_at=document.registered_at,
            last_seen_at=document.registered_at + document.seen_after,
            topics=document.topics,
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
        raise CodecError(f"not a device: {type(error).__name__}") from None
    if fate is None:
        return device
    return msgspec.structs.replace(
        device,
        state="pruned" if fate.pruned else "active",
        pruned_at=fate.pruned_at,
        pruned_for=fate.pruned_for,
        strikes=fate.strikes,
        struck_at=fate.struck_at,
        struck_for=fate.struck_for,
        judged_by=fate.judged_by,
    )


def _shortest(text: str) -> str | bytes:
    size = len(text)
    if size == 36 and text[8] == "-":
        digits = text.replace("-", "")
    elif size >= 8 and size != 2 * _UUID and not size % 2:
        digits = text
    else:
        return text
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        return text
    return raw if _text(raw) == text else text


def _text(raw: bytes) -> str:
    if len(raw) != _UUID:
        return raw.hex()
    words = raw.hex("-", 2)
    return f"{words[:4]}{words[5:29]}{words[30:34]}{words[35:]}"
