"""Selects the route of an app that reaches a device or a token. Pure.

A route is one account at a provider. Most platforms have one, named like the platform. If tokens belong to an
environment, an app may have an account in each: the second one is named after both, `apns_sandbox`. That name is used
for the route alone: rows, dead letters, feedback and the metrics of deliveries say `apns`, whichever account was used.
The same is true of what is known about a token, except for whether it is dead: a token is valid in one environment
only, so that an answer in one says nothing about the other
(https://developer.apple.com/documentation/usernotifications/registering-your-app-with-apns).
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Final, TypeAlias, cast, get_args

from .devices import Environment
from .push import Chunk, Platform

_ENDINGS = tuple(f"_{environment}" for environment in get_args(Environment))

CARRIERS: Final = ("live",)
"""Channels that deliver to devices of every platform, and whose devices acknowledge what they get."""

RouteTable: TypeAlias = Mapping[tuple[Platform, Environment | None], Platform]
"""The name of the route by platform and environment (None: unknown). Missing entries mean the platform's own route."""


def platform_of(route: Platform) -> Platform:
    """Return the platform of a route's name: `apns` of `apns_sandbox`."""
    for ending in _ENDINGS if "_" in route else ():
        if route.endswith(ending):
            return route[: -len(ending)]
    return route


def usual_environment(route: Platform) -> Environment:
    """Return the environment that a route has by its name. The one account of an app may have another."""
    return "production" if route == platform_of(route) else cast(Environment, route.rpartition("_")[2])


def environments_of(platform: Platform) -> tuple[Platform, ...]:
    """Return every name that a route of a platform can have whose tokens belong to an environment."""
    return (platform, *(platform + ending for ending in _ENDINGS))


def path_name(route: Platform, channels: Sequence[Platform]) -> Platform:
    """Return the name of a path: `apns:live>apns` if `live` carries what is for a token of `apns`, and then `apns`."""
    return route if list(channels) == [route] else f"{route}:{'>'.join(channels)}"


def path_of(name: Platform) -> tuple[Platform, list[Platform]]:
    """Return the route whose addresses these are, and the channels in their order, from the name of a path."""
    route, further, channels = name.partition(":")
    return route, channels.split(">") if further else [route]


def reachable(path: Platform, channels: Container[Platform]) -> bool:
    """Return whether any channel of a path is among these."""
    return path in channels or any(name in channels for name in path_of(path)[1])


def carries(path: Platform) -> bool:
    """Return whether a channel of a path delivers to devices of every platform."""
    return any(name in CARRIERS for name in path_of(path)[1])


def has_provider_fallback(chunk: Chunk) -> bool:
    """Return whether a provider carries on what no device has acknowledged."""
    following = (each.channel for each in chunk.fallbacks)
    return bool(chunk.home) and chunk.channel not in CARRIERS and not any(name in CARRIERS for name in following)


def table_of(environments: Mapping[Platform, Environment]) -> RouteTable:
    """Return the route table from the environment of each route whose tokens belong to one. A name that no
    configuration contains is a route that the app does not have."""
    found: dict[tuple[Platform, Environment | None], Platform] = {}
    for route in environments:
        platform = platform_of(route)
        own = {environments[name]: name for name in environments if platform_of(name) == platform}
        found[platform, None] = platform if platform in environments else route
        for environment in get_args(Environment):
            found[platform, environment] = own.get(environment, f"{platform}_{environment}")
    return found
