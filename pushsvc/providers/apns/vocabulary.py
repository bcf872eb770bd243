"""The constants of APNs: those of aioapns, and the push types that are newer than its last release.

Sources, under https://developer.apple.com/documentation/usernotifications/: sending-notification-requests-to-apns and
sending-broadcast-push-notification-requests-to-apns.
"""

from __future__ import annotations

from typing import Final

from aioapns.common import PRIORITY_HIGH, PRIORITY_NORMAL, PushType

from ...model.push import Platform

PLATFORM: Final[Platform] = "apns"

ALERT: Final = PushType.ALERT.value
BACKGROUND: Final = PushType.BACKGROUND.value
VOIP: Final = PushType.VOIP.value
LIVEACTIVITY: Final = PushType.LIVEACTIVITY.value
MDM: Final = PushType.MDM.value

TOPIC_SUFFIX: Final[dict[str, str]] = {
    ALERT: "",
    BACKGROUND: "",
    VOIP: ".voip",
    PushType.COMPLICATION.value: ".complication",
    PushType.FILEPROVIDER.value: ".pushkit.fileprovider",
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

HIGH: Final = PRIORITY_HIGH
NORMAL: Final = PRIORITY_NORMAL
PRIORITIES: Final = (HIGH, NORMAL, "1")

PAYLOAD_LIMIT: Final = 4096
VOIP_PAYLOAD_LIMIT: Final = 5120
BROADCAST_PAYLOAD_LIMIT: Final = 5120
COLLAPSE_LIMIT: Final = 64
"""Bytes."""


def payload_limit(push_type: str, *, broadcast: bool) -> int:
    """Return how many bytes the payload may have."""
    if broadcast:
        return BROADCAST_PAYLOAD_LIMIT
    return VOIP_PAYLOAD_LIMIT if push_type == VOIP else PAYLOAD_LIMIT
