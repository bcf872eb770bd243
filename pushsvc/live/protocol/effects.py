"""What a session asks its gateway to do. An `id` is that of the command and goes into its answer; 0: there is none."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from ...ports.live import Event, Position, Reference
from ..peer import FaultKind


class Bytes(Struct, frozen=True, gc=False):
    """Write one message of the transport."""

    data: bytes


class Ping(Struct, frozen=True, gc=False):
    """Send a ping of WebSocket, in place of the protocol's."""


class Close(Struct, frozen=True, gc=False):
    """End the connection. The session does nothing more."""

    code: int
    reason: str


class FaultSeen(Struct, frozen=True, gc=False):
    """Count a fault of the client."""

    kind: FaultKind


class ConnectRequested(Struct, frozen=True, gc=False):
    """Verify the token and connect the device: `connected` or `refused`. Its `repr` does not show the token."""

    id: int
    token: str
    position: Position | None
    """Where the client wants to go on; None where it names no position that can be valid."""
    recover: bool
    """Whether the client wants to go on from a position."""
    heartbeat: float | None = None
    """The interval that the device requests, in seconds."""
    foreground: bool | None = None

    def __repr__(self) -> str:
        return f"ConnectRequested({self.id}, {self.position})"


class RefreshRequested(Struct, frozen=True, gc=False):
    """Verify a new token for this connection: `refreshed` or `refused`. Its `repr` does not show the token."""

    id: int
    token: str

    def __repr__(self) -> str:
        return f"RefreshRequested({self.id})"


class AckRequested(Struct, frozen=True, gc=False):
    """Acknowledge everything up to an offset; an empty epoch means the stream's own."""

    id: int
    offset: int
    epoch: str
    given: tuple[Reference, ...] | None = None
    """The deliveries that this connection was given up to there and that were not acknowledged; None where some are not
    known."""
    shown: tuple[int, ...] | None = None
    """The offsets of these where some are not known; None where these are not known either, as in a repeat."""

    @property
    def offsets(self) -> tuple[int, ...] | None:
        """The offsets of what this connection was given; None where they are not known."""
        return self.shown if self.given is None else tuple(each.offset for each in self.given)


class ReadRequested(Struct, frozen=True, gc=False):
    """Note that the user has read everything up to an offset; an empty epoch means the stream's own."""

    id: int
    offset: int
    epoch: str


class EventReported(Struct, frozen=True, gc=False):
    """Count what has become of a push."""

    id: int
    push_id: str
    event: Event
    at: float | None
    """When it was by the device's clock, in Unix seconds."""


class FetchRequested(Struct, frozen=True, gc=False):
    """Answer with the content of a push of which a notice was sent."""

    id: int
    push_id: str


class HeartbeatRequested(Struct, frozen=True, gc=False):
    """Agree on another interval: `heartbeat`."""

    id: int
    seconds: float | None
    foreground: bool | None


class HistoryRequested(Struct, frozen=True, gc=False):
    """Read a page of the stream: `history`."""

    id: int
    since: int | None
    limit: int
    reverse: bool


class MoreRequested(Struct, frozen=True, gc=False):
    """Read what waits in the stream, because there is room now: `more`."""

    since: int
    limit: int


class ResendRequested(Struct, frozen=True, gc=False):
    """Read what was not acknowledged in time: `resend`."""

    since: int
    limit: int


class Resent(Struct, frozen=True, gc=False):
    """Count publications that were sent again."""

    count: int


Effect: TypeAlias = (
    Bytes
    | Ping
    | Close
    | FaultSeen
    | ConnectRequested
    | RefreshRequested
    | AckRequested
    | ReadRequested
    | EventReported
    | FetchRequested
    | HeartbeatRequested
    | HistoryRequested
    | MoreRequested
    | ResendRequested
    | Resent
)
