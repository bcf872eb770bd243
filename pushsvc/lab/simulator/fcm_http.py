"""The HTTP/1.1 routes of FCM: its OAuth token endpoint, and its send for clients without HTTP/2.

| call | does |
|---|---|
| `POST /token` | is Google's OAuth token endpoint for service accounts |
| `POST /v1/projects/{project}/messages:send` | is FCM's send, over HTTP/1.1 |
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import web

from .certificates import service_account_email
from .hpack import new_decode
from .http2 import Answer
from .oauth import GOOGLE_AUDIENCE, ServiceAccount, TokenError, verify_assertion
from .provider import Setup

if TYPE_CHECKING:
    from .fcm_provider import SimulatedFcm

_HOP_BY_HOP: Final = frozenset({"connection", "transfer-encoding", "content-length"})


class FcmHttp:
    """The HTTP/1.1 routes of the simulated FCM."""

    def __init__(self, fcm: SimulatedFcm, setup: Setup) -> None:
        self._fcm = fcm
        self._setup = setup
        self._clock = setup.clock

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/token", self.token), web.post("/v1/{rest:.*}", self.send)]

    async def token(self, request: web.Request) -> web.Response:
        now = self._clock()
        form = {key: value for key, value in (await request.post()).items() if isinstance(value, str)}
        try:
            if self._fcm.switches.token_endpoint_refuses:
                raise TokenError("invalid_grant", "Invalid grant: account not found")
            verify_assertion(form, self._account(), now)
        except TokenError as error:
            return web.json_response({"error": error.error, "error_description": str(error)}, status=400)
        tokens = self._fcm.tokens
        return web.json_response({"access_token": tokens.issue(now), "expires_in": tokens.life, "token_type": "Bearer"})

    def _account(self) -> ServiceAccount:
        setup = self._setup
        return ServiceAccount(
            client_email=service_account_email(setup.config.project_id),
            public_key=setup.keys.service_account_key.public_key(),
            audiences=frozenset({f"{setup.control_url()}/token", GOOGLE_AUDIENCE}),
        )

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Send a message for a client that only uses HTTP/1.1, such as firebase-admin's `messaging.send`."""
        now = self._clock()
        body = await request.read()
        headers = [
            (b":method", request.method.encode(), False),
            (b":path", request.raw_path.encode(), False),
            *((name.lower(), value, False) for name, value in request.raw_headers),
        ]
        answer, token, delivery, step = self._fcm.decide(headers, body, None, now)
        name = "stall" if self._fcm.switches.stalled else "ok" if step is None else step.name
        if name in ("stall", "reset", "refuse", "goaway", "drop"):
            answer, delivery = Answer(0, name, b""), None
        self._fcm.record.add(now, 0, 0, headers, body, answer, token, delivery if answer.status == 200 else None)
        if name == "stall":
            await asyncio.sleep(3600)
        if answer.status == 0:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=503)
        await asyncio.sleep(self._fcm.switches.latency + (step.delay_ms / 1000 if step else 0.0))
        fields = [(field[0].decode(), field[1].decode()) for field in new_decode()(answer.block, True)]
        kept = [(key, value) for key, value in fields if not key.startswith(":") and key not in _HOP_BY_HOP]
        return web.Response(body=answer.body, status=answer.status, headers=kept)
