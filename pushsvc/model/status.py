"""Status values of pushes, deliveries and feedback events, all frozen."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from .delivery import End
from .push import Platform, PushState

ROWS_FOR_ALL = 1000
"""The size of a push, in deliveries, up to which every delivery has a row. Larger pushes keep only those not `sent`."""

Action = Literal["suppressed", "pruned", "suspected", "kept"]
Event: TypeAlias = Literal["arrived", "shown", "opened", "dismissed"]
EventKind: TypeAlias = Literal["feedback", "event"]
"""The logs of events, each with a webhook of its own: feedback events, and what devices report of pushes."""


class FeedbackEvent(Struct, frozen=True, array_like=True):
    """One item of `GET /v1/feedback`. It holds the full token, because the token is the caller's own."""

    at: int
    platform: Platform
    token: str
    reason: str
    action: Action
    device_id: str | None = None

    def __repr__(self) -> str:
        return f"FeedbackEvent({self.platform} {self.reason} {self.action} at={self.at})"


class DeviceEvent(Struct, frozen=True, array_like=True, gc=False):
    """What a device has reported of a push first, as webhooks of kind `event` send it."""

    at: int
    """When it was recorded."""
    push_id: str
    device_id: str
    event: Event
    platform: Platform


class Counts(Struct, frozen=True):
    """The number of deliveries by state. `total` is always the sum of the others."""

    total: int
    queued: int = 0
    retrying: int = 0
    sent: int = 0
    failed: int = 0
    invalid: int = 0
    expired: int = 0
    suppressed: int = 0
    cancelled: int = 0


class LiveCounts(Struct, frozen=True):
    """The number of deliveries that the live channel has carried."""

    acked: int = 0
    """Acknowledged by their devices."""
    fallback: int = 0
    """Carried on by the provider, because no device acknowledged them in time."""
    waiting: int = 0
    """Waiting for the acknowledgement of their devices."""


class PushStatus(Struct, frozen=True):
    """The status of a push, with times in Unix milliseconds."""

    id: str
    app: str
    state: PushState
    created_at: int
    updated_at: int
    counts: Counts
    send_at: int | None = None
    """None unless the push is or was scheduled."""
    live: LiveCounts | None = None
    """None unless the live channel carries any of it."""
    trace: str = ""
    """The id of the trace that it is part of, in hexadecimal; empty: none."""


class DeliveryRow(Struct, frozen=True, array_like=True, gc=False):
    """One item of `GET /v1/push/{id}/deliveries`."""

    platform: Platform
    device_id: str | None
    token_hash: str
    outcome: End
    reason: str
    status: int
    attempts: int
    provider_id: str
    at: int
    unique_id: str = ""
    channel: Platform = ""
    """The channel that it ended at, if a device could acknowledge it; else empty."""
