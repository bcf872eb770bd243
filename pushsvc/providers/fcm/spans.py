"""Spans in a message, which FCM counts from when it gets it: rendered from what is left when it is sent. Pure.

`android.ttl` and the web push header `TTL` say for how long the message is to be kept, and a push may have waited for
long by then: for its turn, a retry, a held route. So the renderer marks where they stand, and the sender puts in the
seconds that are left. What the caller wrote in an override is theirs, and stays as it is. `apns-expiration` is an
instant and needs nothing of this.

Source: https://firebase.google.com/docs/cloud-messaging/customize-messages/setting-message-lifespan
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ...model.push import Span
from ..merge import encode

LONGEST: Final = 2_419_200
"""Seconds: four weeks, FCM's maximum. A longer wish is cut to it."""


class Spans:
    """The spans of one message of a push."""

    def __init__(self, push_id: str, ttl: int) -> None:
        self._seconds = str(min(ttl, LONGEST))
        # An id that nobody knew before this push: no text of the caller's can be taken for it.
        self.mark = f"{push_id}:ttl" if ttl else self._seconds
        """Stands for the seconds in the message until that is encoded. 0 is now or never, whenever that is."""

    def encode(self, message: dict[str, Any]) -> tuple[bytes, tuple[Span, ...]]:
        """The message's JSON as of its acceptance, and where its spans stand."""
        body, seconds = encode(message), self._seconds.encode()
        if self.mark == self._seconds:
            return body, ()
        parts = body.split(self.mark.encode())
        found, at = [], 0
        for part in parts[:-1]:
            at += len(part)
            found.append((at, len(seconds)))
            at += len(seconds)
        return seconds.join(parts), tuple(found)


def filled(body: bytes, spans: Sequence[Span], seconds: int) -> bytes:
    """Return the body with this number of seconds in each of its spans, which all say the same."""
    text = b"%d" % (seconds if seconds < LONGEST else LONGEST)
    if spans and body[spans[0][0] : sum(spans[0])] == text:
        return body  # it goes within a second of its acceptance, as nearly all do
    found, at = b"", 0
    for start, length in spans:
        found += body[at:start] + text
        at = start + length
    return found + body[at:]
