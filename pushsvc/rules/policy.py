"""Decides what follows from an outcome: pure, with the clock and the randomness as arguments.

`classify` (one per provider) says what an answer means; `decide` decides about the delivery; `prune` decides about the
device and its token. No other module decides this.

    Outcome            the delivery                                   costs an attempt
    Sent               ends `sent`
    Expired            ends `expired`
    Obsolete           ends `suppressed`, or `cancelled` if that is why
    TokenDead          ends `invalid`
    TokenSuspect       ends `failed`, kept as a dead letter: our identity may be wrong
    BadNotification    ends `failed`, kept as a dead letter
    Throttled          waits as requested, else by back-off           no
    Misconfigured      waits; its route, or a part of it, is held     no
                       its own (the push's choice, or others passed   yes
                       meanwhile): by back-off
    Unavailable        was not transmitted: waits by back-off         no
                       the route is in trouble: waits                 no
                       the cause is unknown: by back-off              no
                       else: waits by back-off                        yes
    Unconfirmed        goes on at the next channel: at once, or after no
                       the time that the device has to acknowledge
                       it, which is at most half of what is left of
                       its life
                       no channel is left: waits until it expires     no
    any end as `failed` or `invalid` goes on at the next channel at once, while one is left; so does what is not sent
    because its token is dead
    Unavailable at the live channel goes on likewise from its second turn on, or if the wait would pass half of what is
    left of its life: an acknowledgement still ends it, and the provider needs time as well
    any wait that would pass the expiry ends `expired`; any that would pass the attempts ends `failed`, kept
    a wait of `Unavailable` that the provider has not asked for is shortened instead: the delivery goes again within its
    life, which may be shorter than the quarter of an hour after a 5xx of APNs

The cause of a failure, `blame`, is determined by the dispatcher, which sees the whole route (`dispatch/health.py`).

Every wait is the minimum, as requested or as the vendor documents it, plus a random part: a share of the back-off or
of a quarter of the minimum, whichever is longer, so that deliveries that failed together are not sent again together.

Only `TokenDead` and `TokenSuspect` leave a receipt: an error of the payload never reaches `prune`.

    the receipt says     about                                             the device or token
    anything             a route whose pruning is frozen                   is kept
    dead                 a raw token that no device has                    is suppressed
    dead since t         a device registered at t or before                is pruned
                         a device registered a day before the request left is pruned
    dead                 a device registered before the request left       is pruned
    suspect              a device registered before the request left,      gets a strike; at the last one it is pruned
                         while the same identity was good for others
    suspect              a raw token that no device has                    is reported
    anything             a device registered later, removed, or with       is kept
                         another token by now
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, assert_never

from msgspec import Struct

from ..model.delivery import (
    BadNotification,
    End,
    Ended,
    Expired,
    Misconfigured,
    Obsolete,
    Outcome,
    Receipt,
    Retry,
    Sent,
    Throttled,
    TokenDead,
    TokenSuspect,
    Unavailable,
    Unconfirmed,
    Verdict,
)
from ..model.devices import Device, Environment
from ..model.push import Chunk, Platform
from ..model.routing import CARRIERS, platform_of
from ..model.status import Action
from .audience import PRUNED
from .freeze import AnswerHealth

SENT = Ended("sent")
INVALID = Ended("invalid")
EXPIRED = Ended("expired")
FAILED = Ended("failed", dead_letter=True)


Blame: TypeAlias = Literal["delivery", "route", "nobody"]
"""The cause of a failure: the delivery itself, its route, or unknown."""

LONGEST: Final = 3600.0
"""Seconds of a Retry-After that are waited for at most, by a delivery and by its route alike: a mistake of the server
must not stop either for a day."""

STILL_DEAD: Final = 24 * 3_600_000
"""Milliseconds from a registration on after which a token that is dead is not good again by that registration, since
whatever time the provider calls it dead. Two clocks may differ, and the token would never be pruned."""

SHORT: Final = 1000
"""Milliseconds. A delivery with less of its life left does not go again within it."""


class RetryPolicy(Struct, frozen=True):
    """How long to wait and how often to try. Spans are in seconds."""

    attempts: int = 8
    base: float = 1.0
    cap: float = 900.0
    server_error: Mapping[Platform, float] = {}
    """The least wait after a 5xx without Retry-After, by platform."""
    silent: Mapping[Platform, float] = {}
    """The least wait after a request that was not answered, by platform."""
    throttled: Mapping[Platform, float] = {}
    """The least wait after a 429 without Retry-After, by platform."""
    held: float = 5.0
    """The time between two tries of a delivery whose route is held."""
    part: tuple[float, float] = (5.0, 60.0)
    """The time between two tries of a delivery whose part of the route is held: the first one, doubled each time, and
    the maximum."""


def backoff(nth: int, jitter: float, policy: RetryPolicy) -> float:
    """Return an exponential back-off with full jitter in seconds: `jitter` (0..1) of `base * 2^(nth-1)`, up to `cap`.
    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"""
    return jitter * min(policy.cap, policy.base * 2.0 ** min(nth - 1, 60))


def decide(
    chunk: Chunk, outcome: Outcome, *, now: int, jitter: float, policy: RetryPolicy, blame: Blame = "delivery"
) -> Verdict:
    """Return the verdict on one delivery of `chunk`. `now` in Unix milliseconds, `jitter` from 0 to 1, one a
    delivery."""
    verdict = _judge(chunk, outcome, now, jitter, policy, blame)
    if chunk.fallbacks and (verdict in (INVALID, FAILED) or _waits_too_long(chunk, outcome, verdict, now)):
        return _next_channel(chunk, now, 0.0)
    return verdict


def _waits_too_long(chunk: Chunk, outcome: Outcome, verdict: Verdict, now: int) -> bool:
    """Return whether the next channel is not to wait until the live channel is available."""
    if not isinstance(outcome, Unavailable) or chunk.channel not in CARRIERS:
        return False
    return chunk.turn > 1 or not isinstance(verdict, Retry) or verdict.due_at - now > (chunk.expires_at - now) // 2


def _judge(chunk: Chunk, outcome: Outcome, now: int, jitter: float, policy: RetryPolicy, blame: Blame) -> Verdict:
    match outcome:
        case Sent():
            return SENT
        case Unconfirmed(within=within):
            return _next_channel(chunk, now, within)
        case TokenDead():
            return INVALID
        case Expired():
            return EXPIRED
        case Obsolete(end=end):
            return Ended(end)
        case BadNotification() | TokenSuspect():
            return FAILED
        case Misconfigured(part=part) if part:
            return look_again(chunk, now=now, jitter=jitter, policy=policy, part=part)
        case Misconfigured():
            if blame != "route":
                return _attempt(chunk, now, policy.held, jitter, policy)
            return _wait(chunk, now, policy.held * (0.5 + jitter), chunk.attempt)
        case Throttled(retry_after=asked):
            least = min(asked, LONGEST) if asked is not None else policy.throttled.get(platform_of(chunk.channel), 0.0)
            return _wait(chunk, now, _spread(least, chunk.turn, jitter, policy), chunk.attempt)
        case Unavailable(status=status, maybe_sent=maybe_sent, retry_after=asked):
            least = min(asked, LONGEST) if asked is not None else _least_wait(chunk, outcome, policy)
            own = blame == "delivery" and bool(status or maybe_sent)
            if own and chunk.attempt >= policy.attempts:
                return FAILED
            # A held route is probed, and opens when it can: a growing wait would only be lost time.
            nth = chunk.attempt if own else 1 if blame == "route" else chunk.turn
            seconds = _spread(least, nth, jitter, policy)
            if asked is None:
                seconds = _within_life(chunk, now, seconds, jitter)
            return _wait(chunk, now, seconds, chunk.attempt + own)
        case _:
            assert_never(outcome)


def left_out(chunk: Chunk, end: End, reason: str, now: int) -> Verdict:
    """Return the verdict on a delivery that must not be sent by this channel. If only its token is bad and the next
    channel needs no token, that channel takes over; otherwise the delivery ends."""
    if chunk.fallbacks and chunk.fallbacks[0].channel in CARRIERS and reason in (PRUNED, "suppressed"):
        return _next_channel(chunk, now, 0.0)
    return Ended(end)


def look_again(chunk: Chunk, *, now: int, jitter: float, policy: RetryPolicy, part: str) -> Verdict:
    """Return the verdict on a delivery whose part of the route is held: it is retried without costing an attempt."""
    first, most = policy.part
    span = min(most, first * 2.0 ** min(chunk.turn - 1, 60))
    return _wait(chunk, now, span * (0.75 + jitter / 4), chunk.attempt, part)


def _attempt(chunk: Chunk, now: int, least: float, jitter: float, policy: RetryPolicy) -> Verdict:
    if chunk.attempt >= policy.attempts:
        return FAILED
    return _wait(chunk, now, _spread(least, chunk.attempt, jitter, policy), chunk.attempt + 1)


def _within_life(chunk: Chunk, now: int, seconds: float, jitter: float) -> float:
    """Return the wait, in seconds. One that would pass the expiry becomes half of the life that is left, and up to a
    quarter more."""
    left = chunk.expires_at - now
    return left / 1000 * (0.5 + jitter / 4) if SHORT < left <= seconds * 1000 else seconds


def _spread(least: float, nth: int, jitter: float, policy: RetryPolicy) -> float:
    return least + max(backoff(nth, jitter, policy), jitter * least / 4)


def _least_wait(chunk: Chunk, outcome: Unavailable, policy: RetryPolicy) -> float:
    # A connection that shuts down (503 Shutdown) says nothing about the next one.
    if outcome.status >= 500 and outcome.reason != "Shutdown":
        return policy.server_error.get(platform_of(chunk.channel), 0.0)
    if outcome.reason == "timeout" and outcome.maybe_sent:
        return policy.silent.get(platform_of(chunk.channel), 0.0)
    return 0.0


def _next_channel(chunk: Chunk, now: int, seconds: float) -> Verdict:
    """Return the verdict on a delivery that goes on elsewhere or waits; an acknowledgement still ends it."""
    if chunk.expires_at <= now:
        return EXPIRED
    if not chunk.fallbacks:
        return Retry(chunk.expires_at, chunk.attempt)
    # The next channel needs time as well.
    due_at = now + min(math.ceil(seconds * 1000), (chunk.expires_at - now) // 2)
    return Retry(due_at, chunk.attempt, counted=False, channel=chunk.fallbacks[0].channel)


def _wait(chunk: Chunk, now: int, seconds: float, attempt: int, part: str = "") -> Verdict:
    due_at = now + max(1, math.ceil(seconds * 1000))
    return EXPIRED if due_at >= chunk.expires_at else Retry(due_at, attempt, part)


class PrunePolicy(Struct, frozen=True):
    """How many suspect answers prune a device. Spans are in seconds."""

    strikes: int = 3
    strike_span: float = 86400.0
    """The minimum time between the first and the last strike of a device."""
    strike_memory: float = 30 * 86400.0
    """The age of the last strike after which a device's strikes start again from zero."""


class PruneDecision(Struct, frozen=True, gc=False):
    """The decision about a receipt, and what is reported about it."""

    change: Literal["none", "prune", "strike", "suppress"]
    action: Action | None
    """The action that the feedback event reports; None: there is no event."""
    why: str
    """The reason, in a few words, for the log."""
    strikes: int = 0
    """The number of the device's strikes including this one, if the decision is a strike."""


def prune(
    receipt: Receipt,
    device: Device | None,
    health: AnswerHealth,
    policy: PrunePolicy,
    environment: Environment | None = None,
) -> PruneDecision:
    """Return the decision on a receipt.

    `device` is the one that the receipt names, or else the one that has the token now. `health` is that of the route
    at the time of the answer, `environment` that of the account that was used: a token is valid in one environment
    only, so that the answer says nothing about a device of another one.

    A receipt that is judged again after a crash gets the same decision: its own effects are recognized by their time.
    """
    if device is not None and _is_other(device, receipt):
        return _keep("other_token")
    if device is not None and device.state == "pruned":
        if device.pruned_at == receipt.at:
            return PruneDecision("none", "pruned", "pruned_before_a_crash")
        return PruneDecision("none", None, "pruned_already")
    if not health.counted:
        return _keep("counts_are_gone")
    if health.freeze is not None:
        return _keep("frozen")
    if device is not None and environment not in (None, device.environment):
        if receipt.device_id is not None:
            return _keep("other_environment")
        device = None
    if device is None:
        return _judge_raw(receipt)
    if receipt.kind == "dead":
        return _judge_dead(receipt, device)
    return _judge_suspect(receipt, device, health, policy)


def _keep(why: str) -> PruneDecision:
    return PruneDecision("none", "kept", why)


def _is_other(device: Device, receipt: Receipt) -> bool:
    return (device.platform, device.token) != (platform_of(receipt.platform), receipt.token)


def _judge_raw(receipt: Receipt) -> PruneDecision:
    if receipt.device_id is not None:
        return _keep("gone")
    if receipt.kind == "dead":
        return PruneDecision("suppress", "suppressed", "dead")
    return PruneDecision("none", "suspected", "suspect")


def dead_until(receipt: Receipt) -> int:
    """Return the instant up to which the receipt is evidence against a token: a later registration makes it good."""
    # APNs: "the time at which APNs confirmed the token was no longer valid for the topic"; a token that was registered
    # after it is good again. A clock of theirs that runs ahead must not reach beyond what
    # our request can have asked about.
    # https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns
    asked_at = receipt.knows_until
    return asked_at if receipt.since is None else max(min(receipt.since, asked_at), asked_at - STILL_DEAD)


def _judge_dead(receipt: Receipt, device: Device) -> PruneDecision:
    until, registered_at = dead_until(receipt), device.registered_at
    died_after = registered_at < until if receipt.since is None else registered_at <= until
    return PruneDecision("prune", "pruned", "dead") if died_after else _keep("registered_later")


def _judge_suspect(receipt: Receipt, device: Device, health: AnswerHealth, policy: PrunePolicy) -> PruneDecision:
    if device.registered_at >= receipt.knows_until:
        return _keep("registered_later")
    if not health.vouched:
        return PruneDecision("none", "suspected", "too_few_others_accepted")
    since_last = (receipt.at - device.struck_at) / 1000
    strikes = device.strikes if since_last <= policy.strike_memory else 0
    # Strikes lie apart, so that the last one comes a whole span after the first; never is one counted twice.
    if strikes and (since_last <= 0 or since_last < policy.strike_span / max(1, policy.strikes - 1)):
        return PruneDecision("none", "suspected", "strike_too_recent")
    if strikes + 1 >= policy.strikes:
        return PruneDecision("prune", "pruned", "strikes")
    return PruneDecision("strike", "suspected", "suspect", strikes + 1)
