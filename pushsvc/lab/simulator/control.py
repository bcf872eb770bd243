"""The HTTP/1.1 port, over TLS: the control API, and the HTTP/1.1 routes of a platform (`http_routes`).

| call | does |
|---|---|
| `POST /control/{command}` | runs a command of `controls`, with its fields as a JSON object; answers `{"touched": n}` |
| `GET /control` | returns the commands with their fields, the switches, connections, waiting requests, CPU seconds and
memory of the process |
| `GET /record` | returns all counts, by platform |
| `GET /record/{platform}?token=&apns_id=&limit=` | returns counts of that token or id, and the last complete requests |
| `DELETE /record` | deletes the requests, and the request counts of tokens with a scenario |

Bad input answers 400 with `{"error": ".."}`. There is no authentication: it listens on loopback.
"""

from __future__ import annotations

import resource
from typing import Any, Final

import msgspec
from aiohttp import web

from .controls import COMMANDS, Controls, usage

_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])


def _json(content: Any, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")


class ControlApi:
    """The routes of the control port."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls

    def application(self) -> web.Application:
        application = web.Application()
        application.add_routes(
            [
                web.get("/control", self._state),
                web.post("/control/{command}", self._command),
                web.get("/record", self._summary),
                web.delete("/record", self._clear),
                web.get("/record/{platform}", self._requests),
                *(route for provider in self._controls.providers.values() for route in provider.http_routes()),
            ]
        )
        return application

    async def _state(self, request: web.Request) -> web.Response:
        used = resource.getrusage(resource.RUSAGE_SELF)
        process = {"cpu_seconds": used.ru_utime + used.ru_stime, "max_rss_kib": used.ru_maxrss}
        commands = {name: usage(name) for name in COMMANDS}
        return _json({"commands": commands, **self._controls.state(), "process": process})

    async def _command(self, request: web.Request) -> web.Response:
        name = request.match_info["command"]
        if name not in COMMANDS:
            return _json({"error": f"unknown command {name!r}; known are {', '.join(COMMANDS)}"}, 400)
        try:
            fields = _OBJECT.decode(await request.read() or b"{}")
            fields.pop("command", None)
            return _json({"touched": self._controls.control(name, **fields)})
        except msgspec.DecodeError as error:
            return _json({"error": f"{error}; the fields of {name} are {usage(name)}"}, 400)
        except KeyError:
            known = ", ".join(self._controls.providers)
            return _json({"error": f"unknown platform {fields.get('platform')!r}; known are {known}"}, 400)

    async def _summary(self, request: web.Request) -> web.Response:
        return _json(self._controls.record.summary())

    async def _clear(self, request: web.Request) -> web.Response:
        self._controls.clear()
        return web.Response(status=204)

    async def _requests(self, request: web.Request) -> web.Response:
        record = self._controls.record.platforms.get(request.match_info["platform"])
        if record is None:
            raise web.HTTPNotFound
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
