"""The figures of a gateway process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import product, repeat
from typing import Final, TypeAlias, get_args

from ... import telemetry
from ...model.push import Platform
from ...ports.live import EVENTS, Event, Reference
from ..peer import FaultKind
from ..protocol import codes
from ..protocol.codes import Disconnect

_OWN: Final = {each.code for each in vars(codes).values() if isinstance(each, Disconnect)}
_CODES: Final = {*range(1000, 1016), *_OWN}
"""The codes of an end that are counted apart: those of WebSocket and the gateway's own."""
_TRANSPORTS: Final = ("websocket", "http_stream", "sse", "poll")
_PLATFORMS: Final = ("apns", "fcm", "live")
_NAMES: Final = telemetry.traces.Names(("pushsvc.push_id",), ("pushsvc.acknowledge_ms", telemetry.traces.DELIVERIES))
_LATEST: Final = 7 * 86_400.0
"""The most seconds that an event is taken to be late: a device's clock may show anything."""


Passed: TypeAlias = tuple[int, int, int, bytes]
"""When a delivery was queued, taken and written, in ms after it was to be sent, and the trace of its push."""


def acknowledged(app: str, reference: Reference, written: int, at: int) -> telemetry.traces.Recorded:
    """Return the span of a delivery that a device has acknowledged at this instant (Unix ms), from when it was written
    into the stream of the device."""
    push = reference.push
    return telemetry.traces.Recorded(
        _acknowledged(app, reference.platform),
        written * 1_000_000,
        at * 1_000_000,
        (push.id,),
        (at - written, 1),
        joined=push.total != 1,
    )


@lru_cache(maxsize=1024)
def _acknowledged(app: str, platform: Platform) -> telemetry.traces.Alike:
    about = (("pushsvc.app", app), ("pushsvc.platform", platform))
    return telemetry.traces.Alike("acknowledge", "consumer", about, names=_NAMES)


class GatewayMetrics:
    """Writes what happens to the metrics of the process."""

    def __init__(self) -> None:
        self._shown: set[tuple[str, str]] = set()
        self._ack_seconds = telemetry.Gathered(telemetry.LIVE_ACK_SECONDS)
        self._stages = telemetry.StageSeconds()
        for result in ("refused", "busy"):
            telemetry.LIVE_CONNECTS.labels("", result)
        for kind in get_args(FaultKind):
            telemetry.LIVE_FAULTS.labels(kind)

    def show(self, apps: Iterable[str]) -> None:
        """Begin the series of apps, so that each is there before it counts anything."""
        for app in apps:
            telemetry.LIVE_RESENDS.labels(app)
            telemetry.LIVE_DUPLICATES.labels(app)
            telemetry.LIVE_MISSING.labels(app)
            for result in ("ok", "refused", "busy"):
                telemetry.LIVE_CONNECTS.labels(app, result)
            for code in (*sorted({1000, 1001, 1006, *_OWN}), "other"):
                telemetry.LIVE_DISCONNECTS.labels(app, str(code))
            for result in ("acked", "fallback", "expired", "dropped"):
                telemetry.LIVE_MESSAGES.labels(app, result)
            for result in ("recovered", "lost"):
                telemetry.LIVE_RECOVERIES.labels(app, result)
            for platform, event in product(_PLATFORMS, EVENTS):
                telemetry.EVENTS.labels(app, platform, event)
            for transport in _TRANSPORTS:
                self._shown.add((app, transport))
                telemetry.LIVE_CONNECTIONS.labels(app, transport)

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

    def acked(self, app: str, deliveries: Counter[tuple[int, Passed | None]], at: int) -> None:
        """Count deliveries that were acknowledged at this instant (Unix ms), by when their pushes were to be sent and
        when they passed the stages before, where that is known."""
        if deliveries:
            telemetry.LIVE_MESSAGES.labels(app, "acked").inc(deliveries.total())
        instants = Counter[telemetry.Instants]()
        for (start, passed), count in deliveries.items():
            self._ack_seconds.observe_all(repeat(max(0.0, (at - start) / 1000), count))
            if passed is not None:
                queued, taken, written, _ = passed
                instants[start, (start + queued, start + taken), start + written, at] += count
        self._stages.passed(instants, "acked")

    def flush(self) -> None:
        """Make what `acked` has gathered visible."""
        self._ack_seconds.flush()
        self._stages.flush()

    def missing(self, app: str, count: int) -> None:
        """Count deliveries that left a stream before its device had them."""
        telemetry.LIVE_MISSING.labels(app).inc(count)

    def reported(self, app: str, platform: Platform, event: Event, late: float | None) -> None:
        """Count an event. `late` is the number of seconds to its report by the device's clock, if that is known."""
        telemetry.EVENTS.labels(app, platform, event).inc()
        if late is not None:
            telemetry.EVENT_LAG.observe(min(max(late, 0.0), _LATEST))

    def resent(self, app: str, count: int) -> None:
        """Count publications that were sent again."""
        telemetry.LIVE_RESENDS.labels(app).inc(count)

    def fault(self, kind: FaultKind) -> None:
        """Count a fault of a client."""
        telemetry.LIVE_FAULTS.labels(kind).inc()
