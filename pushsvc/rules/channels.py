"""Chooses the channels that carry a delivery to a device, in their order. Pure.

The app has an order, and rules with an order of their own: the first rule that selects the device decides. The push may
choose the channel itself (`via`), and has content only for those that its `messages` name.

    order               the path of a device of `apns`    what it means
    live, provider      apns:live>apns                    the provider carries on what no device acknowledges in time
    provider, live      apns:live>apns>live               it is put into the stream, the provider is asked, and what
                                                          that cannot deliver is left to the live channel
    live                apns:live                         it waits for the device until it expires
    provider            apns                              never live: it does not stand in the stream either

A device whose token its provider called dead is a tombstone. If its app has given a sign of life since (`life.py`), the
live channel still reaches it, and only its provider is out:

    a tombstone                       its path            in audiences    at `live`    at its provider
    that lives on                     apns:live>apns      yes             sent         suppressed
                                      apns:live>apns>live yes             sent         goes on at `live`
                                      apns:live           yes             sent
                                      apns                no                           suppressed
    without a sign of life since      any                 no              suppressed   suppressed

A device of the platform `live` has no provider: its path is `live`, whatever the order says. A channel that the push
has no content for is left out, and the others are used if that leaves none. A dry run is a question to the provider
alone. A raw token is no device of the live channel, and uses its provider.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from msgspec import Struct

from ..model.devices import Device, Environment
from ..model.live import Order
from ..model.push import Platform, Push
from ..model.routing import CARRIERS, RouteTable, path_name
from .where import Predicate, compile_where

PathOf: TypeAlias = Callable[[Device], Platform]
"""Returns the name of the path to a device."""

LIVE: Final[Platform] = "live"
_PROVIDER: Final = "provider"
_STEPS: Final[dict[Order, tuple[str, ...]]] = {
    "live, provider": (LIVE, _PROVIDER),
    "provider": (_PROVIDER,),
    "provider, live": (LIVE, _PROVIDER, LIVE),
    "live": (LIVE,),
}
_MINUTE: Final = 60_000


class ChannelRule(Struct, frozen=True):
    """The order of channels for the devices that an expression selects."""

    where: str
    order: Order


class ChannelRules(Struct, frozen=True):
    order: Order = "provider"
    rules: tuple[ChannelRule, ...] = ()


NO_LIVE: Final = ChannelRules()
"""The rules of an app without a live channel."""


def own_platform(device: Device) -> Platform:
    """Return the path of a device whose platform has one route, which is named like it."""
    return device.platform


def paths_of(push: Push, routes: RouteTable, rules: ChannelRules = NO_LIVE) -> PathOf:
    """Return the function that chooses the path of this push to a device. `routes` are those of the app's accounts.
    Spans in the rules count back from when the push is to be sent, in whole minutes. Raises `WhereError`."""

    same, minute = _same_order(push, rules), push.starts_at // _MINUTE
    compiled = [(_compiled(rule.where, minute), rule.order) for rule in rules.rules if same is None]
    paths: dict[tuple[Platform, Environment, Order], Platform] = {}

    def path_of(device: Device) -> Platform:
        order = same if same is not None else next((own for fits, own in compiled if fits(device)), rules.order)
        place = device.platform, device.environment, order
        path = paths.get(place)
        if path is None:
            route = routes.get(place[:2], device.platform)
            path = paths[place] = path_to(route, order, push.messages, dry_run=push.dry_run)
        return path

    return path_of


def path_to(route: Platform, order: Order, messages: Container[Platform], *, dry_run: bool = False) -> Platform:
    """Return the path to a device by its route, the order of its channels, and the channels that have a message."""
    if route in CARRIERS:
        return route
    asked = [LIVE if step == LIVE else route for step in ((_PROVIDER,) if dry_run else _STEPS[order])]
    channels = [name for name in asked if name in messages] or [name for name in (LIVE, route) if name in messages]
    return path_name(route, _without_repeats(channels) or [route])


def _without_repeats(channels: Sequence[Platform]) -> list[Platform]:
    """Return the channels without those that follow themselves."""
    return [name for place, name in enumerate(channels) if not place or channels[place - 1] != name]


def _same_order(push: Push, rules: ChannelRules) -> Order | None:
    """Return the order of channels that the push has to every device, or None where rules choose it."""
    if LIVE not in push.messages:
        return "provider"
    if push.via != "auto":
        return push.via
    return None if rules.rules else rules.order


@lru_cache(maxsize=1024)
def _compiled(where: str, minute: int) -> Predicate:
    return compile_where(where, now=minute * _MINUTE)
