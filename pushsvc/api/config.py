"""What the API is configured with: the apps that it answers for, and how its server behaves."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from ..model.access import ApiKey
from ..model.push import Platform
from ..model.rates import Rate
from ..model.routing import RouteTable, platform_of

MIB: Final = 1024 * 1024


class ApiApp(Struct, frozen=True):
    """One configured app."""

    name: str
    accounts: frozenset[Platform]
    """The accounts that are configured for it, by the names of their routes."""
    keys: tuple[ApiKey, ...] = ()
    """Those of the configuration; those of `pushsvc keys new` are asked of the `KeyRing`."""
    routes: RouteTable = {}
    """Which of the accounts reaches a token, where tokens belong to an environment."""
    limit: Rate | None = None
    """Of the pushes that it may post."""

    @property
    def platforms(self) -> frozenset[Platform]:
        """The platforms of its accounts."""
        return frozenset(map(platform_of, self.accounts))


class ApiConfig(Struct, frozen=True):
    """How the server binds, and its bounds. Sizes in bytes, spans in seconds."""

    host: str = "127.0.0.1"
    port: int = 8080
    """0 takes a free one."""
    reuse_port: bool = False
    """Let several processes listen on the port; the kernel spreads the connections (Linux, the BSDs)."""
    backlog: int = 1024
    body_limit: int = 4 * MIB
    """One push may be this large. 10,000 FCM tokens of 200 characters are about 2.4 MB."""
    max_targets: int = 10_000
    body_timeout: float = 30.0
    """How long a body may take to arrive."""
    keepalive_timeout: float = 75.0
    """How long a connection may be idle between two requests. Longer than the 60 s of common load balancers, which must
    close first."""
    first_request: float = 15.0
    """How long a connection may take to send its first request with all its headers."""
    max_connections: int = 10_000
    """Of one process. There are never more than three quarters of the files that it may open."""
    shutdown_timeout: float = 30.0
    """How long requests that are being handled may take when the server stops."""
    max_waiting: int = 1000
    """Requests of one process that may wait for the end of their push. Each holds a connection and some 20 KB."""
    erase_wait: float = 20.0
    """How long a request may take part in the erasure of its user; then it goes on without it."""
    key_cache_seconds: float = 5.0
    """How long the answer of the `KeyRing` is believed: a revoked key works that much longer at most."""
    key_cache_size: int = 4096
