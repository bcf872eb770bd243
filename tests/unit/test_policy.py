"""The verdict table, row by row, and what must hold of every wait."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from pushsvc.model.delivery import (
    BadNotification,
    Ended,
    Expired,
    Misconfigured,
    Obsolete,
    Outcome,
    Retry,
    Sent,
    Throttled,
    TokenDead,
    TokenSuspect,
    Unavailable,
    Unconfirmed,
    Verdict,
)
from pushsvc.model.push import Chunk, Fallback, Message
from pushsvc.rules.policy import LONGEST, Blame, RetryPolicy, backoff, decide
from pushsvc.runtime.plans import retry_policy
from pushsvc.settings.schema import RetrySettings

NOW = 1_000_000
FAILED = Ended("failed", dead_letter=True)
POLICY = retry_policy(RetrySettings())
"""As it is where nothing is configured, with the waits of the providers."""


def chunk(
    *,
    platform: str = "apns",
    attempt: int = 1,
    turn: int = 1,
    expires_at: int = NOW + 10**9,
    then: tuple[str, ...] = (),
) -> Chunk:
    return Chunk(
        push_id="p",
        app="shop",
        channel=platform,
        lane="normal",
        total=1,
        starts_at=0,
        expires_at=expires_at,
        message=Message(platform, b"{}"),
        targets=(),
        attempt=attempt,
        turn=turn,
        home="apns" if then else "",
        fallbacks=tuple(Fallback(name, Message(name, b"{}")) for name in then),
    )


def live(**fields: Any) -> Chunk:
    return chunk(platform="live", **fields)


AWAY = Unavailable(reason="store_away")


@pytest.mark.parametrize(
    ("of", "outcome", "verdict"),
    [
        (chunk(), Sent(status=200), Ended("sent")),
        (chunk(), TokenDead(status=410), Ended("invalid")),
        (chunk(), Expired(), Ended("expired")),
        (chunk(), BadNotification(status=400), Ended("failed", dead_letter=True)),
        (chunk(), TokenSuspect(status=400), Ended("failed", dead_letter=True)),
        # Throttled: the provider's word first, then the vendor's default, then back-off by turn.
        (chunk(), Throttled(status=429, retry_after=7), Retry(NOW + 7_875, 1)),
        # .. but an hour at most, as its route waits: a quarter of it is spread, here by half.
        (chunk(), Throttled(status=429, retry_after=86_400), Retry(NOW + 4_050_000, 1)),
        (chunk(), Unavailable(status=503, retry_after=86_400), Retry(NOW + 4_050_000, 2)),
        (chunk(platform="fcm"), Throttled(status=429), Retry(NOW + 67_500, 1)),
        (chunk(turn=5, attempt=2), Throttled(status=429), Retry(NOW + 8_000, 2)),
        # Unavailable: Apple's quarter of an hour after a 5xx, but not after a connection that shuts down.
        (chunk(), Unavailable(status=500, reason="InternalServerError"), Retry(NOW + 1_012_500, 2)),
        (chunk(), Unavailable(status=503, reason="Shutdown"), Retry(NOW + 500, 2)),
        # Google: "Wait at least 10 seconds before retrying a failed request". A random part comes on top: a share of
        # the back-off, or of a quarter of the least wait.
        (chunk(platform="fcm"), Unavailable(status=503), Retry(NOW + 11_250, 2)),
        (chunk(platform="fcm"), Unavailable(status=500), Retry(NOW + 11_250, 2)),
        (chunk(platform="fcm"), Unavailable(status=502), Retry(NOW + 11_250, 2)),
        (chunk(platform="fcm", attempt=5), Unavailable(status=503), Retry(NOW + 18_000, 6)),
        (chunk(platform="fcm"), Unavailable(reason="timeout", maybe_sent=True), Retry(NOW + 11_250, 2)),
        (chunk(platform="fcm"), Unavailable(reason="timeout"), Retry(NOW + 500, 1)),
        (chunk(), Unavailable(status=503, retry_after=3), Retry(NOW + 3_500, 2)),
        (chunk(), Unavailable(reason="timeout", maybe_sent=True), Retry(NOW + 500, 2)),
        (chunk(attempt=3), Unavailable(reason="timeout", maybe_sent=True), Retry(NOW + 2_000, 4)),
        (chunk(attempt=8), Unavailable(reason="timeout", maybe_sent=True), Ended("failed", dead_letter=True)),
        # What never left us costs no attempt, even the last one.
        (chunk(attempt=8), Unavailable(reason="unreachable"), Retry(NOW + 500, 8)),
        # Nothing waits past its expiry.
        (chunk(expires_at=NOW + 500), Unavailable(reason="timeout", maybe_sent=True), Ended("expired")),
        (chunk(expires_at=NOW + 7_000), Throttled(status=429, retry_after=7), Ended("expired")),
    ],
)
def test_each_row_of_the_table(of: Chunk, outcome: Outcome, verdict: Verdict) -> None:
    assert decide(of, outcome, now=NOW, jitter=0.5, policy=POLICY) == verdict


@pytest.mark.parametrize(
    ("blame", "of", "outcome", "verdict"),
    [
        # The route is in trouble: no attempt, not even the last, and no wait that grows.
        ("route", chunk(platform="fcm", attempt=8, turn=9), Unavailable(status=503), Retry(NOW + 11_250, 8)),
        ("route", chunk(attempt=8, turn=9), Unavailable(reason="timeout", maybe_sent=True), Retry(NOW + 500, 8)),
        ("route", chunk(), Misconfigured(status=403), Retry(NOW + 5_000, 1)),
        ("route", chunk(attempt=8), Misconfigured(status=403), Retry(NOW + 5_000, 8)),
        ("route", chunk(), Misconfigured(status=403, chosen=True), Retry(NOW + 5_000, 1)),
        ("route", chunk(expires_at=NOW + 400), Unavailable(reason="timeout", maybe_sent=True), Ended("expired")),
        # Nor does it end because our own least wait is longer than its life; only the provider may ask for that.
        ("route", chunk(expires_at=NOW + 300_000), Unavailable(status=503), Retry(NOW + 187_500, 1)),
        ("route", chunk(expires_at=NOW + 1_100_000), Unavailable(status=503), Retry(NOW + 1_012_500, 1)),
        ("nobody", chunk(expires_at=NOW + 300_000, turn=2), Unavailable(status=503), Retry(NOW + 187_500, 1)),
        ("route", chunk(expires_at=NOW + 300_000), Unavailable(status=503, retry_after=301), Ended("expired")),
        ("nobody", chunk(expires_at=NOW + 300_000), Unavailable(status=503, retry_after=301), Ended("expired")),
        ("route", chunk(expires_at=NOW + 900), Unavailable(status=503), Ended("expired")),
        # Nobody can say: no attempt, by back-off.
        ("nobody", chunk(platform="fcm", attempt=8, turn=7), Unavailable(status=503), Retry(NOW + 42_000, 8)),
        # Its own.
        ("delivery", chunk(platform="fcm", attempt=8), Unavailable(status=503), Ended("failed", dead_letter=True)),
        ("delivery", chunk(expires_at=NOW + 300_000), Unavailable(status=503), Retry(NOW + 187_500, 2)),
        ("delivery", chunk(expires_at=NOW + 300_000, attempt=8), Unavailable(status=503), FAILED),
        ("delivery", chunk(attempt=2), Misconfigured(status=404), Retry(NOW + 6_000, 3)),
        ("delivery", chunk(attempt=8), Misconfigured(status=404), FAILED),
        ("delivery", chunk(attempt=2), Misconfigured(status=403, chosen=True), Retry(NOW + 6_000, 3)),
        ("delivery", chunk(attempt=8), Misconfigured(status=403, chosen=True), Ended("failed", dead_letter=True)),
        # A part of the route: looks again at growing spans, at no cost.
        ("delivery", chunk(attempt=8), Misconfigured(status=401, part="apple"), Retry(NOW + 4_375, 8, "apple")),
        ("route", chunk(turn=3), Misconfigured(status=401, part="apple"), Retry(NOW + 17_500, 1, "apple")),
        ("route", chunk(turn=30), Misconfigured(status=401, part="apple"), Retry(NOW + 52_500, 1, "apple")),
    ],
)
def test_an_attempt_is_the_deliverys_own(blame: Blame, of: Chunk, outcome: Outcome, verdict: Verdict) -> None:
    assert decide(of, outcome, now=NOW, jitter=0.5, policy=POLICY, blame=blame) == verdict


@given(
    nth=st.integers(1, 10_000),
    jitter=st.floats(0, 1),
    base=st.floats(0.001, 100),
    cap=st.floats(0.001, 10_000),
)
def test_back_off_stays_between_nothing_and_the_cap(nth: int, jitter: float, base: float, cap: float) -> None:
    assert 0 <= backoff(nth, jitter, RetryPolicy(base=base, cap=cap)) <= cap


@given(
    attempt=st.integers(1, 8),
    turn=st.integers(1, 1000),
    expires_in=st.integers(-10, 10**7),
    jitter=st.floats(0, 1),
    reported=st.none() | st.floats(0, 10**6),
)
def test_a_retry_is_in_the_future_and_before_the_expiry(
    attempt: int, turn: int, expires_in: int, jitter: float, reported: float | None
) -> None:
    of = chunk(attempt=attempt, turn=turn, expires_at=NOW + expires_in)
    for outcome in (Throttled(status=429, retry_after=reported), Unavailable(status=503, retry_after=reported)):
        verdict = decide(of, outcome, now=NOW, jitter=jitter, policy=POLICY)
        if isinstance(verdict, Retry):
            assert NOW < verdict.due_at < of.expires_at
            assert attempt <= verdict.attempt <= POLICY.attempts
            assert reported is None or verdict.due_at >= NOW + int(min(reported, LONGEST) * 1000)


@pytest.mark.parametrize(
    ("of", "outcome", "verdict"),
    [
        # Nobody was there: the provider is asked at once, by the same attempt, and its limits have not counted it.
        (chunk(then=("apns",), attempt=3), Unconfirmed(), Retry(NOW, 3, counted=False, channel="apns")),
        # It was written: the device has its time to acknowledge it.
        (chunk(then=("apns",)), Unconfirmed(within=10), Retry(NOW + 10_000, 1, counted=False, channel="apns")),
        (chunk(then=("live", "fcm")), Unconfirmed(within=10), Retry(NOW + 10_000, 1, counted=False, channel="live")),
        # Of a short life the provider gets a half.
        (
            chunk(then=("apns",), expires_at=NOW + 4_000),
            Unconfirmed(within=10),
            Retry(NOW + 2_000, 1, counted=False, channel="apns"),
        ),
        (chunk(then=("apns",), expires_at=NOW), Unconfirmed(), Ended("expired")),
        # No channel is left.
        (chunk(expires_at=NOW + 90_000), Unconfirmed(within=10), Retry(NOW + 90_000, 1)),
        (chunk(expires_at=NOW), Unconfirmed(within=10), Ended("expired")),
        # A later push has taken its place, at whichever channel.
        (chunk(then=("apns",)), Obsolete(reason="superseded"), Ended("suppressed")),
        (chunk(then=("apns",)), Obsolete(reason="cancelled", end="cancelled"), Ended("cancelled")),
        # What would fail goes on; what was sent, or expired, or waits, does not.
        (chunk(then=("live",)), TokenDead(status=410), Retry(NOW, 1, counted=False, channel="live")),
        (chunk(then=("live",)), BadNotification(status=400), Retry(NOW, 1, counted=False, channel="live")),
        (chunk(then=("live",)), Sent(status=200), Ended("sent")),
        (chunk(then=("live",)), Expired(), Ended("expired")),
        (chunk(then=("live",)), Unavailable(reason="unreachable"), Retry(NOW + 500, 1)),
        # The live channel is unavailable: one wait by back-off, then the next channel; none that leaves it too little.
        (live(then=("apns",)), AWAY, Retry(NOW + 500, 1)),
        (live(then=("apns",), turn=2), AWAY, Retry(NOW, 1, counted=False, channel="apns")),
        (live(then=("apns", "live"), turn=9, attempt=3), AWAY, Retry(NOW, 3, counted=False, channel="apns")),
        (live(then=("apns",), expires_at=NOW + 1_000), AWAY, Retry(NOW + 500, 1)),
        (live(then=("apns",), expires_at=NOW + 998), AWAY, Retry(NOW, 1, counted=False, channel="apns")),
        (live(then=("apns",), expires_at=NOW + 400), AWAY, Retry(NOW, 1, counted=False, channel="apns")),
        (live(then=("apns",), expires_at=NOW), AWAY, Ended("expired")),
        # No other channel is left: it waits by back-off.
        (live(turn=2), AWAY, Retry(NOW + 1_000, 1)),
        (live(turn=12), AWAY, Retry(NOW + 450_000, 1)),
        (live(turn=12, expires_at=NOW + 100_000), AWAY, Retry(NOW + 62_500, 1)),
        (live(turn=12, expires_at=NOW + 1_000), AWAY, Ended("expired")),
    ],
)
def test_the_next_channel_is_a_verdict(of: Chunk, outcome: Outcome, verdict: Verdict) -> None:
    assert decide(of, outcome, now=NOW, jitter=0.5, policy=POLICY) == verdict
