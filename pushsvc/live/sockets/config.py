"""Settings of the sockets, as they are needed here; the file's section `[live]` becomes these."""

from __future__ import annotations

import ssl

from msgspec import Struct

from ...model.live import Network


class SocketsConfig(Struct, frozen=True, kw_only=True):
    """Where the gateway listens, and the bounds of what a stranger can hold."""

    host: str = "127.0.0.1"
    port: int = 8081
    reuse_port: bool = False
    backlog: int = 1024
    """Connections that wait in the kernel to be accepted. Those of a longer queue would be given up by their clients,
    the first of which wait a second, and still be work; who finds it full tries again a second later by itself."""
    tls: ssl.SSLContext | None = None
    node: str = ""
    """The name of this gateway, which clients of HTTP streaming and SSE send back with their commands."""
    session_key: bytes = b""
    """The key by which all gateways know their sessions of HTTP streaming and SSE; empty: one of its own."""
    max_connections: int = 100_000
    """Above it new connections are answered with a temporary error; an eighth above it they are closed unread."""
    strangers: int = 1024
    """Connections of one network whose clients have not shown who they are; further ones are closed unread."""
    local_strangers: int = 1_000_000
    """The same of this machine's own addresses: a proxy, which has the clients of many networks."""
    first_bytes: int = 16_384
    """The largest message of a client that is not known yet."""
    header_bytes: int = 16_384
    """The largest request line with its headers. SSE has the connect command in its URL."""
    body_bytes: int = 131_072
    """The largest body. `/emulation` carries a message as a string in JSON, up to twice as long."""
    bodies: int = 64 * 1024 * 1024
    """Bytes of bodies that are being read on all connections together."""
    messages: int = 2000
    """Messages of one WebSocket that are read in a second, each 256 bytes counting as one: more wait in the network."""
    message_bytes: int = 65_536
    """The largest message of a client."""
    request_within: float = 10.0
    """Seconds in which a request must be there, and its answer be read."""
    keep_alive: float = 75.0
    """Seconds for which a connection without a request is kept."""
    close_within: float = 5.0
    """Seconds for the end of a connection that was closed."""
    buffer_soft: int = 65_536
    """Bytes that a client may leave unread before its session is asked to pause."""
    buffer_hard: int = 1_048_576
    """Bytes above which a client that does not read is disconnected."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages that may use the gateway besides its own host's, such as `https://*.shop.example`."""
    proxies: tuple[Network, ...] = ()
    """Proxies whose `X-Forwarded-For` names the address of a client."""
    deny_networks: tuple[Network, ...] = ()
    """Networks whose connections are closed unread."""
