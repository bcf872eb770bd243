"""The description of a provider: one entry of the registry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from msgspec import Struct

from ..model.address import Kinds
from ..model.defaults import Defaults
from ..model.devices import Environment
from ..model.finding import Explained, Finding
from ..model.push import Message, Platform, Route
from ..model.rates import AccountLimits
from ..ports.channels import ChannelAccount
from ..ports.provider import Preview, Provider, Renderer
from . import reasons


class OpenProvider(Protocol):
    """Opens the sending half for one route; closing it waits for requests in flight. `ttl_clock` is the clock by which
    chunks expire and devices are registered, in Unix seconds: not the one by which credentials are signed. Raises
    `CredentialError`."""

    def __call__(
        self, route: Route, config: Any, *, request_timeout: float, ttl_clock: Callable[[], float] = ...
    ) -> AbstractAsyncContextManager[Provider]: ...


class OpenChannels(Protocol):
    """Opens the management of broadcast channels, where the provider has them. Raises `CredentialError`."""

    def __call__(self, config: Any, *, request_timeout: float) -> AbstractAsyncContextManager[ChannelAccount]: ...


class MakePreview(Protocol):
    """Returns the request that a message becomes, for people to look at. `expires_at` is in Unix ms."""

    def __call__(self, config: Any, message: Message, *, push_id: str, expires_at: int, dry_run: bool) -> Preview: ...


def no_limits(config: Any) -> AccountLimits:
    return AccountLimits()


def no_environment(config: Any) -> None:
    """Return None, as a provider does whose tokens belong to no environment."""


async def check_nothing(config: Any) -> list[Finding]:
    """Return nothing, as a provider does that cannot be asked without sending."""
    return []


def explain_any(reason: str, status: int) -> Explained:
    return reasons.explain(reason, status, {})


class ProviderKind(Struct, frozen=True):
    """One entry of the registry: the fixed names of a provider's package, as values."""

    platform: Platform
    config: type[Struct]
    """The section of the configuration, `[apps.NAME.<name of the route>]`."""
    renderer: Renderer
    open_provider: OpenProvider
    check: Callable[[Any], list[Finding]]
    """Reads the files that the config names and returns findings about them, without using the network."""
    preview: MakePreview
    check_online: Callable[[Any], Awaitable[list[Finding]]] = check_nothing
    """Returns what the provider says to the account of a config, without sending anything."""
    account_limits: Callable[[Any], AccountLimits] = no_limits
    """Returns the limits that the provider grants to the account of a config."""
    addresses: Kinds = {}
    """The kinds of addresses of the provider's targets, by name."""
    defaults: Defaults = Defaults()
    """The spans that the provider's documentation names."""
    open_channels: OpenChannels | None = None
    explain: Callable[[str, int], Explained] = explain_any
    """Returns what the reason and the status of a failed delivery mean, and what to do about it."""
    environment: Callable[[Any], Environment | None] = no_environment
    """Returns the environment whose tokens the account of a config can send to, where tokens belong to one."""
