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


class ReplayStep(Struct, frozen=True):
    """What one step of a replay did."""

    moved: int = 0
    skipped: int = 0
    over: bool = False
    """Nothing is left to do."""
    lost: bool = False
    """Another process runs this replay; leave it to that one."""


class Replays(DeadLetters, Protocol):
    """Dead letters and the execution of their replays. A replay that nobody works on is taken up again when it is due,
    and goes on where its last step ended."""

    async def unfinished(self, *, due: bool = True) -> list[tuple[str, str]]:
        """Return app and job of the replays that are not done; with `due` those only that nobody works on."""
        ...

    async def keep(self, app: str, job: str, *, lease: int) -> None:
        """Report that somebody works on a replay for the next `lease` ms; 0: nobody does."""
        ...

    async def due_at(self, app: str, job: str) -> int:
        """Return when the next step was due by the replay's rate, Unix ms; 0 before the first."""
        ...

    async def put_off(self, app: str, job: str, due: int) -> None:
        """Let the next step be due at this instant (Unix ms); nobody works on the replay until then."""
        ...

    async def step(self, app: str, job: str, *, most: int) -> ReplayStep:
        """Put up to `most` deliveries back into their lanes, in one atomic step."""
        ...

    async def finish(self, app: str, job: str, error: str = "") -> None:
        """Record that the replay is done, or has failed with `error`."""
        ...
