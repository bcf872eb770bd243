"""What follows from an outcome: pure judgement, with the clock and the dice as arguments.

`classify` (one per provider) says what an answer means; `decide` says what becomes of the delivery; `prune` says what
becomes of the token. Nobody else judges.

    Outcome            the delivery                                   costs an attempt
    Sent               ends `sent`
    Expired            ends `expired`
    TokenDead          ends `invalid`
    TokenSuspect       ends `failed`, kept as a dead letter: it may be our identity that is wrong
    BadNotification    ends `failed`, kept as a dead letter
    Throttled          waits as told, else by back-off                no
    Misconfigured      waits; its route is held                       no
    Unavailable        never left us: waits by back-off               no
                       else: waits by back-off                        yes
    any wait that would pass the expiry ends `expired`; any that would pass the attempts ends `failed`, kept
"""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct, field

from .model import (
    BadNotification,
    Chunk,
    Ended,
    Expired,
    FeedbackEvent,
    Misconfigured,
    Outcome,
    Receipt,
    Retry,
    Sent,
    Throttled,
    TokenDead,
    TokenSuspect,
    Unavailable,
    Verdict,
)

SENT = Ended("sent")
INVALID = Ended("invalid")
EXPIRED = Ended("expired")
FAILED = Ended("failed", dead_letter=True)


class RetryPolicy(Struct, frozen=True):
    """How long to wait and how often to try. Spans in seconds; defaults are the vendors' words."""

    attempts: int = 8
    base: float = 1.0
    cap: float = 900.0
    server_error: dict[str, float] = field(default_factory=lambda: {"apns": 900.0})
    """Per platform the least wait after a 5xx without Retry-After. Apple: "retry after 15 minutes"
    (https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns)."""
    throttled: dict[str, float] = field(default_factory=lambda: {"fcm": 60.0})
    """Per platform the least wait after a 429 without Retry-After. Google: "default to 60 seconds"
    (https://firebase.google.com/docs/cloud-messaging/scale-fcm)."""
    held: float = 5.0
    """Between two looks at a delivery whose route is held."""


def backoff(nth: int, jitter: float, policy: RetryPolicy) -> float:
    """Exponential with full jitter: a share `jitter` (0..1) of `base * 2^(nth-1)`, at most `cap`. Seconds.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return jitter * min(policy.cap, policy.base * 2.0 ** min(nth - 1, 60))


def decide(chunk: Chunk, outcome: Outcome, *, now: int, jitter: float, policy: RetryPolicy) -> Verdict:
    """The verdict on one delivery of `chunk`. `now` in Unix milliseconds, `jitter` from 0 to 1."""
    match outcome:
        case Sent():
            return SENT
        case TokenDead():
            return INVALID
        case Expired():
            return EXPIRED
        case BadNotification() | TokenSuspect():
            return FAILED
        case Misconfigured():
            return _wait(chunk, now, policy.held * (0.5 + jitter), chunk.attempt)
        case Throttled(retry_after=told):
            least = told if told is not None else policy.throttled.get(chunk.platform, 0.0)
            return _wait(chunk, now, least + backoff(chunk.turn, jitter, policy), chunk.attempt)
        case Unavailable(status=status, maybe_sent=maybe_sent, retry_after=told, reason=reason):
            if not status and not maybe_sent:
                return _wait(chunk, now, backoff(chunk.turn, jitter, policy), chunk.attempt)
            if chunk.attempt >= policy.attempts:
                return FAILED
            least = told if told is not None else _least_wait(chunk, status, reason, policy)
            return _wait(chunk, now, least + backoff(chunk.attempt, jitter, policy), chunk.attempt + 1)
        case _:
            assert_never(outcome)


def _least_wait(chunk: Chunk, status: int, reason: str, policy: RetryPolicy) -> float:
    # A connection that shuts down (503 Shutdown) says nothing about the next one.
    if status < 500 or reason == "Shutdown":
        return 0.0
    return policy.server_error.get(chunk.platform, 0.0)


def _wait(chunk: Chunk, now: int, seconds: float, attempt: int) -> Verdict:
    due_at = now + max(1, int(seconds * 1000))
    return EXPIRED if due_at >= chunk.expires_at else Retry(due_at, attempt)


def judge_token(receipt: Receipt) -> FeedbackEvent:
    """What becomes of a token that its caller posted raw: a dead one is suppressed, a suspect one only reported."""
    return FeedbackEvent(
        at=receipt.at,
        platform=receipt.platform,
        token=receipt.token,
        reason=receipt.reason,
        action="suppressed" if receipt.kind == "dead" else "suspected",
        device_id=receipt.device_id,
    )
