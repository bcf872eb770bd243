"""The report about a route that was removed from the configuration while deliveries wait for it."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from ...model.routing import CARRIERS
from ...ports.work import RemovedRoute


class Removal(NamedTuple):
    """The report about a removed route."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.fix}"


def removal_of(each: RemovedRoute, apps: Container[str]) -> Removal:
    """Return what waits for a route that was removed, and the remedy. `apps` are those of the configuration."""
    app, platform = each.route.app, each.route.platform
    waits = f"{each.waiting:,} {'delivery waits' if each.waiting == 1 else 'deliveries wait'}"
    if each.pushes:
        waits += (
            f", and of the app {each.pushes:,} {'push' if each.pushes == 1 else 'pushes'} scheduled or for audiences"
        )
    if app in apps:
        lacks = "live channel" if platform in CARRIERS else f"account `{platform}`"
        what, remedy = f"the app has no {lacks}", f"add [apps.{app}.{platform}] again, or cancel the pushes"
    else:
        what, remedy = f"the configuration has no app `{app}`", f"add [apps.{app}] and [apps.{app}.{platform}] again"
    return Removal(f"{what} any more, {waits}", f"{remedy}; what waits longer than its ttl expires")
