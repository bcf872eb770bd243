"""Connects devices: whether one may, its route, and what its stream has for it. Each call returns what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ...ports.live import LiveRoute, Refused as RefusedDevice
from ..protocol import codes
from ..protocol.codes import Refusal
from ..protocol.commands import PAGE
from ..protocol.effects import ConnectRequested, Effect, RefreshRequested
from ..protocol.tokens import Claims, Rejected
from .contents import bounded
from .faults import report

if TYPE_CHECKING:
    from .connection import Connection


async def connect(connection: Connection, ask: ConnectRequested) -> list[Effect]:
    """Connect the device that a token names, if it may connect, and it is its turn, and the gateway has room."""
    gateway = connection.gateway
    if connection.ended:
        return []
    if connection.full or gateway.is_busy:
        return await _refuse_late(connection, ask.id, codes.INTERNAL, "busy")
    # Before a permit is used, so that those who may not connect, or do so all the time, take none of the others.
    verdict = gateway.verify(ask.token)
    connection.app, connection.device_id = verdict.app, verdict.device_id
    if isinstance(verdict, Rejected):
        return await _refuse_late(connection, ask.id, verdict.refusal)
    if gateway.denies(verdict.device_id):
        return await _refuse_late(connection, ask.id, codes.PERMISSION_DENIED)
    now = gateway.now()
    if not (gateway.turns.admit((connection.app, connection.device_id), now) and gateway.connects.admit(now)):
        return await _refuse_late(connection, ask.id, codes.TOO_MANY_REQUESTS, "busy")
    try:
        return await _join(connection, ask, verdict)
    except Exception as error:
        gateway.remove(connection)
        gateway.spawn(gateway.disconnect(connection))  # Redis may have the route, though its answer was lost.
        report(error)
        return await _refuse_late(connection, ask.id, codes.INTERNAL, "busy")


async def refresh(connection: Connection, ask: RefreshRequested) -> list[Effect]:
    """Go on with a new token of the same device."""
    gateway = connection.gateway
    verdict = gateway.verify_refresh(ask.token, connection.app, connection.device_id)
    if isinstance(verdict, Rejected):
        return connection.session.refused(ask.id, verdict.refusal)
    ttl = max(1.0, verdict.expires_at - gateway.wall())
    return connection.session.refreshed(ask.id, ttl, gateway.now())


async def _join(connection: Connection, ask: ConnectRequested, claims: Claims) -> list[Effect]:
    """Give the device its route, and open its session with what its stream has for it."""
    gateway = connection.gateway
    app = gateway.config.apps[claims.app]
    gateway.add(connection)  # From here on what is appended for this number is handed to the session.
    gateway.connecting.begin(gateway.now())
    try:
        result = await gateway.live.connect(
            connection.app,
            connection.device_id,
            LiveRoute(gateway.id, connection.number),
            issued_at=claims.issued_at,
            position=ask.position,
            limit=min(PAGE, app.window),
            unacked=True,
        )
    finally:
        gateway.connecting.end(gateway.now())
    if isinstance(result, RefusedDevice):
        gateway.remove(connection)
        return await _refuse_late(connection, ask.id, codes.REVOKED if result.why == "revoked" else codes.INVALID_TOKEN)
    connection.line.known()
    gateway.slowdown.accepted(_keys_of(connection))
    await gateway.replace(result.replaced, connection)
    rendered = await gateway.contents.of(connection.app, (each.push.id for each in result.page.publications))
    if connection.ended:
        # The route may have come after `lost` took it away.
        gateway.remove(connection)
        await gateway.disconnect(connection)
        return []
    result = replace(result, page=bounded(result.page, rendered))
    now = gateway.now()
    connection.connected_at = now
    connection.use_heartbeat(connection.agree_heartbeat(ask.heartbeat, ask.foreground))
    recovery = "" if not ask.recover else "recovered" if result.recovered else "lost"
    gateway.metrics.connected(connection.app, recovery)
    # Without a position, and before it, the same ones are missing at each connect.
    gateway.metrics.missing(connection.app, result.missing_ahead)
    ttl = max(1.0, claims.expires_at - gateway.wall())
    return connection.session.connected(ask.id, result, rendered, app, heartbeat=connection.heartbeat, ttl=ttl, now=now)


async def _refuse_late(
    connection: Connection, command_id: int, refusal: Refusal, result: str = "refused"
) -> list[Effect]:
    """Refuse a connect; later with each attempt where clients come back without a pause of their own."""
    gateway = connection.gateway
    if connection.transport != "websocket" or refusal == codes.TOKEN_EXPIRED:
        await gateway.pause(gateway.slowdown.refused(_keys_of(connection), gateway.now()))
    gateway.metrics.refused(connection.app, result)
    return connection.session.refused(command_id, refusal)


def _keys_of(connection: Connection) -> list[str]:
    """Return what refusals are counted by."""
    if not connection.device_id:
        return [connection.address]
    return [connection.address, f"{connection.app}/{connection.device_id}"]
