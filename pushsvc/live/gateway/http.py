"""The live channel over plain HTTP, for a short connection: history, acknowledgements, events and a long poll.

The bearer is the device's connect token. The answer reports what a stream cannot give, as over the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from ...bodies import parse, read_document, read_value
from ...errors import (
    Conflict,
    Fault,
    Forbidden,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from ...ports.live import (
    Connected,
    EventReport,
    LiveRoute,
    Page,
    Position,
    Recipient,
    Reference,
    Refused as RefusedDevice,
)
from ..peer import Request
from ..protocol import codes
from ..protocol.codec import Rendered
from ..protocol.commands import EventBody, OffsetBody
from ..protocol.tokens import UNKNOWN_APP, Claims, Rejected
from ..sockets.http import HttpAnswer, HttpRoute
from .contents import bounded
from .gateway import Gateway
from .members import POLL

WAIT: Final = 25
"""Seconds for which a poll waits that names no time."""
LONGEST_POLL: Final = 55
"""Seconds of one poll at most: shorter than the patience of common proxies."""

_REFUSED: Final = "The token was revoked, or its device is not known."

_encode = msgspec.json.Encoder().encode


class Events(Struct, frozen=True):
    """Several events of one call."""

    events: Annotated[list[EventBody], Meta(min_length=1, max_length=100)]


class HistoryPage(Struct, frozen=True):
    """A part of the device's stream."""

    epoch: str
    offset: int
    """The last offset of the stream."""
    publications: list[Raw]
    more: bool
    missing: int


def routes(gateway: Gateway) -> list[HttpRoute]:
    """Return the plain calls of a gateway."""
    calls = HttpCalls(gateway)
    return [
        HttpRoute("GET", "/healthz", calls.health),
        HttpRoute("GET", "/v1/live/history", calls.history),
        HttpRoute("GET", "/v1/live/poll", calls.poll),
        HttpRoute("GET", "/v1/live/messages/{id}", calls.message),
        HttpRoute("POST", "/v1/live/ack", calls.ack),
        HttpRoute("POST", "/v1/live/read", calls.read),
        HttpRoute("POST", "/v1/live/events", calls.events),
    ]


class HttpCalls:
    """The handlers. Each raises `Unauthorized` without a valid token, and `Unavailable` while Redis is away."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def health(self, request: Request) -> HttpAnswer:
        """Answer that the process is alive."""
        return HttpAnswer(b'{"status":"ok"}')

    async def history(self, request: Request) -> HttpAnswer:
        """Answer with a page of the stream, in either direction."""
        device = await self._device(request)
        query = request.query
        page = await self._page(
            device,
            _number(query, "since", 0, 2**53 - 1),
            query.get("epoch", ""),
            _number(query, "limit", 1, 200) or 100,
            reverse=query.get("reverse", "") in ("1", "true"),
        )
        return await self._show(device, page)

    async def poll(self, request: Request) -> HttpAnswer:
        """Answer with what stands behind a position; wait for the first where nothing does."""
        query, gateway = request.query, self._gateway
        device = self._bearer(request)
        since, epoch = _number(query, "since", 0, 2**53 - 1), query.get("epoch", "")
        wait = _number(query, "wait", 0, LONGEST_POLL)
        seconds = 0 if gateway.draining else WAIT if wait is None else wait
        waiting = WaitingPoll(device, request.address)
        position = None if since is None or not epoch else Position(epoch, since)
        gateway.add(waiting)
        # Not ended with the call: its step may be on its way, and the end of the connection must follow it.
        connecting = asyncio.create_task(self._connect(waiting, device.issued_at, position))
        try:
            async with _away():
                result = await asyncio.shield(connecting)
            if isinstance(result, RefusedDevice):
                raise Unauthorized(_REFUSED)
            if result.page.publications or not seconds:
                return await self._show(device, result.page, recovered=result.recovered)
            try:
                async with asyncio.timeout(seconds):
                    await waiting.called.wait()
            except TimeoutError:
                pass
            if waiting.replaced:
                raise Conflict("Another connection of this device has replaced this one.")
            await self._admit(device)  # it may have been revoked meanwhile
            page = await self._page(device, result.since, result.page.epoch, 100, reverse=False)
            same = page is not None and page.epoch == result.page.epoch and not page.missing
            return await self._show(device, page, recovered=result.recovered and same)
        finally:
            if gateway.remove(waiting):
                gateway.spawn(self._leave(waiting, connecting))

    async def _connect(
        self, waiting: WaitingPoll, issued_at: int, position: Position | None
    ) -> Connected | RefusedDevice:
        """Give a poll its route, and end the connection that had it."""
        gateway = self._gateway
        result = await gateway.live.connect(
            waiting.app,
            waiting.device_id,
            LiveRoute(gateway.id, waiting.number),
            issued_at=issued_at,
            position=position,
            limit=100,
        )
        if isinstance(result, Connected):
            await gateway.replace(result.replaced, waiting)
        return result

    async def _leave(self, waiting: WaitingPoll, connecting: asyncio.Task[Connected | RefusedDevice]) -> None:
        """Take the route of a poll away, when its connect has ended; one that was refused has none."""
        await asyncio.wait([connecting])
        # A call that has ended does not ask for the exception.
        failed = connecting.cancelled() or connecting.exception() is not None
        if failed or not isinstance(connecting.result(), RefusedDevice):
            await self._gateway.disconnect(waiting)

    async def message(self, request: Request) -> HttpAnswer:
        """Answer with the content of a push of which a notice was sent."""
        device = await self._device(request)
        async with _away():
            body = await self._gateway.content(device.app, device.device_id, request.params["id"].lower())
        if body is None:
            raise NotFound("There is no content of this push for the device, or it is no longer kept.")
        return HttpAnswer(body)

    async def ack(self, request: Request) -> HttpAnswer:
        """Acknowledge everything up to an offset."""
        device = await self._device(request)
        position = _position(request.body)
        async with _away():
            acked = await self._gateway.acks.ack(device.app, device.device_id, position)
        self._refuse(acked.fault)
        return HttpAnswer(_encode({"acked": acked.acked, "unacked": acked.unacked}))

    async def read(self, request: Request) -> HttpAnswer:
        """Note that the user has read everything up to an offset."""
        device = await self._device(request)
        position = _position(request.body)
        async with _away():
            read = await self._gateway.live.read(device.app, device.device_id, position)
        self._refuse(read.fault)
        return HttpAnswer(_encode({"unread": read.unread.get(device.device_id, 0)}))

    async def events(self, request: Request) -> HttpAnswer:
        """Count what has become of pushes, whichever channel they came by: one event, or `events`."""
        device = await self._device(request)
        several = isinstance(value := parse(request.body), dict) and "events" in value
        reported = read_value(value, Events).events if several else [read_value(value, EventBody)]
        events = [(EventReport(each.id.lower(), device.device_id, each.event), each.seconds) for each in reported]
        async with _away():
            counted = await self._gateway.report(device.app, events)
        return HttpAnswer(_encode({"counted": counted}))

    async def _device(self, request: Request) -> Claims:
        """Return whose call it is; each call asks Redis whether the token was revoked."""
        device = self._bearer(request)
        await self._admit(device)
        return device

    async def _admit(self, device: Claims) -> None:
        """Raise `Unauthorized` if the token was revoked."""
        async with _away():
            refused = await self._gateway.live.admits(device.app, device.device_id, issued_at=device.issued_at)
        if refused is not None:
            raise Unauthorized(_REFUSED)

    def _refuse(self, fault: str) -> None:
        if fault == "offset":
            raise InvalidRequest(faults=[Fault("offset", "is beyond the end of the stream")])
        if fault:
            self._gateway.metrics.fault("epoch")
            raise Conflict("The position is not of this stream: read the history to find where it stands.")

    def _bearer(self, request: Request) -> Claims:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        verdict = self._gateway.verify(token.strip()) if scheme.lower() == "bearer" else None
        if verdict == UNKNOWN_APP:
            raise Unavailable("This gateway does not know the app of the token yet. Try again.", retry_after=1)
        if not isinstance(verdict, Claims):
            raise Unauthorized(_unauthorized(token.strip(), verdict))
        if self._gateway.denies(verdict.device_id):
            raise Forbidden("This device is refused.")
        if not self._gateway.calls.admit((verdict.app, verdict.device_id), self._gateway.now()):
            raise TooManyRequests("This device calls too often.", retry_after=1)
        return verdict

    async def _page(self, device: Claims, since: int | None, epoch: str, limit: int, *, reverse: bool) -> Page | None:
        async with _away():
            return await self._gateway.live.history(
                device.app, device.device_id, since=since, epoch=epoch, limit=limit, reverse=reverse
            )

    async def _show(self, device: Claims, page: Page | None, *, recovered: bool | None = None) -> HttpAnswer:
        if page is None:
            raise NotFound("This device has no stream yet: it begins with the first connect or the first push.")
        async with _away():
            rendered = await self._gateway.contents.of(device.app, (each.push.id for each in page.publications))
            unread = await self._unread(device) if rendered else 0
        page = bounded(page, rendered)
        shown = [
            Raw(
                b'{"offset":%d,"data":%b,"prev":%d,"unread":%d}}'
                % (each.offset, rendered[each.push.id], each.prev, unread)
            )
            for each in page.publications
            if each.push.id in rendered
        ]
        lost = len(page.publications) - len(shown)
        found = HistoryPage(page.epoch, page.top, shown, page.more, page.missing + lost)
        if recovered is None:
            return HttpAnswer(_encode(found))
        return HttpAnswer(_encode({**msgspec.structs.asdict(found), "recovered": recovered and not lost}))

    async def _unread(self, device: Claims) -> int:
        (presence,) = await self._gateway.live.presence(device.app, [device.device_id])
        return 0 if presence is None else presence.unread


class WaitingPoll:
    """A poll that waits, in the place of a connection."""

    transport = POLL
    epoch = ""

    def __init__(self, device: Claims, address: str) -> None:
        self.address = address
        self.app, self.device_id = device.app, device.device_id
        self.number = 0
        self.connected_at = 0.0
        self.called = asyncio.Event()
        self.replaced = False

    def published(self, recipient: Recipient, rendered: Rendered, delivery: Reference | None = None) -> None:
        """End the wait: something was appended."""
        self.called.set()

    def appended(self, epoch: str, top: int, unread: int) -> None:
        """End the wait: something may have been appended."""
        self.called.set()

    def unread(self, count: int) -> None:
        """Pass over what is unread: the next answer has it."""

    def end(self, disconnect: codes.Disconnect) -> None:
        self.replaced = disconnect == codes.REPLACED
        self.called.set()

    def fail(self) -> None:
        """End the wait."""
        self.called.set()


class _away:  # noqa: N801  # reads as a statement: `async with _away():`
    """Answers 503 while Redis is away."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, StoreUnavailable):
            raise Unavailable("Redis cannot be reached. Try again.", retry_after=1) from None


def _unauthorized(token: str, verdict: Rejected | None) -> str:
    """Return why a call is not authenticated: no token as bearer, or a token with this verdict."""
    if verdict is None or not token:
        return "Send the device's token in the header `Authorization: Bearer <token>`."
    if verdict.refusal == codes.TOKEN_EXPIRED:
        return "The token has expired: get a new one."
    return "The token is not valid: get a new one, signed with the secret or key of the app in this configuration."


def _offset_fault(body: OffsetBody) -> Iterator[tuple[str, str]]:
    if body.position is None:
        yield "offset", "is missing: expected a whole number"


def _position(body: bytes) -> Position:
    asked = read_document(body, OffsetBody, {OffsetBody: _offset_fault}).position
    assert asked is not None, "the check has refused it"
    return Position(asked.epoch, asked.offset)


def _number(query: dict[str, str], name: str, least: int, most: int) -> int | None:
    text = query.get(name)
    if not text:
        return None
    if len(text) > 16 or not (text.isascii() and text.isdecimal()) or not least <= int(text) <= most:
        raise InvalidRequest(faults=[Fault(name, f"expected a number from {least} to {most}")])
    return int(text)
