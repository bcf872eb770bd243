"""The configuration of a simulator."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class SimulatorConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration of a simulator, with defaults for a test: free ports on loopback, keys in memory, no delays."""

    host: str = "127.0.0.1"
    apns_port: int = 0
    """0 for this or another port: any free port."""
    fcm_port: int = 0
    control_port: int = 0
    folder: str | None = None
    """The folder of keys and credentials between runs; None: keys are in memory until `write_credentials`."""

    topic: str = "com.example.shop"
    key_id: str = "SIMULATOR1"
    team_id: str = "SIMULATEAM"
    project_id: str = "example-shop"
    more_projects: tuple[str, ...] = ()
    environment: Literal["production", "sandbox"] = "production"
    """The sandbox adds `apns-unique-id` to its answers."""
    broadcasts: bool = True
    """Whether broadcasts are switched on for the bundle id."""
    token_updates: bool = True
    """Whether a new APNs token more often than each 20 minutes on one connection is refused."""

    apns_streams: int = 1000
    """The SETTINGS_MAX_CONCURRENT_STREAMS of an APNs connection without restrictions."""
    fcm_streams: int = 100
    one_stream_at_start: bool = True
    """Allow one stream at a time until a request has a valid provider token, as Apple documents."""
    throttle_rejections: bool = False
    """Allow one stream at a time after a refusal other than 410, until a push is accepted. Observed, not documented."""
    connection_window: int = 1 << 20
    """Bytes of request bodies that a connection may have in flight (HTTP/2 flow control)."""
    stream_window: int = 65_535
    latency: float = 0.0
    """The delay of every answer in seconds."""

    record: bool = True
    """Whether requests are recorded; otherwise only totals are, which is the fastest."""
    keep: int = 1000
    """The number of latest requests that are recorded completely, on each platform."""
