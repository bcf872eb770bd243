"""Audiences at intake: the platforms that a push is rendered for, and its targets where few are named.

A few devices, or those of a few users, are looked up while the caller waits: this takes one round trip, the answer has
the total of the push and names what was not found, and the push is sent as soon as any other. Other audiences are
expanded by `jobs`, page by page, when no caller waits for warnings any more: of them it is only asked whether the
topic has a device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from ...errors import Fault, InvalidRequest
from ...model.codec import decode_audience
from ...model.devices import ByDevices, ByTopic, ByUsers, Device
from ...model.push import Platform, Push, Target
from ...model.routing import path_of, platform_of, reachable
from ...ports.registry import Registry
from ...problems import ProblemFault
from ...rules.audience import is_served, reached, targets_of
from ...rules.channels import LIVE, paths_of
from ...wording import names
from ..ports import ServedApp
from ..rules import Rules
from .document import Draft

FEW: Final = 500
"""The maximum number of devices or users that are looked up at once."""
MOST: Final = 1000
"""The maximum number of devices found; a push to more is left to `jobs`."""


def platforms_of(draft: Draft, rules: Rules) -> Mapping[Platform, Collection[str]]:
    """Return the platforms that the push is rendered for, with the kinds of its targets there: those of its tokens, or
    all that it has content for. Raises `InvalidRequest` where none of these is configured, because no device could
    receive it."""
    if draft.audience is None:
        found: dict[Platform, set[str]] = {}
        for route, targets in draft.targets.items():
            platform, kinds = platform_of(route), {target.kind for target in targets}
            found[platform] = found[platform] | kinds if platform in found else kinds
        return found
    configured = sorted(
        rules.providers if draft.via == "provider" else {LIVE} if draft.via == "live" else rules.platforms
    )
    addressed = [platform for platform in configured if draft.only is None or platform in draft.only]
    if draft.only is not None and not addressed:
        how = "the app uses" if draft.via == "auto" else "`via` asks for"
        message = f"has content only for {names(sorted(draft.only))}, and {how} {names(configured)}"
        raise InvalidRequest(faults=[Fault("overrides", message)])
    if draft.content.live_activity is not None and len(addressed) > 1:
        addressed = [platform for platform in addressed if platform != LIVE]  # Apple's own, which it cannot carry
    return {platform: tuple(rules.addresses.devices.kinds[platform]) for platform in addressed}


def only_of(draft: Draft, rules: Rules, platforms: Collection[str]) -> tuple[Platform, ...]:
    """Return the platforms whose devices the push has content for, where it was rendered for `platforms`; empty: all.
    The live channel carries to devices of every platform."""
    if draft.audience is None or LIVE in platforms or (draft.only is None and not rules.live):
        return ()
    return tuple(sorted(draft.only or {*rules.addresses.platforms} - {LIVE}))


async def look_up(registry: Registry, push: Push, app: ServedApp) -> tuple[Push, Unreached]:
    """Return the push with its targets where these are few, otherwise unchanged, and the receivers that it does not
    reach. The audience of a scheduled push is looked up when it is sent."""
    if not push.audience or push.send_at is not None:
        return push, Unreached().beside(push)
    match audience := decode_audience(push.audience):
        case ByDevices(ids=asked) | ByUsers(users=asked) if len(asked) <= FEW:
            page = await registry.members(push.app, audience, after="", limit=MOST)
            if page.cursor is not None:
                return push, Unreached()
            path_of = paths_of(push, app.routes, app.channels)
            devices = [device for device in page.devices if is_served(device, path_of)]
            wanted = list(filter(reached(push, audience), devices))
            found = targets_of(wanted, 0, path_of)
            targets = {path: tuple(own) for path, own in found.items()}
            found_push = msgspec.structs.replace(push, audience=b"", targets=targets)
            met = {device.id if isinstance(audience, ByDevices) else device.user for device in wanted}
            unreached_names = Unreached(len(asked) - len(met), unknown(audience, devices, targets))
            return found_push, unreached_names.beside(found_push)
        case ByTopic(topic=topic) if not await registry.topic_size(push.app, topic):
            return push, Unreached(0, [ProblemFault("to.topic", "no device follows this topic: nothing is sent")])
        case _:
            return push, Unreached()


class Unreached(NamedTuple):
    """The receivers in `to` that get nothing, as far as they are known at the time of the answer."""

    number: int = 0
    """Names without a device that the push is for, and targets that no account of the app reaches."""
    warnings: list[ProblemFault] = []  # noqa: RUF012 (never written to)

    def beside(self, push: Push) -> Unreached:
        """Return these, with the targets of the push that no account reaches."""
        if push.targets.keys() <= push.messages.keys():
            return self
        strangers = sum(len(targets) for path, targets in push.targets.items() if not reachable(path, push.messages))
        return Unreached(self.number + strangers, [*self.warnings, *unreached(push)])


def unknown(
    audience: ByDevices | ByUsers, found: Sequence[Device], targets: Mapping[Platform, Sequence[Target]]
) -> list[ProblemFault]:
    """Return a warning where names of the audience lead to no active device, or where the push has no content for the
    platforms of all their devices. It has the place of the first such name (repeats left out) and not the name: the
    answer is stored for repeats of the call, and the id of an erased user must not be."""
    match audience:
        case ByDevices(ids=asked):
            path, what, known = "to.devices", "no device has this id, or it is pruned", {device.id for device in found}
        case ByUsers(users=asked):
            path, what = "to.users", "this user has no device, or only pruned ones"
            known = {device.user for device in found if device.user is not None}
    if len(known) < len(asked):
        missing = [place for place, name in enumerate(asked) if name not in known]
        more = f"; so for {len(missing) - 1:,} more of the {len(asked):,} names" if len(missing) > 1 else ""
        return [ProblemFault(f"{path}[{missing[0]}]", f"{what}: nothing is sent there{more}")]
    if not targets:
        platforms = sorted({device.platform for device in found})
        return [ProblemFault("to", f"reaches no device: the push has no content for {names(platforms)}")]
    return []


def unreached(push: Push) -> list[ProblemFault]:
    """Return a warning for each missing route with the known targets that no account of the app reaches."""
    found = []
    for path, targets in push.targets.items():
        if not reachable(path, push.messages):
            route = path_of(path)[0]
            platform = platform_of(route)
            which = platform if route == platform else f"{platform} in the environment {route[len(platform) + 1 :]}"
            text = f"no account of the app reaches {len(targets):,} of the targets, of {which}: they end as `failed`, "
            found.append(ProblemFault("to", f"{text}reason `no_route`"))
    return found
