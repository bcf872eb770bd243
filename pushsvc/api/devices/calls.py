"""The calls about devices, their users and their topics."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web
from msgspec import UNSET, Struct

from ...errors import Fault, InvalidRequest, NotFound
from ...model.devices import ByTopic, name_fault
from ...model.push import Platform
from ...ports.erasure import UNHEARD, Erasures
from ...ports.provider import Renderer
from ...ports.registry import MOST_OF_USER, Registry, TopicsFull, UserFull
from ..answers import encode
from ..config import ApiApp, ApiConfig
from ..http.auth import Gate
from ..http.body import check_headers, read_body
from ..http.problems import SERVER, ProblemFault
from ..http.query import read as read_query
from ..pushes.faults import Rules
from ..routes import CALL, JSON
from .document import (
    DeviceList,
    DevicePage,
    Erased,
    ErasedParts,
    RegisteredDevice,
    Topic,
    TopicPage,
    read_device,
    shown,
)

_LOOKS: Final = 20
"""Pages of the registry that one call looks at: a filter that fits few answers with a cursor, not with silence."""
_PLACE: Final = re.compile(r"[0-9]{1,15}(:[0-9]{1,15})?")
_EMPTY: Final = {"Server": SERVER, "Cache-Control": "no-store"}


class DeviceCalls:
    """The handlers, by the names of the route table. `clock` gives Unix milliseconds."""

    def __init__(
        self,
        *,
        apps: Mapping[str, ApiApp],
        renderers: Mapping[Platform, Renderer],
        registry: Registry,
        erasures: Erasures,
        gate: Gate,
        config: ApiConfig,
        clock: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._erasures = erasures
        self._gate = gate
        self._config = config
        self._clock = clock
        self._rules = {app.name: Rules.of(app.name, app.platforms, renderers) for app in apps.values()}

    async def put_device(self, request: web.Request) -> web.Response:
        """`PUT /v1/devices/{device_id}`: 201 where it is new, else 200."""
        app = await self._gate.enter(request, CALL["put_device"].scopes)
        if request.query_string:
            read_query(request.query.items(), ())
        check_headers(request)
        device_id = request.match_info["device_id"]
        body = await read_body(request, self._config)
        try:
            device, new = await self._registry.put(
                app.name, read_device(body, device_id, self._rules[app.name], self._clock())
            )
        except UserFull:
            fault = Fault("user", f"has {MOST_OF_USER:,} devices already; leave `user` out where it names no person")
            raise InvalidRequest(faults=[fault]) from None
        headers = {"Location": f"/v1/devices/{request.rel_url.raw_parts[-1]}"} if new else None
        return _json(201 if new else 200, shown(device), headers)

    async def get_devices(self, request: web.Request) -> web.Response:
        """`GET /v1/devices`."""
        app, query = await self._list(request, "get_devices")
        cursor, topic = query["cursor"] or "", query["topic"]
        if cursor and not _PLACE.fullmatch(cursor):
            raise _bad_cursor()
        if topic is not None and (fault := name_fault(topic)) is not None:
            raise InvalidRequest("The query parameters do not validate.", faults=[Fault("topic", fault)])
        found: list[RegisteredDevice] = []
        more: str | None = cursor
        for _ in range(_LOOKS):
            room = query["limit"] - len(found)
            if topic is None:
                page = await self._registry.page(app, after=more or "", limit=room)
            else:
                page = await self._registry.members(app, ByTopic(topic), after=more or "", limit=room)
            found += [
                shown(device)
                for device in page.devices
                if query["platform"] in (None, device.platform) and query["state"] in (None, device.state)
            ]
            more = page.cursor
            if more is None or len(found) == query["limit"]:
                break
            await asyncio.sleep(0)
        return _json(200, DevicePage(found, more))

    async def get_topics(self, request: web.Request) -> web.Response:
        """`GET /v1/topics`."""
        app, query = await self._list(request, "get_topics")
        found, more = await self._registry.topics(app, after=query["cursor"] or "", limit=query["limit"])
        return _json(200, TopicPage([Topic(name, size) for name, size in found], more))

    async def get_device(self, request: web.Request) -> web.Response:
        """`GET /v1/devices/{device_id}`."""
        app, names = await self._enter(request, "get_device")
        device = await self._registry.get(app.name, names["device_id"])
        if device is None:
            raise _no_device()
        return _json(200, shown(device))

    async def delete_device(self, request: web.Request) -> web.Response:
        """`DELETE /v1/devices/{device_id}`."""
        app, names = await self._enter(request, "delete_device")
        if not await self._registry.remove(app.name, names["device_id"]):
            raise _no_device()
        return _nothing()

    async def get_user_devices(self, request: web.Request) -> web.Response:
        """`GET /v1/users/{user}/devices`."""
        app, names = await self._enter(request, "get_user_devices")
        devices = await self._registry.of_user(app.name, names["user"])
        return _json(200, DeviceList([shown(device) for device in devices]))

    async def delete_user(self, request: web.Request) -> web.Response:
        """`DELETE /v1/users/{user}`."""
        app, names = await self._enter(request, "delete_user")
        erasure = await self._erasures.erase(app.name, names["user"], wait=self._config.erase_wait)
        removed = ErasedParts(**{what: erasure.removed.get(what, 0) for what in ErasedParts.__struct_fields__})
        warnings = UNSET if erasure.heard else [ProblemFault("user", UNHEARD)]
        return _json(200, Erased(erasure.devices, erasure.done, removed, warnings))

    async def put_subscription(self, request: web.Request) -> web.Response:
        """`PUT /v1/topics/{topic}/devices/{device_id}`: 204, also where it was subscribed before."""
        app, names = await self._enter(request, "put_subscription")
        try:
            known = await self._registry.subscribe(app.name, names["topic"], names["device_id"])
        except TopicsFull as error:
            raise InvalidRequest(faults=[Fault("topic", f"is one too many: {error}")]) from None
        if not known:
            raise _no_device()
        return _nothing()

    async def delete_subscription(self, request: web.Request) -> web.Response:
        """`DELETE /v1/topics/{topic}/devices/{device_id}`: 204, also where it was not subscribed."""
        app, names = await self._enter(request, "delete_subscription")
        await self._registry.unsubscribe(app.name, names["topic"], names["device_id"])
        return _nothing()

    async def get_topic(self, request: web.Request) -> web.Response:
        """`GET /v1/topics/{topic}`."""
        app, names = await self._enter(request, "get_topic")
        size = await self._registry.topic_size(app.name, names["topic"])
        if size is None:
            raise NotFound("There is no such topic; it begins with its first subscriber.")
        return _json(200, Topic(names["topic"], size))

    async def _list(self, request: web.Request, name: str) -> tuple[str, Mapping[str, Any]]:
        call = CALL[name]
        app = await self._gate.enter(request, call.scopes)
        return app.name, read_query(request.query.items(), call.params)

    async def _enter(self, request: web.Request, name: str) -> tuple[ApiApp, Mapping[str, str]]:
        """The app, and the names in the path. Raises `InvalidRequest` for those that nothing can have."""
        call = CALL[name]
        app = await self._gate.enter(request, call.scopes)
        read_query(request.query.items(), call.params)
        names = request.match_info
        faults = [Fault(part, fault) for part, text in names.items() if (fault := name_fault(text)) is not None]
        if faults:
            raise InvalidRequest("The path does not validate.", faults=faults)
        return app, names


def _bad_cursor() -> InvalidRequest:
    return InvalidRequest(faults=[Fault("cursor", "is not a cursor that an earlier page has given")])


def _no_device() -> NotFound:
    return NotFound("No device has this id.")


def _nothing() -> web.Response:
    return web.Response(status=204, headers=_EMPTY)


def _json(status: int, body: Struct, headers: Mapping[str, str] | None = None) -> web.Response:
    told = {"Content-Type": JSON, **_EMPTY, **(headers or {})}
    return web.Response(status=status, body=encode(body), headers=told)
