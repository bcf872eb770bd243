"""Which server sentinels call the primary, and URLs of Redis that cannot be meant."""

from __future__ import annotations

import re

import pytest

from pushsvc.errors import ConfigError
from pushsvc.store.link.connect import scheme_of
from pushsvc.store.link.sentinels import GRACE, SentinelReport, elect, present_of, read_report

OLD, NEW = ("10.0.0.1", 6379), ("10.0.0.2", 6379)


@pytest.mark.parametrize(
    ("words", "believed", "elected"),
    [
        pytest.param([], None, None, id="nobody answers"),
        pytest.param([SentinelReport(3, False, OLD)], None, OLD, id="one answers"),
        pytest.param(
            [SentinelReport(3, False, OLD), SentinelReport(3, True, NEW)],
            None,
            NEW,
            id="the leader of a failover knows first",
        ),
        pytest.param(
            [SentinelReport(4, False, NEW), SentinelReport(3, False, OLD)], None, NEW, id="a higher epoch is newer"
        ),
        pytest.param(
            [SentinelReport(3, False, OLD)],
            SentinelReport(4, False, NEW),
            NEW,
            id="one that is cut off does not lead back",
        ),
        pytest.param(
            [SentinelReport(3, False, OLD)], SentinelReport(3, True, NEW), NEW, id="nor before the epoch is announced"
        ),
        pytest.param([SentinelReport(4, False, NEW)], SentinelReport(3, True, NEW), NEW, id="then it is announced"),
        pytest.param([SentinelReport(3, False, OLD, True)], None, None, id="the primary is down"),
        pytest.param(
            [SentinelReport(3, False, OLD, True), SentinelReport(3, False, OLD)],
            None,
            OLD,
            id="one of them does not see it",
        ),
        pytest.param(
            [SentinelReport(3, False, OLD, True), SentinelReport(3, True, NEW)],
            None,
            NEW,
            id="down, and another is promoted",
        ),
    ],
)
def test_the_newest_word_counts(
    words: list[SentinelReport], believed: SentinelReport | None, elected: tuple[str, int] | None
) -> None:
    found = elect(words, believed)
    assert (found and found.address) == elected


def test_what_a_sentinel_says() -> None:
    fields = [b"name", b"m", b"ip", b"10.0.0.1", b"port", b"6379", b"flags", b"master,o_down", b"config-epoch", b"7"]
    assert read_report([b"10.0.0.1", b"6379"], fields) == SentinelReport(7, False, OLD, True)
    assert read_report([b"10.0.0.2", b"6379"], fields) == SentinelReport(7, True, NEW, False)
    assert read_report(None, None) is None
    assert read_report([b"10.0.0.1", b"6379"], ValueError("no such master")) is None


def test_a_replica_that_is_missing_since_a_moment_ago_may_have_been_promoted() -> None:
    down = int(GRACE * 1000)
    replicas = [
        [b"flags", b"slave"],
        [b"flags", b"slave,disconnected,promoted"],
        [b"flags", b"s_down,slave,disconnected", b"s-down-time", b"%d" % (down - 1)],
        [b"flags", b"s_down,slave,disconnected", b"s-down-time", b"%d" % down],
    ]
    assert present_of(replicas) == 3
    assert present_of([]) == present_of(ValueError("no permissions")) == 0


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://[::1]:6379/5",
        "redis://user:p%40ss%2Fw%23rd@127.0.0.1:6379/0",
        "redis://:secret@host:port",  # not this check's business
        "rediss://host?ssl_ca_certs=/path/ca@home.pem&ssl_cert_reqs=none",
        "redis+sentinel://u:p%40@one:1,two/mymaster/2?sentinel_password=s%40",
        "redis+cluster://:secret@a:7000,b",
        "unix:///run/a@b#c/redis.sock?db=3",
    ],
)
def test_urls_that_can_be_meant(url: str) -> None:
    assert url.startswith(scheme_of(url))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://:secr/et@host", "percent-encode"),
        ("redis://:s@secret/w#rd@127.0.0.1:17001/0", "percent-encode"),
        ("redis://:secret#x@host", "percent-encode"),
        ("redis://:secret?x=y@host", "percent-encode"),
        ("redis://user:secret@x@host/0", "percent-encode"),
        ("redis+sentinel://:sec/ret@one,two/mymaster", "percent-encode"),
        ("redis://host/0?foo=bar", r"unknown option foo; known: db, "),
        ("redis://host/0?secret=bar", "unknown option"),
        ("redis://host/0?decode_responses=True", "unknown option decode_responses"),
        ("redis://host/0?protocol=3", "unknown option protocol"),
        ("redis+sentinel://host/mymaster?protocol=3", "unknown option protocol"),
        ("redis://host/0?ssl_cert_reqs=none", "begin with rediss://"),
        ("redis+cluster://host?ssl_ca_certs=/ca.pem", r"begin with rediss\+cluster://"),
        ("redis://host/0?sentinel_password=x", "unknown option sentinel_password"),
        ("redis://:[secret@host", "percent-encode"),
        ("redis://:sec\u2100ret@host", "percent-encode"),
        ("redis://", "not the URL of a Redis"),
        ("http://host", "not the URL of a Redis"),
    ],
)
def test_urls_that_cannot_be_meant(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=r"^redis\.url: ") as caught:
        scheme_of(url)
    reported = str(caught.value)
    assert re.search(why, reported)
    assert "ret@" not in reported
    assert "w#rd" not in reported
    assert "secret" not in reported or "?secret=" in url
