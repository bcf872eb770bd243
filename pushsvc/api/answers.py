"""The response bodies of the API as structs: responses are encoded from them, and the OpenAPI document describes them.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ..model.delivery import End
from ..model.documents import Feedback, Time, feedback_document
from ..model.instants import instant
from ..model.push import PushState
from ..model.routing import CARRIERS
from ..model.status import Counts, DeliveryRow, FeedbackEvent, LiveCounts, PushStatus
from ..ports.conditions import Condition
from ..ports.live import EventCounts
from ..ports.receipts import EventPage
from ..problems import ProblemFault

encode = msgspec.json.Encoder().encode


class Accepted(Struct, frozen=True):
    """An accepted push. It is sent at once, or at its `send_at`."""

    id: Annotated[str, Meta(description="A UUIDv7.", extra_json_schema={"format": "uuid"})]
    state: PushState
    deliveries: Annotated[
        int | None, Meta(description="The number of distinct targets; null while the audience is being expanded.")
    ]
    unreached: Annotated[
        int | UnsetType,
        Meta(
            description="The number of receivers in `to` that get nothing, as far as this is known: they have no "
            "active "
            "device that matches, or the app has no account that reaches it. Left out if there are none."
        ),
    ] = UNSET
    warnings: Annotated[
        list[ProblemFault] | UnsetType,
        Meta(
            description="Fields that the providers' documentation forbids, unknown receivers, and receivers that no "
            "account of the app reaches. The push is accepted nevertheless."
        ),
    ] = UNSET


class Status(Struct, frozen=True):
    """The status of a push. `total` is always the sum of the other counts."""

    id: Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
    app: str
    state: PushState
    created_at: Time
    updated_at: Time
    counts: Counts
    live: Annotated[
        LiveCounts | UnsetType,
        Meta(
            description="Only for apps with the live channel: how many deliveries were acknowledged, are "
            "carried on by the provider, and wait for their devices. All of them are in `counts` too."
        ),
    ] = UNSET
    events: Annotated[
        EventCounts | UnsetType,
        Meta(
            description="Only for apps with the live channel: the number of devices that have reported each event, "
            "whichever channel the push arrived by. It is not checked that a device got the push."
        ),
    ] = UNSET
    send_at: Annotated[Time | UnsetType, Meta(description="Only for pushes that are or were scheduled.")] = UNSET
    trace_id: Annotated[
        str | UnsetType, Meta(description="Only for traced pushes: the id of the trace, in hexadecimal.")
    ] = UNSET
    held: Annotated[
        dict[str, str] | UnsetType,
        Meta(
            description="While deliveries wait: the routes that the push is for and that currently do not send "
            "(`app/platform`), with the reason. All of the app, if it is not known any more for which it is."
        ),
    ] = UNSET
    warnings: Annotated[
        list[ProblemFault] | UnsetType,
        Meta(description="Only after `POST /v1/push` with `Prefer: wait`: the warnings of the push."),
    ] = UNSET


class Delivery(Struct, frozen=True):
    """A delivery that has ended. Its token is shown only as a short hash."""

    platform: str
    device_id: str | None
    token_hash: str
    outcome: End
    reason: Annotated[str, Meta(description="The provider's reason, or one of pushsvc in lower case.")]
    status: Annotated[int, Meta(description="The HTTP status of the provider's answer; 0 without an answer.")]
    attempts: int
    provider_id: Annotated[str, Meta(description="The id that the provider gave the message.")]
    at: Time
    channel: Annotated[Literal["live", "provider"], Meta(description="The channel that it ended at.")]
    provider_unique_id: Annotated[
        str | UnsetType,
        Meta(description="The `apns-unique-id` that APNs returns in the sandbox, for use in Apple's console."),
    ] = UNSET


class Deliveries(Struct, frozen=True):
    """A page of deliveries. `cursor` leads to the next page and is null on the last; other pages may be short too."""

    items: list[Delivery]
    cursor: str | None


class FeedbackPage(Struct, frozen=True):
    """A page of events, in order. Pass `cursor` as `after` to continue, also if `items` was empty."""

    items: list[Feedback]
    cursor: str | None
    missing_to: Annotated[
        str | UnsetType,
        Meta(
            description="Only if events after `after` have been removed by retention: the id of the last removed one. "
            "`items` begins after it."
        ),
    ] = UNSET


class Health(Struct, frozen=True):
    """The health of a process and what an operator should know."""

    status: Literal["ok", "ready"]
    conditions: Annotated[
        Sequence[Condition] | UnsetType,
        Meta(
            description="What an operator should know, with cause and remedy, the critical first. The other properties "
            "have the same as texts."
        ),
    ] = UNSET
    held: Annotated[
        dict[str, str] | UnsetType,
        Meta(description="Routes that currently do not send (`app/platform`), with the reason."),
    ] = UNSET
    frozen: Annotated[
        dict[str, str] | UnsetType,
        Meta(description="Routes that currently prune no devices, because too many of their answers are bad."),
    ] = UNSET
    unserved: Annotated[
        dict[str, str] | UnsetType,
        Meta(
            description="Routes (`app/platform`) or parts of the service that no running process serves, with the "
            "reason."
        ),
    ] = UNSET
    full: Annotated[
        dict[str, str] | UnsetType,
        Meta(
            description="`queue`, or apps, whose pushes are currently refused with 429 because too many deliveries "
            "wait, or were within the last 30 seconds because they were too large for what was left."
        ),
    ] = UNSET
    notes: Annotated[
        list[str] | UnsetType,
        Meta(description="Conditions that an operator should look at, although pushes are accepted."),
    ] = UNSET


def accepted(
    push_id: str,
    state: PushState,
    deliveries: int | None,
    unreached: int = 0,
    warnings: list[ProblemFault] | None = None,
) -> bytes:
    """Return the body of the response to `POST /v1/push`."""
    return encode(Accepted(push_id, state, deliveries, unreached or UNSET, warnings or UNSET))


def status(
    push: PushStatus,
    events: EventCounts | UnsetType = UNSET,
    held: Mapping[str, str] | None = None,
    warnings: list[ProblemFault] | UnsetType = UNSET,
) -> bytes:
    """Return the status document of a push.

    `events` are what its devices have reported, if the app has the live channel. `held` maps the routes that its
    deliveries may wait for to reasons. `warnings` are those of the acceptance, if the caller has not received them yet.
    """
    created, updated = instant(push.created_at), instant(push.updated_at)
    send_at = UNSET if push.send_at is None else instant(push.send_at)
    waits = dict(held) if held else UNSET
    live = push.live or (LiveCounts() if events is not UNSET else UNSET)
    return encode(
        Status(
            *(push.id, push.app, push.state, created, updated, push.counts, live, events, send_at),
            *(push.trace or UNSET, waits, warnings),
        )
    )


def delivery(row: DeliveryRow) -> Delivery:
    """Return a row as the API shows it."""
    return Delivery(
        platform=row.platform,
        device_id=row.device_id,
        token_hash=row.token_hash,
        outcome=row.outcome,
        reason=row.reason,
        status=row.status,
        attempts=row.attempts,
        provider_id=row.provider_id,
        at=instant(row.at),
        channel="live" if row.channel in CARRIERS else "provider",
        provider_unique_id=row.unique_id or UNSET,
    )


def deliveries(rows: list[DeliveryRow], cursor: str | None) -> bytes:
    """Return the body of a page of delivery rows."""
    return encode(Deliveries([delivery(row) for row in rows], cursor))


def feedback(page: EventPage[FeedbackEvent], after: str | None) -> bytes:
    """Return the body of a page of feedback events that follow `after`."""
    items = [feedback_document(event_id, event) for event_id, event in page.events]
    cursor = items[-1].id if items else page.missing_to or after
    return encode(FeedbackPage(items, cursor, page.missing_to or UNSET))
