"""What a gateway knows of each connection that it holds."""

from __future__ import annotations

from typing import Final, Protocol

from ...ports.live import Recipient, Reference
from ..protocol import codes
from ..protocol.codec import Rendered

POLL: Final = "poll"
"""The name of the transport of a poll that waits."""


class Member(Protocol):
    """A connection, or a poll that waits."""

    address: str
    app: str
    device_id: str
    number: int
    connected_at: float
    """Seconds of the wheel; 0 until the device is connected."""

    @property
    def transport(self) -> str:
        """Return the name of the transport."""

    def published(self, recipient: Recipient, rendered: Rendered, delivery: Reference | None = None) -> None:
        """Take what was appended to the stream of the device just now, and which delivery that is, if it is known."""

    def appended(self, epoch: str, top: int, unread: int) -> None:
        """Look whether the stream has something that was not handed out."""

    def unread(self, count: int) -> None:
        """Notify the device of how much is unread."""

    def end(self, disconnect: codes.Disconnect) -> None:
        """End the connection."""

    def fail(self) -> None:
        """End the connection, because its session has failed."""
