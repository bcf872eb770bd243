"""The canonical form of a token, which is stored and compared. Pure.

An APNs token is a sequence of bytes, and a client may write its hexadecimal digits in either case
(https://developer.apple.com/documentation/usernotifications/registering-your-app-with-apns), so the tokens of devices,
of Live Activities and of their start are stored in lower case. The id of a broadcast channel is base64, where case is
significant, as it is in everything of FCM.

An FCM registration token begins with the id of its Firebase installation, followed by a colon; messages may be sent to
either (https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages#Message). Both are one app on one
phone: they are one delivery, one device, and share one limit. They do not share a suppression: a token that was
renewed keeps its installation, and an answer about the old token says nothing about the new one.

Every text is converted to its canonical form where it enters (push, device, import, calls that name a token), so that
the rest of the code sees a single form of each token.
"""

from __future__ import annotations

import re
from typing import Final

from .push import Platform

APNS: Final = "apns"
FCM: Final = "fcm"
CASELESS: Final = frozenset({"token", "activity", "push_to_start"})
"""The kinds of APNs targets whose text is hexadecimal."""
REGISTRATION: Final = ":APA91"
_INSTALLATION: Final = re.compile(r"[cdef][A-Za-z0-9_-]{21}").fullmatch
"""The form of an installation id, as Firebase's SDKs generate it.

https://github.com/firebase/firebase-js-sdk/blob/main/packages/installations/src/helpers/generate-fid.ts
"""
_HEX: Final = re.compile(r"[0-9a-fA-F]+").fullmatch


def canonical(platform: Platform, text: str, kind: str = "token") -> str:
    """Return the form in which a token is stored and sent."""
    return text.lower() if platform == APNS and kind in CASELESS else text


def recognised(platform: Platform, text: str) -> str:
    """Return the canonical form of a text whose kind is unknown: it is lower-cased if it may be hexadecimal."""
    return canonical(platform, text) if _HEX(text) else text


def names_installation(platform: Platform, text: str) -> bool:
    """Return whether a token is the id of a Firebase installation.

    Unlike a registration token, such an id becomes valid again when its app registers again.
    """
    return platform == FCM and _INSTALLATION(text) is not None


def identity(text: str) -> str:
    """Return the part of two canonical tokens of a platform that is equal if they lead to the same app on the same
    phone.

    A registration token of FCM is an installation id, a colon, and a text that begins with `APA91`; any other text is
    compared as a whole.
    """
    return text.partition(REGISTRATION)[0]
