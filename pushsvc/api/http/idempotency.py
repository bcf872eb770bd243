"""Idempotency keys: the record of a first call, and the answer to a repeat. Pure. A record is the SHA-256 of the
request's path and body, followed by the first answer. Only an accepted call leaves a record: a refused one has sent
nothing, and may be corrected and sent again with the same key."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final

from msgspec import Struct

from ...errors import Conflict, Fault, InvalidRequest
from .params import HeaderParam

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = {"Idempotent-Replay": "true"}
_KEY: Final = re.compile(r"[ -~]{1,255}")
_SIZE: Final = 32


class Once(Struct, frozen=True):
    """A call with an idempotency key. `key` is the digest under which its record is stored, `digest` that of the
    call."""

    key: bytes
    digest: bytes

    @classmethod
    def of(cls, key: bytes, path: str, body: bytes) -> Once:
        """Return the call of this path and body."""
        return cls(key, sha256(path.encode() + b"\n" + body).digest())

    def record(self, answer: bytes) -> bytes:
        """Return the record of the call, which is stored once it is accepted."""
        return self.digest + answer

    def first_answer(self, kept: bytes) -> bytes:
        """Return the answer to the first call. Raises `Conflict` when that was another call."""
        if kept[:_SIZE] != self.digest:
            raise Conflict(f"This {HEADER} was used within the last 24 hours for a call with another body.")
        return kept[_SIZE:]


def parse_key(given: list[str]) -> bytes:
    """Return the digest under which the key's record is stored. Raises `InvalidRequest`."""
    if not _KEY.fullmatch(given[0]):
        raise InvalidRequest(
            "A header is not valid.", faults=[Fault(HEADER, "must be 1 to 255 printable ASCII characters")]
        )
    return sha256(given[0].encode()).digest()[:16]


PARAM: Final = HeaderParam(
    HEADER,
    "Up to 255 printable ASCII characters. A repeat within 24 hours gets the answer of the first call, with "
    "`Idempotent-Replay: true`, and sends nothing; another body with the same key is refused with 409.",
    {"type": "string", "minLength": 1, "maxLength": 255},
    parse_key,
)
