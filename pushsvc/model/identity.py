"""When two texts name one target: the one form in which a token is kept, and what is compared. Pure.

An APNs token is bytes, and a client may write its hexadecimal digits in either case
(https://developer.apple.com/documentation/usernotifications/registering-your-app-with-apns), so those are kept in lower
case: the tokens of devices, of Live Activities and of their start. The id of a broadcast channel is base64, where case
tells values apart, and so it does in all that FCM gives.

An FCM registration token begins with the id of its Firebase installation, followed by a colon; messages may be sent to
either (https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages#Message). Both are one app on one
phone: they are one delivery, one device, and share one limit. They do not share a suppression: a token that was renewed
keeps its installation, and what the provider said of the old one says nothing about the new one.

Every text is brought to its canonical form where it enters (push, device, import, the calls that name a token), so that
nothing behind the edge sees two forms of one token.
"""

from __future__ import annotations

import re
from typing import Final

from .push import Platform

APNS: Final = "apns"
FCM: Final = "fcm"
CASELESS: Final = frozenset({"token", "activity", "push_to_start"})
"""The kinds of APNs targets whose text is hexadecimal."""
_REGISTRATION: Final = ":APA91"
_INSTALLATION: Final = re.compile(r"[cdef][A-Za-z0-9_-]{21}").fullmatch
"""As Firebase's SDKs make them
(https://github.com/firebase/firebase-js-sdk/blob/main/packages/installations/src/helpers/generate-fid.ts)."""
_HEX: Final = re.compile(r"[0-9a-fA-F]+").fullmatch


def canonical(platform: Platform, text: str, kind: str = "token") -> str:
    """The form in which a token is kept and sent."""
    return text.lower() if platform == APNS and kind in CASELESS else text


def recognised(platform: Platform, text: str) -> str:
    """The canonical form of a text whose kind nobody knows any more: what may be hexadecimal, is."""
    return canonical(platform, text) if _HEX(text) else text


def names_installation(platform: Platform, text: str) -> bool:
    """Whether a token is the id of a Firebase installation. Other than a registration token, such an id becomes valid
    again when its app registers anew."""
    return platform == FCM and _INSTALLATION(text) is not None


def identity(text: str) -> str:
    """What two canonical tokens of one platform have in common where they lead to the same app on the same phone.

    A registration token of FCM is an installation, a colon, and a text that begins with `APA91`; whatever looks
    otherwise is compared as a whole.
    """
    return text.partition(_REGISTRATION)[0]
