"""What an answer of FCM means: the golden table row by row, and that nothing a server sends can break it."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, strategies as st

from pushsvc.model.delivery import Outcome, Sent, TokenDead, Unavailable
from pushsvc.model.push import Message
from pushsvc.net.http2.exchange import Failure, Response
from pushsvc.providers.fcm import classify
from pushsvc.providers.fcm.classify import concerns_access_token

from .provider_fakes import golden, response

ROWS = golden("fcm_classify.toml")
MESSAGE = Message("fcm", b"{}")
NOW = 1_792_000_000.0
NOT_FIELDS = {
    "status",
    "reason",
    "outcome",
    "link",
    "message",
    "rpc",
    "code",
    "fields",
    "quota",
    "limit",
    "body",
    "headers",
}
TYPES = "type.googleapis.com/google."


def _body(row: dict[str, Any]) -> bytes:
    if "body" in row:
        return str(row["body"]).encode()
    details: list[dict[str, Any]] = []
    if "fields" in row:
        violations = [{"field": name, "description": row["message"]} for name in row["fields"]]
        details.append({"@type": f"{TYPES}rpc.BadRequest", "fieldViolations": violations})
    if "code" in row:
        details.append({"@type": f"{TYPES}firebase.fcm.v1.FcmError", "errorCode": row["code"]})
    if "quota" in row:
        subjects = [{"subject": subject, "description": row.get("limit", "limit")} for subject in row["quota"]]
        details.append({"@type": f"{TYPES}rpc.QuotaFailure", "violations": subjects})
    error = {"code": row["status"], "message": row["message"], "status": row["rpc"], "details": details}
    return msgspec.json.encode({"error": error})


def _name(row: dict[str, Any]) -> str:
    return f"{row['status']}-{row.get('code', row.get('rpc', row.get('body')))}-{row['outcome']}"


@pytest.mark.parametrize("row", ROWS, ids=_name)
def test_each_row_of_the_table(row: dict[str, Any]) -> None:
    outcome = classify(response(row["status"], _body(row), row.get("headers")), MESSAGE, NOW)

    assert type(outcome).__name__ == row["outcome"]
    assert outcome.status == row["status"]
    assert outcome.reason == row.get("reason", "")
    default = type(outcome)()
    for name in outcome.__struct_fields__:
        if name not in ("status", "reason"):
            assert getattr(outcome, name) == row.get(name, getattr(default, name)), name
    assert row.keys() - NOT_FIELDS <= set(outcome.__struct_fields__)
    assert row["link"].startswith("https://firebase.google.com/")


def test_the_table_names_every_class_that_fcm_can_mean() -> None:
    classes = {kind.__name__ for kind in get_args(Outcome)}

    assert {row["outcome"] for row in ROWS} == classes - {"Expired", "Obsolete", "Unconfirmed"}


def test_only_a_401_about_the_access_token_asks_for_a_new_one() -> None:
    asked = [row for row in ROWS if concerns_access_token(response(row["status"], _body(row)))]

    assert asked == [row for row in ROWS if row["status"] == 401 and "code" not in row]
    assert asked


def test_no_answer_is_unavailable_and_keeps_whether_it_may_have_been_sent() -> None:
    assert classify(Failure("timeout", True), MESSAGE, NOW) == Unavailable(reason="timeout", maybe_sent=True)
    assert classify(Failure("unreachable", False), MESSAGE, NOW) == Unavailable(reason="unreachable")


_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["error", "details", "message", "status", "@type", "errorCode", "fieldViolations", "name"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)


@given(
    status=st.integers(min_value=-1, max_value=999),
    body=st.one_of(st.binary(max_size=200), _json.map(msgspec.json.encode)),
    headers=st.dictionaries(st.sampled_from(["retry-after", "date"]), st.text(max_size=40)),
)
def test_whatever_the_server_sends_has_a_meaning(status: int, body: bytes, headers: dict[str, str]) -> None:
    outcome = classify(Response(status, body, headers), MESSAGE, NOW)

    assert isinstance(outcome, get_args(Outcome))
    assert isinstance(outcome, Sent) == (status == 200)
    assert not isinstance(outcome, TokenDead) or status == 404
    assert len(outcome.reason) < 30
