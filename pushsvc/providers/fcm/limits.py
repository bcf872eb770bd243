"""How large a message may be, and what counts. Pure.

"Maximum payload for both message types is 4096 bytes"
(https://firebase.google.com/docs/cloud-messaging/customize-messages/set-message-type), which Google measures in keys
and values. What a device gets of a block of its platform lies over the common fields, so the larger form counts:

- Android: keys and values of `notification` with `android.notification` laid over it, and of `android.data`, or else
  `data`.
- Apple: the JSON of `apns.payload` and of `data`, which FCM puts beside it.

FCM's own arithmetic is not public; what passes here and is still too large comes back as a refused notification.
"""

from __future__ import annotations

from typing import Any, Final

from ..merge import encode

LIMIT: Final = 4096
"""Bytes for a message to a token or fid."""
TOPIC_LIMIT: Final = 2048
"""Bytes for a message to a topic or a condition; see what INVALID_ARGUMENT says of too large payloads at
https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode."""


def size_of(message: dict[str, Any]) -> int:
    """The bytes of a `message` object that count towards `LIMIT`."""
    data = _object(message.get("data"))
    common = _object(message.get("notification"))
    android = _object(message.get("android"))
    on_android = _count({**common, **_object(android.get("notification"))}) + _count(
        _object(android.get("data")) or data
    )
    payload = _object(_object(message.get("apns")).get("payload"))
    on_apple = len(encode({**payload, **data})) if payload else 0
    return max(_count(common) + _count(data), on_android, on_apple)


def _count(fields: dict[str, Any]) -> int:
    return sum(len(name.encode()) + _length(value) for name, value in fields.items() if value is not None)


def _length(value: Any) -> int:
    return len(value.encode()) if isinstance(value, str) else len(encode(value))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
