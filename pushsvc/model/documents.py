"""JSON documents that more than one part shows to the outside. Pure.

A feedback event is the same document wherever it is told: by `GET /v1/feedback` and by a webhook.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta, Struct

from .status import Action, FeedbackEvent

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"}, examples=["2026-12-01T09:00:00.000Z"])]


class Feedback(Struct, frozen=True):
    """A token that the provider called dead or suspect, and what was done about it."""

    id: str
    at: Time
    device_id: str | None
    platform: str
    token: Annotated[str, Meta(description="The caller's own token, whole.")]
    reason: str
    action: Action

    def __repr__(self) -> str:
        return f"Feedback({self.id} {self.platform} {self.reason} {self.action})"


def instant(unix_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def feedback_document(event_id: str, event: FeedbackEvent) -> Feedback:
    """One event, under the id that a cursor knows it by."""
    return Feedback(
        id=event_id,
        at=instant(event.at),
        device_id=event.device_id,
        platform=event.platform,
        token=event.token,
        reason=event.reason,
        action=event.action,
    )
