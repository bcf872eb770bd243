"""Renders a `Content` for the live channel: the JSON that a device gets in place of a provider's notification. Pure.

    notification, data, collapse    the fields of the same names
    overrides.live                  merged over them (RFC 7396)

What only a delivery knows (id, instants, lane) is added when it is sent. A Live Activity is Apple's own, so a push that
changes one has no content here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec

from ...errors import Fault
from ...model.live import RESERVED
from ...model.push import Content, Message, Platform
from ...ports.provider import RenderError
from ..merge import NotAnObjectError, decode_object, encode, merge_patch

PLATFORM: Final[Platform] = "live"
LIMIT: Final = 65_536
"""The maximum size of a content in bytes."""
ACK_WITHIN: Final = "ack-within"
"""The header with the seconds that the push gives a device to acknowledge it."""
NOW_OR_NEVER: Final = "now-or-never"
"""The header of a push with `ttl` 0, which is for connected devices alone."""

_OVERRIDE: Final = "overrides.live"


class LiveRenderer:
    """The pure half of the live channel."""

    platform: Platform = PLATFORM

    def render(self, content: Content, *, push_id: str, starts_at: int, kinds: Collection[str] = ()) -> Message:
        """Return the message for every device of the push. Raises `RenderError` with every fault at once."""
        if content.live_activity is not None:
            raise RenderError(
                [Fault("live_activity", "reaches devices only through Apple's service, not through `live`")]
            )
        body: dict[str, Any] = {}
        if content.notification is not None:
            body["notification"] = content.notification
        if content.data:
            body["data"] = content.data
        raw = content.overrides.get(PLATFORM)
        if raw is not None:
            body = _merged(body, raw)
        if not body:
            raise RenderError([Fault(_OVERRIDE, "is missing: there is nothing to send by the live channel")])
        if content.collapse is not None:
            body.setdefault("collapse", content.collapse)
        encoded = encode(body)
        if len(encoded) > LIMIT:
            path = "notification" if content.notification else "data" if content.data else _OVERRIDE
            text = f"the content is {len(encoded):,} bytes for the live channel, the limit is {LIMIT:,}"
            raise RenderError([Fault(path, text)], too_large=True)
        headers = {} if content.ack_within is None else {ACK_WITHIN: str(content.ack_within)}
        if content.ttl == 0:
            headers[NOW_OR_NEVER] = "1"
        if content.collapse is None:
            return Message(PLATFORM, encoded, headers)
        return Message(PLATFORM, encoded, headers, collapse=content.collapse, since=starts_at)

    def warnings(self, content: Content, message: Message, kinds: Collection[str] = ()) -> list[Fault]:
        """Return no warnings, since no vendor judges it."""
        return []


def _merged(body: dict[str, Any], raw: msgspec.Raw) -> dict[str, Any]:
    try:
        own = decode_object(raw)
    except NotAnObjectError as error:
        raise RenderError([Fault(_OVERRIDE, str(error))]) from None
    if taken := [Fault(f"{_OVERRIDE}.{name}", "is set by the service") for name in RESERVED if name in own]:
        raise RenderError(taken)
    if not body:
        return own
    merged: dict[str, Any] = merge_patch(msgspec.to_builtins(body), own)
    return merged


RENDERER: Final = LiveRenderer()
