"""Merges a caller's JSON into ours: RFC 7396 (JSON Merge Patch), with numbers kept digit for digit. Pure.

https://www.rfc-editor.org/rfc/rfc7396
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec import Raw

# A float would turn 1.10 into 1.1 and 1e-400 into 0: what the caller wrote is not ours to round.
_exact: Final = msgspec.json.Decoder(float_hook=Decimal)
encode: Final = msgspec.json.Encoder(decimal_format="number").encode
"""Python values to compact JSON bytes."""


class NotAnObjectError(ValueError):
    """The JSON is broken, or its value is not an object. The text says which."""


def decode_object(raw: Raw | bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`. Raises `NotAnObjectError`."""
    try:
        value = _exact.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, ArithmeticError) as error:
        raise NotAnObjectError(f"is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise NotAnObjectError("must be a JSON object")
    return value


def merge_patch(target: Any, patch: Any) -> Any:
    """Return `target` with `patch` merged in: objects are merged, null removes, everything else replaces. Changes
    neither."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def within(value: Any, *names: str) -> dict[str, Any]:
    """Return the object at these names below each other, or an empty one where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
