"""What the gateway needs of the configuration, as frozen values. `runtime` makes them from the settings."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from ..model.live import Endpoint, Network
from ..model.rates import Rate


class LiveAppConfig(Struct, frozen=True, kw_only=True):
    """The live channel of one app. Spans are seconds. Its `repr` does not show the secrets."""

    secret: str = ""
    """Signs and verifies connect tokens (HS256)."""
    old_secret: str = ""
    """Verifies connect tokens as well, while they run out after a change of the secret."""
    public_key: str = ""
    """The keys, in PEM, that verify connect tokens which others sign (ES256 or RS256)."""
    ack_within: float = 10.0
    """How long a written publication waits for its acknowledgement."""
    window: int = 32
    """Publications that a connection may have unacknowledged."""
    resend: int = 1
    """How often an unacknowledged publication is written again."""
    log_events: bool = False
    """Whether what devices report is logged, for the app's webhook."""

    def __repr__(self) -> str:
        return f"LiveAppConfig(ack_within={self.ack_within}, window={self.window}, resend={self.resend})"


class LiveConfig(Struct, frozen=True, kw_only=True):
    """The gateway, without its sockets. Spans are seconds."""

    endpoints: tuple[Endpoint, ...] = ()
    """The ways to the gateway that are announced to devices, in their order."""
    heartbeat: float = 25.0
    heartbeat_min: float = 4.0
    heartbeat_max: float = 900.0
    pong_within: float = 8.0
    connects: Rate | None = None
    """New connections of all apps at most; above it a connect is answered with the temporary error 111."""
    inline: int = 4096
    """The largest content in bytes that a publication carries; of a larger one the device gets a notice."""
    deny_networks: tuple[Network, ...] = ()
    """Networks whose devices are disconnected."""
    deny_ids: frozenset[str] = frozenset()
    """Devices that are refused."""
    apps: Mapping[str, LiveAppConfig] = {}
