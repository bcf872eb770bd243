"""Idempotency keys: what is kept of a first call, and what a repeat is answered. Pure.

A record is the SHA-256 of the request's path and body, then the first answer as it was sent. Only a call that was
accepted leaves a record: one that was refused has sent nothing and may be mended and sent again under its key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from multidict import istr

from ...errors import Conflict, Fault, InvalidRequest
from .query import Param

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = {"Idempotent-Replay": "true"}
PARAM: Final = Param(
    HEADER,
    "Up to 255 printable ASCII characters. A repeat within 24 hours is answered as the first call was, with "
    "`Idempotent-Replay: true`, and sends nothing; another body under the same key is refused with 409.",
    length=255,
)
_NAME: Final = istr(HEADER)
_KEY: Final = re.compile(r"[ -~]{1,255}")
_SIZE: Final = 32


def key_of(headers: Mapping[str, str]) -> bytes | None:
    """The digest under which the request's key is kept, or None without one. Raises `InvalidRequest`."""
    text = headers.get(_NAME)
    if text is None:
        return None
    if not _KEY.fullmatch(text):
        raise InvalidRequest(
            "A header does not validate.", faults=[Fault(HEADER, "must be 1 to 255 printable ASCII characters")]
        )
    return sha256(text.encode()).digest()[:16]


def record(path: str, body: bytes, answer: bytes) -> bytes:
    """What is kept of an accepted call."""
    return _digest(path, body) + answer


def first_answer(kept: bytes, path: str, body: bytes) -> bytes:
    """The answer that the first call got. Raises `Conflict` when this is another call."""
    if kept[:_SIZE] != _digest(path, body):
        raise Conflict(f"This {HEADER} was used within the last 24 hours for a call with another body.")
    return kept[_SIZE:]


def _digest(path: str, body: bytes) -> bytes:
    return sha256(path.encode() + b"\n" + body).digest()
