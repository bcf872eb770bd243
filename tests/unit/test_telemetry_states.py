"""The log of a state: a line when it begins, few while it lasts, one when it ends."""

from __future__ import annotations

from typing import Any

from structlog.testing import capture_logs

from pushsvc.errors import StoreError, StoreUnavailable
from pushsvc.telemetry import StateLog
from pushsvc.telemetry.states import RedisLog


class Hour:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def state(clock: Hour) -> StateLog:
    return StateLog("store", "away", "still_away", "back", clock=clock)


def names(logs: list[Any]) -> list[str]:
    return [line["event"] for line in logs]


def test_an_hour_of_failures_is_a_dozen_lines() -> None:
    clock = Hour()
    log = state(clock)
    with capture_logs() as logs:
        for tick in range(36_000):
            clock.now = tick / 10
            log.begin("a", error="refused")
            log.begin("b", error="refused")
        log.end("a")
        log.end("b")
    assert names(logs) == ["away", *["still_away"] * 10, "back"]
    assert [line["seconds"] for line in logs[1:7]] == [10, 30, 70, 150, 310, 630]
    assert [line["lines_left_out"] for line in logs[1:4]] == [200, 400, 800]
    assert logs[-1] == {"event": "back", "log_level": "info", "seconds": 3599.9}


def test_it_ends_when_it_has_ended_for_all() -> None:
    clock = Hour()
    log = state(clock)
    with capture_logs() as logs:
        for name in "abc":
            log.begin(name)
        log.end("a")
        log.end("a")
        log.end("never affected")
        log.begin("a")
        log.end("b")
        log.end("c")
        assert names(logs) == ["away"]
        clock.now = 2.0
        log.end("a")
        assert names(logs) == ["away", "back"]
        log.begin("a")
    assert names(logs) == ["away", "back", "away"]


def test_who_is_no_longer_heard_of_does_not_keep_it() -> None:
    clock = Hour()
    log = state(clock)
    with capture_logs() as logs:
        log.begin("a route that is taken out")
        log.begin("b")
        clock.now = 61.0
        log.begin("b")
        log.end("b")
    assert names(logs) == ["away", "still_away", "back"]


def test_it_ends_for_the_log_when_only_others_are_heard_of() -> None:
    clock = Hour()
    log = state(clock)
    with capture_logs() as logs:
        log.begin("a scrape, of which there is no other")
        for clock.now in (1.0, 59.0):
            log.end("b")
        assert names(logs) == ["away"]
        clock.now = 61.0
        log.end("b")
        log.end("b")
    assert names(logs) == ["away", "back"]


def test_redis_away_says_where_it_is_what_is_wrong_and_the_remedy() -> None:
    log = RedisLog("store", "away", "still_away", "back")
    log.at = "redis://r:6379/0"
    with capture_logs() as logs:
        log.away("a", StoreUnavailable("it is silent", "restart it"), more=1)
        log.end("a")
        log.away("a", StoreError("it refused"), at="redis://jobs/0")
    line = {"event": "away", "log_level": "warning"}
    assert logs[0] == {**line, "at": "redis://r:6379/0", "error": "it is silent", "remedy": "restart it", "more": 1}
    assert logs[2] == {**line, "at": "redis://jobs/0", "error": "it refused"}
