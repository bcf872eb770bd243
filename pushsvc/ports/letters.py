"""Dead letters: listed, counted, and sent again by replays."""

from __future__ import annotations

from typing import Literal, Protocol

from msgspec import Struct

from ..model.push import Platform
from .entries import EntryRef as EntryRef
from .entries import News as News
from .entries import Taken as Taken


class DeadFilter(Struct, frozen=True, omit_defaults=True):
    """Which dead letters are meant; what is left empty does not narrow. Instants in Unix ms, `until` exclusive."""

    push: str = ""
    platform: Platform = ""
    reason: str = ""
    since: int | None = None
    until: int | None = None


class DeadRow(Struct, frozen=True):
    """One dead letter as it may be shown: never its token."""

    id: str
    push_id: str
    platform: Platform
    device_id: str | None
    token_hash: str
    reason: str
    status: int
    attempts: int
    at: int


class ReplaySpec(Struct, frozen=True, omit_defaults=True):
    """What a replay is asked to do. `limit` deliveries, 0: all; `rate` deliveries a second, 0: no bound."""

    app: str
    filter: DeadFilter = DeadFilter()
    limit: int = 0
    rate: float = 0.0


class ReplayStatus(Struct, frozen=True):
    """Where a replay stands."""

    job: str
    spec: ReplaySpec
    state: Literal["queued", "running", "done", "failed", "stopped"]
    created_at: int
    updated_at: int
    matched: int
    """Dead letters that it meant when it was asked for."""
    moved: int = 0
    """Deliveries that are on their way again."""
    skipped: int = 0
    """Dead letters that stay: their push was cancelled, or nothing is known of it any more."""
    error: str = ""


class DeadLetters(Protocol):
    """Deliveries that failed for good, and their way back."""

    async def page(self, app: str, which: DeadFilter, *, cursor: str, limit: int) -> tuple[list[DeadRow], str | None]:
        """Oldest first, and the cursor of the next page. A page may be short, or empty, and still have one."""
        ...

    async def count(self, app: str, which: DeadFilter) -> int: ...

    async def request(self, spec: ReplaySpec) -> ReplayStatus:
        """Ask for a replay of what is there now; a worker takes it up. Dead letters of later are not meant."""
        ...

    async def replay(self, app: str, job: str) -> ReplayStatus | None:
        """Where a replay stands. None: no such replay."""
        ...

    async def stop(self, app: str, job: str) -> ReplayStatus | None:
        """Move no more of its dead letters; a step that is under way ends. What was moved is on its way. A replay that
        has ended stays as it is. None: no such replay."""
        ...
