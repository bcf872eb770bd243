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

from ..model.push import Platform
from . import apns, fcm
from .kind import ProviderKind

__all__ = ["REGISTRY", "kinds_of", "ProviderKind"]

_OPTIONAL: Final = ("DEFAULTS", "account_limits", "check_online", "environment", "explain", "open_channels")


def kinds_of(package: ModuleType) -> dict[Platform, ProviderKind]:
    """Return the lines of the registry that a provider's package makes, by the names of their routes."""
    more = {name.lower(): getattr(package, name) for name in _OPTIONAL if hasattr(package, name)}
    sections: dict[Platform, type[Struct]] = {package.PLATFORM: package.Config, **getattr(package, "MORE", {})}
    return {
        route: ProviderKind(
            *(package.PLATFORM, config, package.RENDERER, package.open_provider, package.check, package.preview),
            addresses=package.ADDRESSES,
            **more,
        )
        for route, config in sections.items()
    }


REGISTRY: Final[dict[Platform, ProviderKind]] = {
    route: kind for package in (apns, fcm) for route, kind in kinds_of(package).items()
}
