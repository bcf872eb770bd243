"""`Prefer: wait=N` as RFC 7240 writes it, and as nobody should."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from pushsvc.api.http.prefer import LONGEST, wait_of


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (["wait=10"], 10),
        (["wait=0"], 0),
        (["wait=007"], 7),
        (["wait=30"], 30),
        (["wait=31"], LONGEST),
        (["wait=" + "9" * 5000], LONGEST),
        (["WAIT=5"], 5),
        (['wait="5"'], 5),
        (["wait = 5"], 5),
        (["  wait\t=\t5  "], 5),
        (["respond-async, wait=10"], 10),  # the RFC's own example
        (["respond-async", "wait=10"], 10),
        (['wait=10; x; y=z ; q="a,b" ;, handling=lenient'], 10),
        (['foo; bar="wait=1, wait=2", wait=3'], 3),
        ([", , wait=4,"], 4),
        # Of one that is given twice only the first counts, also where it makes no sense.
        (["wait=1, wait=2"], 1),
        (["wait=1", "wait=2"], 1),
        (["wait=soon, wait=2"], None),
        # What cannot be understood is ignored.
        ([], None),
        ([""], None),
        (["wait"], None),
        (["wait="], None),
        (['wait=""'], None),
        (["wait=-1"], None),
        (["wait=+1"], None),
        (["wait=1.5"], None),
        (["wait=1s"], None),
        (["wait=\u0663"], None),  # a digit, but none of HTTP's
        (["return=minimal"], None),
        (["waiting=5"], None),
        # .. and no reason to ignore the rest.
        (["?=!, wait=2"], 2),
        (["a b c, wait=2"], 2),
        (["wait 5, wait=2"], 2),
        (['x="not closed, wait=2'], None),
        (['x="not closed', "wait=2"], 2),
        (["=, =, wait=2"], 2),
    ],
)
def test_wishes(headers: list[str], seconds: int | None) -> None:
    assert wait_of(headers) == seconds


def quoted(text: str) -> str:
    """As a quoted-string of RFC 9110."""
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


NAMES = st.text("abcXYZ09!#$%&'*+-.^_`|~", min_size=1, max_size=8).filter(lambda name: name.lower() != "wait")
QUOTED = st.text('abc ,;="\\', max_size=8).map(quoted)
VALUES = st.one_of(NAMES, QUOTED)
OTHERS = st.builds(lambda name, value: f"{name}={value}", NAMES, VALUES)
SPACE = st.sampled_from(["", " ", "\t "])


@given(
    before=st.lists(OTHERS, max_size=4),
    seconds=st.integers(0, 10**12),
    params=st.lists(OTHERS, max_size=3),
    after=st.lists(OTHERS, max_size=4),
    space=SPACE,
    split=st.booleans(),
)
def test_it_is_found_among_whatever_else_is_preferred(
    before: list[str], seconds: int, params: list[str], after: list[str], space: str, split: bool
) -> None:
    own = f"{space};{space}".join([f"wait{space}={space}{seconds}", *params])
    each = [*before, own, *after]
    assert wait_of(each if split else [f"{space},{space}".join(each)]) == min(LONGEST, seconds)


@given(st.lists(st.text('wait=0129 \t,;"\\x\x00\xff', max_size=60), max_size=3))
def test_nothing_is_refused_and_nothing_is_longer_than_allowed(headers: list[str]) -> None:
    seconds = wait_of(headers)
    assert seconds is None or 0 <= seconds <= LONGEST


@pytest.mark.parametrize("text", ["wait" + " " * 8000 + "x", '"' * 8001, "a;" * 4000 + "?", 'a="' + "\\" * 7999])
def test_hostile_headers_take_no_time(text: str) -> None:
    # Quadratic it may be, at 8 KB; exponential it must not be, or this test does not end.
    assert wait_of([text]) is None
