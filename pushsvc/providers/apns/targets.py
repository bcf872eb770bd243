"""The kinds of APNs targets, and which of them go with which push. Pure.

A Live Activity has tokens of its own, and Apple answers a token of the wrong kind just with `BadDeviceToken`. So a
target states its kind, and what does not match is refused before anything is accepted:

    token           a device; also whatever the caller sends with an own payload
    push_to_start   starts a Live Activity, and nothing else
    activity        updates or ends a Live Activity, and nothing else
    channel         the same for all subscribers of a broadcast channel

Channels do not share a push with other targets: their requests have other headers and another payload limit.

Sources:
https://developer.apple.com/documentation/activitykit/starting-and-updating-live-activities-with-activitykit-push-notifications
and https://developer.apple.com/documentation/usernotifications/sending-channel-management-requests-to-apns
"""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Collection
from typing import Final

from msgspec.structs import replace

from ...errors import Fault
from ...model.address import AddressKind
from .vocabulary import ACTIVITY, CHANNEL, LIVEACTIVITY, PUSH_TO_START, TOKEN

MOST_BYTES: Final = 200
"""The maximum size of a token."""
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{1,510}={0,2}").fullmatch


def _is_token(text: str) -> bool:
    """Apple asks to assume no size, neither of tokens nor of ids. To read the digits takes a tenth of what a pattern
    takes, and a push may have a thousand tokens."""
    try:
        return 0 < len(unhexlify(text)) <= MOST_BYTES
    except ValueError:
        return False


_TOKEN: Final = AddressKind(
    _is_token,
    "must be an APNs device token: an even number of hexadecimal digits, 2 to 400",
    str.lower,
    environments=True,
    device=True,
    description="The device token (APNs).",
)
ADDRESSES: Final = {
    TOKEN: _TOKEN,
    CHANNEL: AddressKind(
        _BASE64,
        "must be the id of a broadcast channel, base64 as APNs gave it",
        description="The id of a broadcast channel of APNs (iOS 18).",
    ),
    ACTIVITY: replace(_TOKEN, device=False, description="The push token of one Live Activity."),
    PUSH_TO_START: replace(_TOKEN, device=False, description="A token by which Live Activities are started."),
}
"""A token is bytes, and a client may write its hexadecimal digits in either case
(https://developer.apple.com/documentation/usernotifications/registering-your-app-with-apns): they are kept in lower
case. The id of a broadcast channel is base64, in which case matters."""


_USUAL: Final = frozenset({TOKEN})


def judge(kinds: Collection[str], push_type: str, event: object, faults: list[Fault], *, neutral: bool) -> None:
    """Add the faults of a push of this type to targets of these kinds. `event` is the value of `aps.event` in the
    payload; `neutral` says that the push has a `live_activity`."""
    if not neutral and _USUAL.issuperset(kinds):
        return
    own = sorted(set(kinds) - _USUAL)
    wrong = [kind for kind in own if (kind == PUSH_TO_START) != (event == "start")]
    if neutral and TOKEN in kinds:
        text = "a Live Activity goes to `push_to_start`, `activity` or `channel` targets, not to device tokens"
        faults.append(Fault("to", text))
    if CHANNEL in own and len(set(kinds)) > 1:
        faults.append(Fault("to", "broadcast channels do not share a push with tokens: send two"))
    if own and push_type != LIVEACTIVITY:
        text = f"{_named(own)} targets take Live Activities only: `live_activity` is missing"
        faults.append(Fault("to", text))
    elif wrong and event == "start":
        text = f"a Live Activity is started on `push_to_start` targets, not on {_named(wrong)}"
        faults.append(Fault("to", text))
    elif wrong:
        text = "a `push_to_start` target only starts a Live Activity; `activity` and `channel` targets take the rest"
        faults.append(Fault("to", text))


def _named(kinds: Collection[str]) -> str:
    return " and ".join(f"`{kind}`" for kind in kinds)
