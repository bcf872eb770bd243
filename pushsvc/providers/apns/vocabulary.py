"""The constants of APNs; a test compares them with those of aioapns, whose last release lacks the newer push types.

Sources, under https://developer.apple.com/documentation/usernotifications/: sending-notification-requests-to-apns and
sending-broadcast-push-notification-requests-to-apns.
"""

from __future__ import annotations

from typing import Final

from ...model.push import Platform

PLATFORM: Final[Platform] = "apns"

ALERT: Final = "alert"
BACKGROUND: Final = "background"
VOIP: Final = "voip"
LIVEACTIVITY: Final = "liveactivity"
MDM: Final = "mdm"

TOPIC_SUFFIX: Final[dict[str, str]] = {
    ALERT: "",
    BACKGROUND: "",
    VOIP: ".voip",
    "complication": ".complication",
    "fileprovider": ".pushkit.fileprovider",
    MDM: "",  # its topic is the UID of the MDM certificate's subject, which no suffix makes
    LIVEACTIVITY: ".push-type.liveactivity",
    "controls": ".push-type.controls",
    "location": ".location-query",
    "pushtotalk": ".voip-ptt",
    "widgets": ".push-type.widgets",
}
"""What follows the bundle id in `apns-topic`, by `apns-push-type`."""

TOKEN: Final = "token"  # noqa: S105  # a kind of target
CHANNEL: Final = "channel"
ACTIVITY: Final = "activity"
PUSH_TO_START: Final = "push_to_start"
"""What a target can be: a device, a broadcast channel, one Live Activity on a device, the right to start one there."""

HIGH: Final = "10"
NORMAL: Final = "5"
PRIORITIES: Final = (HIGH, NORMAL, "1")

PAYLOAD_LIMIT: Final = 4096
VOIP_PAYLOAD_LIMIT: Final = 5120
BROADCAST_PAYLOAD_LIMIT: Final = 5120
COLLAPSE_LIMIT: Final = 64
"""Bytes."""


def payload_limit(push_type: str, *, broadcast: bool) -> int:
    if broadcast:
        return BROADCAST_PAYLOAD_LIMIT
    return VOIP_PAYLOAD_LIMIT if push_type == VOIP else PAYLOAD_LIMIT
