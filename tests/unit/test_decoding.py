"""The decoder: what it takes is what msgspec takes, every fault is named at once, and nothing secret is repeated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec import Meta, Raw, Struct

from pushsvc.api.channels.document import ChannelDocument
from pushsvc.api.devices.tombstones import RestoreDocument
from pushsvc.api.letters.document import ReplayDocument
from pushsvc.decoding import WRONG, Checks, Enough, Faults, Rule, decode, expected
from pushsvc.wording import TOML


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    """A struct within another."""

    count: Annotated[int, Meta(ge=0, le=10)]
    share: Annotated[float, Meta(gt=0)] | None = None
    words: tuple[Annotated[str, Meta(min_length=1, max_length=3)], ...] = ()


class Every(Struct, forbid_unknown_fields=True):
    """One field of each form."""

    inner: Inner
    many: Annotated[list[Inner], Meta(min_length=1, max_length=2)] | None = None
    texts: Annotated[dict[str, str], Meta(max_length=2)] | None = None
    choice: Literal["a", "b"] = "a"
    mixed: str | bool | int | float | list[int] | None = None
    whole: Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)] | None = None
    flag: bool = False
    anything: Any = None


keys = st.sampled_from(
    ["inner", "many", "texts", "choice", "mixed", "whole", "flag", "anything", "count", "share", "x"]
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 12),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["a", "b", "", "abcd"]),
)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(*[good] * 8, anything)


inners = st.fixed_dictionaries(
    {"count": mostly(st.integers(0, 10))},
    optional={
        "share": mostly(st.floats(0.1, 9)),
        "words": mostly(st.lists(st.sampled_from(["a", "abc"]))),
        "x": st.none(),
    },
)
every = st.fixed_dictionaries(
    {"inner": mostly(inners)},
    optional={
        "many": mostly(st.lists(inners, max_size=3)),
        "texts": mostly(st.dictionaries(st.text(max_size=3), mostly(st.text(max_size=3)), max_size=3)),
        "choice": mostly(st.sampled_from(["a", "b", "c"])),
        "mixed": anything,
        "whole": mostly(st.sampled_from([0, 1.5, 2, -1])),
        "flag": mostly(st.booleans()),
        "anything": anything,
    },
)


def decoded(raw: object, kind: Any, checks: Checks | None = None) -> tuple[Any, list[tuple[str, str]]]:
    faults = Faults()
    value = decode(raw, kind, "", faults, checks or {})
    return value, [(fault.path, fault.message) for fault in faults]


@given(raw=every | anything)
def test_it_takes_what_msgspec_takes_and_makes_the_same_of_it(raw: object) -> None:
    value, faults = decoded(raw, Every)
    try:
        right = msgspec.json.decode(msgspec.json.encode(raw), type=Every)
    except msgspec.ValidationError:
        assert faults
        return
    assert (value, faults) == (right, [])
    assert repr(value) == repr(right)


texts = st.text(max_size=3) | st.sampled_from(["none", "latest", "x" * 129, "2026-12-01T09:00:00Z", "a\n"])
small = st.dictionaries(
    st.sampled_from(["push", "platform", "reason", "since", "until", "limit", "rate", "dry_run", "storage", "x"]),
    st.one_of(texts, anything, st.sampled_from([1, 3.0, 0.05, 2**31])),
    max_size=4,
)


@pytest.mark.parametrize("kind", [ReplayDocument, RestoreDocument, ChannelDocument])
@given(raw=small)
def test_a_document_has_only_faults_that_its_types_or_rules_name(kind: type[Struct], raw: dict[str, Any]) -> None:
    value, faults = decoded(raw, kind)
    try:
        right = msgspec.convert(raw, kind)
    except msgspec.ValidationError:
        assert faults
        return
    assert faults or value == right
    # What the schema does not express: characters, and what an instant is.
    assert all(
        message.startswith(("must be printable", "must be an instant", "is no instant", "must be a whole number"))
        for _, message in faults
    )


def test_every_fault_is_named_with_its_place() -> None:
    raw = {
        "inner": {"count": 11, "share": 0, "words": ["abcd", "", 1], "cuont": 1},
        "many": [{}, 5],
        "texts": {"a b": 1, "e": None},
        "choice": "c",
        "mixed": {"a": 1},
        "flag": "yes",
    }
    assert decoded(raw, Every)[1] == [
        ("inner.count", "expected a whole number from 0 to 10, found the number 11"),
        ("inner.share", "expected a number greater than 0, found the number 0"),
        ("inner.words[0]", "is 4 characters long, at most 3 are taken"),
        ("inner.words[1]", "must not be empty"),
        ("inner.words[2]", "expected a string, found the number 1"),
        ("inner.cuont", "unknown field; did you mean `count`?"),
        ("many[0].count", "is missing: expected a whole number from 0 to 10"),
        ("many[1]", "expected an object, found the number 5"),
        ('texts["a b"]', "expected a string, found the number 1"),
        ("texts.e", "expected a string, found null"),
        ("choice", 'expected one of "a", "b", found "c"'),
        ("mixed", "expected a string or true or false or a number or a list, found an object"),
        ("flag", 'expected true or false, found "yes"'),
    ]
    too_many = {"inner": {"count": 1}, "many": [1, 2, 3], "texts": {"a": 1, "b": 2, "c": 3}}
    assert decoded(too_many, Every)[1] == [
        ("many", "has 3 entries, at most 2 are taken"),
        ("texts", "has 3 entries, at most 2 are taken"),
    ], "and no entry is looked at"
    assert decoded([], Every)[1] == [("$", "expected an object, found a list")]
    assert decoded({"inner": None}, Every)[1] == [("inner", "is missing: expected an object")]


class Ruled(Struct):
    """Fields with rules."""

    name: Annotated[str | None, Rule("a name", fault=lambda text: None if text.isalpha() else "must be letters")] = None
    number: Annotated[complex | None, Rule("a complex number", parse=complex)] = None
    hidden: Annotated[dict[str, str], Rule(secret=True)] = {}
    token: str = ""
    raw: dict[str, Raw] = {}


def test_rules_express_what_types_cannot() -> None:
    value, faults = decoded({"name": "abc", "number": "1+2j", "raw": {"a": [1]}}, Ruled)
    assert (value.name, value.number, value.raw, faults) == ("abc", 1 + 2j, {"a": [1]}, [])
    assert decoded({"name": "a1", "number": "x"}, Ruled)[1] == [
        ("name", "must be letters"),
        ("number", 'expected a complex number, found "x"'),
    ]
    assert decoded({"name": 5, "number": True}, Ruled)[1] == [
        ("name", "expected a name, found the number 5"),
        ("number", "expected a complex number, found true"),
    ]


# Texts that no message holds by itself, as `null` would be; among them short words, which are shown if not secret.
SECRET_TEXTS = st.text(max_size=76).map("Zq7x{}".format) | st.from_regex(r"Zq7x[A-Za-z0-9_.-]{0,12}", fullmatch=True)


@given(secret=SECRET_TEXTS | st.integers(10_000))
def test_no_fault_repeats_what_is_secret(secret: object) -> None:
    for words in (Faults(), Faults(TOML)):
        decode({"hidden": {"a": [secret]}, "token": [secret]}, Ruled, "", words)
        decode({"hidden": secret, "token": {"a": secret}}, Ruled, "", words)
        decode({"hidden": {"a": secret}, "token": None}, Ruled, "", words)
        if isinstance(secret, int):
            decode({"token": secret}, Ruled, "", words)
        assert str(secret) not in " ".join(fault.message for fault in words).replace("found a number", "")


def test_checks_see_a_struct_with_what_is_wrong_marked() -> None:
    seen: list[Any] = []

    def check(value: Every) -> Iterator[tuple[str, str]]:
        seen.append((value.inner, value.choice, value.flag))
        yield "many[3]", "too many"
        yield "", "all of it"

    _, faults = decoded({"inner": {}, "choice": "b", "flag": 1}, Every, {Every: check})
    assert seen == [(WRONG, "b", WRONG)]
    assert faults[-2:] == [("many[3]", "too many"), ("$", "all of it")]


def test_the_list_of_faults_may_be_bounded() -> None:
    faults = Faults(limit=3)
    with pytest.raises(Enough):
        decode([1, 2, 3, 4], list[str], "", faults)
    assert [fault.path for fault in faults] == ["[0]", "[1]", "[2]"]


def test_types_in_words() -> None:
    assert expected(Annotated[float, Meta(ge=1)]) == "a number of at least 1"
    assert expected(Annotated[float, Meta(gt=0, le=3000)]) == "a number greater than 0 and of at most 3,000"
    assert expected(Inner, TOML) == "a section"
