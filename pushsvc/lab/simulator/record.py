"""What the simulator received, to be queried by tests: counts of everything, and the last requests whole.

A million requests fit in about 25 MB: a request leaves eight bytes in each of three arrays (a 64-bit hash of its
token, and when it was accepted also of its token and of its identity), from which the questions are answered when they
are asked. That two different pushes share a hash, and look like a duplicate, has a chance of 1 in 30 million at a
million pushes.

The identity of a delivery is its `apns-id`, of a broadcast its `apns-request-id`; for FCM, which has none, it is the
request's body. The token of a broadcast is the id of its channel.
"""

from __future__ import annotations

import base64
from array import array
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from .hpack import Headers
from .http2 import Answer
from .inflow import Traffic


class Received(Struct, frozen=True):
    """One whole request and what became of it. Holds tokens, so it has no business in a log."""

    at: float
    """Unix seconds at which it was read."""
    platform: str
    connection: int
    """The how-manieth connection of this port, from 1; 0: over HTTP/1.1."""
    stream: int
    headers: tuple[tuple[bytes, bytes], ...]
    """In the order in which they came."""
    body: bytes
    status: int
    """What it was answered; 0 when it was not answered."""
    reason: str
    """The provider's word for the refusal, or what was done instead of an answer: `stall`, `held`, `reset`, .."""

    def __repr__(self) -> str:
        return (
            f"Received({self.platform} connection={self.connection} stream={self.stream} {self.status} {self.reason})"
        )

    @property
    def fields(self) -> dict[str, str]:
        """The headers by name."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers}

    def as_json(self) -> dict[str, Any]:
        """For the control API; the body as text where it is UTF-8, and as base64 in any case."""
        try:
            text = self.body.decode()
        except UnicodeDecodeError:
            text = None
        return {
            "at": self.at,
            "platform": self.platform,
            "connection": self.connection,
            "stream": self.stream,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers],
            "body": text,
            "body_base64": base64.b64encode(self.body).decode(),
            "status": self.status,
            "reason": self.reason,
        }


class PlatformRecord:
    """The record of one platform."""

    def __init__(self, platform: str, keep: int, *, enabled: bool) -> None:
        self.platform = platform
        self.traffic = Traffic()
        self._enabled = enabled
        self._keep = keep
        self.clear()

    def clear(self) -> None:
        """Forget all requests. `traffic` goes on counting."""
        self._totals: Counter[tuple[int, str]] = Counter()
        self._tokens = array("q")
        self._accepted_tokens = array("q")
        self._accepted = array("q")
        self._counted = (0, 0)  # how many were accepted when they were last counted, and how many were distinct
        self._last: deque[tuple[float, int, int, Headers, bytes, Answer]] = deque(maxlen=self._keep)

    def add(
        self,
        at: float,
        connection: int,
        stream: int,
        headers: Headers,
        body: bytes,
        answer: Answer,
        token: bytes,
        delivery: bytes | None,
    ) -> None:
        """Note a request. `delivery` is its identity when it was accepted for sending, else None."""
        self._totals[answer.status, answer.reason] += 1
        if self._enabled:
            hashed = hash(token)
            self._tokens.append(hashed)
            if delivery is not None:
                self._accepted_tokens.append(hashed)
                self._accepted.append(hash(delivery))
            self._last.append((at, connection, stream, headers, body, answer))

    # --- questions ------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        return self._enabled

    @property
    def total(self) -> int:
        """All requests."""
        return self._totals.total()

    @property
    def accepted(self) -> int:
        """Requests that were accepted for sending: answered 2xx and not a dry run."""
        return sum(count for (status, reason), count in self._totals.items() if not reason and 200 <= status < 300)

    @property
    def totals(self) -> dict[str, int]:
        """By outcome: `200`, `200 validate_only`, `410 Unregistered`, `0 stall`."""
        return {f"{status} {reason}".rstrip(): count for (status, reason), count in sorted(self._totals.items())}

    @property
    def distinct(self) -> int:
        """Different deliveries that were accepted."""
        # Counting a million takes a sixth of a second, so it is done once for as long as nothing is added.
        size, distinct = self._counted
        if size != len(self._accepted):
            distinct = len(set(self._accepted))
            self._counted = (len(self._accepted), distinct)
        return distinct

    @property
    def duplicates(self) -> int:
        """Deliveries that were accepted more than once."""
        if self.distinct == len(self._accepted):
            return 0
        return sum(count > 1 for count in Counter(self._accepted).values())

    @property
    def distinct_tokens(self) -> int:
        """Different tokens in all requests."""
        return len(set(self._tokens) - {hash(b"")})

    def requests_of(self, token: str) -> int:
        """How many requests were for this token."""
        return self._tokens.count(hash(token.encode()))

    def accepted_of(self, token: str) -> int:
        """How many requests for this token were accepted for sending."""
        return self._accepted_tokens.count(hash(token.encode()))

    def accepted_id(self, apns_id: str) -> int:
        """How often a push with this `apns-id` was accepted."""
        return self._accepted.count(hash(apns_id.encode()))

    def requests(self, *, token: str | None = None, apns_id: str | None = None) -> list[Received]:
        """The last requests whole, oldest first; of one token or `apns-id` when given."""
        found = []
        for at, connection, stream, headers, body, answer in self._last:
            fields = tuple((field[0], field[1]) for field in headers)
            item = Received(at, self.platform, connection, stream, fields, body, answer.status, answer.reason)
            if apns_id is not None and apns_id not in (item.fields.get("apns-id"), item.fields.get("apns-request-id")):
                continue
            if token is not None and not _is_for(item, token):
                continue
            found.append(item)
        return found

    def summary(self) -> dict[str, Any]:
        """All counts, as the control API shows them."""
        return {
            "total": self.total,
            "accepted": self.accepted,
            "distinct": self.distinct,
            "duplicates": self.duplicates,
            "distinct_tokens": self.distinct_tokens,
            "totals": self.totals,
            "connections": self.traffic.connections,
            "refused_streams": self.traffic.refused_streams,
            "resets_received": self.traffic.resets_received,
            "goaways_received": self.traffic.goaways_received,
            "protocol_errors": self.traffic.protocol_errors,
            "peak_streams": self.traffic.peak_streams,
        }


def _is_for(item: Received, token: str) -> bool:
    """Whether a request names the token: at the end of its path, as a header, or as a string of its body."""
    named = any(value == token or value.endswith(f"/{token}") for value in item.fields.values())
    return named or f'"{token}"'.encode() in item.body


class Record:
    """The record of every platform."""

    def __init__(self, keep: int = 1000, platforms: Iterable[str] = ("apns", "fcm"), *, enabled: bool = True) -> None:
        self.platforms = {name: PlatformRecord(name, keep, enabled=enabled) for name in platforms}

    @property
    def apns(self) -> PlatformRecord:
        return self.platforms["apns"]

    @property
    def fcm(self) -> PlatformRecord:
        return self.platforms["fcm"]

    def clear(self) -> None:
        """Forget all requests."""
        for record in self.platforms.values():
            record.clear()

    def summary(self) -> dict[str, Any]:
        """All counts: of all platforms together, and by the name of each."""
        each = {name: record.summary() for name, record in self.platforms.items()}
        counts = ("total", "accepted", "distinct", "duplicates")
        return {**{name: sum(one[name] for one in each.values()) for name in counts}, **each}
