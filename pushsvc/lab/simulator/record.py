"""The record of what the simulator received, for tests: counts of everything, and the last complete requests.

A million requests need about 25 MB: a request adds eight bytes to each of three arrays (a 64-bit hash of its token, and
when it was accepted also of its token and of its identity), from which queries are answered. Two different pushes have
the same hash, and look like a duplicate, with a probability of 1 in 30 million at a million pushes.

The identity of a delivery is its `apns-id`, of a broadcast its `apns-request-id`; for FCM, which has none, it is the
request's body. The token of a broadcast is the id of its channel.
"""

from __future__ import annotations

import base64
from array import array
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from msgspec import Struct, structs

from .hpack import Headers
from .http2 import Answer
from .inflow import Traffic


class Received(Struct, frozen=True):
    """A complete request and its result. It contains tokens, so it must not be logged."""

    at: float
    """When it was read, in Unix seconds."""
    platform: str
    connection: int
    """The number of the connection on this port, from 1; 0: over HTTP/1.1."""
    stream: int
    headers: tuple[tuple[bytes, bytes], ...]
    """In the order in which they were received."""
    body: bytes
    status: int
    """The status of the answer; 0 without an answer."""
    reason: str
    """The provider's reason of a refusal, or what was done instead of an answer: `stall`, `held`, `reset`, .."""

    def __repr__(self) -> str:
        return (
            f"Received({self.platform} connection={self.connection} stream={self.stream} {self.status} {self.reason})"
        )

    @property
    def fields(self) -> dict[str, str]:
        """The headers by name."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers}

    def as_json(self) -> dict[str, Any]:
        """Return the request for the control API; the body as text where it is UTF-8, and as base64 in any case."""
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
    def __init__(self, platform: str, keep: int, *, enabled: bool) -> None:
        self.platform = platform
        self.traffic = Traffic()
        self._enabled = enabled
        self._keep = keep
        self.clear()

    def clear(self) -> None:
        """Delete all requests. `traffic` keeps counting."""
        self._totals: Counter[tuple[int, str]] = Counter()
        self._tokens = array("q")
        self._accepted_tokens = array("q")
        self._accepted = array("q")
        self._counted = (0, 0)  # how many were accepted at the last count, and how many of them were distinct
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
        """Record a request. `delivery` is its identity when it was accepted for sending, otherwise None."""
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
    def total(self) -> int:
        """The number of requests."""
        return self._totals.total()

    @property
    def accepted(self) -> int:
        """The number of requests that were accepted for sending: answered 2xx and not a dry run."""
        return sum(count for (status, reason), count in self._totals.items() if not reason and 200 <= status < 300)

    @property
    def totals(self) -> dict[str, int]:
        """By outcome: `200`, `200 validate_only`, `410 Unregistered`, `0 stall`."""
        return {f"{status} {reason}".rstrip(): count for (status, reason), count in sorted(self._totals.items())}

    @property
    def distinct(self) -> int:
        """The number of different deliveries that were accepted."""
        # Counting a million takes a sixth of a second, so the result is kept until something is added.
        size, distinct = self._counted
        if size != len(self._accepted):
            distinct = len(set(self._accepted))
            self._counted = (len(self._accepted), distinct)
        return distinct

    @property
    def duplicates(self) -> int:
        """The number of deliveries that were accepted more than once."""
        if self.distinct == len(self._accepted):
            return 0
        return sum(count > 1 for count in Counter(self._accepted).values())

    @property
    def distinct_tokens(self) -> int:
        """The number of different tokens in all requests."""
        return len(set(self._tokens) - {hash(b"")})

    def requests_of(self, token: str) -> int:
        """Return the number of requests for this token."""
        return self._tokens.count(hash(token.encode()))

    def accepted_of(self, token: str) -> int:
        """Return the number of requests for this token that were accepted for sending."""
        return self._accepted_tokens.count(hash(token.encode()))

    def accepted_id(self, apns_id: str) -> int:
        """Return how often a push with this `apns-id` was accepted."""
        return self._accepted.count(hash(apns_id.encode()))

    def requests(self, *, token: str | None = None, apns_id: str | None = None) -> list[Received]:
        """Return the last complete requests, oldest first; of one token or `apns-id` when given."""
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
        """Return all counts, as the control API shows them."""
        return {
            "total": self.total,
            "accepted": self.accepted,
            "distinct": self.distinct,
            "duplicates": self.duplicates,
            "distinct_tokens": self.distinct_tokens,
            "totals": self.totals,
            **structs.asdict(self.traffic),
        }


def _is_for(item: Received, token: str) -> bool:
    """Return whether a request names the token: at the end of its path, as a header, or as a string of its body."""
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
        """Delete all requests."""
        for record in self.platforms.values():
            record.clear()

    def summary(self) -> dict[str, Any]:
        """Return all counts: of all platforms together, and by the name of each."""
        each = {name: record.summary() for name, record in self.platforms.items()}
        counts = ("total", "accepted", "distinct", "duplicates")
        return {**{name: sum(one[name] for one in each.values()) for name in counts}, **each}
