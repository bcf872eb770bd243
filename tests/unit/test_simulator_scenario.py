"""The grammar of scenario tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pushsvc.lab.simulator import apns_token, fcm_token
from pushsvc.lab.simulator.apns import REASONS
from pushsvc.lab.simulator.fcm import ERRORS
from pushsvc.lab.simulator.scenario import Action, Scenario, ScenarioError, Stage, Step, fault_of, parse, step

WORDS = (*REASONS, *ERRORS)


def _steps(actions: str, count: int) -> list[str]:
    scenario = parse(f"sim:{actions}:x", WORDS)
    return [step(scenario, nth).name for nth in range(count)]


@pytest.mark.parametrize(
    ("actions", "names"),
    [
        ("ok", ["ok", "ok", "ok"]),
        ("Unregistered", ["Unregistered", "Unregistered", "Unregistered"]),
        ("ServiceUnavailable.2", ["ServiceUnavailable", "ServiceUnavailable", "ok"]),
        ("stall.1,Unregistered", ["stall", "Unregistered", "Unregistered"]),
        ("reset.1,refuse.1", ["reset", "refuse", "ok"]),
        ("slow-20,drop.1", ["drop", "ok", "ok"]),
        ("goaway-graceful.1,UNAVAILABLE.1", ["goaway-graceful", "UNAVAILABLE", "ok"]),
        ("ok.1,BadDeviceToken", ["ok", "BadDeviceToken", "BadDeviceToken"]),
    ],
)
def test_actions_are_played_in_their_order(actions: str, names: list[str]) -> None:
    assert _steps(actions, 3) == names


def test_modifiers_hold_for_all_requests_or_for_the_first_ones() -> None:
    scenario = parse("sim:Unregistered,since-123,slow-50.1,retry-after-7,retry-at-9,empty:x", WORDS)
    assert step(scenario, 0) == Step("Unregistered", delay_ms=50, since=123, retry_after=7, retry_at=9, empty=True)
    assert step(scenario, 1) == Step("Unregistered", since=123, retry_after=7, retry_at=9, empty=True)


def test_a_status_may_be_any() -> None:
    assert step(parse("sim:status-418.1:x", WORDS), 0) == Step("status", status=418)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sim:", "a scenario is"),
        ("sim:Unregistered", "a scenario is"),
        ("sim:Unregistered:", "a scenario is"),
        ("sim::x", "a scenario is"),
        ("sim:Unregistered:with space", "a scenario is"),
        ("Sim:Unregistered:x", "a scenario is"),
        ("sim:Unregisterd:x", "unknown action 'Unregisterd': did you mean `Unregistered`?"),
        ("sim:unregistered.2:x", "unknown action 'unregistered.2': did you mean `Unregistered`?"),
        ("sim:zzz:x", "unknown action 'zzz'$"),
        ("sim:Unregistered,:x", "unknown action ''"),
        ("sim:Unregistered.0:x", "unknown action 'Unregistered.0'"),
        ("sim:slow:x", "'slow' needs a number: slow-<ms>: answer that many milliseconds late"),
        ("sim:slow.500:x", "'slow.500' needs a number: slow-<ms>"),
        ("sim:stall-5:x", "stall takes no number"),
        ("sim:status-99:x", "from 200 to 599"),
        ("sim:status-600:x", "from 200 to 599"),
    ],
)
def test_what_is_no_scenario_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message.replace(".", r"\.").replace("?", r"\?")):
        parse(text, WORDS)


def test_a_fault_of_all_providers_is_said_once() -> None:
    assert fault_of("badpriority", ["BadPriority", "UNREGISTERED"]).endswith("did you mean `BadPriority`?")
    assert fault_of("BadPriority,UNREGISTERED", ["BadPriority", "UNREGISTERED"]).startswith("no provider has all of")


def test_each_platform_knows_its_own_words_only() -> None:
    assert bytes.fromhex(apns_token("Unregistered", "7")) == b"sim:Unregistered:7"
    assert fcm_token("UNREGISTERED", "7") == "sim:UNREGISTERED:7"
    with pytest.raises(ScenarioError):
        apns_token("UNREGISTERED", "7")
    with pytest.raises(ScenarioError):
        fcm_token("Unregistered", "7")


_NAMES = st.sampled_from((*WORDS, "ok", "stall", "reset", "refuse", "goaway", "goaway-graceful", "drop", "empty"))
_TIMES = st.none() | st.integers(1, 10**8)
_NUMBERED = ("slow", "since", "sender", "retry-after", "retry-at")
_ACTIONS = st.one_of(
    st.builds(Action, _NAMES, st.none(), _TIMES),
    st.builds(Action, st.sampled_from(_NUMBERED), st.integers(0, 10**14), _TIMES),
    st.builds(Action, st.just("status"), st.integers(200, 599), _TIMES),
)
_UNIQUE = st.text("abcXYZ019_.,:-", min_size=1, max_size=20)
_SCENARIOS = st.builds(Scenario, st.lists(_ACTIONS, min_size=1, max_size=5).map(tuple), _UNIQUE)


@given(_SCENARIOS)
def test_a_scenario_survives_its_text(scenario: Scenario) -> None:
    assert parse(str(scenario), WORDS) == scenario


@given(st.text(max_size=60))
def test_any_text_is_a_scenario_or_a_scenario_error(text: str) -> None:
    for candidate in (text, f"sim:{text}", f"sim:{text}:x", f"sim:Unregistered:{text}"):
        try:
            scenario = parse(candidate, WORDS)
        except ScenarioError:
            continue
        assert parse(str(scenario), WORDS) == scenario


@given(_SCENARIOS, st.integers(0, 20))
def test_the_stage_counts_requests_as_the_pure_function_does(scenario: Scenario, requests: int) -> None:
    stage = Stage(WORDS)
    played = [stage.next_step(str(scenario)) for _ in range(requests)]
    assert played == [step(scenario, nth) for nth in range(requests)]


def test_tokens_are_counted_each_for_itself_until_the_stage_is_reset() -> None:
    stage = Stage(WORDS)
    first, second = "sim:Unregistered.1:1", "sim:Unregistered.1:2"
    assert [stage.next_step(token).name for token in (first, second, first)] == ["Unregistered", "Unregistered", "ok"]
    stage.reset()
    assert stage.next_step(first).name == "Unregistered"
