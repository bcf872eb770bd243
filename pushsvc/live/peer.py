"""The two sides of a connection: `Transport`, which the sockets make, and `Peer`, the session that is behind it; and
the kinds of faults that both count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

TransportName: TypeAlias = Literal["websocket", "http_stream", "sse"]
Format: TypeAlias = Literal["json", "protobuf"]
FaultKind: TypeAlias = Literal[
    "malformed",
    "oversized",
    "before_connect",
    "second_connect",
    "connect_data",
    "pong",
    "doubled_id",
    "method",
    "channel",
    "request",
    "epoch",
    "position",
    "flood",
    "frame",
    "handshake",
    "http",
    "session",
]
"""What was wrong with what a client has sent: the label `kind` of `pushsvc_live_faults_total`."""


class Request(Struct, frozen=True, kw_only=True):
    """An HTTP request. Its `repr` shows neither the query, which may carry a token, nor headers and body."""

    method: str
    path: str
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    """By lower-case name; the values of a repeated header are joined by commas."""
    body: bytes = b""
    address: str = ""
    """The IP address of the client: of the other end of the connection, or that which a trusted proxy has forwarded."""
    params: dict[str, str] = {}
    """What stands in the path for the names of its route."""
    full: bool = False
    """Whether the gateway has more connections than it should: a new one is answered with a temporary error."""

    def __repr__(self) -> str:
        return f"Request({self.method} {self.path})"


class Transport(Protocol):
    """A connection, as its session sees it. No method blocks or raises; after the end they do nothing."""

    @property
    def name(self) -> TransportName:
        """The transport, by the name that clients give it."""

    @property
    def format(self) -> Format:
        """How messages are encoded."""

    @property
    def session(self) -> str:
        """A secret by which `POST /emulation` finds this connection; '' if it receives by itself."""

    @property
    def frame_pings(self) -> bool:
        """Whether the client wants pings of WebSocket: the session calls `ping` and writes none of its own."""

    @property
    def code(self) -> int:
        """The code of the end: 0 while the connection is open, 1006 if it broke."""

    @property
    def paused(self) -> bool:
        """Whether too many bytes wait, so that the session should write no more until `Peer.resumed`."""

    def known(self) -> None:
        """Take note that the client has shown who it is: until then it is one of a few of its network."""

    def write(self, data: bytes) -> None:
        """Send one message: replies in JSON joined by newlines, or in Protobuf each after its length.

        A client that reads too slowly for it is disconnected with the code 3008.
        """

    def ping(self) -> None:
        """Send a ping of WebSocket; the pong is reported by `Peer.ponged`."""

    def close(self, code: int, reason: str) -> None:
        """End the connection after what was written. Only WebSocket carries the code and the reason."""

    def abort(self) -> None:
        """End the connection at once and send nothing more."""


class Peer(Protocol):
    """The session of a connection. Whatever it raises ends the connection with 1011 and disturbs no other."""

    def received(self, data: bytes) -> None:
        """Take one message of the client."""

    def ponged(self) -> None:
        """Take the answer to `Transport.ping`."""

    def resumed(self) -> None:
        """Go on writing: `Transport.paused` is over."""

    def shutdown(self) -> None:
        """End the connection, because the gateway stops."""

    def lost(self, clean: bool) -> None:
        """Take the end of the connection, once. `clean` is False if it broke or the client read too slowly."""


MakePeer: TypeAlias = Callable[[Transport, Request], Peer]
"""Make the session of a new connection, without waiting. The request is large: a session keeps only what it needs."""
