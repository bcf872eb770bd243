"""What the simulated FCM verifies, and Google's words for it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from pushsvc.lab.simulator.fcm import ERRORS, Message, Refusal, Verifier, accept, refuse
from pushsvc.lab.simulator.fcm_schema import FAST
from pushsvc.lab.simulator.hpack import new_decode
from pushsvc.rules.fcm_schema import SCHEMA, camel, snake, violations

FIELDS = {b":method": b"POST", b":path": b"/v1/projects/example-shop/messages:send"}


def judge(
    message: Any, *, authorised: bool = True, fields: dict[bytes, bytes] | None = None, **rest: Any
) -> Message | Refusal:
    body = message if isinstance(message, bytes) else msgspec.json.encode({"message": message, **rest})
    return Verifier(frozenset({"example-shop"})).judge(fields or FIELDS, body, authorised=authorised)


def refused_fields(verdict: Message | Refusal) -> list[str]:
    assert isinstance(verdict, Refusal), verdict
    assert verdict.error == "BAD_REQUEST"
    return [violation.field for violation in verdict.violations]


_ANDROID = "message.android.notification"
FULL: dict[str, Any] = {
    "token": "dQw4w9:APA91b",
    "notification": {"title": "a", "body": "b", "image": "https://example.com/i.png"},
    "data": {"order": "7"},
    "android": {
        "collapse_key": "order-7",
        "priority": "high",
        "ttl": "3.5s",
        "restricted_package_name": "com.example",
        "data": {"a": "b"},
        "notification": {
            "title_loc_key": "t",
            "title_loc_args": ["1"],
            "event_time": "2026-11-23T10:00:00.5Z",
            "notification_priority": "PRIORITY_HIGH",
            "vibrate_timings": ["0.1s", "3s"],
            "visibility": "private",
            "notification_count": 3,
            "light_settings": {"color": {"red": 1, "green": 0.5, "blue": 0, "alpha": 1}, "light_on_duration": "1s"},
        },
        "fcm_options": {"analytics_label": "x"},
        "direct_boot_ok": True,
    },
    "webpush": {"headers": {"TTL": "4"}, "notification": {"title": "x", "actions": [1]}, "fcm_options": {"link": "l"}},
    "apns": {"headers": {"apns-priority": "5"}, "payload": {"aps": {"alert": {"title": "x"}}}},
    "fcm_options": {"analytics_label": "x"},
}


def in_camel(value: Any, kind: str = "Message") -> Any:
    if kind not in SCHEMA:
        return value
    return {camel(key): in_camel(item, SCHEMA[kind][key]) for key, item in value.items()}


def test_both_spellings_and_a_mixture_are_accepted() -> None:
    mixed = {**in_camel(FULL), "android": {**FULL["android"], "priority": "High"}}
    quoted = {"token": "t", "android": {"notification": {"notification_count": "3"}}}
    for message in (FULL, in_camel(FULL), mixed, quoted):
        assert isinstance(judge(message), Message), message


def test_targets() -> None:
    assert judge({"token": "t1"}) == Message("example-shop", "t1")
    assert judge({"fid": "f1"}, validate_only=True) == Message("example-shop", "f1", validate_only=True)
    assert judge({"topic": "news"}, validateOnly=True) == Message("example-shop", "", validate_only=True)
    assert judge({"condition": "'a' in topics"}) == Message("example-shop", "")
    assert judge({"token": None, "fid": "f1"}) == Message("example-shop", "f1")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({}, "message"),
        ({"token": "a", "topic": "b"}, "message"),
        ({"topic": "no spaces"}, "message.topic"),
        ({"condition": " "}, "message.condition"),
        ({"token": "a", "nonsense": 1}, "message"),
        ({"token": 7}, "message.token"),
        ({"token": "a", "data": {"k": 1}}, "message.data[0].value"),
        ({"token": "a", "data": {"ok": "1", "from": "x"}}, "message.data[1].key"),
        ({"token": "a", "data": {"google.x": "x"}}, "message.data[0].key"),
        ({"token": "a", "data": {"gcm.notification.x": "x"}}, "message.data[0].key"),
        ({"token": "a", "android": {"data": {"message_type": "x"}}}, "message.android.data[0].key"),
        ({"token": "a", "android": {"titel": "x"}}, "message.android"),
        ({"token": "a", "android": {"ttl": "1h"}}, "message.android.ttl"),
        ({"token": "a", "android": {"ttl": "2419201s"}}, "message.android.ttl"),
        ({"token": "a", "android": {"priority": "urgent"}}, "message.android.priority"),
        ({"token": "a", "android": {"notification": {"color": 1}}}, "message.android.notification.color"),
        ({"token": "a", "android": {"notification": {"body_loc_args": [1]}}}, f"{_ANDROID}.body_loc_args[0]"),
        ({"token": "a", "android": {}, "android_v2": {}}, "message"),
        ({"token": "a", "apns": {"aps": {}}}, "message.apns"),
        ({"token": "a", "apns": {"headers": {"apns-priority": 5}}}, "message.apns.headers[0].value"),
        ({"token": "a", "webpush": {"headers": []}}, "message.webpush.headers"),
        ({"token": "a", "data": {"k": "x" * 4096}}, "message"),
        ({"topic": "news", "data": {"k": "x" * 2048}}, "message"),
    ],
)  # fmt: skip
def test_bad_fields_are_named(message: dict[str, Any], field: str) -> None:
    assert refused_fields(judge(message)) == [field]


def test_all_bad_fields_are_named_at_once() -> None:
    message = {"token": 1, "android": {"ttl": 5, "x": 1}, "data": []}
    assert refused_fields(judge(message)) == ["message.token", "message.android.ttl", "message.android", "message.data"]


@pytest.mark.parametrize(
    "message",
    [
        {"token": "a", "data": {"k": "x" * 4095}},
        {"topic": "news", "data": {"k": "x" * 2047}},
        {"token": "a", "apns": {"payload": {"aps": {"alert": "x" * 4000}}}},
        {"token": "a", "data": {"k": "ü" * 2047}},
    ],
)
def test_what_just_fits(message: dict[str, Any]) -> None:
    assert isinstance(judge(message), Message)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"message": 7}', b'{"message": {}}, ', b"\xff"])
def test_bodies_that_are_no_request(body: bytes) -> None:
    assert refused_fields(judge(body))


def test_a_token_that_is_none_carries_no_field_violation() -> None:
    for token in ("", "with space", "\u00fc"):
        assert judge({"token": token}) == Refusal("INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("path", "authorised", "error"),
    [
        (b"/v1/projects/example-shop/messages:send", False, "UNAUTHENTICATED"),
        (b"/v1/projects/other/messages:send", True, "NOT_FOUND"),
        (b"/v1/projects/other/messages:send", False, "UNAUTHENTICATED"),
        (b"/v1/projects/example-shop/messages", True, "NOT_FOUND"),
        (b"/fcm/send", True, "NOT_FOUND"),
    ],
)
def test_paths_and_access(path: bytes, authorised: bool, error: str) -> None:
    fields = {**FIELDS, b":path": path}
    assert judge({"token": "a"}, authorised=authorised, fields=fields) == Refusal(error)
    assert judge({"token": "a"}, fields={**FIELDS, b":method": b"GET"}) == Refusal("NOT_FOUND")


def test_success_is_a_name_of_its_own() -> None:
    message = Message("p", "t")
    names = {json.loads(accept(message, number).body)["name"] for number in range(100)}
    assert len(names) == 100
    assert all(name.startswith("projects/p/messages/0:") for name in names)
    checked = accept(Message("p", "t", validate_only=True), 1)
    assert json.loads(checked.body) == {"name": "projects/p/messages/fake_message_id"}
    assert (checked.status, checked.reason) == (200, "validate_only")


_ROWS: list[tuple[str, int, str, str | None, list[str]]] = [
    ("INVALID_ARGUMENT", 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", ["FcmError"]),
    ("UNREGISTERED", 404, "NOT_FOUND", "UNREGISTERED", ["FcmError"]),
    ("SENDER_ID_MISMATCH", 403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", ["FcmError"]),
    ("THIRD_PARTY_AUTH_ERROR", 401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", ["FcmError"]),
    ("APNS_AUTH_ERROR", 401, "UNAUTHENTICATED", "APNS_AUTH_ERROR", ["FcmError"]),
    ("QUOTA_EXCEEDED", 429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", ["FcmError", "QuotaFailure"]),
    ("UNAVAILABLE", 503, "UNAVAILABLE", "UNAVAILABLE", ["FcmError"]),
    ("INTERNAL", 500, "INTERNAL", "INTERNAL", ["FcmError"]),
    ("UNSPECIFIED_ERROR", 500, "UNKNOWN", "UNSPECIFIED_ERROR", ["FcmError"]),
    ("NOT_FOUND", 404, "NOT_FOUND", None, []),
    ("PERMISSION_DENIED", 403, "PERMISSION_DENIED", None, []),
    ("UNAUTHENTICATED", 401, "UNAUTHENTICATED", None, []),
    ("BAD_REQUEST", 400, "INVALID_ARGUMENT", None, ["BadRequest"]),
]


@pytest.mark.parametrize(("name", "status", "code", "error_code", "types"), _ROWS)
def test_errors_are_googles(name: str, status: int, code: str, error_code: str | None, types: list[str]) -> None:
    answer = refuse(Refusal(name), 1_700_000_000.0)
    error = json.loads(answer.body)["error"]
    assert new_decode()(answer.block, True)[0][1] == str(status).encode()
    assert (error["code"], error["status"]) == (status, code)
    details = error.get("details", [])
    assert [detail["@type"].rpartition(".")[2] for detail in details] == types
    assert [detail["errorCode"] for detail in details if "errorCode" in detail] == ([error_code] if error_code else [])


def test_every_row_of_the_table_was_looked_at() -> None:
    assert {row[0] for row in _ROWS} == set(ERRORS)


def test_names_survive_both_spellings() -> None:
    for schema in SCHEMA.values():
        for name in schema:
            assert snake(camel(name)) == name


_SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.sampled_from(["x", "3s", "high", "7"])
_ANY = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def _documents(draw: st.DrawFn, kind: str = "SendMessageRequest") -> Any:
    """Nearly right requests: known names in either spelling, values of any kind."""
    names = draw(st.lists(st.sampled_from(sorted(SCHEMA[kind]) or ["x"]), max_size=3, unique=True))
    out = {}
    for name in names:
        inner = SCHEMA[kind].get(name, "any")
        value = _documents(inner) if inner in SCHEMA and draw(st.booleans()) else _ANY
        out[camel(name) if draw(st.booleans()) else name] = draw(value)
    return out


@given(_documents())
def test_the_fast_and_the_slow_reader_agree(document: Any) -> None:
    body = msgspec.json.encode(document)
    bad = violations(document)
    for decoder in FAST:
        try:
            decoder.decode(body)
        except msgspec.ValidationError:
            continue
        assert not bad, "what the fast reader takes, the slow one takes as well"
    verdict = judge(body)
    if bad:
        assert refused_fields(verdict)
    else:
        assert isinstance(verdict, Message | Refusal)
