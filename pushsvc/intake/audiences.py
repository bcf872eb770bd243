"""Audiences at intake: which platforms a push is rendered for, and whom it goes to where that is known at once.

Few devices, or those of few users, are looked up while the caller waits: that is one round trip, the push has its
total with the answer, and is sent as soon as any other. All else is looked up by `jobs`, page by page.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from ..audience import reached, targets_of
from ..codec import decode_audience
from ..devices import ByDevices, ByUsers
from ..errors import Fault, InvalidRequest
from ..model import Platform, Push
from ..ports.registry import Registry
from ..routing import platform_of
from .config import IntakeApp
from .document import Draft
from .wording import names

DEVICE: Final = ("token",)
"""What a registered device's token is to its provider."""
FEW: Final = 500
"""Devices or users that are looked up at once."""
MOST: Final = 1000
"""Devices that may be found; a push to more is left to `jobs`."""


def platforms_of(draft: Draft, configured: Collection[Platform]) -> Mapping[Platform, Collection[str]]:
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
    if draft.only is None:
        return dict.fromkeys(configured, DEVICE)
    addressed = [platform for platform in configured if platform in draft.only]
    if not addressed:
        message = f"says something to {names(sorted(draft.only))} only, and the app uses {names(sorted(configured))}"
        raise InvalidRequest(faults=[Fault("overrides", message)])
    return dict.fromkeys(addressed, DEVICE)


class Lookup:
    """Finds small audiences at once."""

    def __init__(self, registry: Registry, apps: Mapping[str, IntakeApp]) -> None:
        self._registry = registry
        self._routes = {app.name: app.routes for app in apps.values()}

    async def at_once(self, push: Push) -> Push:
        """The push with its targets where these are few, else as it is. Whom a scheduled push is for is looked up when
        it is sent."""
        if not push.audience or push.send_at is not None:
            return push
        match audience := decode_audience(push.audience):
            case ByDevices(ids=asked) | ByUsers(users=asked) if len(asked) <= FEW:
                page = await self._registry.members(push.app, audience, after="", limit=MOST)
                if page.cursor is not None:
                    return push
                wanted = filter(reached(push, audience), page.devices)
                found = targets_of(wanted, 0, self._routes[push.app])
                targets = {route: tuple(own) for route, own in found.items()}
                return msgspec.structs.replace(push, audience=b"", targets=targets)
            case _:
                return push
