"""What an answer of APNs means: the golden table row by row, and that nothing a server sends can break it."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, strategies as st

from pushsvc.model.delivery import Outcome, Sent, TokenDead, Unavailable
from pushsvc.model.push import Message
from pushsvc.net.http2.exchange import Failure, Response
from pushsvc.providers.apns import classify

from .provider_fakes import golden, response

ROWS = golden("apns_classify.toml")
MESSAGES = {
    "plain": Message("apns", b"{}", {"apns-push-type": "alert"}),
    "own topic": Message("apns", b"{}", {"apns-push-type": "alert", "apns-topic": "com.example.other"}),
    "account's topic": Message("apns", b"{}", {"apns-push-type": "alert", "apns-topic": "com.example.shop"}),
    "account's voip topic": Message("apns", b"{}", {"apns-push-type": "voip", "apns-topic": "com.example.shop.voip"}),
    "voip to the plain topic": Message("apns", b"{}", {"apns-push-type": "voip", "apns-topic": "com.example.shop"}),
    "voip": Message("apns", b"{}", {"apns-push-type": "voip"}),
    "broadcast": Message("apns", b"{}", {"apns-push-type": "liveactivity", "apns-expiration": "0"}),
}
TOPIC = "com.example.shop"
NOW = 1_792_000_000.0
NOT_FIELDS = {"status", "reason", "expect_reason", "outcome", "link", "message", "body", "headers"}


def _name(row: dict[str, Any]) -> str:
    return f"{row['status']}-{row['reason'] or row.get('body', '')}-{row.get('message', 'plain')}"


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_each_row_of_the_table(row: dict[str, Any]) -> None:
    body = row["body"].encode() if "body" in row else msgspec.json.encode({"reason": row["reason"]})

    message = MESSAGES[row.get("message", "plain")]
    outcome = classify(response(row["status"], body, row.get("headers")), message, NOW, TOPIC)

    assert type(outcome).__name__ == row["outcome"]
    assert outcome.status == row["status"]
    assert outcome.reason == row.get("expect_reason", row["reason"])
    default = type(outcome)()
    for name in outcome.__struct_fields__:
        if name not in ("status", "reason"):
            assert getattr(outcome, name) == row.get(name, getattr(default, name)), name
    assert row.keys() - NOT_FIELDS <= set(outcome.__struct_fields__)
    assert row["link"].startswith("https://developer.apple.com/")


def test_the_table_names_every_class_that_apns_can_mean() -> None:
    classes = {kind.__name__ for kind in get_args(Outcome)}

    assert {row["outcome"] for row in ROWS} == classes - {"Expired", "Obsolete", "Unconfirmed"}


@pytest.mark.parametrize(
    "failure",
    [
        Failure("timeout", True),
        Failure("unreachable", False),
        Failure("reset", False),
        Failure("connection_lost", True),
    ],
    ids=lambda failure: f"{failure.reason}-{failure.maybe_sent}",
)
def test_no_answer_is_unavailable_and_keeps_whether_it_may_have_been_sent(failure: Failure) -> None:
    assert classify(failure, MESSAGES["plain"], NOW, TOPIC) == Unavailable(
        reason=failure.reason, maybe_sent=failure.maybe_sent
    )


@pytest.mark.parametrize("timestamp", ['"1700000000123"', "true", "-5", "0", "1e300", "null", "[]"])
def test_a_timestamp_that_is_no_instant_proves_nothing(timestamp: str) -> None:
    body = f'{{"reason":"Unregistered","timestamp":{timestamp}}}'.encode()

    assert classify(response(410, body), MESSAGES["plain"], NOW, TOPIC) == TokenDead(status=410, reason="Unregistered")


@given(
    status=st.integers(min_value=-1, max_value=999),
    body=st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda reason, timestamp: msgspec.json.encode({"reason": reason, "timestamp": timestamp}),
            st.one_of(st.none(), st.integers(), st.text(), st.sampled_from([row["reason"] for row in ROWS])),
            st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70)),
        ),
    ),
    headers=st.dictionaries(st.sampled_from(["retry-after", "date", "apns-id"]), st.text(max_size=40)),
    message=st.sampled_from(list(MESSAGES.values())),
)
def test_whatever_the_server_sends_has_a_meaning(
    status: int, body: bytes, headers: dict[str, str], message: Message
) -> None:
    outcome = classify(Response(status, body, headers), message, NOW, TOPIC)

    assert isinstance(outcome, get_args(Outcome))
    assert isinstance(outcome, Sent) == (status == 200)
    assert not isinstance(outcome, TokenDead) or status == 410 or outcome.reason == "ChannelNotRegistered"
    known = {row["reason"] for row in ROWS} - {"BrandNewReason"}
    assert outcome.reason in known | {f"unknown_{status}"}
