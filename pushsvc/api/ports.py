"""What the API works with: the ports of the service, its configuration, and the apps that it serves."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .. import telemetry
from ..model.access import ApiKey
from ..model.address import Addresses
from ..model.push import Platform
from ..model.routing import RouteTable, platform_of
from ..ports.admin import Administration
from ..ports.channels import Channels
from ..ports.conditions import Conditions
from ..ports.erasure import Erasures
from ..ports.feedback import Suppressions
from ..ports.keyring import KeyRing
from ..ports.letters import DeadLetters
from ..ports.limits import Limiter
from ..ports.live import Live
from ..ports.provider import Renderer
from ..ports.pushes import PushStore
from ..ports.receipts import ReceiptLog
from ..ports.registry import Registry
from ..rules.channels import NO_LIVE, ChannelRules
from .config import ApiApp, ApiConfig, ApiLive
from .large import LargeDocuments
from .pushes.backlog import Backlog
from .pushes.ids import new_push_id, now_ms
from .pushes.waits import Waits
from .rules import Rules


@dataclass(frozen=True)
class ApiPorts:
    """Everything that the calls use, for the life of the process."""

    pushes: PushStore
    receipts: ReceiptLog
    keys: KeyRing
    dead: DeadLetters
    registry: Registry
    erasures: Erasures
    suppressions: Suppressions
    channels: Channels
    live: Live
    renderers: Mapping[Platform, Renderer]
    """The renderers of all platforms; `platforms` of an app has those that it may use."""
    addresses: Addresses
    """The kinds of addresses of these platforms."""
    conditions: Conditions
    admin: Administration
    config: ApiConfig
    waits: Waits
    """The requests that wait for the end of their push."""
    limiter: Limiter | None = None
    """Enforces the limits of apps and keys; None means no limits."""
    backlog: Backlog | None = None
    """Enforces the bound of the queue on all apps; None means no bound."""
    clock: Callable[[], int] = now_ms
    """Returns Unix ms."""
    new_id: Callable[[int], str] = new_push_id
    """Returns a push id for an instant in Unix ms."""
    monotonic: Callable[[], float] = time.monotonic
    """Returns seconds, for caches and limits."""
    session_secret: bytes = field(default_factory=lambda: os.urandom(16), repr=False)
    """The secret with which sessions of the console are signed, the same in all processes."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server stops: answers without an end then end."""
    large: LargeDocuments = field(default_factory=LargeDocuments)
    openapi: bytes = b""
    """The OpenAPI document, which `build_app` makes, like `page`."""
    page: bytes = b""
    """The OpenAPI document as HTML."""


@dataclass(frozen=True)
class ServedApp:
    """An app of the configuration, and what its calls need of it."""

    name: str
    keys: tuple[ApiKey, ...]
    routes: RouteTable
    accounts: Sequence[tuple[Platform, Platform]]
    """The accounts, by the names of their routes, each with its platform."""
    rules: Rules
    count_accepted: Callable[[float], None]
    """Counts accepted deliveries."""
    live: ApiLive | None = None
    channels: ChannelRules = NO_LIVE

    @classmethod
    def of(cls, app: ApiApp, addresses: Addresses, config: ApiConfig) -> ServedApp:
        """Return a configured app with its rules."""
        telemetry.begin_app(app.name)
        return cls(
            name=app.name,
            keys=app.keys,
            routes=app.routes,
            accounts=[(route, platform_of(route)) for route in sorted(app.accounts)],
            rules=Rules(
                app.name, app.platforms, addresses, config.max_targets, app.routes, live="live" in app.platforms
            ),
            live=app.live,
            channels=app.channels,
            count_accepted=telemetry.HTTP.accepted(app.name).add,
        )


NO_APP: Final = ServedApp("", (), {}, (), Rules("", frozenset(), Addresses({})), lambda _: None)
"""The app of callers without a key, where none is needed."""
