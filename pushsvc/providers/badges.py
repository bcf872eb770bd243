"""The badge `unread`: marked where it stands in a body, and filled in for each device when it is sent. Pure.

The number is that of the pushes in the stream of the device that its user has not read. Where that is not known, as
for a bare token or a device that never used the live channel, the field is left out, so that what the icon shows stays.
"""

from __future__ import annotations

import re
from typing import Final

from ..errors import Fault
from ..model.push import MAX_UNREAD, UNREAD, Badge, CountedTarget, Notification, Target

COUNT: Final = "notification_count"
"""FCM's field for Android, where 0 is no number: see fcm/render.py."""
ALONE: Final = Fault(
    "notification.badge", f"`{UNREAD}` is left out where the number is not known, and the override leaves nothing else"
)
"""The warning about a badge beside which an override has removed all that is shown."""


def marked(badge: Badge | None, push_id: str) -> Badge | str | None:
    """Return what stands for a badge in a body. No text of the caller contains an id that did not exist before."""
    return f"{push_id}:{UNREAD}" if badge == UNREAD else badge


def is_marked(body: bytes, notification: Notification | None, push_id: str) -> bool:
    """Return whether a number is to be filled in."""
    marks = notification is not None and notification.badge == UNREAD
    return marks and f'"{push_id}:{UNREAD}"'.encode() in body


def unread_of(target: Target) -> int | None:
    """Return how many pushes are unread, if it is known."""
    return target.unread if isinstance(target, CountedTarget) else None


def filled_in(body: bytes, push_id: str, unread: int | None) -> bytes:
    """Return the body with the number, at most `MAX_UNREAD`, or without the fields if it is not known."""

    def field(found: re.Match[bytes]) -> bytes:
        before, name, after = found.groups()
        if unread is None or (unread == 0 and name.decode() == COUNT):
            return before and after
        return b'%b"%b":%d%b' % (before, name, min(unread, MAX_UNREAD), after)

    mark = re.escape(f"{push_id}:{UNREAD}".encode())
    return re.sub(rb'(,?)"(\w+)":"' + mark + rb'"(,?)', field, body)
