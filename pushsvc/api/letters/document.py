"""Dead letters and replays as the API reads and shows them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from ...errors import Fault, InvalidRequest, MalformedBody
from ...model.documents import Time
from ...model.instants import instant
from ...ports.letters import DeadFilter, DeadRow, ReplayStatus
from ..http.instants import Instant, parse_instant
from ..http.refusal import explain, utf8
from ..http.wording import expected, join

MAX_LIMIT: Final = 2**31 - 1
MIN_RATE: Final = 0.1
MAX_RATE: Final = 1_000_000
_TEXTS: Final = ("push", "platform", "reason")
_INSTANTS: Final = ("since", "until")

Text = Annotated[str, Meta(min_length=1, max_length=128)]


class ReplayDocument(Struct, forbid_unknown_fields=True):
    """Which dead letters to send again; what is left out does not narrow."""

    push: Annotated[Text | None, Meta(description="Those of one push, by its id.")] = None
    platform: Annotated[Text | None, Meta(examples=["apns", "fcm"])] = None
    reason: Annotated[Text | None, Meta(description="Those that failed for this reason.")] = None
    since: Annotated[Instant | None, Meta(description="Those that failed at this instant or later.")] = None
    until: Annotated[Instant | None, Meta(description="Those that failed before this instant.")] = None
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_LIMIT)] | None, Meta(description="So many deliveries at most.")
    ] = None
    rate: Annotated[
        Annotated[float, Meta(ge=MIN_RATE, le=MAX_RATE)] | None, Meta(description="So many deliveries a second.")
    ] = None
    dry_run: Annotated[bool | None, Meta(description="Only count them.")] = None


class DeadLetter(Struct, frozen=True):
    """A delivery that failed for good. The token shows as a short hash only."""

    id: str
    push_id: str
    platform: str
    device_id: str | None
    token_hash: str
    reason: Annotated[str, Meta(description="The provider's own word, or ours in lower case.")]
    status: Annotated[int, Meta(description="The provider's HTTP status; 0 when there was no answer.")]
    attempts: int
    at: Time


class DeadLetterPage(Struct, frozen=True):
    """Oldest first; the cursor of the next page, null on the last. A page may be short and not the last."""

    items: list[DeadLetter]
    cursor: str | None


class ReplayAccepted(Struct, frozen=True):
    """`matched` dead letters will be sent again by `job`; null where it was a dry run."""

    job: str | None
    matched: int


class Replay(Struct, frozen=True):
    """Where a replay stands. `moved` deliveries are on their way again; `skipped` dead letters stay what they are."""

    job: str
    state: Literal["queued", "running", "done", "failed", "stopped"]
    created_at: Time
    updated_at: Time
    matched: int
    moved: int
    skipped: Annotated[int, Meta(description="Of pushes that were cancelled, or of which nothing is known any more.")]
    error: str


def read_filter(values: Mapping[str, Any], faults: list[Fault]) -> DeadFilter:
    """The filter; what is wrong with it is added to `faults`."""
    instants: dict[str, int] = {}
    for name in _INSTANTS:
        if values.get(name) is not None:
            try:
                instants[name] = parse_instant(values[name])
            except ValueError as error:
                faults.append(Fault(name, str(error)))
    push, platform, reason = (values.get(name) or "" for name in _TEXTS)
    return DeadFilter(push.lower(), platform, reason, instants.get("since"), instants.get("until"))


def read_replay(body: bytes) -> tuple[DeadFilter, int, float, bool]:
    """Filter, limit, rate and whether it is a dry run. Raises `MalformedBody`, or `InvalidRequest` with every fault."""
    utf8(body)
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise MalformedBody(explain(body, str(error))) from None
    if not isinstance(value, dict):
        raise InvalidRequest(faults=[Fault("$", expected("an object", value))])
    faults: list[Fault] = []
    known = ReplayDocument.__struct_fields__
    for name, given in value.items():
        if name not in known:
            faults.append(Fault(join("", name), f"unknown field; known here: {', '.join(known)}"))
        elif given is not None and (fault := _fault(name, given)):
            faults.append(Fault(name, fault))
    right = {name: given for name, given in value.items() if name not in {fault.path for fault in faults}}
    which = read_filter(right, faults)
    if faults:
        raise InvalidRequest(faults=faults[:1000])
    return which, int(value.get("limit") or 0), float(value.get("rate") or 0), bool(value.get("dry_run"))


def _fault(name: str, given: Any) -> str:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if name == "dry_run":
        return "" if isinstance(given, bool) else expected("true or false", given)
    if name == "limit":
        if number and 1 <= given <= MAX_LIMIT and given == int(given):
            return ""
        return expected(f"a whole number from 1 to {MAX_LIMIT}", given)
    if name == "rate":
        right = number and MIN_RATE <= given <= MAX_RATE
        return "" if right else expected(f"a number from {MIN_RATE} to {MAX_RATE}", given)
    if not isinstance(given, str):
        return expected("a string", given)
    if name in _TEXTS and not (1 <= len(given) <= 128 and given.isprintable()):
        return "must be 1 to 128 printable characters"
    return ""


def shown_replay(status: ReplayStatus) -> Replay:
    """As the API shows it."""
    limit = status.spec.limit
    return Replay(
        job=status.job,
        state=status.state,
        created_at=instant(status.created_at),
        updated_at=instant(status.updated_at),
        matched=min(status.matched, limit) if limit else status.matched,
        moved=status.moved,
        skipped=status.skipped,
        error=status.error,
    )


def shown(row: DeadRow) -> DeadLetter:
    return DeadLetter(**{**msgspec.structs.asdict(row), "at": instant(row.at)})
