"""What the status of a push keeps of an audience that is looked up page by page. Pure.

It stands in the field `x` of the status:

    t, then its name    a topic
    a                   all devices
    1                   anything else

Names of devices and users, and expressions, which may have such names too, are not kept: the erasure of a user removes
these, and a status stays for days.
"""

from __future__ import annotations

from ...model.devices import Audience, ByTopic, ToAll


def noted(audience: Audience) -> bytes:
    match audience:
        case ByTopic(topic):
            return b"t" + topic.encode()
        case ToAll():
            return b"a"
        case _:
            return b"1"


def named(note: bytes | None) -> Audience | None:
    if note == b"a":
        return ToAll()
    return ByTopic(note[1:].decode()) if note and note.startswith(b"t") else None
