"""A request and its answer: values that the connection, the pool and the providers share.

They are msgspec structs that the garbage collector does not track (`gc=False`): a request lives for milliseconds, tens
of thousands are made a second, and none is part of a reference cycle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

from .hpack_fields import Source, read_fields

Reason: TypeAlias = Literal[
    "timeout", "connection_lost", "reset", "unreachable", "protocol_error", "closing", "response_too_large"
]


class Response(Struct, gc=False, eq=False):
    status: int
    body: bytes = b""
    source: Source = b""

    @property
    def headers(self) -> dict[str, str]:
        """The fields by lower-case name, without trailers; repeated ones are joined. Decoded when first asked for."""
        if isinstance(self.source, bytes):
            self.source = read_fields(self.source)
        return self.source

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Response):
            return NotImplemented
        return (self.status, self.body, self.headers) == (other.status, other.body, other.headers)

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.body)} bytes)"


class Failure(Struct, frozen=True):
    """There is no answer, and why."""

    reason: Reason
    maybe_sent: bool
    """May the server have processed the request? False only where the protocol rules it out."""


Answer: TypeAlias = Response | Failure
OnAnswer: TypeAlias = Callable[[Any, Answer], None]
"""Called with the request's context and its answer, exactly once, never from inside `submit`."""

TIMED_OUT: Final = Failure("timeout", True)
NEVER_SENT: Final = Failure("timeout", False)
UNREACHABLE: Final = Failure("unreachable", False)
LOST: Final = Failure("connection_lost", True)
BROKEN: Final = Failure("protocol_error", True)
RESET: Final = Failure("reset", True)
REFUSED: Final = Failure("reset", False)
CLOSING: Final = Failure("closing", False)
TOO_LARGE: Final = Failure("response_too_large", True)


class Request(Struct, gc=False):
    """A request in progress. The first five fields are the caller's; the others are its state on its current stream."""

    fields: bytes
    body: bytes
    context: Any
    on_answer: OnAnswer
    deadline: float
    refusals: int = 0
    status: int = 0
    """The status of the final header block; 0 until it has arrived."""
    source: Source = b""
    received: int = 0
    chunks: list[bytes] | None = None
    sent: int = 0
    """Bytes of the body that were written."""
    credit: int = 0
    """The stream's send window, while the body is not wholly written."""

    def __repr__(self) -> str:
        return f"Request({len(self.fields)} + {len(self.body)} bytes)"  # the rest holds credentials and tokens

    def rewind(self) -> None:
        """Make ready for another stream."""
        self.status, self.source, self.received, self.chunks, self.sent, self.credit = 0, b"", 0, None, 0, 0


class Terms(Struct, frozen=True):
    """The settings of the connections of a pool."""

    window: int = 1000
    """Streams open at once on a connection, at most."""
    request_timeout: float = 10.0
    body_limit: int = 65_536
    """Bytes of an answer's body, at most."""
    receive_window: int = 1 << 22
    """Bytes of all bodies that the server may send before we grant more."""


class Stats(Struct):
    """Counters of a pool since it was opened."""

    connections_opened: int = 0
    connects_failed: int = 0
    connections_lost: int = 0
    """Ended by the other side or the network, neither by us nor after a GOAWAY."""
    dead_peers: int = 0
    """Connections closed because a PING was not answered."""
    protocol_errors: int = 0
    goaways: int = 0
    last_goaway: str = ""
    """The error code, and the reason where the server gave a plain one."""
    resubmitted: int = 0
    timeouts: int = 0
    answers: int = 0
    in_flight: int = 0
