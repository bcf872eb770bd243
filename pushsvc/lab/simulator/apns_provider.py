"""The simulated APNs, which combines the checks and answers of `apns` with the scenario of a token."""

from __future__ import annotations

import secrets
from typing import Final

from . import apns
from .apns import Identity, Session, Verifier
from .broadcast import Channels
from .broadcasts import Broadcasts
from .hpack import Headers
from .http2 import Answer, Connection
from .provider import Decision, Setup, SimulatedProvider
from .scenario import ScenarioError, Step

_DEVICE: Final = b"/3/device/"
_PATH: Final = len(_DEVICE)
_SIM: Final = b"sim:".hex().encode()
_NO_ERROR: Final = (200, 201, 204, 410)  # APNs does not count 410 as an error condition
_INTERFERENCE: Final = {
    "unavailable": "ServiceUnavailable",
    "refused": "InvalidProviderToken",
    "throttled": "TooManyRequests",
}


class SimulatedApns(SimulatedProvider):
    """APNs on one port."""

    farewell = b'{"reason":"Shutdown"}'

    def __init__(self, setup: Setup) -> None:
        config = setup.config
        super().__init__(setup, apns.REASONS, streams=config.apns_streams)
        self._config = config
        self.channels = Channels(enabled=config.broadcasts)
        """The existing broadcast channels, which can be switched off while the simulator runs."""
        self._verifier = Verifier(
            Identity(
                key_id=config.key_id,
                team_id=config.team_id,
                public_key=setup.keys.apns_key.public_key(),
                topics=frozenset({config.topic}),
                token_updates=config.token_updates,
            )
        )
        seed = secrets.token_hex(9)
        self._id_prefix = f"{seed[:8].upper()}-{seed[8:12].upper()}-4{seed[12:15].upper()}-A{seed[15:].upper()}-"
        self._ids = 0
        self._broadcasts = Broadcasts(
            self._verifier,
            self.channels,
            self.switches,
            echo=self._echo,
            unique_id=self._unique_id,
            retry_after=self.retry_after,
        )

    def opened(self, connection: Connection) -> int:
        """Allow one stream with token authentication "until you post a request with a valid authentication token"
        (https://developer.apple.com/documentation/usernotifications/establishing-a-connection-to-apns)."""
        certificate = _certificate_topic(connection)
        connection.memory = Session(certificate)
        return 1 if certificate is None and self._config.one_stream_at_start else self.streams

    def answered(self, connection: Connection, answer: Answer) -> None:
        """Adapt the stream limit to an answer: see `one_stream_at_start` and `throttle_rejections` of the config."""
        throttles, limit = self._config.throttle_rejections, connection.stream_limit
        if answer.status in _NO_ERROR or (not throttles and _is_known(connection.memory, answer)):
            limit = self.streams
        elif throttles and answer.status:
            limit = 1
        if limit != connection.stream_limit:
            connection.limit_streams(limit)

    def _make_id(self) -> bytes:
        self._ids += 1
        return f"{self._id_prefix}{self._ids:012X}".encode()

    def decide(self, headers: Headers, body: bytes, memory: Session, now: float) -> Decision:
        fields = {field[0]: field[1] for field in headers}
        if not fields.get(b":path", _DEVICE).startswith(_DEVICE):
            return self._broadcasts.decide(fields, len(headers), body, memory, now)
        message_id = fields.get(b"apns-id")
        if (trouble := self.switches.interfere(fields.get(b"apns-topic", b""), now)) is not None:
            return self._refuse(Step(_INTERFERENCE[trouble]), self._echo(message_id), now), b"", None, None
        reason = self._verifier.judge(fields, len(headers), body, memory, now)
        if reason is not None:
            token = fields.get(b":path", b"")[_PATH:]
            return apns.refuse(reason, self._echo(message_id)), token, None, None
        token = fields[b":path"][_PATH:]
        if token[:8].lower() == _SIM:
            return self._play(token, message_id, body, now)
        if message_id is None:
            # Without an `apns-id` of the client, the same payload to the same token counts as the same delivery.
            return self._accept(self._make_id()), token, token + body, None
        return self._accept(message_id), token, message_id, None

    def _echo(self, message_id: bytes | None) -> bytes:
        return message_id if message_id is not None and apns.well_formed_id(message_id) else self._make_id()

    def _accept(self, message_id: bytes) -> Answer:
        return apns.accept(message_id, self._unique_id())

    def _unique_id(self) -> bytes | None:
        """Return the sandbox's own id of a push."""
        return self._make_id().lower() if self._config.environment == "sandbox" else None

    def _play(self, token: bytes, client_id: bytes | None, body: bytes, now: float) -> Decision:
        message_id = self._echo(client_id)
        try:
            step = self.stage.next_step(bytes.fromhex(token.decode()).decode("latin-1"))
        except ScenarioError as error:
            return apns.refuse("BadDeviceToken", message_id, detail=str(error)), token, None, None
        if step.refuses:
            return self._refuse(step, message_id, now), token, None, step
        return self._accept(message_id), token, client_id or token + body, step

    def _refuse(self, step: Step, message_id: bytes, now: float) -> Answer:
        return apns.refuse(
            step.name if step.status is None else "SomethingNew",
            message_id,
            status=step.status,
            timestamp=round(now * 1000) if step.since is None else step.since,
            retry_after=self.retry_after(step, now),
            empty=step.empty,
        )

    def reset_scenarios(self) -> None:
        super().reset_scenarios()
        self._broadcasts.reset_scenarios()


def _is_known(session: Session, answer: Answer) -> bool:
    """Return whether the request has a valid token, which opens the streams of its connection even if it is refused."""
    return bool(session.token) and answer.status not in (0, 403) and answer.reason != "TooManyProviderTokenUpdates"


def _certificate_topic(connection: Connection) -> str | None:
    """Return the UID in the subject of the client's certificate, which TLS has verified against the simulator's CA."""
    certificate = connection.transport.get_extra_info("peercert")
    if not certificate:
        return None
    subject = {key: value for part in certificate.get("subject", ()) for key, value in part}
    return subject.get("userId") or subject.get("UID")
