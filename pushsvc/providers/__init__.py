"""The providers, by platform. A new one is a package with the same fixed names, and one line here.

The fixed names: `PLATFORM`, `Config`, `RENDERER` (pure), `classify` (pure), `open_provider` (I/O), `check`, and where
the provider has them `account_limits`, `environment` and `open_channels` (I/O).
"""

from __future__ import annotations

from types import ModuleType
from typing import Final

from ..model import Platform
from . import apns, fcm
from .kind import Finding, ProviderKind, no_environment, no_limits

__all__ = ["REGISTRY", "Finding", "ProviderKind"]


def _kind(package: ModuleType) -> ProviderKind:
    return ProviderKind(
        *(package.PLATFORM, package.Config, package.RENDERER, package.open_provider, package.check),
        account_limits=getattr(package, "account_limits", no_limits),
        open_channels=getattr(package, "open_channels", None),
        environment=getattr(package, "environment", no_environment),
    )


REGISTRY: Final[dict[Platform, ProviderKind]] = {package.PLATFORM: _kind(package) for package in (apns, fcm)}
