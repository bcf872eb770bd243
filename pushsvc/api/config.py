"""The configuration of the API: the apps that it serves, and the behaviour of its server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from ..model.access import ApiKey
from ..model.live import Endpoint
from ..model.push import Platform
from ..model.rates import Rate
from ..model.routing import RouteTable, platform_of
from ..rules.channels import NO_LIVE, ChannelRules

MIB: Final = 1024 * 1024
Keyless: TypeAlias = Literal["none", "direct", "all"]
"""The requests that need no key for figures and details of the service: `direct` are those that no proxy has passed
on."""


class ApiLive(Struct, frozen=True):
    """The live channel of an app."""

    token_ttl: int
    """The longest time in seconds for which the token of a device is valid, and the usual one."""
    sign: Callable[[str, float, float, str], str] | None = None
    """Returns the token of a device, from its id, the present instant and the time for which it is valid, in seconds,
    and the id of the token. None where others sign them, and the app has only their public key."""
    endpoints: tuple[Endpoint, ...] = ()
    """Where devices connect, in their order."""
    history_age: int = 0
    """For how many seconds a push is kept for a device that is away; 0: without limit."""


class ApiApp(Struct, frozen=True):
    """A configured app."""

    name: str
    accounts: frozenset[Platform]
    """The configured accounts, by the names of their routes."""
    keys: tuple[ApiKey, ...] = ()
    """The keys of the configuration; those of `pushsvc keys new` are looked up in the `KeyRing`."""
    routes: RouteTable = {}
    """The account that reaches a token, where tokens belong to an environment."""
    limit: Rate | None = None
    """The rate limit of the pushes that it posts."""
    live: ApiLive | None = None
    """Its live channel; None where it has none."""
    channels: ChannelRules = NO_LIVE
    """The order of the channels to its devices."""

    @property
    def platforms(self) -> frozenset[Platform]:
        """The platforms of its accounts."""
        return frozenset(map(platform_of, self.accounts))


class ApiConfig(Struct, frozen=True):
    """The address of the server and its bounds. Sizes are in bytes, spans in seconds."""

    host: str = "127.0.0.1"
    port: int = 8080
    """The port; 0 selects a free one."""
    reuse_port: bool = False
    """Whether several processes listen on the port; the kernel distributes the connections (Linux, the BSDs)."""
    backlog: int = 1024
    body_limit: int = 4 * MIB
    """The maximum size of a request body. 10,000 FCM tokens of 200 characters are about 2.4 MB."""
    max_targets: int = 10_000
    body_timeout: float = 30.0
    """The time in which a body must arrive."""
    keepalive_timeout: float = 75.0
    """How long a connection may be idle between two requests. This is longer than the 60 s of common load balancers,
    which must close first."""
    first_request: float = 15.0
    """How long a connection may take to send its first request with all its headers."""
    max_connections: int = 10_000
    """The maximum number of connections of one process, which is never more than three quarters of the files that it
    may open."""
    shutdown_timeout: float = 30.0
    """How long requests in progress may take when the server stops."""
    max_waiting: int = 1000
    """The maximum number of requests of one process that wait for the end of their push. Each needs a connection and
    about 20 KB."""
    erase_wait: float = 20.0
    """How long a request takes part in the erasure of its user, which continues without it afterwards."""
    key_cache_seconds: float = 5.0
    """How long an answer of the `KeyRing` is used, and so how long a revoked key still works at most."""
    key_outage_seconds: float = 3600.0
    """How long an answer of the `KeyRing` is used for the calls that show the state of the service while Redis is away,
    since it was last given."""
    key_cache_size: int = 4096
