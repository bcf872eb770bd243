"""The figures of a gateway process."""

from __future__ import annotations

from collections.abc import Mapping

from ... import telemetry
from ..protocol import codes
from ..protocol.codes import Disconnect, FaultKind

_CODES = {*range(1000, 1016), *(each.code for each in vars(codes).values() if isinstance(each, Disconnect))}
"""The codes of an end that are counted apart: those of WebSocket and the gateway's own."""


class GatewayMetrics:
    """Writes what happens to the metrics of the process."""

    def __init__(self) -> None:
        self._shown: set[tuple[str, str]] = set()

    def connections(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Show how many connections are open, by app and transport."""
        for place in self._shown - counts.keys():
            telemetry.LIVE_CONNECTIONS.labels(*place).set(0)
        for place, count in counts.items():
            telemetry.LIVE_CONNECTIONS.labels(*place).set(count)
        self._shown |= counts.keys()

    def connected(self, app: str, recovery: str) -> None:
        """Count a connect, and the recovery that it asked for: `recovered`, `lost`, or the empty string for none."""
        telemetry.LIVE_CONNECTS.labels(app, "ok").inc()
        if recovery:
            telemetry.LIVE_RECOVERIES.labels(app, recovery).inc()

    def refused(self, app: str, result: str) -> None:
        """Count a connect that was refused; `app` is empty where the token names none that is believed."""
        telemetry.LIVE_CONNECTS.labels(app, result).inc()

    def disconnected(self, app: str, code: int) -> None:
        """Count the end of a connection. A code that a client has made up is `other`."""
        telemetry.LIVE_DISCONNECTS.labels(app, str(code) if code in _CODES else "other").inc()

    def acked(self, app: str, seconds: float) -> None:
        """Count an acknowledged delivery, `seconds` after its push was to be sent."""
        telemetry.LIVE_MESSAGES.labels(app, "acked").inc()
        telemetry.LIVE_ACK_SECONDS.observe(seconds)

    def resent(self, app: str, count: int) -> None:
        """Count publications that were sent again."""
        telemetry.LIVE_RESENDS.labels(app).inc(count)

    def fault(self, kind: FaultKind) -> None:
        """Count a fault of a client."""
        telemetry.LIVE_FAULTS.labels(kind).inc()
