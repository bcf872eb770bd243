"""The store as one value: every port that it stands behind. `pushsvc.runtime` opens it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from msgspec import Struct

from .cleanup import Cleanups, Leftovers
from .erasure import ErasureSteps
from .expansion import Expansions
from .feedback import RecentAnswers, Suppressions
from .figures import Figures
from .keyring import KeyRing
from .letters import Replays
from .limits import Limiter
from .locks import Locks
from .pushes import PushStore
from .queue import DeliveryQueue
from .receipts import ReceiptLog
from .registry import Registry
from .webhooks import Webhooks
from .workers import Workers


class Inspection(Struct, frozen=True):
    """What a look at the server behind the store has found."""

    info: Mapping[str, Any] | None
    """The server's answer to INFO, in a cluster one for each node; None: this user may not ask."""
    missing: list[str] | None
    """Commands that the service needs and the server does not have; None: this user may not ask."""
    forbidden: list[str]
    """Commands of ours that this user may not run."""
    ahead: float
    """Seconds by which the server's clock is ahead of this machine's."""


class Store(Figures, Protocol):
    """Everything that is kept, for one process and one event loop."""

    @property
    def answers(self) -> RecentAnswers: ...
    @property
    def cleanups(self) -> Cleanups: ...
    @property
    def dead(self) -> Replays: ...
    @property
    def erasures(self) -> ErasureSteps: ...
    @property
    def expansions(self) -> Expansions: ...
    @property
    def keys(self) -> KeyRing: ...
    @property
    def leftovers(self) -> Leftovers: ...
    @property
    def limiter(self) -> Limiter: ...
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
    def workers(self) -> Workers: ...

    @property
    def clock(self) -> Callable[[], int]:
        """The store's own clock, Unix ms."""
        ...

    @property
    def seconds(self) -> Callable[[], float]:
        """The same clock in Unix seconds."""
        ...

    @property
    def replaced(self) -> asyncio.Event:
        """Set when the store has come back empty and others have begun it anew: end, and be started again."""
        ...

    def token_hash(self, token: str) -> str:
        """Return 16 hex characters: all of a token that logs, metrics and status documents may show."""
        ...

    @property
    def promise(self) -> str:
        """What a promise of this store rests on, for people."""
        ...

    async def require_durable(self, apps: Iterable[str]) -> float:
        """Return the seconds that a flush to the disk takes. Raises `ConfigError` where a server of these apps makes
        none that can be waited for."""
        ...

    async def inspect(self) -> Inspection:
        """Look at the server behind the store."""
        ...
