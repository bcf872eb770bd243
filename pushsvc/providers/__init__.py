"""The providers, by the names of their routes. A new one is a package with the same fixed names, and one line here.

The fixed names: `PLATFORM`, `ADDRESSES`, `Config`, `RENDERER` (pure), `classify` (pure), `open_provider` (I/O),
`check` and `preview`; where the provider has them `DEFAULTS` (least waits and stale age), `account_limits`,
`environment`, `explain`, `check_online` (I/O), `open_channels` (I/O), and `MORE`: the sections of further accounts that
an app may have there, by the names of their routes.
"""

from __future__ import annotations

from types import ModuleType
from typing import Final

from msgspec import Struct

from ..model.defaults import Defaults
from ..model.push import Platform
from . import apns, fcm
from .kind import ProviderKind, check_nothing, explain_any, no_environment, no_limits

__all__ = ["REGISTRY", "kinds_of", "ProviderKind"]


def kinds_of(package: ModuleType) -> dict[Platform, ProviderKind]:
    """Return the lines of the registry that a provider's package makes, by the names of their routes."""
    sections: dict[Platform, type[Struct]] = {package.PLATFORM: package.Config, **getattr(package, "MORE", {})}
    return {
        route: ProviderKind(
            *(package.PLATFORM, config, package.RENDERER, package.open_provider, package.check, package.preview),
            check_online=getattr(package, "check_online", check_nothing),
            addresses=package.ADDRESSES,
            defaults=getattr(package, "DEFAULTS", Defaults()),
            account_limits=getattr(package, "account_limits", no_limits),
            open_channels=getattr(package, "open_channels", None),
            explain=getattr(package, "explain", explain_any),
            environment=getattr(package, "environment", no_environment),
        )
        for route, config in sections.items()
    }


REGISTRY: Final[dict[Platform, ProviderKind]] = {
    route: kind for package in (apns, fcm) for route, kind in kinds_of(package).items()
}
