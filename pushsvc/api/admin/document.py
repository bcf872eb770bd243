"""The documents of administration that are not those of `ports.admin`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from ...bodies import read_document
from ...decoding import Rule, fraction
from ...errors import Fault, InvalidRequest
from ...model.access import NAME, NAME_RULE, SCOPES, Scope
from ...model.devices import TagValue
from ...model.documents import Time
from ...model.finding import Explained
from ...model.instants import instant
from ...model.push import Lane, Platform, PushState
from ...model.rates import RATE_HELP, Rate, parse_rate
from ...model.status import Counts
from ...ports.admin import KeyRow, PreviewedMessage
from ...ports.letters import DeadGroup
from ...ports.pushes import ListedPush, PushFilter
from ...problems import ProblemFault
from ..answers import Delivery
from ..devices.document import STRIKES
from ..http.instants import Instant, parse_bounds, read_instants
from ..letters.document import DeadLetter, shown


class PushRow(Struct, frozen=True):
    """A push in a list."""

    id: Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
    state: PushState
    created_at: Time
    updated_at: Time
    lane: Annotated[Lane | None, Meta(description="Null where it is not known.")]
    key: Annotated[str, Meta(description="The name of the API key that it was posted with, if this is known.")]
    counts: Counts
    send_at: Annotated[Time | UnsetType, Meta(description="Only for pushes that are or were scheduled.")] = UNSET
    trace_id: Annotated[
        str | UnsetType, Meta(description="Only for traced pushes: the id of the trace, in hexadecimal.")
    ] = UNSET


class PushPage(Struct, frozen=True):
    """Pushes, and the cursor of the next page, null on the last. A page may be short without being the last."""

    items: list[PushRow]
    cursor: str | None


class KeyList(Struct, frozen=True):
    """The API keys of the app."""

    keys: list[KeyRow]


class NewKey(Struct, frozen=True):
    """A new key. Its text is not shown again."""

    key: Annotated[str, Meta(description="The text of the key.")]
    sha256: str
    app: str
    name: str
    scopes: tuple[Scope, ...]
    intake: str | None
    created_at: Time | None
    kept_in: str

    def __repr__(self) -> str:
        return f"NewKey({self.name!r})"


def _rate_fault(text: str) -> str | None:
    try:
        parse_rate(text)
    except ValueError as error:
        return str(error)
    return None


class KeyDocument(Struct, forbid_unknown_fields=True):
    """A key to make."""

    name: Annotated[str, Meta(pattern=NAME), Rule(NAME_RULE)]
    scopes: Annotated[
        Annotated[list[Scope], Meta(min_length=1)] | None, Meta(description="What it allows; default: `push`.")
    ] = None
    intake: Annotated[
        Annotated[str, Rule(RATE_HELP, fault=_rate_fault)] | None,
        Meta(description="The limit for pushes that are posted with it; default: none.", examples=["600/min"]),
    ] = None


class SpanDocument(Struct, forbid_unknown_fields=True):
    """Selects batches of events by when their last event was recorded; a field that is left out does not narrow."""

    since: Annotated[
        Instant | None, Meta(description="Only batches whose last event was recorded at this instant or later.")
    ] = None
    until: Annotated[
        Instant | None, Meta(description="Only batches whose last event was recorded before this instant.")
    ] = None
    dry_run: Annotated[bool | None, Meta(description="Only count them.")] = None


class CleanupDocument(Struct, forbid_unknown_fields=True):
    """A cleanup to run."""

    dry_run: Annotated[bool | None, Meta(description="Only count what would be removed of this app.")] = None
    place: Annotated[
        Annotated[str, Meta(max_length=4096)] | None,
        Meta(description="The `place` of a count that was not complete, to count the rest; only with `dry_run`."),
    ] = None


class FailedGroup(Struct, frozen=True):
    """Dead letters of one platform and reason."""

    platform: str
    reason: str
    count: int
    first_at: Time
    last_at: Time
    status: Annotated[int, Meta(description="The provider's status of the first in the sample; 0 without an answer.")]
    meaning: Annotated[str, Meta(description="What the reason means.")]
    remedy: Annotated[str, Meta(description="What to do about the reason.")]
    retryable: Annotated[
        bool, Meta(description="Whether a replay may succeed though nothing of the pushes is corrected.")
    ]
    sample: Annotated[list[DeadLetter], Meta(description="Up to three dead letters of the group.")]


class FailedGroups(Struct, frozen=True):
    """Dead letters by platform and reason, the largest group first."""

    groups: list[FailedGroup]
    total: int
    complete: Annotated[bool, Meta(description="Whether all dead letters were examined.")]


class AudienceCount(Struct, frozen=True):
    """The devices that an audience selects now."""

    kind: Literal["devices", "users", "topic", "where", "all"]
    devices: int | None
    complete: bool


class PushPreview(Struct, frozen=True):
    """What would be sent for a push. Nothing is sent and nothing is stored."""

    state: PushState
    deliveries: Annotated[int | None, Meta(description="Null while the audience is not expanded.")]
    warnings: list[ProblemFault]
    unreached: int
    audience: AudienceCount | None
    messages: list[PreviewedMessage]


class ReleaseDocument(Struct, forbid_unknown_fields=True):
    """A route that is to prune though too many of its answers are bad."""

    route: Annotated[str, Meta(min_length=1, max_length=128, description="As in `app/platform`.")]
    for_: Annotated[
        Annotated[int, Meta(ge=1, le=86_400)] | Annotated[float, Meta(ge=1, le=86_400)] | None,
        Rule("a whole number of seconds from 1 to 86,400", fault=fraction),
        Meta(description="Seconds; default: 3600."),
    ] = field(default=None, name="for")


class KeepDocument(Struct, forbid_unknown_fields=True):
    """A route whose release is to end."""

    route: Annotated[str, Meta(min_length=1, max_length=128, description="As in `app/platform`.")]


class DeviceLive(Struct, frozen=True):
    """The state of a device in the live channel."""

    online: bool
    unacked: int
    unread: int
    connected_at: Annotated[Time | UnsetType, Meta(description="Present only while the device is online.")] = UNSET


class DeviceEvidence(Struct, frozen=True):
    """The answer that speaks against a device: the one for which it is pruned, or its last strike."""

    reason: str
    meaning: Annotated[str, Meta(description="What the reason means.")]
    at: Time
    push: Annotated[str | None, Meta(description="The id of the push that was answered so, if this is known.")]


class AdminDevice(Struct, frozen=True, kw_only=True):
    """A device without its token."""

    id: str
    platform: str
    kind: str
    token_hash: Annotated[str, Meta(description="The hash of the token, as in rows of deliveries and in logs.")]
    token_end: Annotated[str, Meta(description="The last four characters of the token.")]
    user: str | None
    tags: dict[str, TagValue]
    locale: str | None
    timezone: str | None
    app_version: str | None
    environment: Literal["production", "sandbox"]
    registered_at: Time
    last_seen_at: Time
    topics: tuple[str, ...]
    state: Literal["active", "pruned"]
    pruned_at: Time | None
    pruned_for: str
    strikes: Annotated[int, Meta(description=STRIKES)]
    evidence: Annotated[
        DeviceEvidence | None, Meta(description="Why it is pruned or suspect; null where no answer speaks against it.")
    ]
    struck_at: Time | None = None
    struck_for: Annotated[str, Meta(description="The reason of the last suspect answer.")] = ""
    judged_by: Annotated[str, Meta(description="The id of the push of the answer in `evidence`, if it is known.")] = ""
    suppressed: Annotated[
        bool | UnsetType, Meta(description="Whether nothing is sent to its token. Not in lists of devices.")
    ] = UNSET
    live: Annotated[DeviceLive | None, Meta(description="Null if the app has no live channel.")] = None


class AdminDevicePage(Struct, frozen=True):
    """Devices, and the cursor of the next page, null on the last. A page may be short or empty without being the
    last."""

    items: list[AdminDevice]
    cursor: str | None
    scanned: Annotated[int, Meta(description="The devices that this call has examined.")]


class AdminDevicePush(Struct, frozen=True):
    """A push to a device, and how its delivery has ended."""

    push_id: Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
    created_at: Time
    delivery: Delivery


class DevicePushPage(Struct, frozen=True):
    """What was found of a device among the latest pushes of the app, the latest first. A page may be short or empty
    without being the last."""

    items: list[AdminDevicePush]
    cursor: Annotated[str | None, Meta(description="Leads to earlier pushes; null once all were examined.")]
    examined: Annotated[int, Meta(description="The pushes of the app that this call has examined.")]
    too_large: Annotated[
        int,
        Meta(description="How many of these have more than 1,000 deliveries, and so no row of each to show here."),
    ]
    since: Annotated[Time | None, Meta(description="When the earliest of these was accepted; null if there was none.")]


class DeviceCount(Struct, frozen=True):
    """How many active devices an expression selects."""

    devices: int
    complete: Annotated[bool, Meta(description="Whether all devices were examined in the time that a call has.")]


class CutDocument(Struct, forbid_unknown_fields=True):
    """A connection to end."""

    device_id: Annotated[str, Meta(min_length=1, max_length=128)]


class DrainDocument(Struct, forbid_unknown_fields=True):
    """A gateway whose connections are to be moved."""

    gateway: Annotated[str, Meta(min_length=1, max_length=256)]


class Drained(Struct, frozen=True):
    """The connections that are asked to connect again."""

    connections: int


def shown_groups(
    groups: Sequence[DeadGroup], complete: bool, explain: Callable[[Platform, str, int], Explained]
) -> FailedGroups:
    """Return groups of dead letters as the API shows them."""
    found = []
    for group in groups:
        status = group.sample[0].status if group.sample else 0
        explained = explain(group.platform, group.reason, status)
        found.append(
            FailedGroup(
                *(group.platform, group.reason, group.count, instant(group.first_at), instant(group.last_at)),
                *(status, explained.meaning, explained.remedy, explained.retryable),
                [shown(row) for row in group.sample],
            )
        )
    return FailedGroups(found, sum(group.count for group in groups), complete)


def shown_push(each: ListedPush) -> PushRow:
    """Return a push as lists show it."""
    status = each.status
    return PushRow(
        id=status.id,
        state=status.state,
        created_at=instant(status.created_at),
        updated_at=instant(status.updated_at),
        lane=each.lane,
        key=each.key,
        counts=status.counts,
        send_at=UNSET if status.send_at is None else instant(status.send_at),
        trace_id=status.trace or UNSET,
    )


def push_filter(values: Mapping[str, Any]) -> PushFilter:
    """Return the filter of query parameters. Raises `InvalidRequest` with every fault."""
    span = read_instants(values)
    return PushFilter(values["state"], values["lane"], values["collapse"] or "", values["key"] or "", *span)


def read_key(body: bytes) -> tuple[str, tuple[Scope, ...], Rate | None]:
    """Return name, scopes and limit of the key to make."""
    asked = read_document(body, KeyDocument)
    wanted = set(asked.scopes or ("push",))
    rate = None if asked.intake is None else parse_rate(asked.intake)
    return asked.name, tuple(scope for scope in SCOPES if scope in wanted), rate


def read_span(body: bytes) -> tuple[int | None, int | None, bool]:
    """Return the span in Unix ms, and whether it is a dry run. An empty body selects everything."""
    asked = read_document(body, SpanDocument) if body else SpanDocument()
    return *parse_bounds(asked.since, asked.until), asked.dry_run or False


def read_cleanup(body: bytes) -> CleanupDocument:
    """Return what is asked of a cleanup. Raises `InvalidRequest` for a place without a dry run."""
    asked = read_document(body, CleanupDocument) if body else CleanupDocument()
    if asked.place is not None and not asked.dry_run:
        raise InvalidRequest(faults=[Fault("place", "is only for a count: give `dry_run` too")])
    return asked
