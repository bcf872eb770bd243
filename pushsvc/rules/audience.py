"""Which devices a push reaches, and the targets that they make. Pure.

Of the devices that an audience names, a push is for those of a platform that it says something to. Each goes by the
route of its platform and environment: a sandbox token is a stranger to the production host, and would only come back as
suspect. Devices whose route the app does not have are targets all the same, and end as `failed`, reason `no_route`.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

from msgspec.structs import replace

from ..model.devices import Audience, ByWhere, Device
from ..model.push import Platform, Push, Target
from ..model.routing import RouteTable
from .where import Predicate, compile_where


def reached(push: Push, audience: Audience) -> Predicate:
    """Whether the push is for a device that the registry found for its audience. Raises `WhereError`."""
    only = push.only

    def addressed(device: Device) -> bool:
        return not only or device.platform in only

    if not isinstance(audience, ByWhere):
        return addressed
    fits = compile_where(audience.text, now=push.starts_at)
    return lambda device: addressed(device) and fits(device)


MOVED: Final = "moved"
"""The device is gone, or somebody else's by now."""
PRUNED: Final = "pruned"
UNSUBSCRIBED: Final = "unsubscribed"


def owner_of(device: Device) -> bytes:
    """Whose device it is, in eight bytes; none where it is nobody's.

    A digest of the user, not a count of changes: who logs out and in again on one phone still gets what waits. It is
    not keyed, since it stands only beside tokens, in a store that has the user's name as well.
    """
    user = device.user
    return b"" if user is None else blake2b(user.encode(), digest_size=8).digest()


def present(target: Target, device: Device | None, topic: str) -> Target | str:
    """The target as the registry has it now: the same, one with the token that its device has by now, or the reason for
    which it is sent nothing. `device` is the one of its id, `topic` that of its push, where it is for one."""
    if device is None or owner_of(device) != target.owner:
        return MOVED
    if device.state == "pruned":
        return PRUNED
    if topic and topic not in device.topics:
        return UNSUBSCRIBED
    if (device.token, device.kind) != (target.token, target.kind):
        return replace(target, token=device.token, kind=device.kind)
    return target


def targets_of(devices: Iterable[Device], first: int, routes: RouteTable) -> dict[Platform, list[Target]]:
    """One target a device, by the name of its route, numbered from `first` on."""
    found: dict[Platform, list[Target]] = {}
    for index, device in enumerate(devices, first):
        platform = device.platform
        route = routes.get((platform, device.environment), platform)
        targets = found.get(route)
        if targets is None:
            targets = found[route] = []
        targets.append(Target(index, device.token, device.id, device.kind, owner_of(device)))
    return found
