"""The metrics of a route count exactly what prometheus_client would have counted, figure by figure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings, strategies as st
from prometheus_client import REGISTRY, Metric

from pushsvc import telemetry
from pushsvc.model.delivery import (
    BadNotification,
    Delivery,
    Ended,
    Expired,
    Misconfigured,
    Outcome,
    Retry,
    Sent,
    Settlement,
    Throttled,
    TokenDead,
    TokenSuspect,
    Unavailable,
    Verdict,
)
from pushsvc.model.push import LANES, Fallback, Lane, Message, Route
from pushsvc.stages.dispatch.metrics import RouteMetrics, count_ended, live_result, snake

from .dispatch_fakes import chunk

KINDS: dict[type[Outcome], str] = {
    Sent: "sent",
    Throttled: "throttled",
    Unavailable: "unavailable",
    BadNotification: "bad_notification",
    Misconfigured: "misconfigured",
    TokenSuspect: "token_suspect",
    TokenDead: "token_dead",
    Expired: "expired",
}
_serial = itertools.count()

Sample = tuple[str, tuple[tuple[str, str], ...]]


def samples(app: str) -> dict[Sample, float]:
    """Every figure of an app, less the app's name and the instants at which counting began."""
    found: dict[Sample, float] = {}
    metrics: Sequence[Metric] = list(REGISTRY.collect())
    for metric in metrics:
        for sample in metric.samples:
            if sample.labels.get("app") == app and not sample.name.endswith("_created"):
                labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "app"))
                found[sample.name, labels] = sample.value
    return found


def unused() -> str:
    return f"metrics-{next(_serial)}"


def delivery_of(app: str, platform: str) -> Delivery:
    own = msgspec.structs.replace(chunk("t"), app=app, channel=platform)
    return Delivery(own, own.targets[0])


def settled(verdict: Verdict, reason: str, app: str, platform: str = "apns") -> Settlement:
    return Settlement(delivery_of(app, platform), None, verdict, 0, "", reason)


def test_every_kind_of_outcome_has_its_label() -> None:
    assert {kind: snake(kind.__name__) for kind in KINDS} == KINDS


SECONDS = st.one_of(
    st.floats(0, 5000, allow_nan=False),
    st.sampled_from([0.0, 0.01, 0.025, 0.05, 1.0, 10.0, 30.0, 3600.0, 3600.0000001, math.inf]),
)
ANSWERS = st.lists(st.tuples(st.sampled_from(list(KINDS)), st.sampled_from(LANES), SECONDS, SECONDS), max_size=60)
ENDS = st.lists(
    st.tuples(
        st.sampled_from([Ended("sent"), Ended("failed", dead_letter=True), Ended("invalid"), Retry(1, 2)]),
        st.sampled_from(["", "Unregistered", "ttl"]),
    ),
    max_size=30,
)


@settings(max_examples=25)  # each leaves its labels behind for the next to read
@given(answers=ANSWERS, ends=ENDS, flushes=st.sets(st.integers(0, 60), max_size=4))
def test_it_counts_what_prometheus_client_would_have(
    answers: list[tuple[type[Outcome], Lane, float, float]], ends: list[tuple[Verdict, str]], flushes: set[int]
) -> None:
    tallied, counted = unused(), unused()
    metrics = RouteMetrics(Route(tallied, "apns"))
    RouteMetrics(Route(counted, "apns"))  # the same children exist on both sides
    for number, (kind, lane, provider, delivery) in enumerate(answers):
        metrics.answered([kind], [provider])
        metrics.delivered[lane](delivery)
        telemetry.ATTEMPTS.labels(counted, "apns", KINDS[kind]).inc()
        telemetry.PROVIDER_SECONDS.labels(counted, "apns").observe(provider)
        telemetry.DELIVERY_SECONDS.labels(counted, "apns", lane).observe(delivery)
        if number in flushes:
            metrics.flush()
    for verdict, reason in ends:
        if isinstance(verdict, Ended):
            telemetry.DELIVERIES.labels(counted, "apns", verdict.end, reason).inc()
    metrics.flush()
    count_ended([settled(verdict, reason, tallied) for verdict, reason in ends])

    ours, theirs = samples(tallied), samples(counted)
    assert ours.keys() == theirs.keys()
    for sample, value in theirs.items():
        # Sums of floats differ in the last digits by the order in which they were added.
        assert ours[sample] == pytest.approx(value), sample
    metrics.flush()
    assert samples(tallied) == ours


def test_nothing_shows_before_the_flush() -> None:
    app = unused()
    metrics = RouteMetrics(Route(app, "fcm"))
    before = samples(app)
    metrics.answered([Sent], [0.1])
    metrics.delivered["urgent"](0.2)
    assert samples(app) == before
    metrics.flush()
    assert samples(app) != before


def test_what_ended_is_counted_by_the_batch() -> None:
    app = unused()
    count_ended([settled(Ended("sent"), "", app, "fcm"), settled(Retry(1, 2), "UNAVAILABLE", app, "fcm")])
    key = ("pushsvc_deliveries_total", (("outcome", "sent"), ("platform", "fcm"), ("reason", "")))
    assert samples(app)[key] == 1


def test_a_held_route_shows_its_reasons_and_the_series_of_what_is_over_ends() -> None:
    app = unused()
    metrics = RouteMetrics(Route(app, "apns"))

    def held() -> dict[str, float]:
        return {
            dict(labels)["reason"]: value
            for (name, labels), value in samples(app).items()
            if name == "pushsvc_route_held"
        }

    metrics.held(set())
    assert held() == {}
    metrics.held({"InvalidProviderToken"})
    assert held() == {"InvalidProviderToken": 1}
    metrics.held({"unreachable", "THIRD_PARTY_AUTH_ERROR"})
    assert held() == {"THIRD_PARTY_AUTH_ERROR": 1, "unreachable": 1}
    metrics.held(set())
    assert held() == {}


@pytest.mark.parametrize(
    ("channels", "verdict", "result"),
    [
        (("live", "apns"), Retry(0, 1, channel="apns"), "fallback"),
        (("live", "apns"), Retry(10_000, 1, channel="apns"), ""),  # counted when it goes on
        (("live", "apns", "live"), Retry(0, 1, channel="apns"), ""),  # the provider comes first
        (("live",), Retry(10_000, 1), ""),
        (("live",), Ended("expired"), "expired"),
        (("live", "apns"), Ended("suppressed"), "dropped"),
        (("live",), Ended("cancelled"), "dropped"),
        (("live",), Ended("sent"), ""),  # a dry run
        (("apns", "live"), Ended("failed"), ""),
    ],
)
def test_what_becomes_of_a_delivery_at_the_live_channel(channels: Sequence[str], verdict: Verdict, result: str) -> None:
    first, *following = channels
    fallbacks = tuple(Fallback(name, Message(name, b"{}")) for name in following)
    own = msgspec.structs.replace(chunk("t"), channel=first, home="apns", fallbacks=fallbacks)
    assert live_result(Settlement(Delivery(own, own.targets[0]), None, verdict, 5, "")) == result
