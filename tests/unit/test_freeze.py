"""Whether a route's answers can be believed: shares over every span that holds the answer, and the way back."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pushsvc.rules.freeze import AFTER_MS, SLOT_MS, Answers, FreezePolicy, health, slots_around

POLICY = FreezePolicy()
SLOT = 1000
AT = SLOT * SLOT_MS + 5_000


def good(count: int) -> Answers:
    return Answers(sent=count)


def dead(count: int, among: int = 0) -> Answers:
    return Answers(sent=among, dead=count)


def suspect(count: int, among: int = 0) -> Answers:
    return Answers(sent=among, suspect=count)


@pytest.mark.parametrize(
    ("slots", "cause"),
    [
        ({SLOT: good(10)}, None),
        # A few dead tokens are what every audience has.
        ({SLOT: dead(199)}, None),
        ({SLOT: dead(100, among=100)}, None),
        ({SLOT: dead(200)}, "dead"),
        ({SLOT: dead(101, among=100)}, "dead"),
        ({SLOT: suspect(99)}, None),
        ({SLOT: suspect(20, among=80)}, None),
        ({SLOT: suspect(21, among=79)}, "suspect"),
        # A trickle over the whole window.
        ({SLOT - slot: suspect(2) for slot in range(60)}, "suspect"),
        ({SLOT - slot: suspect(2) for slot in range(49)}, None),
        # A burst behind many good answers shows in a short span.
        ({SLOT - 1: good(1_000_000), SLOT: dead(200)}, "dead"),
        ({SLOT - 1: good(1_000_000), SLOT: dead(200), SLOT + 1: dead(100)}, "dead"),
        # A burst whose first answer falls into the end of a good slot shows with what comes after it.
        ({SLOT: dead(1, among=100), SLOT + 1: dead(400)}, "dead"),
        # It is over: what is good again weighs against it.
        ({SLOT - 3: dead(1000), SLOT - 2: good(500), SLOT: good(499)}, "dead"),
        ({SLOT - 3: dead(1000), SLOT - 2: good(500), SLOT: good(500)}, None),
        # Out of the window, it is forgotten.
        ({SLOT - 59: dead(1000), SLOT: dead(1)}, "dead"),
        ({SLOT - 60: dead(1000), SLOT: dead(1)}, None),
        # More than a minute later is another story.
        ({SLOT: dead(1), SLOT + 6: dead(1000)}, "dead"),
        ({SLOT: dead(1), SLOT + 7: dead(1000)}, None),
    ],
)
def test_each_share(slots: dict[int, Answers], cause: str | None) -> None:
    freeze = health(slots, AT, POLICY).freeze
    assert (freeze.cause if freeze else None) == cause


def test_the_reason_is_that_of_the_span_with_the_most_answers() -> None:
    freeze = health({SLOT - 5: dead(300), SLOT: dead(5000, among=10)}, AT, POLICY).freeze
    assert freeze is not None
    assert freeze.why == "5,300 of 5,310 answers within 60 s were `dead`"


def test_a_few_answers_prove_nothing_and_none_at_all_are_lost() -> None:
    assert not health({}, AT, POLICY).counted
    alone = health({SLOT: dead(1)}, AT, POLICY)
    assert (alone.counted, alone.proven, alone.freeze) == (True, False, None)
    assert health({SLOT: dead(1, among=199)}, AT, POLICY).proven
    assert health({SLOT - 1: good(199), SLOT: dead(1)}, AT, POLICY).proven
    # What was good half a minute ago says nothing of a burst that begins.
    assert not health({SLOT - 3: good(100_000), SLOT: dead(1)}, AT, POLICY).proven


@pytest.mark.parametrize(
    ("slots", "vouched"),
    [
        ({SLOT: suspect(1)}, False),
        ({SLOT: suspect(1, among=3)}, False),
        ({SLOT: suspect(1, among=4)}, True),
        ({SLOT: suspect(1), SLOT - 59: good(4)}, True),
        ({SLOT: suspect(1), SLOT - 60: good(4)}, False),
        ({SLOT: Answers(dead=100, suspect=1)}, False),
    ],
)
def test_suspicion_needs_somebody_who_vouches_for_us(slots: dict[int, Answers], vouched: bool) -> None:
    assert health(slots, AT, POLICY).vouched == vouched


@given(since=st.integers(0, 10**9), length=st.integers(0, 10**7))
def test_what_is_read_is_what_is_looked_at(since: int, length: int) -> None:
    first, last = slots_around(since, since + length, POLICY)
    assert first == slots_around(since, since, POLICY)[0]
    assert last == (since + length + AFTER_MS) // SLOT_MS
    assert (since // SLOT_MS - first + 1) * SLOT_MS == POLICY.window * 1000


counts = st.builds(Answers, sent=st.integers(0, 300), dead=st.integers(0, 300), suspect=st.integers(0, 100))


@given(slots=st.dictionaries(st.integers(SLOT - 70, SLOT + 10), counts, max_size=12))
def test_frozen_is_what_a_search_through_all_spans_finds(slots: dict[int, Answers]) -> None:
    found = []
    for start in range(SLOT - 59, SLOT + 1):
        for end in range(SLOT, SLOT + 7):
            span = Answers()
            for slot in range(start, end + 1):
                span += slots.get(slot, Answers())
            if (span.total >= 200 and span.dead > 0.5 * span.total) or (
                span.total >= 100 and span.suspect > 0.2 * span.total
            ):
                found.append(span.total)
    freeze = health(slots, AT, POLICY).freeze
    assert (freeze.answers if freeze else None) == (max(found) if found else None)
