"""When a route is held and when it opens: the judgement as a table, the spans, and what holds of every history."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from pushsvc.model.delivery import (
    BadNotification,
    Expired,
    Misconfigured,
    Outcome,
    Sent,
    Throttled,
    TokenDead,
    TokenSuspect,
    Unavailable,
)
from pushsvc.model.push import LANES, Chunk, Lane, Message, Target
from pushsvc.ports.entries import EntryRef
from pushsvc.rules.policy import LONGEST
from pushsvc.stages.dispatch.evidence import Cause, cause_of
from pushsvc.stages.dispatch.health import (
    BENEFIT,
    CONFIRMED,
    ENOUGH,
    FIRST_PROBE,
    FULL_RATE,
    GUILT,
    LAST_PROBE,
    OTHERS,
    QUIET,
    SOON,
    STEP,
    UNBOUNDED,
    RouteHealth,
    Trouble,
)
from pushsvc.stages.dispatch.lanes import Lanes, OpenEntry

REFUSED = Trouble("credentials", "InvalidProviderToken", 403)
BROKEN = Trouble("unavailable", "UNAVAILABLE", 503)
SILENT = Trouble("timeout", "timeout")
SLOWER = Trouble("throttled", "QUOTA_EXCEEDED", 429)


def trouble(
    health: RouteHealth,
    what: Trouble,
    now: float,
    count: int = 1,
    *,
    pushes: int = 2,
    lanes: Sequence[Lane] = LANES,
) -> None:
    """So many tokens meet this trouble at that instant, of pushes in these lanes."""
    for number in range(count):
        push = number % pushes
        health.troubled(what, now, token=f"t{number}", push=f"p{push}", lane=lanes[push % len(lanes)])


def held(health: RouteHealth) -> bool:
    return health.trouble is not None


def held_by(what: Trouble, now: float = 0.0) -> RouteHealth:
    health = RouteHealth(now)
    trouble(health, what, now, ENOUGH, pushes=ENOUGH)
    assert health.trouble == what
    return health


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        (Sent(status=200), "works"),
        (Sent(reason="dry_run"), None),
        (TokenDead(status=410, reason="Unregistered"), "works"),
        (TokenSuspect(status=400, reason="BadDeviceToken"), "works"),
        (BadNotification(status=400, reason="BadPriority"), "works"),
        (BadNotification(reason="malformed_request"), None),
        (Expired(reason="ttl"), None),
        (Throttled(status=429, reason="TooManyRequests"), "tokens_throttled"),
        (Throttled(status=429, reason="QUOTA_EXCEEDED", scope="route"), "throttled"),
        (Misconfigured(status=403, reason="InvalidProviderToken"), "credentials"),
        (Misconfigured(status=403, reason="TopicMismatch", chosen=True), None),
        (Misconfigured(status=401, reason="THIRD_PARTY_AUTH_ERROR", part="apple"), None),
        (Unavailable(status=500, reason="INTERNAL"), "unavailable"),
        (Unavailable(status=502, reason="unknown_502"), "unavailable"),
        (Unavailable(status=503, reason="UNAVAILABLE"), "unavailable"),
        (Unavailable(status=302, reason="unknown_302"), "unavailable"),
        (Unavailable(status=204, reason="unknown_204"), "unavailable"),
        (Unavailable(status=408, reason="unknown_408"), "unavailable"),
        (Unavailable(status=400, reason="IdleTimeout"), None),
        (Unavailable(reason="timeout", maybe_sent=True), "timeout"),
        (Unavailable(reason="timeout"), "timeout"),
        (Unavailable(reason="connection_lost", maybe_sent=True), "unreachable"),
        (Unavailable(reason="reset"), "unreachable"),
        (Unavailable(reason="unreachable"), "unreachable"),
        (Unavailable(reason="closing"), None),
    ],
)
def test_what_each_outcome_says_of_its_route(outcome: Outcome, cause: str | None) -> None:
    assert cause_of(outcome) == cause


def test_an_open_route_sends_without_bound() -> None:
    health = RouteHealth()
    assert health.allowance(0.0) == UNBOUNDED
    assert health.is_open
    assert not health.watching


@pytest.mark.parametrize("what", [REFUSED, SLOWER])
def test_one_answer_that_speaks_of_the_route_holds_it(what: Trouble) -> None:
    health = RouteHealth()
    assert health.troubled(what, 0.0, token="t", push="p") == "route"
    assert health.reported_trouble(0.0) == what
    assert health.allowance(0.0) == 0


@pytest.mark.parametrize("what", [BROKEN, SILENT, Trouble("unreachable", "reset")])
def test_of_other_troubles_it_takes_several_tokens_with_nothing_good_in_between(what: Trouble) -> None:
    health = RouteHealth()
    trouble(health, what, 0.0, ENOUGH - 1)
    health.worked(0.1)
    trouble(health, what, 0.2, ENOUGH - 1)
    assert not held(health)
    health.troubled(what, 0.3, token="one more", push="p")
    assert health.trouble == what
    assert health.reported_trouble(0.3) is None, "what is in flight may prove it wrong"
    assert health.reported_trouble(0.3 + CONFIRMED) == what


def test_one_token_never_holds_a_route() -> None:
    health = RouteHealth()
    for second in range(1000):
        health.troubled(BROKEN, float(second), token="bad", push=f"p{second}")
    assert health.trouble is None


@pytest.mark.parametrize("what", [BROKEN, SILENT, Trouble("unreachable", "reset")])
def test_trouble_of_all_of_too_little_to_hold_the_route_is_reported(what: Trouble) -> None:
    health = RouteHealth()
    trouble(health, what, 1.0, 2)
    assert [health.reported_trouble(1.0 + after) for after in (0.0, SOON - 0.1)] == [None, None], "the next may work"
    assert health.reported_trouble(1.0 + SOON) == what
    assert health.is_open, "what comes is sent"
    health.worked(1.0 + SOON)
    assert health.reported_trouble(2.0 + SOON) is None
    health.troubled(what, 100.0, token="alone", push="p")
    assert [health.reported_trouble(100.0 + after) for after in (SOON, QUIET)] == [None, what]
    health.troubled(SILENT, 200.0, token="alone", push="p")
    assert health.reported_trouble(200.0) == SILENT, "the latest"
    assert health.reported_trouble(200.1 + LONGEST) is None, "what is not tried any more says nothing of today"


def test_a_throttle_of_too_few_tokens_is_their_own() -> None:
    health = RouteHealth()
    trouble(health, Trouble("tokens_throttled", "TooManyRequests", 429), 0.0, ENOUGH - 1)
    assert health.reported_trouble(QUIET) is None


def test_trouble_of_a_push_that_broke_its_provider_before_is_not_the_routes() -> None:
    health = RouteHealth()
    trouble(health, BROKEN, 0.0, ENOUGH, pushes=1)
    health.spend(1, 0.1)
    health.worked(0.1, push="another", probe=True)
    trouble(health, BROKEN, 1.0, 3, pushes=1)
    assert health.reported_trouble(1.0 + QUIET) is None


def test_a_push_that_breaks_its_provider_delays_the_others_by_one_round_trip() -> None:
    health = RouteHealth()
    trouble(health, BROKEN, 10.0, 100, pushes=1)
    assert health.allowance(10.1) == 0
    assert health.wants_others(10.1), "a delivery of another push may go at once"
    assert set(health.suspects) == {"p0"}
    health.spend(1, 10.1)
    assert not health.wants_others(10.1 + OTHERS / 2)
    assert health.look_at(10.1 + OTHERS / 2) == 10.1 + OTHERS
    health.worked(10.2, push="another", probe=True)
    assert health.is_open
    assert health.allowance(10.2) == UNBOUNDED
    assert health.troubled(BROKEN, 10.3, token="t0", push="p0") == "delivery"
    trouble(health, BROKEN, 10.4, 100, pushes=1)
    assert health.is_open, "its troubles prove nothing any more"
    health.worked(100.0)
    trouble(health, BROKEN, 100.1, 100, pushes=1)
    assert health.is_open, "while others work"
    health.worked(10.2 + GUILT)
    trouble(health, BROKEN, 10.2 + GUILT, 100, pushes=1)
    assert held(health)


@pytest.mark.parametrize("what", [BROKEN, REFUSED])
def test_a_push_that_was_found_to_be_the_cause_is_evidence_again_once_nothing_works(what: Trouble) -> None:
    health = RouteHealth()
    trouble(health, what, 10.0, 100, pushes=1)
    health.spend(1, 10.1)
    health.worked(10.2, token="good", push="another", probe=True)
    trouble(health, what, 10.1 + SOON, 100, pushes=1)
    assert health.is_open
    trouble(health, what, 10.2 + SOON, 100, pushes=1)
    assert held(health)


def test_a_push_that_alone_is_refused_delays_the_others_by_one_round_trip() -> None:
    health = RouteHealth()
    assert health.troubled(REFUSED, 10.0, token="bad", push="bad") == "route"
    assert health.wants_others(10.0), "a delivery of another push may go at once"
    health.worked(10.05, push="sent before")
    assert held(health), "an answer to what went before knows nothing of it"
    health.spend(1, 10.0)
    health.worked(10.1, token="good", push="another", probe=True)
    assert health.is_open
    assert health.troubled(REFUSED, 15.0, token="bad", push="bad") == "delivery"
    assert health.is_open, "its refusals prove nothing any more"
    assert health.troubled(REFUSED, 16.0, token="good", push="another") == "route", "one of another push does"
    assert held(health)


def test_a_token_that_alone_is_refused_holds_its_push_no_second_time() -> None:
    health = RouteHealth()
    health.troubled(REFUSED, 10.0, token="bad", push="all")
    assert health.allowance(11.0) == 1
    health.spend(1, 11.0)
    health.worked(11.1, token="good", push="all", probe=True)
    assert health.troubled(REFUSED, 15.0, token="bad", push="all") == "delivery"
    assert health.troubled(REFUSED, 16.0, token="good", push="all") == "route"


def test_of_a_broadcast_with_one_refused_token_the_others_still_prove_that_the_credentials_are_bad() -> None:
    health = RouteHealth()
    health.troubled(REFUSED, 10.0, token="bad", push="all")
    health.spend(1, 10.1)
    health.worked(10.1, token="good", push="another", probe=True)
    assert health.troubled(REFUSED, 15.0, token="bad", push="all") == "delivery"
    assert health.troubled(REFUSED, 16.0, token="next", push="all") == "route"


def test_a_push_all_of_whose_tokens_are_refused_holds_the_route_once() -> None:
    health = RouteHealth()
    trouble(health, REFUSED, 10.0, ENOUGH, pushes=1)
    health.spend(1, 10.1)
    health.worked(10.1, token="good", push="another", probe=True)
    assert health.troubled(REFUSED, 15.0, token="next", push="p0") == "delivery"


def test_refusals_of_many_or_before_a_correction_are_nobodys_own() -> None:
    many = RouteHealth()
    trouble(many, REFUSED, 10.0, ENOUGH, pushes=ENOUGH)
    assert not many.wants_others(10.1)
    many.spend(1, 11.0)
    many.worked(11.0, token="good", push="another", probe=True)
    assert many.troubled(REFUSED, 12.0, token="t0", push="p0") == "route"
    corrected = RouteHealth()
    corrected.troubled(REFUSED, 10.0, token="t", push="p")
    corrected.probe_now()
    corrected.spend(1, 10.1)
    corrected.worked(10.2, token="good", push="another", probe=True)
    assert corrected.troubled(REFUSED, 12.0, token="t", push="p") == "route"


def test_a_push_that_breaks_its_provider_may_still_meet_refused_credentials_first() -> None:
    health = RouteHealth()
    trouble(health, BROKEN, 10.0, 100, pushes=1)
    health.spend(1, 10.1)
    health.worked(10.2, push="another", probe=True)
    assert health.troubled(BROKEN, 10.3, token="t0", push="p0") == "delivery"
    assert health.troubled(REFUSED, 10.4, token="t0", push="p0") == "route"


def test_trouble_of_many_pushes_wants_no_more_probes_than_the_spans_say() -> None:
    health = held_by(BROKEN, 10.0)
    assert not health.wants_others(10.2)


def test_where_all_trouble_is_of_one_lane_a_probe_of_another_goes_at_once_and_convicts_it() -> None:
    health = RouteHealth()
    trouble(health, BROKEN, 10.0, ENOUGH, pushes=ENOUGH, lanes=("urgent",))
    assert health.wants_others(10.1)
    assert health.probe_lanes(due=False) == ["normal", "bulk"]
    health.spend(1, 10.1)
    health.worked(10.2, token="good", push="good", lane="normal", probe=True)
    assert not held(health)
    assert health.troubled(BROKEN, 10.3, token="t0", push="p0", lane="urgent") == "delivery"
    assert health.troubled(BROKEN, 10.3 + SOON, token="t0", push="p0", lane="urgent") == "delivery"
    trouble(health, BROKEN, 10.3 + SOON, ENOUGH, pushes=ENOUGH, lanes=("urgent",))
    assert held(health), "nothing works any more"


def test_probes_take_the_lanes_in_turn_from_the_most_urgent_on() -> None:
    health = held_by(BROKEN)
    order = []
    for _ in range(6):
        now = health.probe_at
        order.append((health.probe_lanes(due=True)[0], health.suspects_first))
        health.spend(1, now)
        health.troubled(BROKEN, now, token="t", push="p0", lane="urgent", probe=True)
    assert order == [(lane, seen) for seen in (False, True) for lane in LANES]
    health.spend(1, health.probe_at)
    health.worked(health.probe_at, push="p0", lane="urgent", probe=True)
    trouble(health, BROKEN, health.probe_at + 1.0, ENOUGH, pushes=ENOUGH)
    assert health.probe_lanes(due=True) == LANES, "the most urgent first after each hold"


def test_a_false_alarm_is_over_with_the_next_answer_that_works() -> None:
    health = held_by(BROKEN, 0.0)
    health.worked(0.01)
    assert health.is_open
    assert health.allowance(0.01) == UNBOUNDED


@pytest.mark.parametrize("what", [REFUSED, SLOWER])
def test_answers_to_what_went_before_do_not_end_a_refusal(what: Trouble) -> None:
    health = held_by(what)
    health.worked(0.5)
    assert health.trouble == what


def test_probes_come_at_growing_spans_up_to_a_bound() -> None:
    health, now, waits = held_by(REFUSED), 0.0, []
    for _ in range(8):
        waits.append(health.probe_at - now)
        now = health.probe_at
        assert health.allowance(now) == 1
        assert health.spend(1, now)
        assert health.allowance(now) == 0, "one at a time"
        health.troubled(REFUSED, now, token="t", push="p", probe=True)
    assert waits == [FIRST_PROBE, 2.0, 4.0, 8.0, 16.0, LAST_PROBE, LAST_PROBE, LAST_PROBE]


def test_what_the_provider_asks_for_is_waited_for_up_to_an_hour() -> None:
    health = RouteHealth()
    health.troubled(SLOWER, 0.0, token="t", push="p", wait=5.0)
    assert health.allowance(4.9) == 0
    health.troubled(SLOWER, 2.0, token="u", push="p", wait=5.0)
    assert health.allowance(6.9) == 0
    assert health.allowance(7.0) == 1
    health.spend(1, 7.0)
    health.troubled(SLOWER, 7.1, token="v", push="p", wait=86_400.0, probe=True)
    assert health.probe_at == 7.1 + LONGEST


def test_a_provider_in_trouble_says_nothing_about_the_credentials() -> None:
    health = held_by(REFUSED)
    health.spend(1, 1.0)
    health.troubled(BROKEN, 1.0, token="t", push="p", probe=True)
    assert health.trouble == REFUSED
    assert health.probe_at == 1.0 + FIRST_PROBE


def test_the_cause_follows_what_the_probes_meet() -> None:
    health = held_by(SILENT)
    health.spend(1, 1.0)
    health.troubled(BROKEN, 2.0, token="t", push="p", probe=True)
    assert health.trouble == BROKEN
    health.troubled(REFUSED, 2.1, token="u", push="p")
    assert health.trouble == REFUSED


def opened(health: RouteHealth, now: float) -> float:
    """Let the probe pass and everything work from then on; how long it takes until the route is open."""
    started = now
    health.spend(1, now)
    health.worked(now, push="p0", probe=True)
    while not health.is_open:
        now += 0.05
        health.spend(health.allowance(now), now)
        health.worked(now)
        assert now < started + 600
    return now - started


def test_it_opens_step_by_step_and_within_seconds() -> None:
    health = held_by(BROKEN)
    health.troubled(BROKEN, 1.0, token="t", push="p", probe=True)
    now = health.probe_at
    health.spend(1, now)
    health.worked(now, push="p0", probe=True)
    went: list[int] = []
    while not health.is_open and len(went) < 1000:
        now += 0.05
        allowed = health.allowance(now)
        health.spend(allowed, now)
        went.append(allowed)
        health.worked(now)
    assert len(went) * 0.05 < 5.0
    assert sum(went[:20]) < 200, "a second after the probe it is no storm"


def test_nothing_grows_while_nothing_works() -> None:
    health = held_by(BROKEN)
    health.spend(1, 1.0)
    health.troubled(BROKEN, 1.0, token="t", push="p", probe=True)
    health.spend(1, 3.0)
    health.worked(3.0, push="p", probe=True)
    before = health.allowance(100.0)
    assert before < UNBOUNDED
    assert health.allowance(200.0) == before


def test_after_a_throttle_it_grows_gently_from_half_the_rate_that_was_too_much() -> None:
    health = held_by(SLOWER)
    health.spend(1, 1.0)
    health.worked(1.0, push="p", probe=True)
    now = 1.0
    while health._rate < 256:
        now += STEP
        health.worked(now)
    health.troubled(SLOWER, now, token="t", push="p")
    now = health.probe_at
    health.spend(1, now)
    health.worked(now, push="p", probe=True)
    rates = []
    for _ in range(6):
        now += STEP
        health.worked(now)
        rates.append(health._rate)
    assert rates[:3] == [32, 64, 128]
    assert rates[3:] == pytest.approx([128 * 1.05, 128 * 1.05**2, 128 * 1.05**3])


def test_trouble_while_it_opens_goes_on_with_longer_spans() -> None:
    health = held_by(SLOWER)
    health.spend(1, 1.0)
    health.worked(1.0, push="p", probe=True)
    health.troubled(SLOWER, 1.5, token="t", push="p")
    assert health.probe_at == 1.5 + 2 * FIRST_PROBE


def test_whose_fault_a_trouble_is() -> None:
    health = RouteHealth(0.0)
    assert health.troubled(BROKEN, 1.0, token="t", push="p") == "delivery", "others may work"
    assert health.troubled(BROKEN, QUIET + 1.0, token="t", push="p") == "nobody", "nothing else was sent"
    assert health.troubled(BROKEN, BENEFIT, token="t", push="p") == "nobody"
    assert health.troubled(BROKEN, BENEFIT + 2.0, token="t", push="p") == "delivery", "the benefit of the doubt ends"
    health.worked(BENEFIT + 3.0)
    assert health.troubled(BROKEN, BENEFIT + 4.0, token="t", push="p") == "delivery"
    trouble(health, BROKEN, BENEFIT + 5.0, ENOUGH)
    assert health.troubled(BROKEN, BENEFIT + 6.0, token="t", push="p") == "route"


def test_each_push_has_the_benefit_of_the_doubt_from_its_own_trouble_on() -> None:
    health = RouteHealth(0.0)
    assert health.troubled(BROKEN, 100.0, token="t", push="earlier") == "nobody"
    assert health.troubled(BROKEN, 100.0 + BENEFIT, token="u", push="later") == "nobody"
    assert health.troubled(BROKEN, 200.0 + BENEFIT, token="u", push="later") == "nobody"
    assert health.troubled(BROKEN, 200.0 + BENEFIT, token="t", push="earlier") == "delivery"


def test_tokens_that_met_trouble_long_ago_hold_no_route() -> None:
    health = RouteHealth(0.0)
    trouble(health, BROKEN, 100.0, ENOUGH - 1)
    health.troubled(BROKEN, 101.0 + LONGEST, token="today", push="p")
    assert not held(health)
    assert health.reported_trouble(101.0 + LONGEST) is None


def test_what_was_not_asked_of_the_provider_uses_up_nothing_of_what_may_go() -> None:
    health = held_by(BROKEN)
    health.spend(1, 1.0)
    health.troubled(BROKEN, 1.0, token="t", push="p", probe=True)
    health.spend(1, 3.0)
    health.worked(3.0, push="p", probe=True)
    allowed = health.allowance(3.0)
    health.spend(allowed, 3.0)
    assert health.allowance(3.0) == 0
    health.unjudged(3.0)
    assert health.allowance(3.0) == 1


def test_no_connection_holds_the_route_and_the_first_thing_to_go_is_a_probe() -> None:
    health = RouteHealth()
    health.lost(Trouble("unreachable", "no connection"), 5.0)
    assert health.allowance(5.0) == 1
    health.spend(1, 5.0)
    assert health.allowance(5.0) == 0


def test_a_correction_is_probed_at_once() -> None:
    health = held_by(REFUSED, 100.0)
    health.spend(1, 101.0)
    health.probe_now()
    assert health.allowance(101.0) == 1


CAUSES: tuple[Cause, ...] = ("credentials", "throttled", "unavailable", "timeout", "unreachable")


@given(data=st.data())
def test_of_every_history(data: st.DataObject) -> None:
    """A held route always has a probe due; what may go is bounded; a probe that works ends every hold."""
    health, now, probes, went = RouteHealth(), 0.0, 0, 0
    for _ in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.sampled_from([0.0, 0.01, 0.3, 1.0, 20.0, 90.0]))
        lane = data.draw(st.sampled_from(LANES))
        step = data.draw(st.sampled_from(["send", "works", "trouble", "trouble", "unjudged", "lost", "correct"]))
        token, push = (f"{data.draw(st.integers(0, 9))}" for _ in "ab")
        is_probe = probes > 0 and data.draw(st.booleans())
        if step == "send":
            allowed = min(health.allowance(now), 100)
            assert health.trouble is None or allowed <= 1
            if allowed:
                probes += health.spend(allowed, now)
                went += allowed
        elif step == "works":
            health.worked(now, push=push, lane=lane, probe=is_probe)
            probes -= is_probe
        elif step == "trouble":
            what = Trouble(data.draw(st.sampled_from(CAUSES)), "why")
            wait = data.draw(st.sampled_from([0.0, 5.0, 1e6]))
            blame = health.troubled(what, now, token=token, push=push, lane=lane, probe=is_probe, wait=wait)
            assert (blame == "route") == (health.trouble is not None)
            probes -= is_probe
        elif step == "unjudged":
            health.unjudged(now, probe=is_probe)
            probes -= is_probe
        elif step == "lost":
            health.lost(Trouble("unreachable", "no connection"), now)
        elif step == "correct":
            health.probe_now()
        assert health.watching or health.is_open
        if health.trouble is not None:
            assert health.next_at(now) <= now + LONGEST + LAST_PROBE
            assert health.allowance(max(now, health.next_at(now))) == 1
        elif not health.is_open:
            assert health.allowance(now) <= FULL_RATE * STEP
            assert health.next_at(now) <= now + 1.0
    if health.trouble is not None:
        now = max(now, health.next_at(now))
        opened(health, now)
    assert health.is_open or health.trouble is None


def waiting(push: str, lane: Lane, count: int) -> OpenEntry:
    targets = tuple(Target(index, f"{push}-{index}") for index in range(count))
    chunk = Chunk(push, "shop", "fcm", lane, count, 0, 1 << 50, Message("fcm", b"{}"), targets)
    return OpenEntry(EntryRef("shop", 0, "fcm", lane, "1-1"), chunk, targets)


@given(data=st.data())
def test_once_something_good_waits_a_held_route_opens_in_time_whatever_the_lanes_hold(data: st.DataObject) -> None:
    """Everything but one push is bad in itself and goes again; a new bad push comes after each probe."""
    lanes, health, now = Lanes(), RouteHealth(), 0.0
    entries = [
        waiting(f"bad {number}", data.draw(st.sampled_from(LANES)), data.draw(st.sampled_from([1, 50])))
        for number in range(data.draw(st.integers(0, 12)))
    ]
    good = waiting("good", data.draw(st.sampled_from(LANES)), 1)
    entries.insert(data.draw(st.integers(0, len(entries))), good)
    health.lost(Trouble("unreachable", "no connection"), now)
    for entry in entries:
        lanes.add(entry)
        if data.draw(st.booleans()):
            name = entry.chunk.push_id
            health.troubled(BROKEN, now, token=f"{name}-0", push=name, lane=entry.chunk.lane)
    stream = data.draw(st.sampled_from(LANES))
    came = 0
    while held(health):
        now = max(now, health.look_at(now))
        # The lanes have their turns, and each turn is that of the suspects, or not.
        assert now <= LAST_PROBE * 2 * len(LANES) * (len(entries) + 2)
        due = health.allowance(now) > 0
        drawn = lanes.draw_probe(
            *(health.probe_lanes(due=due), health.suspects),
            suspects_first=health.suspects_first,
            only_others=not due,
            is_fresh=lambda _: True,
        )
        if drawn is None:
            assert not due
            now = health.next_at(now)
            continue
        health.spend(1, now)
        chunk, target = drawn[0].chunk, drawn[1]
        now += 0.1
        if chunk.push_id == "good":
            health.worked(now, token=target.token, push="good", lane=chunk.lane, probe=True)
        else:
            health.troubled(BROKEN, now, token=target.token, push=chunk.push_id, lane=chunk.lane, probe=True)
            lanes.add(waiting(chunk.push_id, chunk.lane, 1))
            lanes.add(waiting(f"new {came}", stream, 1))
            came += 1
