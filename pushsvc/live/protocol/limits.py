"""What is the same for all sessions of a gateway."""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds and announcements. Times are in seconds."""

    gateway: str = ""
    version: str = ""
    message_bytes: int = 65_536
    """The longest message of the transport that a client may send."""
    pong_within: float = 8.0
    stale_after: float = 15.0
    """A client that sends no connect for so long is disconnected; so is a refused one that stays."""
    expired_after: float = 25.0
    """How long after the end of its token a client may still bring a new one."""
    endpoints: bytes = b"[]"
    """The endpoints that are announced to devices, in JSON."""
