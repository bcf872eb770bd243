"""The device document: what the walk takes is what the OpenAPI document describes, and becomes that device."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from pushsvc.api.devices.document import device_checks, device_of, device_types, read_device, shown
from pushsvc.api.rules import Rules
from pushsvc.bodies import examined, judged
from pushsvc.errors import Fault, InvalidRequest
from pushsvc.model.devices import Device, name_fault
from pushsvc.providers import REGISTRY
from pushsvc.runtime.providers import addresses

ADDRESSES = addresses()
RULES = Rules("shop", frozenset(REGISTRY), ADDRESSES)
DOCUMENT = device_types(ADDRESSES).document
NOW = 1_796_115_600_000

texts = st.text(max_size=70) | st.sampled_from(["", "de-AT", "x" * 64, "x" * 65, "x" * 256, "x" * 257, "\ud7ff", "a b"])
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
tags: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.text(max_size=4) | st.just("t" * 65),
    st.none() | st.booleans() | numbers | texts | st.lists(texts | numbers, max_size=3) | st.just({}),
    max_size=4,
)
anything = st.none() | st.booleans() | numbers | texts | st.lists(texts, max_size=2) | tags
documents = st.fixed_dictionaries(
    {"platform": st.sampled_from(["apns", "fcm", "fcm", "web"]) | anything},
    optional={
        "token": st.sampled_from(["8f3c" * 16, "dQw4w9WgXcQ"]) | anything,
        "fid": st.just("eG1hbXBsZQ") | anything,
        "user": st.just("u1") | texts | anything,
        "tags": tags | anything,
        **dict.fromkeys(("locale", "timezone", "app_version"), texts | anything),
        "environment": st.sampled_from(["production", "sandbox", "staging"]) | anything,
        "topics": anything,
    },
)


def read(value: dict[str, Any]) -> tuple[Any, list[Fault]]:
    fast, slow = (way(value, DOCUMENT, device_checks(RULES)) for way in (judged, examined))
    assert fast == slow or (fast[1] and fast[1] == slow[1])
    return fast[0], fast[1]


@given(documents)
def test_what_is_taken_is_what_is_described(value: dict[str, Any]) -> None:
    document, found = read(value)
    if not found:
        typed = msgspec.convert(value, DOCUMENT)
        assert document == typed
        assert {name: item for name, item in msgspec.to_builtins(typed).items() if item is not None} == {
            name: item for name, item in value.items() if item is not None
        }


@given(documents)
def test_a_document_of_the_right_shape_has_faults_only_where_the_schema_cannot_say(value: dict[str, Any]) -> None:
    try:
        msgspec.convert(value, DOCUMENT)
    except msgspec.ValidationError:
        return
    paths = {re.split(r"[.\[]", fault.path)[0] for fault in read(value)[1]}
    # Which platforms there are, what a token looks like, which characters are printable, how large a number may be.
    assert paths <= {"$", "platform", "token", "fid", "user", "tags", "locale", "timezone", "app_version"}
    printable = all(
        value.get(name) is None or value[name].isprintable() for name in ("locale", "timezone", "app_version")
    )
    assert printable == (not paths & {"locale", "timezone", "app_version"})


@given(documents)
def test_a_device_shows_the_document_that_made_it(value: dict[str, Any]) -> None:
    if read(value)[1]:
        with pytest.raises(InvalidRequest):
            read_device(msgspec.json.encode(value), "d", RULES, NOW)
        return
    device = read_device(msgspec.json.encode(value), "d", RULES, NOW)
    assert device == device_of(msgspec.convert(value, DOCUMENT), "d", ADDRESSES, NOW)
    assert device.registered_at == device.last_seen_at == NOW
    again = msgspec.to_builtins(shown(device, ADDRESSES))
    again["tags"] = {name: list(tag) if isinstance(tag, tuple) else tag for name, tag in again["tags"].items()}
    own = {name: again.get(name) for name in value}
    expected = {name: item for name, item in value.items() if item is not None}
    if "tags" in expected:
        expected["tags"] = {name: tag for name, tag in expected["tags"].items() if tag is not None}
    assert {name: item for name, item in own.items() if name in expected} == expected


def test_nothing_of_a_token_shows_in_a_device() -> None:
    device = Device(id="d", platform="fcm", token="secret-token", user="u")
    assert "secret" not in repr(device)
    assert "secret" not in f"{device!s}"


@pytest.mark.parametrize("name", ["a", "x" * 128, "ü", "日本", "a/b", "a.b@c", "...", "%2F", "{a}", "😀"])
def test_names(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize("name", ["", "x" * 129, "a b", ".", "..", "a\n", "\0", "\u00a0", "\u2028", "\ud800", "\u200b"])
def test_no_names(name: str) -> None:
    assert name_fault(name)
