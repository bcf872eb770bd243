"""What a call says: JSON, the same bytes for the same batch. Pure.

`type` and `timestamp` stand where Standard Webhooks recommends them
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#payload-structure).
The tokens are whole, as in `GET /v1/feedback`: they are the receiver's own, and the calls are signed and go by TLS.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from ...model.documents import Feedback, feedback_document
from ...model.instants import instant
from ...ports.webhooks import Batch

_encode = msgspec.json.Encoder().encode


class WebhookCall(Struct, frozen=True):
    """The body. `timestamp` is when the last of the events happened."""

    type: Literal["feedback", "test"]
    timestamp: str
    app: str
    events: list[Feedback]


def feedback_body(app: str, batch: Batch) -> bytes:
    """The call for a batch."""
    events = [feedback_document(event_id, event) for event_id, event in batch.events]
    return _encode(WebhookCall("feedback", events[-1].at, app, events))


def trial_body(app: str, now: int) -> bytes:
    """A call that says nothing, to see whether it arrives. `now` in Unix ms."""
    return _encode(WebhookCall("test", instant(now), app, []))
