"""The documents of dead letters and replays. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ...bodies import read_document
from ...decoding import Rule, fraction, unprintable
from ...model.documents import Time
from ...model.instants import instant
from ...ports.letters import DeadFilter, DeadRow, ReplayStatus
from ...problems import ProblemFault
from ..http.instants import Instant, read_instants

MAX_LIMIT: Final = 2**31 - 1
MIN_RATE: Final = 0.1
MAX_RATE: Final = 1_000_000


Text = Annotated[str, Meta(min_length=1, max_length=128), Rule(fault=unprintable)]


class ReplayDocument(Struct, forbid_unknown_fields=True):
    """Selects the dead letters to send again; a field that is left out does not narrow."""

    push: Annotated[Text | None, Meta(description="Only the deliveries of the push with this id.")] = None
    platform: Annotated[Text | None, Meta(examples=["apns", "fcm"])] = None
    reason: Annotated[Text | None, Meta(description="Only deliveries that failed for this reason.")] = None
    since: Annotated[Instant | None, Meta(description="Only deliveries that failed at this instant or later.")] = None
    until: Annotated[Instant | None, Meta(description="Only deliveries that failed before this instant.")] = None
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_LIMIT)] | Annotated[float, Meta(ge=1, le=MAX_LIMIT)] | None,
        Meta(description="The maximum number of deliveries."),
        Rule(f"a whole number from 1 to {MAX_LIMIT:,}", fault=fraction),
    ] = None
    rate: Annotated[
        Annotated[float, Meta(ge=MIN_RATE, le=MAX_RATE)] | None, Meta(description="The number of deliveries a second.")
    ] = None
    dry_run: Annotated[bool | None, Meta(description="Only count them.")] = None


class DeadLetter(Struct, frozen=True):
    """A delivery that failed permanently. Its token is shown only as a short hash."""

    id: str
    push_id: str
    platform: str
    device_id: str | None
    token_hash: str
    reason: Annotated[str, Meta(description="The provider's reason, or one of pushsvc in lower case.")]
    status: Annotated[int, Meta(description="The provider's HTTP status; 0 when there was no answer.")]
    attempts: int
    at: Time


class DeadLetterPage(Struct, frozen=True):
    """Dead letters, oldest first, and the cursor of the next page, null on the last. A page may be short without being
    the last."""

    items: list[DeadLetter]
    cursor: str | None


class ReplayAccepted(Struct, frozen=True):
    """The dead letters that `job` will send again: `matched` is their number. `job` is null for a dry run."""

    job: str | None
    matched: int
    warnings: Annotated[
        list[ProblemFault] | UnsetType, Meta(description="Given where nothing has failed for the `reason` in question.")
    ] = UNSET

    @classmethod
    def of(cls, job: str | None, matched: int, asked: DeadFilter) -> ReplayAccepted:
        """Return the answer, with a warning where a `reason` matches nothing: it may be a typo."""
        if matched or not asked.reason:
            return cls(job, matched)
        hint = "no dead letter that is asked for has this reason; `GET /v1/failed` shows the reasons that there are"
        return cls(job, matched, [ProblemFault("reason", hint)])


class ReplayFilter(Struct, frozen=True, omit_defaults=True):
    """The dead letters that a replay is about; what is left out does not narrow."""

    push: str = ""
    platform: str = ""
    reason: str = ""
    since: Time | None = None
    until: Time | None = None


class Replay(Struct, frozen=True):
    """The progress of a replay. `moved` deliveries were queued again; `skipped` dead letters stay as they are."""

    job: str
    state: Literal["queued", "running", "done", "failed", "stopped"]
    created_at: Time
    updated_at: Time
    matched: int
    moved: int
    skipped: Annotated[int, Meta(description="Dead letters whose push was cancelled, or is no longer known.")]
    error: str
    filter: ReplayFilter
    limit: Annotated[int, Meta(description="The maximum number of deliveries; 0: no limit.")]
    rate: Annotated[float, Meta(description="The number of deliveries a second; 0: no limit.")]


def read_filter(values: Mapping[str, Any]) -> DeadFilter:
    """Return the filter of these values by name; None does not narrow. Raises `InvalidRequest` with every fault."""
    push, platform, reason = (values[name] or "" for name in ("push", "platform", "reason"))
    return DeadFilter(push.lower(), platform, reason, *read_instants(values))


def read_replay(body: bytes) -> tuple[DeadFilter, int, float, bool]:
    """Return filter, limit, rate and whether it is a dry run. Raises `MalformedBody`, or `InvalidRequest` with every
    fault."""
    asked = read_document(body, ReplayDocument)
    which = read_filter(msgspec.structs.asdict(asked))
    return which, int(asked.limit or 0), asked.rate or 0.0, asked.dry_run or False


def shown_replay(status: ReplayStatus) -> Replay:
    """Return a replay as the API shows it."""
    limit, which = status.spec.limit, status.spec.filter
    since, until = (None if at is None else instant(at) for at in (which.since, which.until))
    return Replay(
        job=status.job,
        state=status.state,
        created_at=instant(status.created_at),
        updated_at=instant(status.updated_at),
        matched=min(status.matched, limit) if limit else status.matched,
        moved=status.moved,
        skipped=status.skipped,
        error=status.error,
        filter=ReplayFilter(which.push, which.platform, which.reason, since, until),
        limit=limit,
        rate=status.spec.rate,
    )


def shown(row: DeadRow) -> DeadLetter:
    return DeadLetter(**{**msgspec.structs.asdict(row), "at": instant(row.at)})
