"""What the calls answer, as structs: encoded from them, and described in the OpenAPI document by them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ..model.delivery import End
from ..model.documents import Feedback, Time, feedback_document, instant
from ..model.push import PushState
from ..model.status import Counts, DeliveryRow, PushStatus
from ..ports.receipts import EventPage
from .http.problems import ProblemFault

encode = msgspec.json.Encoder().encode


class Accepted(Struct, frozen=True):
    """The push is in Redis and will be sent: at once, or when it is scheduled."""

    id: Annotated[str, Meta(description="A UUIDv7.", extra_json_schema={"format": "uuid"})]
    state: PushState
    deliveries: Annotated[int | None, Meta(description="Distinct targets; null while they are still to be found.")]
    unreached: Annotated[
        int | UnsetType,
        Meta(
            description="How many of those that `to` names get nothing, as far as that is known by now: no active "
            "device that the push is for, or no account of the app that reaches it. Left out where there are none."
        ),
    ] = UNSET
    warnings: Annotated[
        list[ProblemFault] | UnsetType,
        Meta(
            description="What the providers' pages rule out, who is not known, and whom no account reaches. It is "
            "accepted all the same."
        ),
    ] = UNSET


class Status(Struct, frozen=True):
    """Where a push stands. `total` is the sum of the other counts, always."""

    id: Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
    app: str
    state: PushState
    created_at: Time
    updated_at: Time
    counts: Counts
    send_at: Annotated[Time | UnsetType, Meta(description="Of pushes that are, or were, scheduled.")] = UNSET
    held: Annotated[
        dict[str, str] | UnsetType,
        Meta(description="While deliveries wait: the app's routes that do not send now, `app/platform`, and why."),
    ] = UNSET
    warnings: Annotated[
        list[ProblemFault] | UnsetType,
        Meta(description="Only of `POST /v1/push` with `Prefer: wait`: what its 202 would have had."),
    ] = UNSET


class Delivery(Struct, frozen=True):
    """How one delivery ended. The token shows as a short hash only."""

    platform: str
    device_id: str | None
    token_hash: str
    outcome: End
    reason: Annotated[str, Meta(description="The provider's own word, or ours in lower case.")]
    status: Annotated[int, Meta(description="The provider's HTTP status; 0 when there was no answer.")]
    attempts: int
    provider_id: Annotated[str, Meta(description="The provider's own id of the message.")]
    at: Time
    provider_unique_id: Annotated[
        str | UnsetType,
        Meta(description="`apns-unique-id`, which APNs gives in the sandbox: its console finds the push by it."),
    ] = UNSET


class Deliveries(Struct, frozen=True):
    """A page of deliveries, and the cursor of the next one: null on the last. A page may be short and not the last."""

    items: list[Delivery]
    cursor: str | None


class FeedbackPage(Struct, frozen=True):
    """Events in order. `cursor` is where to go on: give it as `after`, also when `items` was empty."""

    items: list[Feedback]
    cursor: str | None
    missing_to: Annotated[
        str | UnsetType,
        Meta(
            description="Only where events that follow `after` have been removed by retention: the id of the last of "
            "them. The items begin behind it."
        ),
    ] = UNSET


class Health(Struct, frozen=True):
    """The process answers."""

    status: Literal["ok", "ready"]
    held: Annotated[
        dict[str, str] | UnsetType, Meta(description="Routes that do not send now, `app/platform`, and why.")
    ] = UNSET
    frozen: Annotated[
        dict[str, str] | UnsetType,
        Meta(description="Routes that prune no device now, because too many of their answers are bad."),
    ] = UNSET
    unserved: Annotated[
        dict[str, str] | UnsetType,
        Meta(description="What no living process serves, and why: routes, `app/platform`, or parts of the service."),
    ] = UNSET
    full: Annotated[
        dict[str, str] | UnsetType,
        Meta(description="`queue`, or apps, whose pushes are refused with 429 now because too many deliveries wait."),
    ] = UNSET
    notes: Annotated[
        list[str] | UnsetType, Meta(description="What an operator should look at, though pushes are accepted.")
    ] = UNSET


def accepted(
    push_id: str,
    state: PushState,
    deliveries: int | None,
    unreached: int = 0,
    warnings: list[ProblemFault] | None = None,
) -> bytes:
    """The answer to `POST /v1/push`."""
    return encode(Accepted(push_id, state, deliveries, unreached or UNSET, warnings or UNSET))


def status(
    push: PushStatus, held: Mapping[str, str] | None = None, warnings: list[ProblemFault] | UnsetType = UNSET
) -> bytes:
    """The status document. `held` are the routes that its deliveries may wait for, and why; `warnings` are those of
    its acceptance, where the caller has not had them."""
    created, updated = instant(push.created_at), instant(push.updated_at)
    send_at = UNSET if push.send_at is None else instant(push.send_at)
    waits = dict(held) if held else UNSET
    return encode(Status(push.id, push.app, push.state, created, updated, push.counts, send_at, waits, warnings))


def deliveries(rows: list[DeliveryRow], cursor: str | None) -> bytes:
    """A page of delivery rows."""
    items = [
        Delivery(
            platform=row.platform,
            device_id=row.device_id,
            token_hash=row.token_hash,
            outcome=row.outcome,
            reason=row.reason,
            status=row.status,
            attempts=row.attempts,
            provider_id=row.provider_id,
            at=instant(row.at),
            provider_unique_id=row.unique_id or UNSET,
        )
        for row in rows
    ]
    return encode(Deliveries(items, cursor))


def feedback(page: EventPage, after: str | None) -> bytes:
    """A page of feedback events that follow `after`."""
    items = [feedback_document(event_id, event) for event_id, event in page.events]
    cursor = items[-1].id if items else page.missing_to or after
    return encode(FeedbackPage(items, cursor, page.missing_to or UNSET))
