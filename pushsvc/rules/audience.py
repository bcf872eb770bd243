"""The devices that a push reaches, and the targets that they become. Pure.

A push is sent to those devices of an audience whose platform it has content for. Each uses the route of its platform
and environment: the production host does not know a sandbox token and would only report it as suspect. Devices whose
route the app does not have become targets all the same, and end as `failed` with the reason `no_route`.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from msgspec.structs import replace

from ..model.devices import Audience, ByWhere, Device
from ..model.push import Chunk, Platform, Push, Target
from ..model.routing import CARRIERS, carries, platform_of
from .channels import PathOf, own_platform
from .life import lives_on
from .where import Predicate, compile_where


def reached(push: Push, audience: Audience) -> Predicate:
    """Return whether the push is for a device that the registry found for its audience. Raises `WhereError`."""
    only = push.only

    def addressed(device: Device) -> bool:
        return not only or device.platform in only

    if not isinstance(audience, ByWhere):
        return addressed
    fits = compile_where(audience.text, now=push.starts_at)
    return lambda device: addressed(device) and fits(device)


def is_served(device: Device, path_of: PathOf) -> bool:
    """Return whether the push reaches a device that the registry found. An active device is always reached. A tombstone
    whose app is still running is reached by the live channel alone, so its path must contain that channel."""
    return device.state == "active" or carries(path_of(device))


MOVED: Final = "moved"
"""The device was removed, belongs to another user by now, or has another platform."""
PRUNED: Final = "pruned"
UNSUBSCRIBED: Final = "unsubscribed"


def owner_of(device: Device) -> bytes:
    """Return an eight-byte digest of the device's user, or nothing if it has no user.

    A digest of the user instead of a counter of changes: a user who logs out and in again on the same phone still gets
    what waits. It is not keyed, because it is only stored beside tokens, in a store that contains the user's name as
    well.
    """
    user = device.user
    return b"" if user is None else blake2b(user.encode(), digest_size=8).digest()


def present(target: Target, device: Device | None, chunk: Chunk) -> Target | str:
    """Return the target as the registry has it now, or the reason why nothing is sent to it.

    It is the same target, or one with the current token of its device. `device` is the device of its id, or its
    successor; `chunk` names the channel, and the topic if the push has one.
    """
    if device is None or owner_of(device) != target.owner or device.platform != platform_of(chunk.platform):
        return MOVED
    if device.state == "pruned" and not (chunk.channel in CARRIERS and lives_on(device)):
        return PRUNED
    topic = chunk.topic
    if topic and topic not in device.topics:
        return UNSUBSCRIBED
    if (device.token, device.kind) != (target.token, target.kind):
        return replace(target, token=device.token, kind=device.kind)
    return target


def is_successor(device: Device, target: Target, chunk: Chunk) -> bool:
    """Return whether a device that has the token of a target, whose own device is gone, may stand for it: the same user
    has registered the phone under another id. The caller knows that this id was new then: a device that existed before
    may be a target of the push itself.

    A user is needed, because nothing else says whose the phone is; and the live channel knows devices by their ids.
    """
    same_owner = bool(target.owner) and owner_of(device) == target.owner
    return same_owner and chunk.channel not in CARRIERS and all(each.device_id != device.id for each in chunk.targets)


def targets_of(devices: Iterable[Device], first: int, path_of: PathOf = own_platform) -> dict[Platform, list[Target]]:
    """Return one target a device, by the name of the path to it, numbered from `first` on."""
    found: dict[Platform, list[Target]] = {}
    for index, device in enumerate(devices, first):
        path = path_of(device)
        targets = found.get(path)
        if targets is None:
            targets = found[path] = []
        targets.append(Target(index, device.token, device.id, device.kind, owner_of(device)))
    return found
