"""What is shown of pushes, deliveries and feedback. Frozen values."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from .delivery import End
from .push import Platform, PushState

ROWS_FOR_ALL = 1000
"""Pushes of up to so many deliveries keep a row for each of them; larger ones only for those not `sent`."""

Action = Literal["suppressed", "pruned", "suspected", "kept"]


class FeedbackEvent(Struct, frozen=True, array_like=True):
    """One row of `GET /v1/feedback`: the caller's own tokens, so the token is whole here."""

    at: int
    platform: Platform
    token: str
    reason: str
    action: Action
    device_id: str | None = None

    def __repr__(self) -> str:
        return f"FeedbackEvent({self.platform} {self.reason} {self.action} at={self.at})"


class Counts(Struct, frozen=True):
    """`total` is the sum of all the others, always."""

    total: int
    queued: int = 0
    retrying: int = 0
    sent: int = 0
    failed: int = 0
    invalid: int = 0
    expired: int = 0
    suppressed: int = 0
    cancelled: int = 0


class PushStatus(Struct, frozen=True):
    """The status document, with instants in milliseconds."""

    id: str
    app: str
    state: PushState
    created_at: int
    updated_at: int
    counts: Counts
    send_at: int | None = None
    """Of pushes that are, or were, scheduled."""


class DeliveryRow(Struct, frozen=True, array_like=True, gc=False):
    """One row of `GET /v1/push/{id}/deliveries`."""

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
