"""The API against its own OpenAPI document: schemathesis makes requests of it, right and wrong ones, on a real socket.

Every answer must be one that the document describes, in status, headers, media type and shape, and none may be 5xx.
Left out of its checks, with the reason:

- `negative_data_rejection`, of the batch alone: it answers 200 and names what is wrong with a push in its place.
- `positive_data_acceptance`: a schema cannot say what a device token is; the renderers do, and refuse with 422.
- `negative_data_rejection` of `additionalProperties` is kept: unknown fields are an error here.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import hypothesis
import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, strategies as st
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from pushsvc.api.config import ApiConfig, ApiLive
from pushsvc.api.openapi import build
from pushsvc.api.pushes.batch import NDJSON
from pushsvc.model.status import FeedbackEvent
from pushsvc.runtime.providers import addresses

from .test_intake_kit import NOW, TOKEN, Service, running_in_thread

EXCLUDED: list[Any] = [positive_data_acceptance]
BATCH = "/v1/push/batch"


@schemathesis.serializer("application/x-ndjson")
def one_a_line(_: Any, value: Any) -> bytes:
    """A batch as lines; what is no list is a line."""
    lines = value if isinstance(value, list) else [value]
    return b"\n".join(json.dumps(line).encode() for line in lines)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_in_thread(CONFIG, ApiLive(60, lambda device_id, now, ttl, token_id: "token")) as service:
        service.store.feedback = [("1-0", FeedbackEvent(NOW, "apns", TOKEN, "Unregistered", "suppressed"))]
        yield service


CONFIG = ApiConfig(port=0, shutdown_timeout=5)
DOCUMENT = build(addresses=addresses(), config=CONFIG)


def tried() -> dict[str, Any]:
    """The document, with what it says in words alone: what a token looks like here, which the schema leaves to the
    renderers, and that a batch may come as lines."""
    document: dict[str, Any] = copy.deepcopy(DOCUMENT)
    document["paths"][BATCH]["post"]["requestBody"]["content"][NDJSON] = {"schema": {"type": "string"}}
    for schema in ("TokenTarget", "DeviceDocument"):
        token = document["components"]["schemas"][schema]["properties"]
        for name in ("token", "fid"):
            token[name]["anyOf"][0]["pattern"] = "^([0-9a-f]{2}){1,9}$"
        token["platform"]["enum"] = ["fcm"]
    return document


schema = schemathesis.openapi.from_dict(tried())
# A token that is too long for the request line is refused too, which the check does not know by itself.
REJECTION = schema.config.checks.negative_data_rejection
REJECTION.expected_statuses = [*REJECTION.expected_statuses, "431"]


@schema.hook
def filter_query(_: schemathesis.HookContext, query: dict[str, Any] | None) -> bool:
    """A parameter without a name, or of nothing, is not sent, so that nobody could refuse it; an empty one is the same
    as none."""
    return "" not in (query or {}) and not any(value in (None, "", [], {}) for value in (query or {}).values())


def test_the_document_that_is_served_is_the_one_that_is_tried(service: Service) -> None:
    assert requests.get(f"{service.url}/openapi.json", timeout=20).json() == DOCUMENT


@schema.parametrize()
@hypothesis.settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_document_describes(service: Service, case: schemathesis.Case[Any]) -> None:
    headers = {"Authorization": "Bearer full"}
    excluded = [*EXCLUDED, negative_data_rejection] if case.operation.path == BATCH else EXCLUDED
    case.call_and_validate(service.url, headers=headers, excluded_checks=excluded, timeout=20)


@schema.parametrize()
@hypothesis.settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_to_a_key_of_one_scope_is_one_that_the_document_describes(
    service: Service, case: schemathesis.Case[Any]
) -> None:
    # What the key may not do is refused before it is looked at.
    excluded = [*EXCLUDED, negative_data_rejection]
    for key in ("pusher", "reader", "registrar", "admin"):
        headers = {"Authorization": f"Bearer {key}"}
        case.call_and_validate(service.url, headers=headers, excluded_checks=excluded, timeout=20)


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers.update({"Authorization": "Bearer full", "Content-Type": "application/json"})
        yield session


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
fields = ("to", "notification", "data", "lane", "silent", "ttl", "collapse", "overrides", "send_at")


@hypothesis.settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    body=st.one_of(
        st.binary(max_size=50),
        json_values.map(msgspec.json.encode),
        st.dictionaries(st.sampled_from(fields), json_values, max_size=4).map(
            lambda given: msgspec.json.encode({"to": {"tokens": [{"platform": "apns", "token": TOKEN}]}, **given})
        ),
    )
)
def test_any_body_is_accepted_whole_or_refused_whole(service: Service, session: requests.Session, body: bytes) -> None:
    before = len(service.store.pushes)
    response = session.post(f"{service.url}/v1/push", data=body, timeout=20)
    added = len(service.store.pushes) - before
    assert (response.status_code, added) in {(202, 1), (400, 0), (413, 0), (422, 0)}
    answer: dict[str, Any] = response.json()
    assert (answer["id"] in service.store.pushes) if added else answer["status"] == response.status_code
