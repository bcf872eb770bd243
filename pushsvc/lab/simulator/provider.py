"""A simulated provider: it checks a request, plays the scenario of its token, answers, and records. The order for each
request is: stalled? decide (switches, then the provider's checks, then the token's scenario), answer, record. `apns`
and `fcm` have the checks and the wording."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any, Final, TypeAlias

from aiohttp import web
from msgspec import Struct

from .certificates import Keys
from .config import SimulatorConfig
from .frames import ErrorCode
from .hpack import Headers
from .http2 import Answer, Connection
from .record import PlatformRecord
from .scenario import Stage, Step
from .switches import Switches

Clock: TypeAlias = Callable[[], float]

Decision: TypeAlias = tuple[Answer, bytes, bytes | None, Step | None]
"""The answer, the token, the delivery's identity when it is accepted, and the scenario's step if there is one."""

_UNANSWERED: Final = {name: Answer(0, name, b"") for name in ("stall", "held", "reset", "refuse", "goaway", "drop")}


class Setup(Struct, frozen=True):
    """What a simulated provider is made from."""

    config: SimulatorConfig
    keys: Keys
    record: PlatformRecord
    clock: Clock
    control_url: Callable[[], str]
    """Returns the address of the control port, once it listens."""


class SimulatedProvider(ABC):
    """One platform on one port. Call every method on the simulator's event loop."""

    farewell: bytes = b""
    """The debug data of a GOAWAY."""

    def __init__(self, setup: Setup, reasons: Iterable[str], *, streams: int) -> None:
        """Make the provider. The scenario of a token may name `reasons` of refusals."""
        self.record = setup.record
        self.stage = Stage(reasons)
        self.switches = Switches(setup.config.latency)
        self.connections: set[Connection] = set()
        self.streams = streams
        """The SETTINGS_MAX_CONCURRENT_STREAMS of a connection without restrictions."""
        self._clock = setup.clock

    @abstractmethod
    def decide(self, headers: Headers, body: bytes, memory: Any, now: float) -> Decision:
        """Check a request and return its answer."""

    def opened(self, connection: Connection) -> int:
        return self.streams

    def answered(self, connection: Connection, answer: Answer) -> None:  # noqa: B027  # most platforms do nothing
        """Adapt the connection to an answer."""

    def reset_scenarios(self) -> None:
        """Forget the request counts of tokens with a scenario."""
        self.stage.reset()

    def revoke_access_tokens(self) -> None:  # noqa: B027  # most platforms issue none
        """Revoke all access tokens that were issued until now, where the platform issues them."""

    def http_routes(self) -> list[web.RouteDef]:
        """Return the HTTP/1.1 routes of the platform, for the control port."""
        return []

    def request(self, connection: Connection, stream: int, headers: Headers, body: bytes) -> None:
        """Handle a request of a client."""
        now = self._clock()
        switches = self.switches
        if switches.stalled:
            connection.hold(stream, (headers, body))
            self.record.add(now, connection.number, stream, headers, body, _UNANSWERED["held"], b"", None)
            return
        answer, token, delivery, step = self.decide(headers, body, connection.memory, now)
        if step is not None:
            answer = self._perform(connection, stream, step, answer)
            if not 200 <= answer.status < 300:
                delivery = None
        elif switches.latency:
            connection.answer_later(stream, answer, switches.latency)
        else:
            connection.answer(stream, answer)
        self.record.add(now, connection.number, stream, headers, body, answer, token, delivery)
        self.answered(connection, answer)

    def _perform(self, connection: Connection, stream: int, step: Step, answer: Answer) -> Answer:
        """Play a step. Returns the answer, or what was done instead."""
        delay = self.switches.latency + step.delay_ms / 1000
        match step.name:
            case "stall":
                connection.hold(stream)
            case "reset":
                connection.reset(stream, ErrorCode.INTERNAL_ERROR)
            case "refuse":
                connection.reset(stream, ErrorCode.REFUSED_STREAM)
            case "drop":
                connection.close()
            case "goaway":
                connection.go_away(stream - 2, debug=self.farewell)
            case _:
                if delay:
                    connection.answer_later(stream, answer, delay)
                else:
                    connection.answer(stream, answer)
                if step.name == "goaway-graceful":
                    connection.go_away_gracefully(self.farewell)
                return answer
        return _UNANSWERED[step.name]

    def retry_after(self, step: Step, now: float) -> bytes | None:
        """Return the Retry-After header of a step, in one of its two forms (RFC 9110 section 10.2.3)."""
        if step.retry_at is not None:
            return formatdate(now + step.retry_at, usegmt=True).encode()
        seconds = self.switches.retry_after if step.retry_after is None else step.retry_after
        return None if seconds is None else str(seconds).encode()

    # --- on command -------------------------------------------------------------------------------

    def go_away(self, *, graceful: bool, keep: int | None) -> int:
        """Send GOAWAY on every connection. Returns their number."""
        connections = list(self.connections)
        for connection in connections:
            if graceful:
                connection.go_away_gracefully(self.farewell)
                continue
            streams = connection.open_stream_ids()
            if keep is None or keep >= len(streams):
                connection.go_away(debug=self.farewell)
            else:
                connection.go_away(streams[keep] - 2, debug=self.farewell)
        return len(connections)

    def reset_streams(self, code: int) -> int:
        """Send RST_STREAM on every request without an answer. Returns their number."""
        return sum(connection.reset_open(code) for connection in list(self.connections))

    def stall(self, on: bool) -> None:
        """Stop answering; when switched off, the waiting requests are processed."""
        self.switches.stalled = on
        if not on:
            for connection in list(self.connections):
                connection.release()

    def hold_credit(self, on: bool) -> None:
        for connection in list(self.connections):
            connection.hold_credit(on)

    def limit_streams(self, limit: int) -> None:
        """Change the stream limit of present and later connections."""
        self.streams = limit
        for connection in list(self.connections):
            connection.limit_streams(limit)

    def drop_connections(self) -> int:
        connections = list(self.connections)
        for connection in connections:
            connection.abort()
        return len(connections)
