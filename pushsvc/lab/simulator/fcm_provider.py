"""The simulated FCM, which combines the checks and answers of `fcm` with the scenario of a token."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from ...rules.fcm_schema import Violation
from . import fcm
from .fcm import Message, Refusal, Verifier
from .fcm_http import FcmHttp
from .hpack import Headers
from .http2 import Answer
from .oauth import AccessTokens
from .provider import Decision, Setup, SimulatedProvider
from .scenario import PREFIX, ScenarioError, Step

_INTERFERENCE: Final = {"unavailable": "UNAVAILABLE", "refused": "UNAUTHENTICATED", "throttled": "QUOTA_EXCEEDED"}


class SimulatedFcm(SimulatedProvider):
    def __init__(self, setup: Setup) -> None:
        config = setup.config
        super().__init__(setup, fcm.ERRORS, streams=config.fcm_streams)
        self.tokens = AccessTokens(setup.keys.secret)
        self._projects = (config.project_id, *config.more_projects)
        self._verifier = Verifier(frozenset(self._projects))
        self._messages = round(setup.clock() * 1_000_000)
        self._http = FcmHttp(self, setup)

    def revoke_access_tokens(self) -> None:
        self.tokens.revoke(self._clock())

    def http_routes(self) -> list[web.RouteDef]:
        return self._http.routes()

    def decide(self, headers: Headers, body: bytes, memory: Any, now: float) -> Decision:
        fields = {field[0]: field[1] for field in headers}
        if (trouble := self.switches.interfere(fields.get(b":path", b""), now)) is not None:
            return self._refuse(Step(_INTERFERENCE[trouble]), now), b"", None, None
        authorised = self.tokens.authorises(fields.get(b"authorization"), now)
        verdict = self._verifier.judge(fields, body, authorised=authorised)
        if isinstance(verdict, Refusal):
            return fcm.refuse(verdict, now), b"", None, None
        if verdict.target.startswith(PREFIX):
            return self._play(verdict, body, now)
        return self._accept(verdict), verdict.target.encode(), None if verdict.validate_only else body, None

    def _accept(self, message: Message) -> Answer:
        self._messages += 1
        return fcm.accept(message, self._messages)

    def _play(self, message: Message, body: bytes, now: float) -> Decision:
        token = message.target.encode()
        try:
            step = self.stage.next_step(message.target)
        except ScenarioError as error:
            bad = Refusal("INVALID_ARGUMENT", (Violation("message.token", str(error)),), str(error), fcm_error=True)
            return fcm.refuse(bad, now), token, None, None
        if step.sender is not None and message.project != self._projects[step.sender % len(self._projects)]:
            return fcm.refuse(Refusal("SENDER_ID_MISMATCH"), now), token, None, step
        if step.refuses:
            return self._refuse(step, now), token, None, step
        return self._accept(message), token, None if message.validate_only else body, step

    def _refuse(self, step: Step, now: float) -> Answer:
        return fcm.refuse(
            Refusal(step.name if step.status is None else "UNSPECIFIED_ERROR"),
            now,
            status=step.status,
            retry_after=self.retry_after(step, now),
            empty=step.empty,
        )
