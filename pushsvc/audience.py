"""Which devices a push reaches, and the targets that they make. Pure.

Of the devices that an audience names, a push reaches those of a platform that it says something to, and of the
environment in which the app's credentials are valid: a sandbox token is a stranger to the production host, and would
only come back as suspect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .devices import Audience, ByWhere, Device, Environment
from .model import Platform, Push, Target
from .where import Predicate, compile_where


def reached(push: Push, audience: Audience, environments: Mapping[Platform, Environment]) -> Predicate:
    """Whether the push goes to a device that the registry found for its audience.

    `environments` has the platforms whose tokens belong to one, and which the app uses. Raises `WhereError`.
    """
    platforms = push.messages

    def addressed(device: Device) -> bool:
        platform = device.platform
        return platform in platforms and environments.get(platform, device.environment) == device.environment

    if not isinstance(audience, ByWhere):
        return addressed
    fits = compile_where(audience.text, now=push.starts_at)
    return lambda device: addressed(device) and fits(device)


def targets_of(devices: Iterable[Device], first: int) -> dict[Platform, list[Target]]:
    """One target a device, by platform, numbered from `first` on."""
    found: dict[Platform, list[Target]] = {}
    for index, device in enumerate(devices, first):
        targets = found.get(device.platform)
        if targets is None:
            targets = found[device.platform] = []
        targets.append(Target(index, device.token, device.id, device.kind))
    return found
