"""Which devices a push reaches, and the targets that they make. Pure.

Of the devices that an audience names, a push is for those of a platform that it says something to. Each goes by the
route of its platform and environment: a sandbox token is a stranger to the production host, and would only come back as
suspect. Devices whose route the app does not have are targets all the same, and end as `failed`, reason `no_route`.
"""

from __future__ import annotations

from collections.abc import Iterable

from .devices import Audience, ByWhere, Device
from .model import Platform, Push, Target
from .routing import RouteTable
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


def targets_of(devices: Iterable[Device], first: int, routes: RouteTable) -> dict[Platform, list[Target]]:
    """One target a device, by the name of its route, numbered from `first` on."""
    found: dict[Platform, list[Target]] = {}
    for index, device in enumerate(devices, first):
        platform = device.platform
        route = routes.get((platform, device.environment), platform)
        targets = found.get(route)
        if targets is None:
            targets = found[route] = []
        targets.append(Target(index, device.token, device.id, device.kind))
    return found
