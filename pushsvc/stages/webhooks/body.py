"""The content of a call: JSON, the same bytes for the same batch. Pure.

`type` and `timestamp` have the places that Standard Webhooks recommends
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#payload-structure). The
tokens are complete, as in `GET /v1/feedback`: they are the receiver's own, and calls are signed and use TLS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from ...model.documents import Feedback, Reported, feedback_document, reported_document
from ...model.instants import instant
from ...model.status import DeviceEvent
from ...ports.webhooks import Batch

_encode = msgspec.json.Encoder().encode


class WebhookCall(Struct, frozen=True):
    """The body. `timestamp` is when the last of the events happened."""

    type: Literal["feedback", "event", "test"]
    timestamp: str
    app: str
    events: Sequence[Feedback | Reported]


def batch_body(app: str, batch: Batch) -> bytes:
    """Return the call for a batch, whose events are of one log and so of one type."""
    events = [
        reported_document(event_id, event) if isinstance(event, DeviceEvent) else feedback_document(event_id, event)
        for event_id, event in batch.events
    ]
    kind: Literal["feedback", "event"] = "event" if isinstance(events[-1], Reported) else "feedback"
    return _encode(WebhookCall(kind, events[-1].at, app, events))


def trial_body(app: str, now: int) -> bytes:
    """Return a call without events, to test whether it arrives. `now` is in Unix ms."""
    return _encode(WebhookCall("test", instant(now), app, []))
