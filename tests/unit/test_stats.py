"""What `pushsvc stats` makes of the store's figures and of Prometheus' text."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import structs

from pushsvc.cli.operator.operator import ServiceState
from pushsvc.cli.stats.figures import figures, read_counters
from pushsvc.cli.stats.stats import ALARMS, folded, plain, rows, summary
from pushsvc.errors import CredentialError
from pushsvc.model.instants import instant
from pushsvc.model.push import Lane
from pushsvc.ports.admin import AnswerCounts, GatewayState, LaneFigures, LiveState, RouteState
from pushsvc.ports.conditions import Condition, Kind, condition
from pushsvc.ports.figures import Held
from pushsvc.ports.provider import CREDENTIAL
from pushsvc.ports.work import Worker
from pushsvc.rules.bound import Bound
from pushsvc.runtime.state.conditions import configuration, full, held
from pushsvc.settings.schema import AppSettings, LimitsSettings, QueueSettings, Settings
from pushsvc.store.work.held import still_held

from ..fakes.admin import AT, FixedAdministration

LANES: dict[Lane, int] = {"urgent": 1, "normal": 2, "bulk": 3000}

TEXT = """\
# TYPE pushsvc_deliveries_total counter
pushsvc_deliveries_total{{app="shop",outcome="sent",platform="apns",reason=""}} {sent}
pushsvc_deliveries_total{{app="shop",outcome="failed",platform="apns",reason="BadTopic"}} 1
pushsvc_deliveries_total{{app="shop",outcome="failed",platform="apns",reason="BadPriority"}} 2
# TYPE pushsvc_deliveries_accepted_total counter
pushsvc_deliveries_accepted_total{{app="shop"}} {accepted}
"""


def state(
    *conditions: Condition, gateways: dict[str, int] | None = None, workers: int = 0, **more: Any
) -> ServiceState:
    """The state of one app with one route; with `gateways` it has the live channel."""
    route = RouteState(
        route="shop/apns",
        platform="apns",
        state="sending",
        since=None,
        reason="",
        remedy="",
        frozen="",
        waiting=3003,
        lanes=LANES,
        retrying=5,
        unacknowledged=4,
        workers=workers,
        sent_rate=None,
        failed_rate=None,
        p50=None,
        p99=None,
        answers=AnswerCounts(),
        expires_at=None,
    )
    lanes = [
        LaneFigures(lane=lane, waiting=count, oldest_age=None, in_rate=None, out_rate=None, through_in=None)
        for lane, count in LANES.items()
    ]
    live = None
    if gateways is not None:
        live = LiveState(sum(gateways.values()), [GatewayState(name, count, AT) for name, count in gateways.items()])
    known = {"routes": [route], "lanes": lanes, "live": live, "retrying": 5, "unacknowledged": 4, "scheduled": 40}
    stats = asyncio.run(FixedAdministration().stats("shop"))
    return ServiceState([structs.replace(stats, **{**known, "dead_letters": 7, **more})], conditions)


def one(kind: Kind, what: str, cause: str, remedy: str = "look", **more: Any) -> Condition:
    return condition(kind, what, cause, remedy, **more)


def test_counters_of_all_reasons_are_one_figure() -> None:
    read = read_counters(TEXT.format(sent=10, accepted=20))
    assert read.ended == {("shop", "apns", "sent"): 10, ("shop", "apns", "failed"): 3}
    assert read.accepted == {"shop": 20}
    assert (read.counted, read.limit) == (None, None)


def test_what_counts_against_the_limit_is_shown_beside_what_waits() -> None:
    queue = 'pushsvc_queue_pending{{lane="normal"}} 200000.0\npushsvc_queue_counted {}\npushsvc_queue_limit 5e+06\n'
    look = figures(state(), queue.format("5.1e+06"), now=1.0)
    assert (look.counted, look.limit) == (5_100_000, 5_000_000)
    assert summary(look)[4:] == ["limit     5,100,000 of 5,000,000 deliveries (102%), scheduled ones included"]
    assert summary(figures(state(), queue.format("NaN"), now=1.0))[4:] == []


def test_two_accounts_of_a_platform_share_its_counters_which_the_total_has_once() -> None:
    (shop,) = state().apps
    routes = [*shop.routes, structs.replace(shop.routes[0], route="shop/apns_sandbox")]
    both = ServiceState([structs.replace(shop, routes=routes)], ())
    first = figures(both, TEXT.format(sent=100, accepted=0), now=1000.0)
    look = figures(both, TEXT.format(sent=300, accepted=0), first, now=1002.0)
    assert [(each.platform, each.outcomes["sent"], each.sent_rate) for each in look.routes] == [
        ("apns", 300, 100.0),
        ("apns_sandbox", 300, 100.0),
    ]
    assert look.sent_rate == 100.0


def test_rates_are_those_between_two_looks() -> None:
    first = figures(state(), TEXT.format(sent=100, accepted=200), now=1000.0)
    assert first.sent_rate is None
    second = figures(state(workers=1), TEXT.format(sent=300, accepted=1200), first, now=1002.0)
    assert (second.sent_rate, second.accepted_rate) == (100.0, 500.0)
    (route,) = second.routes
    assert (route.sent_rate, route.outcomes["failed"], route.consumers) == (100.0, 3, 1)


def test_frozen_routes_are_reported() -> None:
    look = figures(state(one("frozen", "shop/apns", "300 of 300 answers within 10 s were `dead`")), "", now=1.0)
    assert summary(look)[4:] == ["frozen    shop/apns: 300 of 300 answers within 10 s were `dead`: look"]
    assert plain(look).endswith(" frozen=shop/apns")


def test_a_webhook_in_trouble_is_reported() -> None:
    look = figures(state(one("webhook", "shop", "2 batches were given up")), "", now=1.0)
    assert summary(look)[4:] == ["webhook   shop: 2 batches were given up: look"]
    assert summary(look)[4].startswith(ALARMS)
    assert plain(look).endswith(" webhook=shop")


def test_a_refused_configuration_is_reported() -> None:
    refused = configuration([Worker("jobs", "b", frozenset(), refused_since=5000)])
    look = figures(state(*refused), "", now=1.0)
    assert look.reload_refused
    (line,) = summary(look)[4:]
    assert line.startswith(
        "config    configuration: the change on disk was refused; the previous one is still in use (jobs)"
    )
    assert line.startswith(ALARMS)
    assert not figures(state(), "", now=1.0).reload_refused
    # Processes that have the same reason show it once.
    why = "apps.shop.nonsense: unknown key"
    processes = [Worker(part, "b", frozenset(), refused_since=5000, refusal=why) for part in ("jobs", "serve")]
    (reported,) = configuration(processes)
    assert reported.cause.endswith(f"the previous one is still in use (jobs, serve): {why}")
    assert reported.remedy == "correct it; it is then read again automatically"


@pytest.mark.parametrize(
    ("waits", "refused", "named"),
    [
        ({"a": 4, "b": 5}, [], []),
        ({"a": 4, "b": 6}, [Bound("", 9, 10, refused=2)], [("queue", "10 deliveries wait; the maximum is 10 (")]),
        ({"a": 4}, [Bound("", 9, 10, refused=2)], [("queue", ", so a push of 2 was refused")]),
        ({"a": 4}, [Bound("", 9, 9, refused=1)], []),
        ({"a": 4}, [Bound("a", 4, 5, refused=3)], [("a", ", so a push of 3 was refused")]),
        ({"a": 5}, [], [("a", "5 deliveries of the app wait; its maximum is 5 (")]),
        ({"a": 5}, [Bound("removed", 4, 5, refused=3)], [("a", "its maximum is 5")]),
    ],
)
def test_the_queue_is_full_where_a_push_is_or_was_lately_refused(
    waits: dict[str, int], refused: list[Bound], named: list[tuple[str, str]]
) -> None:
    apps = {
        "a": AppSettings(name="a", limits=LimitsSettings(max_pending=5)),
        "b": AppSettings(name="b", limits=LimitsSettings(max_pending=10)),
    }
    found = list(full(Settings(apps=apps, queue=QueueSettings(max_pending=10)), waits, refused))
    assert [each.what for each in found] == [what for what, _ in named]
    assert all(part in each.cause for each, (_, part) in zip(found, named, strict=True))


def test_a_counter_that_began_anew_is_no_negative_rate() -> None:
    first = figures(state(), TEXT.format(sent=100, accepted=200), now=1000.0)
    assert figures(state(), TEXT.format(sent=5, accepted=5), first, now=1001.0).sent_rate == 0.0


def test_one_is_no_plural() -> None:
    dead, live = summary(figures(state(gateways={"gateway": 1}, dead_letters=1), "", now=1.0))[-2:]
    assert dead == "dead      1 dead letter"
    assert live.startswith("live      1 connection, 1 gateway; ")


def test_held_routes_and_a_silent_api_are_reported() -> None:
    held = one("held", "shop/apns", "InvalidProviderToken")
    look = figures(state(held, schedules=3), None, api="http://x does not answer", now=1.0)
    assert summary(look) == [
        "queued    1 urgent, 2 normal, 3,000 bulk; 5 of these waiting to retry",
        "scheduled 3 pushes (40 deliveries; audiences are counted when due)",
        "rates     accepted -/s, sent -/s",
        "dead      7 dead letters",
        "held      shop/apns: InvalidProviderToken: look",
        "counters  missing: http://x does not answer",
    ]
    assert rows(look)[0][-1] == "InvalidProviderToken: look"
    assert plain(look).startswith("urgent=1 normal=2 bulk=3000 retrying=5 scheduled=40 schedules=3 accepted/s=-")
    assert plain(look).endswith("dead=7 held=shop/apns:InvalidProviderToken: look")


def test_a_long_line_is_folded_below_its_text() -> None:
    line = "held      shop/apns: " + "word " * 30
    first, *rest = folded(line, 80).splitlines()
    assert first.startswith("held      shop/apns: word")
    assert rest
    assert all(each.startswith(" " * 10 + "word") and len(each) <= 80 for each in rest)
    assert folded("rates     accepted -/s", 80) == "rates     accepted -/s"


def test_a_service_that_is_away_is_reported_with_the_age_of_the_figures() -> None:
    look = figures(structs.replace(state(), away=f"no answer; the figures are of {AT}"), "", now=1.0)
    assert summary(look)[-1] == f"counters  missing: no answer; the figures are of {AT}"
    assert rows(look)[0][-2] == "-"


@pytest.mark.parametrize(
    ("reported", "believed"),
    [
        (b"900 1000 800 bad key", {"a/apns": Held("bad key", 800)}),
        (b"900 1000 bad key", {"a/apns": Held("bad key", 900)}),
        (b"900 999 800 bad key", {}),
        (b"nonsense", {}),
        (b"900 1000 ", {"a/apns": Held("", 900)}),
        (b"900 1000", {"a/apns": Held("", 900)}),
    ],
)
def test_what_a_dead_dispatcher_said_is_not_believed_for_ever(reported: bytes, believed: dict[str, Held]) -> None:
    assert still_held({b"me a/apns": reported}, 1000) == believed


def test_of_several_dispatchers_the_last_word_counts() -> None:
    fields = {
        b"b a/apns": b"700 2000 650 later",
        b"a a/apns": b"600 2000 500 earlier",
        b"c a/fcm/apple": b"1 2000 1 a part",
    }
    assert still_held(fields, 1000) == {"a/apns": Held("later", 500), "a/fcm/apple": Held("a part", 1)}


def test_a_note_of_a_route_does_not_hide_that_it_is_held() -> None:
    fields = {
        f"{who} {prefix}{app}/apns".encode(): f"{since} 2000 {since} {why}".encode()
        for app in ("a", "shop")
        for who, prefix, since, why in (("x", "", 700, "timeout: look"), ("y", "note:", 600, "the file"))
    }
    found = [(each.kind, each.what, each.cause, each.since) for each in held(still_held(fields, 1000), {})]
    assert sorted(found) == [
        *[("account", f"{app}/apns", "the file", instant(600)) for app in ("a", "shop")],
        *[("held", f"{app}/apns", "timeout", instant(700)) for app in ("a", "shop")],
    ]


def test_a_credential_that_cannot_be_used_is_reported_with_its_own_remedy() -> None:
    error = CredentialError("a.p8", "cannot sign a provider token (ValueError)", "download the key again")
    (found,) = held({"shop/apns": Held(f"{CREDENTIAL}{error}", 1)}, {})
    assert (found.cause, found.remedy) == (
        "credential: a.p8 cannot sign a provider token (ValueError)",
        "download the key again; the account is tried again every minute",
    )


def test_what_nothing_serves_is_reported() -> None:
    cause, remedy = "no `pushsvc dispatch` runs, or it hangs", "start it"
    look = figures(state(one("unserved", "shop/apns", cause, remedy)), "", now=1.0)
    assert summary(look)[-1] == f"unserved  shop/apns: {cause}: {remedy}"
    assert plain(look).endswith(" unserved=shop/apns")


def test_connections_are_shown_where_an_app_has_a_live_channel() -> None:
    assert not any(line.startswith("live") for line in summary(figures(state(), "", now=1.0)))
    both = state(gateways={"a": 1200, "b": 34})
    (news,) = state(gateways={"a": 0}, unacknowledged=0).apps
    look = figures(structs.replace(both, apps=[*both.apps, structs.replace(news, app="news", routes=[])]), "", now=1.0)
    assert "live      1,234 connections, 2 gateways; 4 waiting for devices" in summary(look)
    assert plain(look).endswith(" connections=1234 awaiting=4")
    none = figures(state(gateways={}), "", now=1.0)
    assert any(line.startswith("live      0 connections, 0 gateways; ") for line in summary(none))
