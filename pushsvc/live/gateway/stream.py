"""What the sessions of connections ask of the streams of their devices. Each call returns what follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from ...errors import PushsvcError, StoreUnavailable
from ...ports.live import EventReport, Page, Position
from ..protocol import codes
from ..protocol.codec import Rendered
from ..protocol.effects import Effect, EventReported, FetchRequested, HistoryRequested, ReadRequested
from .contents import bounded
from .faults import report

if TYPE_CHECKING:
    from .connection import Connection

_json = msgspec.json.Encoder().encode


async def read(connection: Connection, ask: ReadRequested) -> list[Effect]:
    """Mark what the user has read, up to a position."""
    found = await connection.gateway.live.read(connection.app, connection.device_id, Position(ask.epoch, ask.offset))
    if found.fault:
        return connection.session.acked(ask.id, found.fault)
    return connection.session.done(ask.id, b'{"unread":%d}' % found.unread.get(connection.device_id, 0))


async def report_event(connection: Connection, ask: EventReported) -> list[Effect]:
    """Count an event of a push on the device."""
    event = EventReport(ask.push_id, connection.device_id, ask.event)
    counted = await connection.gateway.report(connection.app, [(event, ask.at)])
    return connection.session.done(ask.id, _json({"counted": bool(counted)}))


async def fetch(connection: Connection, ask: FetchRequested) -> list[Effect]:
    """Return the content of a push that the device got without it."""
    body = await connection.gateway.content(connection.app, connection.device_id, ask.push_id)
    if body is None:
        return connection.session.error(ask.id, codes.NOT_FOUND)
    return connection.session.done(ask.id, body)


async def history(connection: Connection, ask: HistoryRequested) -> list[Effect]:
    """Return a page of the stream; a limit of 0 asks for its top alone."""
    gateway, limit = connection.gateway, ask.limit
    page = await gateway.live.history(
        connection.app,
        connection.device_id,
        since=ask.since,
        epoch=connection.epoch,
        limit=max(1, limit),
        reverse=ask.reverse,
    )
    ids = () if page is None or not limit else (each.push.id for each in page.publications)
    rendered = await gateway.contents.of(connection.app, ids)
    return connection.session.history(ask, page and bounded(page, rendered), rendered)


async def more(connection: Connection, since: int, limit: int) -> list[Effect]:
    """Hand out what waits in the stream."""
    page, rendered = await _page(connection, since, limit)
    if connection.line.paused:
        connection.session.pause()
    return connection.session.more(page and bounded(page, rendered), rendered, connection.gateway.now())


async def resend(connection: Connection, since: int, limit: int) -> list[Effect]:
    """Send again what is not acknowledged."""
    page, rendered = await _page(connection, since, limit)
    return connection.session.resend(page, rendered, connection.gateway.now())


async def _page(connection: Connection, since: int, limit: int) -> tuple[Page | None, Mapping[str, Rendered]]:
    """Return a page of the stream with its contents, when Redis has it: the connection waits for it."""
    gateway, app = connection.gateway, connection.app
    while not connection.ended:
        try:
            page = await gateway.live.history(
                app, connection.device_id, since=since, epoch=connection.epoch, limit=limit
            )
            ids = () if page is None else (each.push.id for each in page.publications)
            return page, await gateway.contents.of(app, ids)
        except StoreUnavailable:
            await gateway.pause(1.0 + gateway.random())
        except PushsvcError as error:
            report(error)
            connection.end(codes.INSUFFICIENT_STATE)  # Nothing would ever be handed out on this connection.
            break
    return None, {}
