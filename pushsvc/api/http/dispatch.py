"""Processes every request in the same steps, as its row of the route table defines.

    authentication -> scope -> limits -> parameters -> body -> repeat of a first call? -> document -> handler -> answer

A step refuses what the row does not allow, and the handler receives values: the request without HTTP, and the document.
Its reply is sent with the media type and the headers of the row for its status.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Final

import msgspec
from aiohttp import hdrs, web

from ..call import Answer, Call, Document
from ..config import ApiApp
from ..console.session import Sessions, log_act
from ..ports import ApiPorts, ServedApp
from .auth import Authentication, BearerKeys, admit
from .exchange import Caller, Reply, Request
from .idempotency import PARAM as IDEMPOTENCY_KEY
from .idempotency import REPLAYED, Once
from .incoming import receive
from .limits import ApiLimits
from .problems import REQUEST_ID, SERVER, request_id_of

_encode: Final = msgspec.json.Encoder().encode


class CallDispatcher:
    """Calls the handlers of all calls."""

    def __init__(self, ports: ApiPorts, apps: Mapping[str, ApiApp], *, public: bool) -> None:
        self._ports = ports
        self.serve(apps, public=public)

    def serve(self, apps: Mapping[str, ApiApp], *, public: bool) -> None:
        """Serve these apps from the next request on. `public`: figures and details need no key."""
        ports = self._ports
        served = {name: ServedApp.of(app, ports.addresses, ports.config) for name, app in apps.items()}
        rates = {name: app.limit for name, app in apps.items() if app.limit is not None}
        self._public = public
        keys = BearerKeys(
            served,
            ports.keys,
            monotonic=ports.monotonic,
            cache_seconds=ports.config.key_cache_seconds,
            cache_size=ports.config.key_cache_size,
        )
        self._authentication: Authentication = Sessions(keys, ports.session_secret, ports.clock)
        self._limits = ApiLimits(ports.limiter, rates, monotonic=ports.monotonic) if ports.limiter is not None else None

    def endpoint(self, call: Call) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return the request handler of a call, for aiohttp's router."""
        return partial(self._answer, call, {answer.status: _head(answer) for answer in call.answers})

    async def _answer(
        self, call: Call, heads: Mapping[int, dict[str, str]], request: web.Request
    ) -> web.StreamResponse:
        caller = await admit(call, request, self._authentication, public=self._public)
        limits = self._limits
        if limits is None or not call.limited or not limits.apply_to(caller.key):
            reply = await self._perform(call, request, caller)
        elif call.many:
            reply = await self._perform(call, request, caller, limits)
        else:
            # Before its body is read: a caller over the limit costs next to nothing.
            perform = partial(self._perform, call, request, caller)
            reply = await limits.counted(caller.key, 1, perform)
        head = heads[reply.status]
        body = reply.body
        if caller.session and call.method != "GET":
            log_act(call, request, caller, reply.status)
        if reply.pieces is not None:
            return await _stream(request, reply.pieces, web.StreamResponse(headers={**head, **reply.headers}))
        if reply.repeated:
            head = {**head, **REPLAYED}
        return web.Response(
            status=reply.status,
            body=body if body is None or isinstance(body, bytes) else _encode(body),
            headers={**head, **reply.headers} if reply.headers else head,
        )

    async def _perform(
        self, call: Call, request: web.Request, caller: Caller, limits: ApiLimits | None = None
    ) -> Reply:
        """Read the request and return the handler's reply. With `limits` the documents of a batch are counted."""
        ports = self._ports
        params, body, lines = await receive(call, request, ports.config)
        key: bytes | None = params.get(IDEMPOTENCY_KEY.name)
        asked = Request(
            app=caller.app,
            params=params,
            url=request.rel_url,
            now=ports.clock(),
            gone=lambda: request.transport is None,
            trusted=caller.trusted,
            once=None if key is None else Once.of(key, request.path, body),
            lines=lines,
            key=caller.key,
            session=caller.session,
        )
        does = call.does
        if not isinstance(does, Document):
            return await does(ports, asked)
        if asked.once is not None and does.again is not None:
            kept = await ports.pushes.recall(asked.app.name, asked.once.key)
            if kept is not None:
                return await does.again(ports, asked, asked.once.first_answer(kept))
        document = does.read(body, asked)
        if limits is None:
            return await does.handle(ports, asked, document)
        return await limits.counted(caller.key, len(document), partial(does.handle, ports, asked, document))


async def _stream(
    request: web.Request, pieces: AsyncGenerator[bytes], response: web.StreamResponse
) -> web.StreamResponse:
    """Send the pieces until there are no more, or the client has left."""
    response.headers[REQUEST_ID] = request_id_of(request)
    async with aclosing(pieces):
        with suppress(ConnectionError):
            await response.prepare(request)
            async for piece in pieces:
                await response.write(piece)
    return response


def _head(answer: Answer) -> dict[str, str]:
    """Return the headers of every answer of this kind."""
    head: dict[str, str] = {hdrs.SERVER: SERVER}
    if answer.status != 204:
        head[hdrs.CONTENT_TYPE] = answer.media
    if answer.no_store:
        head[hdrs.CACHE_CONTROL] = "no-store"
    return head
