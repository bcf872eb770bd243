"""The words of APNs: aioapns's, and the push types that came after its last release.

Source: https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
"""

from __future__ import annotations

from typing import Final

from aioapns.common import PRIORITY_HIGH, PRIORITY_NORMAL, PushType

from ...model import Platform

PLATFORM: Final[Platform] = "apns"

ALERT: Final = PushType.ALERT.value
BACKGROUND: Final = PushType.BACKGROUND.value
VOIP: Final = PushType.VOIP.value
LIVEACTIVITY: Final = PushType.LIVEACTIVITY.value

TOPIC_SUFFIX: Final[dict[str, str]] = {
    ALERT: "",
    BACKGROUND: "",
    VOIP: ".voip",
    PushType.COMPLICATION.value: ".complication",
    PushType.FILEPROVIDER.value: ".pushkit.fileprovider",
    PushType.MDM.value: "",  # its topic is the UID of the MDM certificate's subject, which no suffix makes
    LIVEACTIVITY: ".push-type.liveactivity",
    "controls": ".push-type.controls",
    "location": ".location-query",
    "pushtotalk": ".voip-ptt",
    "widgets": ".push-type.widgets",
}
"""By `apns-push-type`: what follows the bundle id in `apns-topic`."""

HIGH: Final = PRIORITY_HIGH
NORMAL: Final = PRIORITY_NORMAL
PRIORITIES: Final = (HIGH, NORMAL, "1")

PAYLOAD_LIMIT: Final = 4096
VOIP_PAYLOAD_LIMIT: Final = 5120
COLLAPSE_LIMIT: Final = 64
"""Bytes."""


def payload_limit(push_type: str) -> int:
    """How many bytes the payload may have."""
    return VOIP_PAYLOAD_LIMIT if push_type == VOIP else PAYLOAD_LIMIT
