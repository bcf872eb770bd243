"""Fields of Protobuf, read and written by hand.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

_T = TypeVar("_T")
Read: TypeAlias = Callable[[Any], object]
"""Returns the value of a field from its number or its bytes. Where a field may come again, it is a list or a dict, and
those of all its places are joined; of any other the last one counts."""
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_SMALL: Final = [bytes([number]) for number in range(128)]


class MalformedMessage(Exception):
    """Bytes are no message of the protocol. Says nothing of what they are."""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place, and the place behind it."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise MalformedMessage


def read_fields(data: bytes, fields: Mapping[int, tuple[str, Read]]) -> dict[str, Any]:
    """Return the known fields of a message by name. A number that is no known field is passed over."""
    values: dict[str, Any] = {}
    at, end = 0, len(data)
    value: int | bytes
    while at < end:
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = read_varint(data, at - 1)
        wire = tag & 7
        if wire == _LENGTH:
            size = data[at]
            at += 1
            if size >= 0x80:
                size, at = read_varint(data, at - 1)
            value = data[at : at + size]
            at += size
        elif wire == _VARINT:
            value = data[at]
            at += 1
            if value >= 0x80:
                value, at = read_varint(data, at - 1)
        elif wire == _FIXED64:
            value, at = b"", at + 8
        elif wire == _FIXED32:
            value, at = b"", at + 4
        else:
            raise MalformedMessage
        if at > end or not tag >> 3:
            raise MalformedMessage
        field = fields.get(tag)
        if field is not None:
            name, read = field
            values[name] = _joined(values[name], read(value)) if name in values else read(value)
    return values


def _joined(first: Any, later: Any) -> Any:
    if isinstance(first, dict):
        return first | later
    return first + later if isinstance(first, list) else later


def message_reader(make: Callable[..., _T], fields: Mapping[int, tuple[str, Read]]) -> Callable[[bytes], _T]:
    """Return a function that makes a value of the fields of a message."""
    return lambda data: make(**read_fields(data, fields))


def varint(number: int) -> bytes:
    if number < 0x80:
        return _SMALL[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def number_field(tag: bytes, value: int) -> bytes:
    """Return a field; one that is 0 is left out."""
    return tag + varint(value) if value else b""


def bytes_field(tag: bytes, value: bytes) -> bytes:
    """Return a field, also if it is empty: that is how an empty message is there at all."""
    return tag + varint(len(value)) + value


def string_field(tag: bytes, value: str) -> bytes:
    """Return a field; one that is empty is left out."""
    return bytes_field(tag, value.encode()) if value else b""


def delimited(value: bytes) -> bytes:
    """Return a message with its length before it."""
    return varint(len(value)) + value
