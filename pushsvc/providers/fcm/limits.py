"""The size limit of a message, and what counts towards it. Pure.

"Maximum payload for both message types is 4096 bytes"
(https://firebase.google.com/docs/cloud-messaging/customize-messages/set-message-type), which Google measures in keys
and values. Which form of a message a device receives depends on the device, and its token does not say which:

- Android: keys and values of `notification` merged with `android.notification`, and of `android.data` or else `data`.
  The tag, which is ours in most messages, is left out.
- Apple: the JSON of `apns.payload` and of `data`, which FCM puts beside it, with `notification` as its alert.

A message is refused if all its forms are too large. If only one is, the caller is warned: the message may be for a
device of the other kind, and otherwise comes back as a refused notification.

FCM's exact arithmetic is not public; a message that passes here and is still too large comes back as a refused
notification.
"""

from __future__ import annotations

from typing import Any, Final

from ..merge import encode, within

LIMIT: Final = 4096
"""Bytes for a message to a token or fid."""
TOPIC_LIMIT: Final = 2048
"""The maximum number of bytes of a message to a topic or a condition. See what INVALID_ARGUMENT says of too large
payloads at https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode."""


def sizes_of(message: dict[str, Any]) -> dict[str, int]:
    """Return the bytes of a `message` object that count towards `LIMIT`, in each form in which a device may receive
    it."""
    data, common = within(message, "data"), within(message, "notification")
    android, apns = within(message, "android"), within(message, "apns")
    payload = within(apns, "payload")
    forms = {}
    if "live_activity_token" not in apns and (data or common or android):
        tray = {**common, **within(android, "notification")}
        tray.pop("tag", None)  # in most messages ours
        forms["Android"] = _count(tray) + _count(within(android, "data") or data)
    if payload:
        aps = within(payload, "aps")
        if common and "alert" not in aps:
            payload = {**payload, "aps": {**aps, "alert": common}}
        forms["Apple"] = len(encode({**payload, **data}))
    return forms


def size_of(message: dict[str, Any]) -> int:
    """Return the bytes that count where they are least: what is over the limit even so, no device can get."""
    return min(sizes_of(message).values(), default=0)


def _count(fields: dict[str, Any]) -> int:
    return sum(len(name.encode()) + _length(value) for name, value in fields.items() if value is not None)


def _length(value: Any) -> int:
    return len(value.encode()) if isinstance(value, str) else len(encode(value))
