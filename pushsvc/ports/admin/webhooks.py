"""The state of webhooks, and what their calls have become."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from ...model.documents import Time


class WebhookCallRow(Struct, frozen=True):
    """A call of a webhook."""

    at: Time
    id: Annotated[str, Meta(description="The id of the batch; a repeated call has the same.")]
    events: int
    attempt: int
    status: Annotated[int, Meta(description="The HTTP status of the answer; 0 without an answer.")]
    reason: str
    seconds: float
    result: Literal["delivered", "failed", "halved", "given_up", "off"]


class DeadBatchRow(Struct, frozen=True):
    """A batch of events that was given up. Its events are kept as long as all events."""

    id: str
    events: int
    attempts: int
    reason: str
    at: Time
    after: str
    last: str


class DeadBatches(Struct, frozen=True):
    """The batches of all webhooks of the app that were given up, the oldest of each webhook first."""

    batches: list[DeadBatchRow]


class WebhookState(Struct, frozen=True, kw_only=True):
    """The webhook of the app for one kind of events."""

    kind: Literal["feedback", "event"]
    host: str
    state: Literal["ok", "failing", "off"]
    reason: str
    failing_since: Time | None
    failures: Annotated[int, Meta(description="Consecutive calls that failed.")]
    attempts: Annotated[int, Meta(description="Calls made for the present batch.")]
    waiting_since: Annotated[Time | None, Meta(description="When the oldest event that waits was recorded.")]
    lag: Annotated[float, Meta(description="The age of the oldest event that waits, in seconds; 0 without one.")]
    next_call_in: Annotated[float | None, Meta(description="Seconds until the next call after a failure.")]
    cursor: Annotated[str, Meta(description="The id of the last event that was sent or given up.")]
    dead: Annotated[int, Meta(description="The batches that were given up.")]
    asked: Annotated[int, Meta(description="The batches among them that are to be delivered again.")]
    trouble: Annotated[str, Meta(description="What an operator should know, with the remedy; else empty.")]
    dead_batches: Annotated[list[DeadBatchRow], Meta(description="The newest 20.")] = []
    calls: Annotated[list[WebhookCallRow], Meta(description="The last 50 calls, the newest first.")] = []


class WebhookStates(Struct, frozen=True):
    """The webhooks of the app."""

    webhooks: list[WebhookState]


class WebhookTest(Struct, frozen=True):
    """The result of a call without events."""

    ok: bool
    host: str
    status: Annotated[int, Meta(description="The HTTP status of the answer; 0 without an answer.")]
    reason: str
    seconds: float


class Redelivery(Struct, frozen=True):
    """Batches that are to be delivered again, before new events."""

    batches: int
    events: int
