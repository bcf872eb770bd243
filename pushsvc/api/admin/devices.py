"""Devices as an operator sees them: found by an expression, without their tokens, and restored one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET, structs

from ...errors import Conflict, Fault, InvalidRequest, NotFound
from ...model.devices import Device, as_fields, revived
from ...model.instants import instant
from ...ports.admin import live_state
from ...ports.live import Cut, Drain, Presence
from ...rules.where import WhereError, compile_where
from .. import answers
from ..devices.calls import NO_DEVICE
from ..devices.importing import import_devices, imported
from ..http.exchange import NO_CONTENT, Reply, Request
from ..live.calls import live_of
from ..ports import ApiPorts, ServedApp
from .document import (
    AdminDevice,
    AdminDevicePage,
    AdminDevicePush,
    CutDocument,
    DeviceCount,
    DeviceEvidence,
    DeviceLive,
    DevicePushPage,
    DrainDocument,
    Drained,
)

PAGE: Final = 500
"""Devices that are read at once."""
LOOKS: Final = 40
"""Pages of the registry that one search reads: one that matches few devices returns early with a cursor."""
DRAIN_RATE: Final = 200.0
"""Connections that are moved in a second."""
DRAIN_MOST: Final = 300.0
COUNTING: Final = 2.0
"""Seconds for which a call counts."""


async def post_import(ports: ApiPorts, request: Request, values: list[Any]) -> Reply:
    """Write devices as they are."""
    taken = await import_devices(ports.registry, request.app.rules, values, request.now)
    return Reply(imported(taken))


async def get_admin_devices(ports: ApiPorts, request: Request) -> Reply:
    """Return a page of the devices for which an expression is true, pruned ones too."""
    app, query = request.app, request.params
    fits = matcher(request)
    cursor: str | None = query["cursor"] or ""
    if cursor and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 16):
        raise InvalidRequest(faults=[Fault("cursor", "is not the cursor of an earlier page")])
    found: list[Device] = []
    scanned = 0
    for _ in range(LOOKS):
        page = await ports.registry.page(
            app.name, after=cursor or "", limit=max(1, min(PAGE, query["limit"] - len(found)))
        )
        scanned += len(page.devices)
        found += filter(fits, page.devices)
        cursor = page.cursor
        if cursor is None or len(found) >= query["limit"]:
            break
        await asyncio.sleep(0)
    return Reply(AdminDevicePage(await _shown(ports, app, found), cursor, scanned))


async def count_devices(ports: ApiPorts, request: Request) -> Reply:
    """Count the active devices for which an expression is true."""
    if request.params["where"] is None:
        return Reply(DeviceCount(await ports.registry.count(request.app.name), True))
    return Reply(DeviceCount(*await count_where(ports, request.app.name, matcher(request))))


async def count_where(ports: ApiPorts, app: str, fits: Callable[[Device], bool]) -> tuple[int, bool]:
    """Return the number of active devices for which a function is true, and whether all were examined."""
    until, count, after = time.monotonic() + COUNTING, 0, ""
    while True:
        page = await ports.registry.scan(app, after=after, limit=PAGE)
        count += sum(device.state == "active" and fits(device) for device in page.devices)
        if page.cursor is None:
            return count, True
        if time.monotonic() > until:
            return count, False
        after = page.cursor
        await asyncio.sleep(0)


async def get_admin_device(ports: ApiPorts, request: Request) -> Reply:
    """Return a device."""
    app, device = request.app, await _device(ports, request)
    (shown,) = await _shown(ports, app, [device])
    known = await ports.suppressions.known(app.name, [(device.platform, device.token)])
    return Reply(structs.replace(shown, suppressed=known > 0))


async def get_admin_device_pushes(ports: ApiPorts, request: Request) -> Reply:
    """Return how the last pushes to a device have ended."""
    app, device = request.app, await _device(ports, request)
    token_hash = ports.admin.token_hash(device.platform)(device.token)
    query = request.params
    page = await ports.pushes.to_device(
        app.name, device.id, token_hash, cursor=query["cursor"] or "", limit=query["limit"]
    )
    items = [AdminDevicePush(each.push_id, instant(each.created_at), answers.delivery(each.row)) for each in page.found]
    since = None if page.since is None else instant(page.since)
    return Reply(DevicePushPage(items, page.cursor, page.looked, page.unlisted, since))


async def restore_device(ports: ApiPorts, request: Request) -> Reply:
    """Restore a pruned device, and send to its token again."""
    app, device = request.app, await _device(ports, request)
    if device.state != "pruned":
        raise Conflict("The device is not pruned.")

    def judge(present: Device) -> Device:
        if present.state != "pruned":
            return present
        return revived(present)

    await ports.suppressions.lift(app.name, [device], always=True)
    await ports.registry.revise(app.name, [device.id], judge)
    return await get_admin_device(ports, request)


async def cut_connection(ports: ApiPorts, request: Request, asked: CutDocument) -> Reply:
    """End the live connection of a device, which may come back."""
    live_of(request)
    app = request.app.name
    (presence,) = await ports.live.presence(app, [asked.device_id])
    if presence is None:
        raise NotFound(NO_DEVICE)
    if presence.route is None:
        raise Conflict("The device is not online.")
    route = presence.route
    await ports.live.poke({route.gateway: [Cut(app, route.connection, "asked")]})
    return NO_CONTENT


async def get_admin_live(ports: ApiPorts, request: Request) -> Reply:
    """Return the connections of the app by gateway."""
    live_of(request)
    return Reply(await live_state(ports.live, request.app.name))


async def drain_gateway(ports: ApiPorts, request: Request, asked: DrainDocument) -> Reply:
    """Make the devices of the app at a gateway reconnect, spread over some time."""
    live_of(request)
    app = request.app.name
    count = (await ports.live.gateways(app)).get(asked.gateway)
    if count is None:
        raise NotFound("No gateway of this name lives; names change with each start.")
    await ports.live.poke({asked.gateway: [Drain(app, min(DRAIN_MOST, count / DRAIN_RATE))]})
    return Reply(Drained(count), 202)


def matcher(request: Request) -> Callable[[Device], bool]:
    """Return the expression of a request as a function of a device. Raises `InvalidRequest` with every fault."""
    text = request.params["where"]
    if text is None:
        return lambda device: True
    try:
        fits = compile_where(text, now=request.now, platforms=sorted(request.app.rules.platforms))
    except WhereError as error:
        raise InvalidRequest(faults=[Fault("where", str(fault)) for fault in error.faults]) from None
    return lambda device: bool(fits(device))


async def _device(ports: ApiPorts, request: Request) -> Device:
    device = await ports.registry.get(request.app.name, request.params["device_id"])
    if device is None:
        raise NotFound(NO_DEVICE)
    return device


async def _shown(ports: ApiPorts, app: ServedApp, devices: list[Device]) -> list[AdminDevice]:
    present: list[Presence | None] = [None] * len(devices)
    if app.live is not None and devices:
        present = await ports.live.presence(app.name, [device.id for device in devices])
    return [
        AdminDevice(
            **as_fields(device),
            token_hash=ports.admin.token_hash(device.platform)(device.token),
            token_end=device.token[-4:] if len(device.token) > 16 else "",
            evidence=_evidence(ports, device),
            live=None if app.live is None else _live(each),
        )
        for device, each in zip(devices, present, strict=True)
    ]


def _evidence(ports: ApiPorts, device: Device) -> DeviceEvidence | None:
    pruned = device.state == "pruned"
    reason, at = (device.pruned_for, device.pruned_at) if pruned else (device.struck_for, device.struck_at)
    if not (pruned or device.strikes):
        return None
    meaning = ports.admin.explain(device.platform, reason, 0).meaning if reason else ""
    return DeviceEvidence(reason, meaning, instant(at), device.judged_by or None)


def _live(presence: Presence | None) -> DeviceLive:
    if presence is None:
        return DeviceLive(False, 0, 0)
    since = UNSET if presence.route is None else instant(presence.connected_at)
    return DeviceLive(presence.route is not None, presence.unacked, presence.unread, since)
