"""The handlers for the tokens of devices and for who is online."""

from __future__ import annotations

import math

from ...errors import Conflict, NotFound
from ...model.instants import instant
from ..config import ApiLive
from ..devices.calls import NO_DEVICE
from ..http.exchange import NO_CONTENT, Reply, Request
from ..ports import ApiPorts
from ..pushes.ids import new_push_id
from .document import DeviceToken, GatewayConnections, LiveConnections, UserPresence, shown_presence


async def post_token(ports: ApiPorts, request: Request, ttl: int) -> Reply:
    """Issue a token for a device."""
    app, live, device_id = request.app.name, live_of(request), request.params["device_id"]
    if live.sign is None:
        where = f"[apps.{app}.live] has only `public_key_file`"
        raise Conflict(f"{app} has no secret to sign tokens with: {where}. Sign them yourself, or configure `secret`.")
    if await ports.registry.get(app, device_id) is None:
        raise NotFound(NO_DEVICE)
    now = request.now / 1000
    token = live.sign(device_id, now, ttl, new_push_id(request.now))
    return Reply(DeviceToken(token, instant(math.floor(now + ttl) * 1000), list(live.endpoints)))


async def delete_token(ports: ApiPorts, request: Request) -> Reply:
    """Refuse the tokens of a device that were issued before, and end its connection."""
    live_of(request)
    device_id = request.params["device_id"]
    if await ports.registry.get(request.app.name, device_id) is None:
        raise NotFound(NO_DEVICE)
    await ports.live.revoke(request.app.name, device_id)
    return NO_CONTENT


async def get_presence(ports: ApiPorts, request: Request) -> Reply:
    """Return which devices of a user are online."""
    live_of(request)
    app = request.app.name
    devices = await ports.registry.of_user(app, request.params["user"])
    found = await ports.live.presence(app, [device.id for device in devices]) if devices else []
    items = [shown_presence(device, each) for device, each in zip(devices, found, strict=True)]
    return Reply(UserPresence(any(item.online for item in items), items))


async def get_live(ports: ApiPorts, request: Request) -> Reply:
    """Return the connections of the app by gateway."""
    live_of(request)
    found = await ports.live.gateways(request.app.name)
    gateways = [GatewayConnections(name, count) for name, count in sorted(found.items())]
    return Reply(LiveConnections(sum(found.values()), gateways))


def live_of(request: Request) -> ApiLive:
    """Return the live channel of the app. Raises `Conflict` where it has none."""
    if (live := request.app.live) is None:
        app = request.app.name
        raise Conflict(f"{app} has no live channel: add [apps.{app}.live] to the configuration.")
    return live
