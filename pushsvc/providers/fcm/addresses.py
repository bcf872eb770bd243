"""What a target of FCM may be, by the field of `message` that names it. Pure.

A registration token begins with the id of its Firebase installation, followed by a colon; messages may be sent to
either (https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages#Message). Both are one app on one
phone: they are one delivery and one device, and share one limit. A registration token is an installation, a colon, and
a text that begins with `APA91`; whatever looks otherwise is compared as a whole. The two do not share a suppression: a
token that was renewed keeps its installation, and an answer about the old token says nothing about the new one.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec.structs import replace

from ...model.address import AddressKind

TOPICS: Final = frozenset({"topic", "condition"})
"""Kinds of targets that FCM itself expands."""
MAX_CONDITION: Final = 4096
"""Characters; a topic's name has up to 900, and a condition up to five of them."""

_INSTALLATION: Final = re.compile(r"[cdef][A-Za-z0-9_-]{21}").fullmatch
"""The form of an installation id, as Firebase's SDKs generate it. It becomes valid again when its app registers again.
https://github.com/firebase/firebase-js-sdk/blob/main/packages/installations/src/helpers/generate-fid.ts"""
_TARGET: Final = re.compile(r"[A-Za-z0-9_:.,%~+/=-]{1,4096}").fullmatch
_TOPIC: Final = re.compile(r"[a-zA-Z0-9-_.~%]{1,900}").fullmatch


def _is_condition(text: str) -> bool:
    return 1 <= len(text) <= MAX_CONDITION and text.isprintable() and not text.isspace()


def _installation(text: str) -> str:
    return text.partition(":APA91")[0]


_TOKEN: Final = AddressKind(
    _TARGET,  # opaque: only what could not be one is refused
    "must be an FCM token: 1 to 4,096 letters, digits and any of _ : . , % ~ + / = -",
    same=_installation,
    renewable=_INSTALLATION,
    device=True,
    description="The registration token (FCM).",
)
ADDRESSES: Final = {
    "token": _TOKEN,
    "fid": replace(_TOKEN, description="A Firebase installation id, in place of `token`."),
    "topic": AddressKind(
        _TOPIC,
        "must be the name of an FCM topic: 1 to 900 letters, digits and - _ . ~ %",
        description="A topic that FCM itself keeps, and not `to.topic`.",
    ),
    "condition": AddressKind(
        _is_condition,
        f"must be a condition over FCM topics, up to {MAX_CONDITION:,} printable characters",
        description="A condition over FCM's own topics, as `'news' in topics`.",
    ),
}
