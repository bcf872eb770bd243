"""Spans in a message, which FCM counts from when it gets it: rendered from what is left when it is sent. Pure.

`android.ttl` and the web push header `TTL` say for how long the message is to be kept, and a push may have waited for
long by then: for its turn, a retry, a held route. So the renderer marks where they stand, and the sender puts in the
seconds that are left. `apns-expiration` is an instant, which a replay moves: it is marked as well. What the caller
wrote in an override is theirs, and stays as it is.

Source: https://firebase.google.com/docs/cloud-messaging/customize-messages/setting-message-lifespan
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ...model.push import Span
from ..merge import encode

LONGEST: Final = 2_419_200
"""Seconds: four weeks, FCM's maximum. A longer wish is cut to it."""


_SECONDS, _INSTANT = b"s", b"i"


class Places(NamedTuple):
    """Where a message says for how long it is to be kept, and when it expires."""

    seconds: tuple[Span, ...] = ()
    instants: tuple[Span, ...] = ()


class Spans:
    """The spans of one message of a push, which begins at `start`, in Unix seconds."""

    def __init__(self, push_id: str, ttl: int, start: int) -> None:
        seconds = min(ttl, LONGEST)
        until = str(start + seconds) if ttl else "0"
        self._texts = {_SECONDS: b"%d" % seconds, _INSTANT: until.encode()}
        # An id that did not exist before this push: no text of the caller can contain it.
        self._mark = f"{push_id}:span:"
        self.seconds = f"{self._mark}s" if ttl else "0"
        """Represents the seconds in the message until it is encoded. 0 means now or never, at any time."""
        self.until = f"{self._mark}i" if 0 < ttl <= LONGEST else until
        """Stands for the instant."""

    def encode(self, message: dict[str, Any]) -> tuple[bytes, Places]:
        """Return the JSON of the message as of its acceptance, and the places of its spans."""
        mark, rest, body = self._mark.encode(), encode(message), b""
        found: dict[bytes, list[Span]] = {_SECONDS: [], _INSTANT: []}
        while (at := rest.find(mark)) >= 0:
            end = at + len(mark) + 1
            kind = rest[end - 1 : end]
            text = self._texts[kind]
            body += rest[:at]
            found[kind].append((len(body), len(text)))
            body += text
            rest = rest[end:]
        return body + rest, Places(tuple(found[_SECONDS]), tuple(found[_INSTANT]))


def filled(body: bytes, spans: Sequence[Span], seconds: int, instants: Sequence[Span] = (), until: int = 0) -> bytes:
    """Return the body with this number of seconds in each of its spans, and with `until` in each of its instants."""
    left, end = b"%d" % (seconds if seconds < LONGEST else LONGEST), b"%d" % until
    present = [(spans[:1], left), (instants[:1], end)]
    if all(body[start : start + length] == text for places, text in present for start, length in places):
        return body  # it goes within a second of its acceptance, as nearly all do
    found, at = b"", 0
    for start, length, text in sorted([(*span, left) for span in spans] + [(*span, end) for span in instants]):
        found += body[at:start] + text
        at = start + length
    return found + body[at:]
