"""The handlers for devices, their users and topics, and for undoing prunes and suppressions."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from msgspec import UNSET

from ...errors import Fault, InvalidRequest, NotFound
from ...model.devices import ByTopic, Device, name_fault
from ...ports.erasure import UNCONFIRMED
from ...ports.registry import PrunedFilter, TopicsFull, UserFull
from ...problems import ProblemFault
from ..http.exchange import NO_CONTENT, Reply, Request
from ..live.document import presence_fields
from ..ports import ApiPorts
from .document import USER_FULL, DeviceList, DevicePage, Erased, ErasedParts, RegisteredDevice, Topic, TopicPage, shown
from .tombstones import MOST, Restored

_LOOKS: Final = 20
"""Pages of the registry that one call reads: a filter that matches few devices returns early with a cursor."""
NO_DEVICE: Final = "No device has this id."
_PLACE: Final = re.compile(r"[0-9]{1,15}")
_TOPIC_PLACE: Final = re.compile(r"[0-9]{1,15}(:[0-9]{1,15})?")


async def put_device(ports: ApiPorts, request: Request, device: Device) -> Reply:
    """Register or refresh a device: 201 for a new one, otherwise 200."""
    try:
        kept, new = await ports.registry.put(request.app.name, device)
    except UserFull:
        raise InvalidRequest(faults=[USER_FULL]) from None
    if new:
        return Reply(shown(kept, ports.addresses), 201, {"Location": request.url.raw_path})
    return Reply(shown(kept, ports.addresses))


async def get_devices(ports: ApiPorts, request: Request) -> Reply:
    """Return a page of devices, from at most `_LOOKS` pages of the registry."""
    app, query = request.app.name, request.params
    cursor, topic = query["cursor"] or "", query["topic"]
    if cursor and not (_PLACE if topic is None else _TOPIC_PLACE).fullmatch(cursor):
        raise InvalidRequest(faults=[Fault("cursor", "is not the cursor of an earlier page")])
    if topic is not None and (fault := name_fault(topic)) is not None:
        raise InvalidRequest("The query parameters are not valid.", faults=[Fault("topic", fault)])
    found: list[RegisteredDevice] = []
    more: str | None = cursor
    for _ in range(_LOOKS):
        room = query["limit"] - len(found)
        if topic is None:
            page = await ports.registry.page(app, after=more or "", limit=room)
        else:
            page = await ports.registry.members(app, ByTopic(topic), after=more or "", limit=room)
        found += [
            shown(device, ports.addresses)
            for device in page.devices
            if query["platform"] in (None, device.platform) and query["state"] in (None, device.state)
        ]
        more = page.cursor
        if more is None or len(found) == query["limit"]:
            break
        await asyncio.sleep(0)
    return Reply(DevicePage(found, more))


async def get_device(ports: ApiPorts, request: Request) -> Reply:
    """Return a device."""
    app, device_id = request.app.name, request.params["device_id"]
    device = await ports.registry.get(app, device_id)
    if device is None:
        raise NotFound(NO_DEVICE)
    if request.app.live is None:
        return Reply(shown(device, ports.addresses))
    (presence,) = await ports.live.presence(app, [device_id])
    return Reply(shown(device, ports.addresses, **presence_fields(presence)))


async def delete_device(ports: ApiPorts, request: Request) -> Reply:
    """Remove a device, and end its connection to the live channel."""
    if request.app.live is not None:
        await ports.live.revoke(request.app.name, request.params["device_id"])
    if not await ports.registry.remove(request.app.name, request.params["device_id"]):
        raise NotFound(NO_DEVICE)
    return NO_CONTENT


async def get_user_devices(ports: ApiPorts, request: Request) -> Reply:
    """Return the devices of a user."""
    devices = await ports.registry.of_user(request.app.name, request.params["user"])
    return Reply(DeviceList([shown(device, ports.addresses) for device in devices]))


async def delete_user(ports: ApiPorts, request: Request) -> Reply:
    """Erase a user."""
    erasure = await ports.erasures.erase(request.app.name, request.params["user"], wait=ports.config.erase_wait)
    removed = ErasedParts(**{what: erasure.removed.get(what, 0) for what in ErasedParts.__struct_fields__})
    warnings = UNSET if erasure.confirmed else [ProblemFault("user", UNCONFIRMED)]
    return Reply(Erased(erasure.devices, erasure.done, removed, warnings))


async def put_subscription(ports: ApiPorts, request: Request) -> Reply:
    """Subscribe a device to a topic. A repeat changes nothing."""
    try:
        known = await ports.registry.subscribe(request.app.name, request.params["topic"], request.params["device_id"])
    except TopicsFull as error:
        raise InvalidRequest(faults=[Fault("topic", f"is more than allowed: {error}")]) from None
    if not known:
        raise NotFound(NO_DEVICE)
    return NO_CONTENT


async def delete_subscription(ports: ApiPorts, request: Request) -> Reply:
    """Unsubscribe a device from a topic. A repeat changes nothing."""
    await ports.registry.unsubscribe(request.app.name, request.params["topic"], request.params["device_id"])
    return NO_CONTENT


async def get_topics(ports: ApiPorts, request: Request) -> Reply:
    """Return a page of topics with their sizes."""
    query = request.params
    found, more = await ports.registry.topics(request.app.name, after=query["cursor"] or "", limit=query["limit"])
    return Reply(TopicPage([Topic(name, size) for name, size in found], more))


async def get_topic(ports: ApiPorts, request: Request) -> Reply:
    """Return the size of a topic."""
    topic = request.params["topic"]
    size = await ports.registry.topic_size(request.app.name, topic)
    if size is None:
        raise NotFound("There is no such topic; it begins with its first subscriber.")
    return Reply(Topic(topic, size))


async def post_restore(ports: ApiPorts, request: Request, asked: tuple[PrunedFilter, bool]) -> Reply:
    """Restore pruned devices, and count those that are left. A dry run only counts."""
    which, dry_run = asked
    app = request.app.name
    restored = 0 if dry_run else await ports.registry.restore(app, which, limit=MOST)
    return Reply(Restored(restored, await ports.registry.pruned(app, which)))


async def delete_suppression(ports: ApiPorts, request: Request) -> Reply:
    """Lift the suppression of a token."""
    platform = request.params["platform"]
    token = ports.addresses.recognised(platform, request.params["token"])
    if not await ports.suppressions.remove(request.app.name, [(platform, token)]):
        raise NotFound("This token is not suppressed.")
    return NO_CONTENT
