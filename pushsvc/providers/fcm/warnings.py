"""What Google's documentation forbids about a message that is accepted nevertheless. Pure.

A caller's own fields are sent as they are; FCM refuses what its schema does not contain, or Android ignores it. Each
rule has its row in `tests/unit/golden/warnings.toml`, with its source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from ...errors import Fault
from ...model.push import UNREAD, Content, Message
from ...rules.fcm_schema import snake, violations_of
from ..aps import payload_warnings
from ..badges import ALONE, COUNT
from ..merge import decode_object, within
from .limits import sizes_of

_COLOR: Final = re.compile(r"#[0-9a-fA-F]{6}").fullmatch
_PREFIX: Final = "Invalid JSON payload received. "


def warnings_of(content: Content, message: Message, limit: int) -> list[Fault]:
    """Return the warnings, or none if the message is small and was made from the neutral fields alone."""
    own = content.overrides.get("fcm")
    if own is None and len(message.body) <= limit:
        return []
    document = decode_object(message.body)
    tray = within(document, "android", "notification")
    if message.counts and str(tray.get(COUNT, "")).endswith(UNREAD):
        tray[COUNT] = 1  # a number is filled in: see badges.py
    found = [] if own is None else list(_own(document))
    aps = within(document, "apns", "payload", "aps")
    if own is not None and message.counts and not document.get("notification") and not {"alert", "sound"} & aps.keys():
        found.append(ALONE)
    sizes = sizes_of(document)
    path = "notification" if content.notification else "data" if content.data else "overrides.fcm"
    for form in [form for form, size in sizes.items() if size > limit]:
        each = ", ".join(f"{size:,} for {name}" for name, size in sizes.items())
        text = f"is too large for {form} devices: {each} of at most {limit:,} bytes; FCM may refuse it"
        found.append(Fault(path, text))
    return found


def _own(message: dict[str, Any]) -> Iterator[Fault]:
    path = "overrides.fcm"
    for violation in violations_of(message):
        names = ".".join(part for part in (path, violation.field, violation.unknown) if part)
        yield Fault(names, f"FCM: {violation.description.removeprefix(_PREFIX)}")
    for block in ("android", "android_v2", "androidV2"):
        tray = within(message, block, "notification") or within(message, block, "remote_notification", "notification")
        color = tray.get("color")
        if isinstance(color, str) and not _COLOR(color):
            yield Fault(f"{path}.{block}.notification.color", "is expected in the form #rrggbb")
    link = within(message, "webpush", "fcm_options").get("link")
    if isinstance(link, str) and not link.startswith("https://"):
        yield Fault(f"{path}.webpush.fcm_options.link", "is expected to begin with https://")
    apns = within(message, "apns")
    headers = {snake(name).replace("_", "-"): value for name, value in within(apns, "headers").items()}
    priority = headers.get("apns-priority")
    if priority is not None and priority not in ("10", "5", "1"):
        yield Fault(f"{path}.apns.headers.apns-priority", "is expected to be one of 10, 5, 1")
    if payload := within(apns, "payload"):
        # Where FCM has something to show it makes the alert itself.
        push_type = "liveactivity" if "live_activity_token" in apns else "" if "aps" not in payload else "alert"
        yield from payload_warnings(payload, f"{path}.apns.payload", push_type=push_type)
