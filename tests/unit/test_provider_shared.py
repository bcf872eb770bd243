"""What the providers share: the registry, merging, Retry-After, endpoints."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec import Raw

from pushsvc.model.routing import platform_of
from pushsvc.net.retry_after import LONGEST, retry_after
from pushsvc.providers import REGISTRY, kinds_of
from pushsvc.providers.apns.remedies import remedy as apns_remedy
from pushsvc.providers.endpoint import endpoint_fault, host_fields
from pushsvc.providers.fcm.remedies import remedy as fcm_remedy
from pushsvc.providers.merge import NotAnObjectError, decode_object, encode, merge_patch
from pushsvc.runtime.providers import explain
from pushsvc.runtime.state.conditions import parts_of
from pushsvc.stages.dispatch.evidence import text_of

from ..fakes import threepart

NOW = datetime(2026, 10, 21, 7, 27, 0, tzinfo=UTC).timestamp()


KINDS = {**REGISTRY, **kinds_of(threepart)}


def test_the_registry_knows_each_provider_by_its_platform() -> None:
    assert set(REGISTRY) == {"apns", "apns_sandbox", "fcm"}


@pytest.mark.parametrize("route", KINDS)
def test_what_every_provider_brings(route: str) -> None:
    kind = KINDS[route]
    assert kind.platform == kind.renderer.platform == platform_of(route)
    assert issubclass(kind.config, msgspec.Struct)
    assert any(each.device for each in kind.addresses.values()), "a device is registered by one"
    spans = (kind.defaults.server_error, kind.defaults.throttled, kind.defaults.stale)
    assert all(span is None or span > 0 for span in spans)
    assert kind.defaults.server_error is not None or not kind.defaults.unanswered


REFUSALS = {
    "apns": ["BadTopic", "MissingTopic", "TopicDisallowed", "PayloadTooLarge", "PayloadEmpty", "BadCollapseId"],
    "fcm": ["INVALID_ARGUMENT", "SENDER_ID_MISMATCH", "UNSPECIFIED_ERROR", "QUOTA_EXCEEDED"],
}
"""Reasons of dead letters that operators meet."""


def test_what_a_delivery_fails_for_is_explained() -> None:
    unnamed = explain("apns", "unknown_418", 418)
    for platform, refused in REFUSALS.items():
        for reason in refused:
            explained = explain(platform, reason, 400)
            assert explained != unnamed, reason
            assert explained.meaning.endswith("."), reason
            assert explained.remedy.endswith("."), reason
    assert explain("apns_sandbox", "BadTopic", 400) == explain("apns", "BadTopic", 400)
    assert explain("fcm", "BadTopic", 400) == unnamed, "a reason belongs to its provider"
    assert explain("live", "x", 0).remedy, "a platform without a provider is explained too"
    assert explain("apns", "unreachable", 0) != explain("apns", "unknown_502", 502) != unnamed
    busy = {explain("apns", f"unknown_{status}", status) for status in (204, 302, 408, 429, 502)}
    assert len(busy) == 1, "nobody has refused the push"


@pytest.mark.parametrize(
    ("reason", "status", "retryable"),
    [
        ("timeout", 0, True),
        ("unreachable", 0, True),
        ("reset", 0, True),
        ("response_too_large", 0, False),
        ("unknown_502", 502, True),
        ("unknown_429", 429, True),
        ("unknown_418", 418, False),
        ("InternalServerError", 500, True),
        ("TooManyRequests", 429, True),
        ("BadTopic", 400, False),
        ("PayloadTooLarge", 413, False),
        ("given_up_here", 0, False),
    ],
)
def test_what_a_replay_may_cure(reason: str, status: int, retryable: bool) -> None:
    assert explain("apns", reason, status).retryable == retryable


@pytest.mark.parametrize(
    ("platform", "reason", "advice"),
    [
        ("apns", "TooManyProviderTokenUpdates", "let them share one token"),
        ("apns", "TooManyRequests", "ask it for more quota"),  # if it were of the route
        ("fcm", "QUOTA_EXCEEDED", "ask it for more quota"),
        ("fcm", "unknown_429", "ask it for more quota"),
    ],
)
def test_a_throttle_is_shown_with_the_remedy_of_its_reason(platform: str, reason: str, advice: str) -> None:
    remedy = {"apns": apns_remedy, "fcm": fcm_remedy}[platform]
    why = f"throttled: {text_of('throttled', f'429 {reason}', remedy(reason, 3600.0))}"
    short, cause, shown = parts_of(why)
    assert (short, cause) == ("throttled", f"throttled: the provider asks for fewer requests (429 {reason})")
    assert advice in shown
    assert ("quota" in shown) == ("quota" in advice)


ADDRESSES = {
    ("apns", "token"): ("8F3c" * 16, "8f3c" * 16, "8f3c" * 16),
    ("apns", "activity"): ("AB12", "ab12", "ab12"),
    ("apns", "push_to_start"): ("AB12", "ab12", "ab12"),
    ("apns", "channel"): ("dHN0LXNyY2gtY2hubA==", "dHN0LXNyY2gtY2hubA==", "dHN0LXNyY2gtY2hubA=="),
    ("fcm", "token"): ("F:APA91bXyz", "F:APA91bXyz", "F"),
    ("fcm", "fid"): ("F", "F", "F"),
    ("fcm", "topic"): ("News", "News", "News"),
    ("fcm", "condition"): ("'a' in topics", "'a' in topics", "'a' in topics"),
    ("threepart", "subscription"): (
        '{"endpoint":"https://push.example/1","keys":{"p256dh":"QQ==","auth":"Qg=="}}',
        '{"endpoint":"https://push.example/1","keys":{"p256dh":"QQ","auth":"Qg"}}',
        "https://push.example/1",
    ),
}
"""Of each kind of address a text, its canonical form, and what it is compared by."""


def test_every_kind_of_address_is_tried() -> None:
    known = {(kind.platform, name) for kind in KINDS.values() for name in kind.addresses}
    assert known == set(ADDRESSES)


@pytest.mark.parametrize(("platform", "name"), ADDRESSES, ids="-".join)
def test_an_address_has_one_form(platform: str, name: str) -> None:
    text, canonical, same = ADDRESSES[platform, name]
    kind = KINDS[platform].addresses[name]
    assert kind.fits(text)
    assert kind.canonical(text) == canonical == kind.canonical(canonical)
    assert kind.fits(canonical)
    assert kind.same(canonical) == same


# --- merging: https://www.rfc-editor.org/rfc/rfc7396#appendix-A ---------------------------------


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
    ids=str,
)
def test_the_examples_of_rfc_7396(target: Any, patch: Any, result: Any) -> None:
    before = json.dumps([target, patch])

    assert merge_patch(target, patch) == result
    assert json.dumps([target, patch]) == before


_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=4)),
    max_leaves=15,
)


@given(target=_json, patch=_json)
def test_a_patch_applied_twice_changes_nothing_more(target: Any, patch: Any) -> None:
    once = merge_patch(target, patch)

    assert merge_patch(once, patch) == once


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_numbers_keep_their_digits(number: Decimal) -> None:
    text = f'{{"n":{number}}}'.encode() if "E" in str(number) or "." in str(number) else f'{{"n":{number}.0}}'.encode()

    value = decode_object(text)["n"]

    assert decode_object(encode({"n": value}))["n"] == value
    assert value == number


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"7", b"null", b'{"a":NaN}', b'{"a":"\xff"}', b'{"a":"\\ud800"}'])
def test_what_is_not_an_object_is_said_to_be_none(raw: bytes) -> None:
    with pytest.raises(NotAnObjectError, match=r"must be a JSON object|is not valid JSON"):
        decode_object(Raw(raw))


# --- Retry-After --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 120 "}, 120.0),
        ({"retry-after": "1.5"}, 2.0),
        ({"retry-after": "1.0"}, 1.0),
        ({"retry-after": ".2"}, 1.0),
        ({"retry-after": "7."}, 7.0),
        ({"retry-after": "1.2.3"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "9" * 5000}, LONGEST),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, 90.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:30 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:30 GMT"}, LONGEST),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "nonsense"}, 90.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 -0000", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30.0),
    ],
    ids=lambda value: str(value)[:60],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@given(st.text(), st.text())
def test_retry_after_reads_whatever_it_is_given(value: str, date: str) -> None:
    seconds = retry_after({"retry-after": value, "date": date}, NOW)

    assert seconds is None or 0 <= seconds <= LONGEST


# --- endpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["https://api.push.apple.com", "https://127.0.0.1:2197/", "https://[::1]:8443"])
def test_an_endpoint_is_an_origin(url: str) -> None:
    assert endpoint_fault(url) == ""
    assert host_fields(url).endswith(url.removeprefix("https://").rstrip("/").encode())


@pytest.mark.parametrize(
    "url",
    ["", "api.push.apple.com", "http://host", "https://", "https://host:0", "https://host:99999", "https://host/x",
     "https://host?x=1", "https://host#x", "https://u:p@host", "https://[::1", "wss://host"],
)  # fmt: skip
def test_what_is_no_origin_is_refused(url: str) -> None:
    assert endpoint_fault(url)
