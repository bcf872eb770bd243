"""Audiences at intake: which platforms a push is rendered for, and whom it goes to where that is known at once.

Few devices, or those of few users, are looked up while the caller waits: that is one round trip, the push has its
total with the answer, and is sent as soon as any other. The answer names what was not found. All else is looked up by
`jobs`, page by page, when nobody waits for warnings any more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from ...errors import Fault, InvalidRequest
from ...model.codec import decode_audience
from ...model.devices import ByDevices, ByUsers, Device
from ...model.push import Platform, Push, Target
from ...model.routing import RouteTable, platform_of
from ...ports.registry import Registry
from ...problems import ProblemFault
from ...rules.audience import reached, targets_of
from ...wording import names
from ..rules import Rules
from .document import Draft

FEW: Final = 500
"""Devices or users that are looked up at once."""
MOST: Final = 1000
"""Devices that may be found; a push to more is left to `jobs`."""


def platforms_of(draft: Draft, rules: Rules) -> Mapping[Platform, Collection[str]]:
    """The platforms that the push is rendered for, with the kinds of its targets there: those of its tokens, or all
    that it says something to.

    Raises `InvalidRequest` where none of these is configured: nobody could ever receive it.
    """
    if draft.audience is None:
        found: dict[Platform, set[str]] = {}
        for route, targets in draft.targets.items():
            platform, kinds = platform_of(route), {target.kind for target in targets}
            found[platform] = found[platform] | kinds if platform in found else kinds
        return found
    configured = sorted(rules.platforms)
    addressed = [platform for platform in configured if draft.only is None or platform in draft.only]
    if draft.only is not None and not addressed:
        message = f"says something to {names(sorted(draft.only))} only, and the app uses {names(configured)}"
        raise InvalidRequest(faults=[Fault("overrides", message)])
    return {platform: tuple(rules.addresses.devices.kinds[platform]) for platform in addressed}


async def look_up(registry: Registry, push: Push, routes: RouteTable) -> tuple[Push, Unreached]:
    """The push with its targets where these are few, else as it is; and whom it does not reach. Whom a scheduled push
    is for is looked up when it is sent. `routes` says which account of the app reaches a token."""
    if not push.audience or push.send_at is not None:
        return push, Unreached().beside(push)
    match audience := decode_audience(push.audience):
        case ByDevices(ids=asked) | ByUsers(users=asked) if len(asked) <= FEW:
            page = await registry.members(push.app, audience, after="", limit=MOST)
            if page.cursor is not None:
                return push, Unreached()
            wanted = list(filter(reached(push, audience), page.devices))
            targets = {route: tuple(own) for route, own in targets_of(wanted, 0, routes).items()}
            found_push = msgspec.structs.replace(push, audience=b"", targets=targets)
            met = {device.id if isinstance(audience, ByDevices) else device.user for device in wanted}
            nobody = Unreached(len(asked) - len(met), unknown(audience, page.devices, targets))
            return found_push, nobody.beside(found_push)
        case _:
            return push, Unreached()


class Unreached(NamedTuple):
    """Of those that `to` names, who gets nothing, as far as they are known when the answer is given."""

    number: int = 0
    """Names without a device that the push is for, and targets that no account of the app reaches."""
    warnings: list[ProblemFault] = []  # noqa: RUF012 (never written to)

    def beside(self, push: Push) -> Unreached:
        """These, and the targets of the push that no account reaches."""
        if push.targets.keys() <= push.messages.keys():
            return self
        strangers = sum(len(targets) for route, targets in push.targets.items() if route not in push.messages)
        return Unreached(self.number + strangers, [*self.warnings, *unreached(push)])


def unknown(
    audience: ByDevices | ByUsers, found: Sequence[Device], targets: Mapping[Platform, Sequence[Target]]
) -> list[ProblemFault]:
    """A warning where names of the audience lead to no active device, which nothing else in the answer would show; or
    where their devices are all of platforms that the push says nothing to.

    It gives the place of the first such name (repeats left out), not the name: the answer is kept for repeats of the
    call, and an erased user's id must not be.
    """
    match audience:
        case ByDevices(ids=asked):
            path, what, known = "to.devices", "no device has this id, or it is pruned", {device.id for device in found}
        case ByUsers(users=asked):
            path, what = "to.users", "this user has no device, or pruned ones only"
            known = {device.user for device in found if device.user is not None}
    if len(known) < len(asked):
        missing = [place for place, name in enumerate(asked) if name not in known]
        more = f"; the same of {len(missing) - 1:,} more of the {len(asked):,} named" if len(missing) > 1 else ""
        return [ProblemFault(f"{path}[{missing[0]}]", f"{what}: nothing is sent there{more}")]
    if not targets:
        platforms = sorted({device.platform for device in found})
        return [ProblemFault("to", f"reaches no device: the push says nothing to {names(platforms)}")]
    return []


def unreached(push: Push) -> list[ProblemFault]:
    """Whom no account of the app reaches, of the targets that are known already: a warning a route that is missing."""
    found = []
    for route, targets in push.targets.items():
        if route not in push.messages:
            platform = platform_of(route)
            which = platform if route == platform else f"{platform} in the environment {route[len(platform) + 1 :]}"
            text = f"no account of the app reaches {len(targets):,} of the targets, of {which}: they end as `failed`, "
            found.append(ProblemFault("to", f"{text}reason `no_route`"))
    return found
