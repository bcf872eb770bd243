"""The HTTP/1.1 port, over TLS: the OAuth token endpoint, the control API, and FCM for clients without HTTP/2.

| call | does |
|---|---|
| `POST /token` | Google's OAuth token endpoint for service accounts |
| `POST /control/{command}` | a command of `controls`, its fields as a JSON object; `{"touched": n}` |
| `GET /control` | what is switched on, connections, waiting requests, CPU seconds and memory of the process |
| `GET /record` | all counts, by platform |
| `GET /record/{platform}?token=&apns_id=&limit=` | counts of that token or id, and the last requests whole |
| `DELETE /record` | forget the requests, and how often each token with a scenario came |
| `POST /v1/projects/{project}/messages:send` | FCM's send, over HTTP/1.1 |

Bad input answers 400 with `{"error": ".."}`. There is no authentication: it listens on loopback.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from .controls import COMMANDS, Command, Controls
from .fcm_provider import SimulatedFcm
from .hpack import new_decode
from .http2 import Answer
from .oauth import ServiceAccount, TokenError, verify_assertion
from .provider import Clock

_COMMAND: Final = msgspec.json.Decoder(Command)
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_HOP_BY_HOP: Final = frozenset({"connection", "transfer-encoding", "content-length"})


def _json(content: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")


class ControlApi:
    """The routes and what they stand on."""

    def __init__(
        self, controls: Controls, fcm: SimulatedFcm, account: Callable[[], ServiceAccount], clock: Clock
    ) -> None:
        self._account = account
        self._controls = controls
        self._fcm = fcm
        self._clock = clock

    def application(self) -> web.Application:
        application = web.Application()
        application.add_routes(
            [
                web.post("/token", self._token),
                web.get("/control", self._state),
                web.post("/control/{command}", self._command),
                web.get("/record", self._summary),
                web.delete("/record", self._clear),
                web.get("/record/{platform:apns|fcm}", self._requests),
                web.post("/v1/{rest:.*}", self._fcm_send),
            ]
        )
        return application

    async def _token(self, request: web.Request) -> web.Response:
        now = self._clock()
        form = {key: value for key, value in (await request.post()).items() if isinstance(value, str)}
        try:
            if self._controls.token_endpoint_refuses:
                raise TokenError("invalid_grant", "Invalid grant: account not found")
            verify_assertion(form, self._account(), now)
        except TokenError as error:
            return _json({"error": error.error, "error_description": str(error)}, 400)
        tokens = self._fcm.tokens
        return _json({"access_token": tokens.issue(now), "expires_in": tokens.life, "token_type": "Bearer"})

    async def _state(self, request: web.Request) -> web.Response:
        used = resource.getrusage(resource.RUSAGE_SELF)
        process = {"cpu_seconds": used.ru_utime + used.ru_stime, "max_rss_kib": used.ru_maxrss}
        return _json({**self._controls.state(), "process": process})

    async def _command(self, request: web.Request) -> web.Response:
        name = request.match_info["command"]
        if name not in COMMANDS:
            return _json({"error": f"unknown command {name!r}; there are {', '.join(COMMANDS)}"}, 400)
        try:
            fields = _OBJECT.decode(await request.read() or b"{}")
            fields["command"] = msgspec.Raw(msgspec.json.encode(name))
            command: Command = _COMMAND.decode(msgspec.json.encode(fields))
        except msgspec.DecodeError as error:
            return _json({"error": str(error)}, 400)
        return _json({"touched": self._controls.apply(command)})

    async def _summary(self, request: web.Request) -> web.Response:
        return _json(self._controls.record.summary())

    async def _clear(self, request: web.Request) -> web.Response:
        self._controls.clear()
        return web.Response(status=204)

    async def _requests(self, request: web.Request) -> web.Response:
        record = self._controls.record.platform(request.match_info["platform"])
        token, apns_id = request.query.get("token"), request.query.get("apns_id")
        try:
            limit = int(request.query.get("limit", "100"))
        except ValueError:
            return _json({"error": "limit must be a number"}, 400)
        found = record.requests(token=token, apns_id=apns_id)
        content: dict[str, Any] = {"requests": [item.as_json() for item in found[-limit:]] if limit > 0 else []}
        if token is not None:
            content |= {"received": record.requests_of(token), "accepted": record.accepted_of(token)}
        if apns_id is not None:
            content["accepted"] = record.accepted_id(apns_id)
        return _json(content)

    async def _fcm_send(self, request: web.Request) -> web.StreamResponse:
        """FCM for a client that speaks HTTP/1.1 only, such as firebase-admin's `messaging.send`."""
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
