"""Expressions over devices: a golden table of meanings and refusals, an oracle by other hands, and hostile texts."""

from __future__ import annotations

import tomllib
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st

from pushsvc.model.devices import Device
from pushsvc.rules.where import MAX_COMPARISONS, MAX_DEPTH, MAX_LENGTH, Predicate, WhereError, compile_where

from .where_oracle import DEVICES, EXPRESSIONS, NOW, fits, written

GOLDEN = tomllib.loads((Path(__file__).parent / "golden" / "where.toml").read_text(encoding="utf-8"))
PLATFORMS = ("apns", "fcm")


def milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def device(name: str, fields: dict[str, Any]) -> Device:
    plain = {key: value for key, value in fields.items() if key not in ("registered", "last_seen")}
    instants = {f"{key}_at": milliseconds(fields[key]) for key in ("registered", "last_seen") if key in fields}
    return msgspec.convert({"id": name, "token": "t", **plain, **instants}, Device)


ALL = [device(name, fields) for name, fields in GOLDEN["device"].items()]


@pytest.mark.parametrize("row", GOLDEN["row"], ids=lambda row: str(row["text"]))
def test_an_expression_means_what_the_table_says(row: dict[str, Any]) -> None:
    predicate = compile_where(row["text"], now=milliseconds(GOLDEN["now"]), platforms=PLATFORMS)
    assert [each.id for each in ALL if predicate(each)] == row["fits"]


@pytest.mark.parametrize("row", GOLDEN["fault"], ids=lambda row: str(row["text"]))
def test_what_means_nothing_is_refused_with_its_columns_and_the_remedy(row: dict[str, Any]) -> None:
    with pytest.raises(WhereError) as caught:
        compile_where(row["text"], now=0, platforms=PLATFORMS)
    assert [str(fault) for fault in caught.value.faults] == row["said"]
    assert str(caught.value) == "; ".join(row["said"])


# --- the oracle -----------------------------------------------------------------------------------


@settings(max_examples=200)
@given(EXPRESSIONS, st.lists(DEVICES, min_size=1, max_size=20))
def test_random_expressions_agree_with_an_independent_evaluator(expression: Any, devices: list[Device]) -> None:
    predicate = compile_where(written(expression), now=NOW)
    for each in devices:
        assert predicate(each) is fits(expression, each)


# --- bounds ---------------------------------------------------------------------------------------


def refused(text: str) -> list[str]:
    with pytest.raises(WhereError) as caught:
        compile_where(text, now=0)
    return [str(fault) for fault in caught.value.faults]


def test_what_is_just_within_the_bounds_is_taken() -> None:
    anna = ALL[0]
    assert compile_where("(" * MAX_DEPTH + "tags.beta" + ")" * MAX_DEPTH, now=0)(anna)
    assert compile_where("not " * MAX_DEPTH + "tags.beta", now=0)(anna)
    assert not compile_where(" and ".join(["tags.x"] * MAX_COMPARISONS), now=0)(anna)
    text = "user == ''"
    assert not compile_where(text[:-1] + "x" * (MAX_LENGTH - len(text)) + "'", now=0)(anna)


def test_deep_long_and_many_are_refused_where_the_bound_is_passed() -> None:
    deep = MAX_DEPTH + 1
    assert refused("(" * deep + "tags.beta" + ")" * deep) == [f"column {deep}: is nested more than 32 levels deep"]
    assert refused("not " * deep + "tags.beta") == [f"column {4 * deep - 3}: is nested more than 32 levels deep"]
    assert refused("(" * MAX_LENGTH) == [f"column {deep}: is nested more than 32 levels deep"]
    assert refused("x" * 1_000_000) == ["column 4097: is 1,000,000 characters long, at most 4,096"]
    many = " or ".join(["tags.x"] * (MAX_COMPARISONS + 1))
    assert refused(many) == [f"column {len(many) - 5}: holds more than 256 comparisons"]


def test_brackets_beside_one_another_are_not_deep() -> None:
    assert compile_where(" and ".join(["(not tags.x)"] * 100), now=0)(ALL[0])


@given(st.text(max_size=200) | st.text("()[]'\".,<>=!andornoti s123tags", max_size=200))
@example("'" * MAX_LENGTH)
@example("\\'" * (MAX_LENGTH // 2))
@example("'" + "\\" * (MAX_LENGTH - 1))
@example("1" * MAX_LENGTH)
@example("tags.x == 1." + "1" * 4000 + "x")
@example("a" * MAX_LENGTH)
@example(" " * MAX_LENGTH)
@example("tags.x in (" + "1," * 2000)
@example("x == 1 or " * 409)
@example("user == '\ud800'")
def test_any_text_is_an_expression_or_a_fault_with_a_column_inside_of_it(text: str) -> None:
    found = attempt(text)
    if isinstance(found, WhereError):
        assert found.faults
        assert all(1 <= fault.column <= len(text) + 1 for fault in found.faults)
    else:
        assert found(ALL[0]) in (True, False)


@given(st.text(max_size=30), st.sampled_from(["==", "<", "in"]))
def test_what_stands_between_quotes_is_never_repeated(secret: str, sign: str) -> None:
    marked = "zq" + "".join(each for each in secret if each not in "'\\") + "qz"
    for text in (f"last_seen < '{marked}'", f"'{marked}'", f"platform {sign} '{marked}'", f"'{marked}' {sign} 'b'"):
        assert marked not in str(attempt(text))


def attempt(text: str) -> Predicate | WhereError:
    try:
        return compile_where(text, now=0)
    except WhereError as error:
        return error
