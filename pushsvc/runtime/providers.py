"""What other parts need of the providers: their names, addresses and renderers, and whether credentials are usable."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from .. import telemetry
from ..errors import CredentialError
from ..model.address import Addresses
from ..model.finding import Explained, Finding
from ..model.push import Platform
from ..model.routing import platform_of
from ..ports.provider import Renderer
from ..providers import REGISTRY, live
from ..providers.files import as_finding
from ..providers.kind import explain_any
from ..settings.schema import Settings


def renderers() -> dict[Platform, Renderer]:
    """Return the renderer of each platform. An app's account for the sandbox is a route of its own, and not a
    platform."""
    return {kind.platform: kind.renderer for kind in REGISTRY.values()} | {live.PLATFORM: live.RENDERER}


@cache
def addresses() -> Addresses:
    """Return the kinds of addresses of every platform."""
    kinds = {kind.platform: kind.addresses for kind in REGISTRY.values()}
    return Addresses(kinds | {live.PLATFORM: live.ADDRESSES})


def explain(platform: Platform, reason: str, status: int) -> Explained:
    """Return what the reason and the status of a failed delivery mean, and what to do about it."""
    kinds = (kind for kind in REGISTRY.values() if kind.platform == platform_of(platform))
    kind = next(kinds, None)
    return explain_any(reason, status) if kind is None else kind.explain(reason, status)


def expiry_of(route: Platform, config: Any) -> float | None:
    """Return when the credential of an account expires, in Unix seconds; None where it does not, or cannot be read."""
    return min((each.expires for each in _check(route, config) if each.expires is not None), default=None)


def check_credentials(settings: Settings) -> Iterator[tuple[str, Finding]]:
    """Yield the findings about each account's credentials, with the section of the configuration. Only files are read;
    no provider is called."""
    for name, app in settings.apps.items():
        for route, config in app.providers.items():
            yield from ((f"apps.{name}.{route}", finding) for finding in _check(route, config))


def unforeseen(error: Exception, section: str) -> CredentialError:
    """Return an unexpected error of an account as what makes that account alone unusable."""
    telemetry.get_logger("accounts").error("account_failed", section=section, **telemetry.unforeseen(error))
    text = f"an unexpected {type(error).__name__} as it was opened or checked; `account_failed` in the log says where"
    return CredentialError(section, text, "correct its files, and report this as a fault of pushsvc")


def _check(route: Platform, config: Any) -> list[Finding]:
    try:
        return REGISTRY[route].check(config)
    except CredentialError as error:
        return [as_finding(error)]
    except Exception as error:
        return [as_finding(unforeseen(error, route))]
