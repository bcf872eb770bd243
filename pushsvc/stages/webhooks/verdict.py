"""Decides what follows from the answer to a call: pure, with the clock and the randomness as arguments.

As Standard Webhooks recommends
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#delivery-success-and-failure)
and, for 413, https://www.rfc-editor.org/rfc/rfc9110#section-15.5.14:

    2xx                      delivered
    410 Gone                 the receiver wants no more: nothing is sent until its URL changes, or it is resumed
    413 Content Too Large    half of it, at once; a single event is set aside, as no repetition makes it smaller
    anything else, or none   retried later, by back-off and Retry-After; redirects are not followed
    .. often and long        given up, and kept
    a batch redelivered      has one call, and is kept if that fails
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from ...ports.webhooks import Batch
from ...rules.policy import backoff
from .config import WebhookConfig


class WebhookReply(Struct, frozen=True):
    status: int
    """HTTP's; 0 where there was no answer."""
    reason: str
    """`http_503`, or why there was no answer: `timeout`, `unreachable`, `tls` .. Low cardinality."""
    retry_after: float | None = None
    """Seconds that the receiver wants to be left alone."""

    @property
    def in_trouble(self) -> bool:
        """Whether the receiver is in trouble, so that another call would fail as well; otherwise it refused this
        call."""
        return self.status in (0, 408, 425, 429) or self.status >= 500


class Delivered(Struct, frozen=True):
    """The receiver has accepted the batch."""


class Later(Struct, frozen=True):
    """The batch is to be sent again after `wait` seconds."""

    wait: float


class Halved(Struct, frozen=True):
    """The batch is too large for the receiver and is to be sent again as two halves."""


class GivenUp(Struct, frozen=True):
    """The batch is set aside, and the next one follows after `wait` seconds. The wait prevents a receiver that finds
    everything too large from having all events set aside at once."""

    wait: float = 0.0


class SwitchedOff(Struct, frozen=True):
    """The receiver has answered that it wants no more calls, so the webhook is switched off."""


Verdict: TypeAlias = Delivered | Later | Halved | GivenUp | SwitchedOff


def judge(answer: WebhookReply, batch: Batch, config: WebhookConfig, *, now: int, jitter: float) -> Verdict:
    """Return what becomes of a batch after one more call. `now` in Unix ms, `jitter` from 0 to 1."""
    if 200 <= answer.status < 300:
        return Delivered()
    if answer.status == 410:
        return SwitchedOff()
    if answer.status == 413 and len(batch.events) > 1:
        return Halved()
    if batch.again:
        return GivenUp()
    if answer.status == 413:
        return GivenUp((answer.retry_after or 0.0) + backoff(batch.failures + 1, jitter, config.backoff))
    if batch.attempts + 1 >= config.attempts and now - batch.oldest >= config.retry_for * 1000:
        return GivenUp()
    return Later((answer.retry_after or 0.0) + backoff(batch.failures + 1, jitter, config.backoff))
