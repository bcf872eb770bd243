"""Processes every request in the same steps, as its row of the route table defines.

    call -> authentication -> scope -> limits -> parameters -> body -> repeat of a first call? -> document -> handler

A step refuses what the row does not allow, and the handler receives values: the request without HTTP, and the document.
Its reply is sent with the media type and the headers of the row for its status, a refusal as a problem document. Every
answer has the id of its request, and is counted and logged here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec
from aiohttp import HttpVersion11, hdrs
from structlog.typing import FilteringBoundLogger

from ... import telemetry
from ...errors import RequestError, StoreUnavailable
from ..call import Answer, Call, Document
from ..config import ApiApp, Keyless
from ..console.session import Sessions, log_act
from ..large import LARGE
from ..ports import ApiPorts, ServedApp
from .auth import Authentication, BearerKeys, StoredKeys, admit
from .connections import Connection
from .exchange import Caller, Reply, Request
from .idempotency import PARAM as IDEMPOTENCY_KEY, REPLAYED, Once
from .incoming import read_body, receive
from .limits import ApiLimits
from .problems import SERVER, ExpectationFailed, away, check_path, crash, no_such_call, respond
from .request import ApiRequest
from .response import Common, Response
from .table import Table
from .uses import KeyUses

_encode: Final = msgspec.json.Encoder().encode
_NAMES: Final = telemetry.traces.Names(("pushsvc.request_id",))
"""What spans of requests have of their own before a handler notes more."""


class _Row:
    """A row of the route table, as requests are processed by it."""

    def __init__(self, call: Call | None = None) -> None:
        self.call = call
        self.route = telemetry.UNMATCHED if call is None else f"{call.method} {call.path}"
        """Its name in logs. Unknown paths are one route, or a scanner would make a metric of each."""
        self.traced = call is not None and call.keyed and call.in_document
        self._alike: dict[tuple[str, int, str, telemetry.traces.Names], telemetry.traces.Alike] = {}
        self._heads = {} if call is None else {answer.status: Common(_head(answer)) for answer in call.answers}
        self._answered: dict[tuple[str, int], telemetry.Answered] = {}

    def response(self, reply: Reply) -> Response:
        """Return the answer for a handler's reply."""
        body = reply.body
        if body is None:
            body = b""
        elif not isinstance(body, bytes):
            body = _encode(body)
        headers = {**reply.headers, **REPLAYED} if reply.repeated else reply.headers
        return Response(reply.status, body, headers, self._heads[reply.status])

    def count(self, app: str, method: str, status: int, seconds: float) -> None:
        """Count a request, which was answered after `seconds`."""
        answered = self._answered.get((app, status))
        if answered is None:
            call = self.call
            if call is None:
                answered = telemetry.HTTP.answered(app, method, telemetry.UNMATCHED, status)
            else:
                answered = telemetry.HTTP.answered(app, call.method, call.path, status)
                self._answered[app, status] = answered
        answered.count += 1
        answered.seconds.observe(seconds)

    def alike(self, app: str, status: int, error: str, names: telemetry.traces.Names) -> telemetry.traces.Alike:
        """Return what spans of requests have in common, by the names of
        https://opentelemetry.io/docs/specs/semconv/http/http-spans/. `status` is 0 where nothing was answered."""
        found = self._alike.get((app, status, error, names))
        if found is None:
            about: telemetry.traces.Attributes = ()
            if self.call is not None:
                about = (("http.request.method", self.call.method), ("http.route", self.call.path))
            if status:
                about += (("http.response.status_code", status),)
            if app:
                about += (("pushsvc.app", app),)
            found = telemetry.traces.Alike(self.route, "server", about, error, names)
            self._alike[app, status, error, names] = found
        return found


_Place: TypeAlias = tuple[_Row, Mapping[str, str], bool]
"""The row of a request, the values of the names in its path, and whether there is more to look at before it."""


class CallDispatcher:
    """Answers the requests of all calls."""

    def __init__(self, ports: ApiPorts, calls: Iterable[Call], apps: Mapping[str, ApiApp], *, keyless: Keyless) -> None:
        self._ports = ports
        # Bound once: to look it up costs more than a call that logs nothing.
        self._log: FilteringBoundLogger = telemetry.get_logger("intake").bind()
        self._unmatched = _Row()
        calls = list(calls)
        telemetry.HTTP.show((call.method, call.path) for call in calls)
        self.uses = KeyUses(ports.keys)
        """The keys of the requests, which are noted while the API is served."""
        self._stored = StoredKeys(ports.keys, ports.config, ports.monotonic)
        self._table = Table((call.method, call.path, _Row(call)) for call in calls)
        self.serve(apps, keyless=keyless)

    def serve(self, apps: Mapping[str, ApiApp], *, keyless: Keyless) -> None:
        """Serve these apps from the next request on, also on open connections. `keyless` requests need no key for
        figures and details."""
        ports = self._ports
        served = {name: ServedApp.of(app, ports.addresses, ports.config) for name, app in apps.items()}
        rates = {name: app.limit for name, app in apps.items() if app.limit is not None}
        self._keyless: Keyless = keyless
        self.uses.configured = frozenset(key.sha256.lower() for app in apps.values() for key in app.keys)
        keys = BearerKeys(served, self._stored)
        self._authentication: Authentication = Sessions(keys, ports.session_secret, ports.clock)
        self._limits = ApiLimits(ports.limiter, rates, monotonic=ports.monotonic) if ports.limiter is not None else None

    async def aclose(self) -> None:
        """End the requests that have no end of their own, or wait for that of their push. Others are completed."""
        self._ports.closing.set()
        await self._ports.waits.aclose()

    async def handle(self, request: ApiRequest) -> Response:
        """Return the answer to a request."""
        started = time.perf_counter()
        row = self._unmatched
        names: Mapping[str, str] = {}
        span: telemetry.traces.OpenSpan | None = None
        cut = False
        try:
            place: _Place = request.parsed.place or self._find(request)
            row, names, odd = place
            if odd:
                check_path(request.raw_path)
                if hdrs.EXPECT in request.headers:
                    await _expect(request)
            if telemetry.traces.tracer is not None and row.traced:
                parent = telemetry.traces.parent_of(request.headers.get(telemetry.traces.HEADER))
                span = telemetry.traces.tracer.begin(parent)
                if span is not None:
                    span.note(_NAMES, (request.id,))
            if row.call is None:
                response = self._no_such_call(request)
            else:
                caller = await admit(row.call, request, self._authentication, keyless=self._keyless)
                limits = self._limits
                if limits is None or not row.call.limited or not limits.apply_to(caller.key):
                    reply = await self._perform(row.call, names, request, caller, span)
                elif row.call.many or IDEMPOTENCY_KEY.name in request.headers:
                    reply = await self._perform(row.call, names, request, caller, span, limits)
                else:
                    # Before its body is read: a caller over the limit costs next to nothing. One with an idempotency
                    # key may repeat a call, which is not counted, and only its body shows that.
                    perform = partial(self._perform, row.call, names, request, caller, span)
                    reply = await limits.counted(caller.key, 1, perform)
                response = row.response(reply)
                if reply.pieces is not None:
                    await response.stream(request, reply.pieces)
        except Exception as error:
            response = _refusal(request, error)
            # A part of an answer was sent already, so no other can be.
            cut = request.writer.output_size > 0
        except asyncio.CancelledError:
            if span is not None:
                span.end(row.alike(request.app, 0, "CancelledError", span.names))
            raise
        self._note(row, names, request, response.status, time.perf_counter() - started, span)
        if cut:
            raise ConnectionResetError
        if not request.content.is_eof() and isinstance(request.protocol, Connection):
            request.protocol.leave(request.content)
        return response

    def _find(self, request: ApiRequest) -> _Place:
        methods = plain = self._table.plain.get(request.raw_path)
        names: Mapping[str, str] = {}
        if methods is None:
            methods, names = self._table.find(request.rel_url.path_safe)
        odd = methods is not plain or hdrs.EXPECT in request.headers
        place = request.parsed.place = (methods.get(request.method, self._unmatched), names, odd)
        return place

    def _no_such_call(self, request: ApiRequest) -> Response:
        path = request.rel_url.path_safe
        allowed, _ = self._table.find(path)
        return no_such_call(request.method, path, allowed, self._table.near(path))

    def _note(
        self,
        row: _Row,
        names: Mapping[str, str],
        request: ApiRequest,
        status: int,
        seconds: float,
        span: telemetry.traces.OpenSpan | None,
    ) -> None:
        """Count and log a request, which was answered after `seconds`."""
        app, caller, method = request.app, request.caller, request.method
        if caller is not None:
            self.uses.see(caller.key.sha256)
        row.count(app, method, status, seconds)
        say = self._log.debug if status < 400 else self._log.info
        ms = seconds * 1000
        say("request", method=method, route=row.route, status=status, ms=ms, app=app, request_id=request.id)
        if span is not None:
            span.end(row.alike(app, status, str(status) if status >= 500 else "", span.names))
        if caller is not None and caller.session and row.call is not None and row.call.method != "GET":
            log_act(row.call, request, names, caller, status)

    async def _perform(
        self,
        call: Call,
        names: Mapping[str, str],
        request: ApiRequest,
        caller: Caller,
        span: telemetry.traces.OpenSpan | None,
        limits: ApiLimits | None = None,
    ) -> Reply:
        """Read the request and return the handler's reply. With `limits` its documents are counted, unless it repeats
        a call."""
        ports = self._ports
        params, lines, coded = request.parsed.received or receive(call, names, request)
        body = b"" if call.document is None else await read_body(request, ports.config, coded)
        key: bytes | None = params.get(IDEMPOTENCY_KEY.name)
        asked = Request(
            app=caller.app,
            params=params,
            url=request.rel_url,
            now=ports.clock(),
            gone=request.gone,
            trusted=caller.trusted,
            unchecked=caller.unchecked,
            once=None if key is None else Once.of(key, request.path, body),
            lines=lines,
            key=caller.key,
            session=caller.session,
            span=span,
            id=request.id,
        )
        does = call.does
        if not isinstance(does, Document):
            return await does(ports, asked)
        if asked.once is not None and does.again is not None:
            kept = await ports.pushes.recall(asked.app.name, asked.once.key)
            if kept is not None:
                return await does.again(ports, asked, asked.once.first_answer(kept))
        if limits is not None and not call.many:
            return await limits.counted(caller.key, 1, partial(self._handle, does, asked, body))
        return await self._handle(does, asked, body, limits)

    async def _handle(self, does: Document[Any], asked: Request, body: bytes, limits: ApiLimits | None = None) -> Reply:
        """Decode the body and return the handler's reply. With `limits` the documents of a batch are counted."""
        ports = self._ports
        if len(body) < LARGE:
            document = does.read(body, asked)
        else:
            document = await ports.large.judge(partial(does.read, body, asked))
        if limits is None:
            return await does.handle(ports, asked, document)
        return await limits.counted(asked.key, len(document), partial(does.handle, ports, asked, document))


def _head(answer: Answer) -> dict[str, str]:
    """Return the headers of every answer of this kind."""
    head: dict[str, str] = {hdrs.SERVER: SERVER}
    if answer.status != 204:
        head[hdrs.CONTENT_TYPE] = answer.media
    if answer.no_store:
        head[hdrs.CACHE_CONTROL] = "no-store"
    return head


def _refusal(request: ApiRequest, error: Exception) -> Response:
    """Return the answer for what a call has raised."""
    if isinstance(error, StoreUnavailable):
        return respond(away())
    if not isinstance(error, RequestError):
        return crash(request, error)
    response = respond(error)
    if isinstance(error, ExpectationFailed):
        response.force_close()
    return response


async def _expect(request: ApiRequest) -> None:
    """Answer `Expect: 100-continue`. Raises `ExpectationFailed` for any other expectation."""
    if request.headers[hdrs.EXPECT].lower() != "100-continue":
        raise ExpectationFailed("Only `Expect: 100-continue` is supported.")
    if request.version < HttpVersion11:  # https://www.rfc-editor.org/rfc/rfc9110#section-10.1.1-14.1
        return
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    # The body of the final answer has not begun.
    request.writer.output_size = 0
