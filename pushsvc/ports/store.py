"""The store as one value with every port. `pushsvc.runtime` opens it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from msgspec import Struct

from ..model.push import Platform
from .cleanup import Cleanups, Leftovers
from .erasure import ErasureSteps
from .expansion import Expansions
from .feedback import RecentAnswers, Suppressions
from .figures import Figures, Flow
from .keyring import KeyRing
from .letters import Replays
from .limits import Limiter
from .live import Live
from .pushes import PushStore
from .queue import Arrivals, DeliveryQueue
from .receipts import ReceiptLog
from .registry import Registry
from .webhooks import Webhooks
from .work import Bell, Locks, Workers


class Inspection(Struct, frozen=True):
    """The result of an inspection of the server behind the store."""

    info: Mapping[str, Any] | None
    """The server's answer to INFO, in a cluster one for each node; None where this user may not run it."""
    missing: list[str] | None
    """Commands that the service needs and the server does not have; None where this user may not ask for them."""
    forbidden: list[str]
    """Commands of the service that this user may not run."""
    ahead: float
    """Seconds by which the server's clock is ahead of this machine's."""
    unidentified: list[str] = []
    """The nodes of a cluster, as `host:port`, on which this user may not run INFO: their restarts are not noticed."""


class Store(Figures, Protocol):
    """Everything that is stored, for one process and one event loop."""

    @property
    def answers(self) -> RecentAnswers: ...
    @property
    def arrivals(self) -> Arrivals: ...
    @property
    def bell(self) -> Bell: ...
    @property
    def cleanups(self) -> Cleanups: ...
    @property
    def dead(self) -> Replays: ...
    @property
    def erasures(self) -> ErasureSteps: ...
    @property
    def expansions(self) -> Expansions: ...
    @property
    def flow(self) -> Flow: ...
    @property
    def keys(self) -> KeyRing: ...
    @property
    def leftovers(self) -> Leftovers: ...
    @property
    def limiter(self) -> Limiter: ...
    @property
    def live(self) -> Live: ...
    @property
    def locks(self) -> Locks: ...
    @property
    def pushes(self) -> PushStore: ...
    @property
    def queue(self) -> DeliveryQueue: ...
    @property
    def receipts(self) -> ReceiptLog: ...
    @property
    def registry(self) -> Registry: ...
    @property
    def suppressions(self) -> Suppressions: ...
    @property
    def webhooks(self) -> Webhooks: ...
    @property
    def event_webhooks(self) -> Webhooks: ...
    @property
    def webhook_logs(self) -> tuple[Webhooks, Webhooks]:
        """Return both logs that an app's webhook is called from: `webhooks` and `event_webhooks`."""

    @property
    def workers(self) -> Workers: ...

    @property
    def clock(self) -> Callable[[], int]:
        """Return the store's own clock, in Unix ms."""

    @property
    def seconds(self) -> Callable[[], float]:
        """Return the same clock in Unix seconds."""

    @property
    def replaced(self) -> asyncio.Event:
        """Return an event that is set when the store came back empty and other processes have initialised it: the
        process must be restarted."""

    def secret(self, purpose: bytes) -> bytes:
        """Return a key for one purpose, of up to 16 bytes, which all processes of this store derive alike."""

    def token_hash(self, route: Platform) -> Callable[[str], str]:
        """Return the function that makes of a token of a route or platform the 16 hex characters that logs, metrics and
        status documents show instead."""

    @property
    def durability(self) -> str:
        """Return a text that names what the durability of this store rests on."""

    async def require_durable(self, apps: Iterable[str]) -> float:
        """Return the seconds that a flush to the disk takes. Raises `ConfigError` where a server of these apps makes
        none that can be waited for."""

    async def inspect(self) -> Inspection:
        """Look at the server behind the store."""
