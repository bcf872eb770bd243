"""Dead letters: listed, counted, and sent again by replays."""

from __future__ import annotations

from typing import Literal, Protocol

from msgspec import Struct

from ..model.push import Platform


class DeadFilter(Struct, frozen=True, omit_defaults=True):
    """Selects dead letters; an empty field does not narrow. Instants are in Unix ms, `until` is exclusive."""

    push: str = ""
    platform: Platform = ""
    reason: str = ""
    since: int | None = None
    until: int | None = None


class DeadRow(Struct, frozen=True):
    """A dead letter as it may be shown, without its token."""

    id: str
    push_id: str
    platform: Platform
    device_id: str | None
    token_hash: str
    reason: str
    status: int
    attempts: int
    at: int


class DeadGroup(Struct, frozen=True):
    platform: Platform
    reason: str
    count: int
    first_at: int
    last_at: int
    sample: list[DeadRow]
    """Up to three dead letters of the group."""


class ReplaySpec(Struct, frozen=True, omit_defaults=True):
    """What a replay does: `limit` is in deliveries (0: all), `rate` in deliveries a second (0: unbounded)."""

    app: str
    filter: DeadFilter = DeadFilter()
    limit: int = 0
    rate: float = 0.0


class ReplayStatus(Struct, frozen=True):
    """The state of a replay."""

    job: str
    spec: ReplaySpec
    state: Literal["queued", "running", "done", "failed", "stopped"]
    created_at: int
    updated_at: int
    matched: int
    """The number of dead letters that were selected when the replay was requested."""
    moved: int = 0
    """Deliveries that were queued again."""
    skipped: int = 0
    """Dead letters that stay, because their push was cancelled or its status has expired."""
    error: str = ""


class DeadLetters(Protocol):
    """Deliveries that failed permanently, and the requests to replay them."""

    async def page(self, app: str, which: DeadFilter, *, cursor: str, limit: int) -> tuple[list[DeadRow], str | None]:
        """Return dead letters, oldest first, and the cursor of the next page. A page may be short or empty and still
        have a next one."""

    async def count(self, app: str, which: DeadFilter) -> int: ...

    async def groups(self, app: str, which: DeadFilter) -> tuple[list[DeadGroup], bool]:
        """Return dead letters by platform and reason, the largest group first, and whether all were examined: a call
        has a bound."""

    async def request(self, spec: ReplaySpec) -> ReplayStatus:
        """Request a replay of the dead letters that exist now, which a worker then runs."""

    async def replay(self, app: str, job: str) -> ReplayStatus | None:
        """Return the state of a replay, or None where no replay has this id."""

    async def stop(self, app: str, job: str) -> ReplayStatus | None:
        """Stop a replay after the step that is under way; what was queued again stays queued. A replay that has ended
        does not change. Returns None where no replay has this id."""


class ReplayStep(Struct, frozen=True):
    moved: int = 0
    skipped: int = 0
    over: bool = False
    """Whether the replay is complete."""
    lost: bool = False
    """Whether another process runs this replay, which is to be left to it."""


class Replays(DeadLetters, Protocol):
    """Dead letters and the execution of their replays. A replay that no process works on is taken up when it is due,
    and continues after its last step."""

    async def unfinished(self, *, due: bool = True) -> list[tuple[str, str]]:
        """Return app and job of the replays that are not done; with `due` only those that no process works on."""

    async def keep(self, app: str, job: str, *, lease: int) -> None:
        """Lease a replay to the caller for `lease` ms; 0 ends the lease."""

    async def due_at(self, app: str, job: str) -> int:
        """Return when the next step is due by the replay's rate, in Unix ms; 0 before the first step."""

    async def put_off(self, app: str, job: str, due: int) -> None:
        """End the lease until the instant `due` (Unix ms), at which the next step is due."""

    async def step(self, app: str, job: str, *, most: int) -> ReplayStep:
        """Queue up to `most` deliveries again, in one atomic step."""

    async def finish(self, app: str, job: str, error: str = "") -> None:
        """Record that the replay is done, or has failed with `error`."""
