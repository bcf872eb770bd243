"""Public JSON documents that several parts share. Pure.

`GET /v1/feedback` and webhooks present a feedback event as the same document; what devices report is sent by webhooks.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from .instants import instant
from .status import Action, DeviceEvent, Event, FeedbackEvent

Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"}, examples=["2026-12-01T09:00:00.000Z"])]


class Feedback(Struct, frozen=True):
    """A token that the provider reported as dead or suspect, and the action that followed."""

    id: str
    at: Time
    device_id: str | None
    platform: str
    token: Annotated[str, Meta(description="The full token, as the caller registered or sent it.")]
    reason: str
    action: Action

    def __repr__(self) -> str:
        return f"Feedback({self.id} {self.platform} {self.reason} {self.action})"


def feedback_document(event_id: str, event: FeedbackEvent) -> Feedback:
    """Return the document of an event. `event_id` is its id in cursors."""
    return Feedback(
        id=event_id,
        at=instant(event.at),
        device_id=event.device_id,
        platform=event.platform,
        token=event.token,
        reason=event.reason,
        action=event.action,
    )


class Reported(Struct, frozen=True):
    """What a device has reported of a push. `at` is when it was recorded."""

    id: str
    at: Time
    push_id: str
    device_id: str
    platform: str
    event: Event


def reported_document(event_id: str, event: DeviceEvent) -> Reported:
    """Return the document of an event of a device. `event_id` is its id in its log; that of the document, by which
    repeats are recognised, differs from that of every feedback event."""
    return Reported(
        id=f"event_{event_id}",
        at=instant(event.at),
        push_id=event.push_id,
        device_id=event.device_id,
        platform=event.platform,
        event=event.event,
    )
