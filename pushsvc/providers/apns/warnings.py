"""What Apple's documentation forbids about a push that is accepted nevertheless. Pure; see `..aps` for the payload."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ...errors import Fault
from ...model.push import Content, Message
from ..aps import meant, payload_warnings
from ..badges import ALONE
from ..merge import decode_object
from .vocabulary import PLATFORM, TOPIC_SUFFIX

_HEADERS: Final = frozenset({"apns-push-type", "apns-priority", "apns-topic", "apns-expiration", "apns-collapse-id"})
"""The headers that a caller may set: sending-notification-requests-to-apns."""


def warnings_of(content: Content, message: Message) -> list[Fault]:
    """Return the warnings, or none if the message was made from the neutral fields alone, which are rendered
    correctly."""
    own = content.overrides.get(PLATFORM)
    if own is None and content.push_type is None:
        return []
    path = "overrides.apns.payload"
    push_type = message.headers.get("apns-push-type", "")
    found = list(_headers(message, push_type))
    payload = decode_object(message.body)
    found += payload_warnings(payload, path, push_type=push_type)
    if message.counts and payload["aps"].keys().isdisjoint(("alert", "sound")):
        found.append(ALONE)
    return found


def _headers(message: Message, push_type: str) -> Iterator[Fault]:
    for name in message.headers:
        if name not in _HEADERS:
            yield Fault(f"overrides.apns.headers.{name}", f"is not a header of Apple's{meant(name, _HEADERS)}")
    if push_type not in TOPIC_SUFFIX:
        text = f"`{push_type}` is not in Apple's list of push types; it is sent unchanged"
        yield Fault("overrides.apns.headers.apns-push-type", text)
