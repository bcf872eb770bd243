"""The part of the simulated APNs for broadcasts and their channels.

`broadcast` checks requests and words answers; this module combines it with the caller's identity, the switches, and
the scenario in a channel's id.
"""

from __future__ import annotations

from collections.abc import Callable

from . import apns, broadcast
from .apns import Session, Verifier
from .broadcast import Channels
from .http2 import Answer
from .provider import Decision
from .scenario import ScenarioError, Stage, Step
from .switches import Switches

_INTERFERENCE = {
    "unavailable": "Service Unavailable",
    "refused": "InvalidProviderToken",
    "throttled": "TooManyRequests",
}


class Broadcasts:
    """Decides about every request whose path is not that of a device."""

    def __init__(
        self,
        verifier: Verifier,
        channels: Channels,
        switches: Switches,
        *,
        echo: Callable[[bytes | None], bytes],
        unique_id: Callable[[], bytes | None],
        retry_after: Callable[[Step, float], bytes | None],
    ) -> None:
        self._verifier = verifier
        self._channels = channels
        self._switches = switches
        self._echo = echo
        self._unique_id = unique_id
        self._retry_after = retry_after
        self._stage = Stage(broadcast.REASONS)

    def reset_scenarios(self) -> None:
        """Forget how often each channel with a scenario was sent to."""
        self._stage.reset()

    def decide(self, fields: broadcast.Fields, count: int, body: bytes, memory: Session, now: float) -> Decision:
        """Decide about a request, like `SimulatedProvider.decide`."""
        path, channel = fields[b":path"], fields.get(b"apns-channel-id", b"")
        request_id = self._echo(fields.get(b"apns-request-id"))
        if not path.startswith((broadcast.SEND, broadcast.MANAGE)):
            return apns.refuse("BadPath", request_id), b"", None, None
        bundle = broadcast.bundle_of(path)
        if (trouble := self._switches.interfere(bundle.encode("latin-1"), now)) is not None:
            return self._refuse(Step(_INTERFERENCE[trouble]), request_id, now), channel, None, None
        refused = (
            broadcast.judge_frame(fields, count)
            or self._verifier.judge_identity(fields.get(b"authorization"), memory, now)
            or broadcast.judge_bundle(bundle, self._verifier.bundle_ids(memory))
        )
        if refused is not None:
            return broadcast.refuse(refused, request_id), channel, None, None
        if path.startswith(broadcast.SEND):
            return self._send(fields, bundle, channel, body, request_id, now)
        method = fields[b":method"]
        if method != b"POST" and not broadcast.lists_all(path):
            return self._manage(method, bundle, channel, request_id, now)
        return self._of_all(method, bundle, body, request_id), b"", None, None

    def _send(
        self, fields: broadcast.Fields, bundle: str, channel: bytes, body: bytes, request_id: bytes, now: float
    ) -> Decision:
        refused = broadcast.judge_push(fields, body) or self._channels.judge(bundle, channel)
        if refused is None and not self._channels.policy(bundle, channel) and fields[b"apns-expiration"] != b"0":
            refused = "BadExpirationDate"
        if refused is not None:
            return broadcast.refuse(refused, request_id), channel, None, None
        step = self._step(channel)
        if step is not None and step.refuses:
            return self._refuse(step, request_id, now), channel, None, step
        answer = broadcast.accept(request_id, unique=self._unique_id())
        return answer, channel, fields.get(b"apns-request-id") or channel + body, step

    def _manage(self, method: bytes, bundle: str, channel: bytes, request_id: bytes, now: float) -> Decision:
        """Read or delete one channel."""
        refused = self._channels.judge(bundle, channel)
        if refused is not None:
            return broadcast.refuse(refused, request_id), channel, None, None
        step = self._step(channel)
        if step is not None and step.refuses:
            return self._refuse(step, request_id, now), channel, None, step
        if method == b"DELETE":
            self._channels.delete(bundle, channel)
            answer = broadcast.accept(request_id, status=204, reason=broadcast.CHANNEL)
        else:
            policy = self._channels.policy(bundle, channel)
            content = {"message-storage-policy": policy, "push-type": "LiveActivity"}
            answer = broadcast.accept(request_id, reason=broadcast.CHANNEL, content=content)
        return answer, channel, None, step

    def _of_all(self, method: bytes, bundle: str, body: bytes, request_id: bytes) -> Answer:
        """Create a channel, or list all."""
        if not self._channels.enabled:
            return broadcast.refuse("FeatureNotEnabled", request_id)
        if method == b"GET":
            listed = {"channels": self._channels.all(bundle)}
            return broadcast.accept(request_id, reason=broadcast.CHANNEL, content=listed)
        refused, made = self._channels.create(bundle, body)
        if refused is not None:
            return broadcast.refuse(refused, request_id)
        return broadcast.accept(request_id, status=201, reason=broadcast.CHANNEL, channel=made)

    def _step(self, channel: bytes) -> Step | None:
        text = broadcast.scenario_of(channel)
        if not text:
            return None
        try:
            return self._stage.next_step(text)
        except ScenarioError:
            return Step("ChannelNotRegistered")

    def _refuse(self, step: Step, request_id: bytes, now: float) -> Answer:
        return broadcast.refuse(
            step.name if step.status is None else "SomethingNew",
            request_id,
            status=step.status,
            retry_after=self._retry_after(step, now),
            empty=step.empty,
        )
