"""The API against its own OpenAPI document: schemathesis makes requests of it, right and wrong ones, on a real socket.

Every answer must be one that the document describes, in status, headers, media type and shape, and none may be 5xx.
Left out of its checks, with the reason:

- `negative_data_rejection`, of the batch alone: it answers 200 and names what is wrong with a push in its place.
- `positive_data_acceptance`: a schema cannot say what a device token is; the renderers do, and refuse with 422.
- `negative_data_rejection` of `additionalProperties` is kept: unknown fields are an error here.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from typing import Any

import hypothesis
import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, strategies as st
from schemathesis.generation.meta import TestPhase
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance

from pushsvc.api.config import ApiConfig, ApiLive
from pushsvc.api.openapi import build
from pushsvc.api.pushes.batch import NDJSON
from pushsvc.model.status import FeedbackEvent
from pushsvc.runtime.providers import addresses

from .test_intake_kit import NOW, TOKEN, Service, running_in_thread

EXCLUDED: list[Any] = [positive_data_acceptance]
REFUSED_FIRST = [*EXCLUDED, negative_data_rejection]
"""What a key may not do is refused before it is looked at."""
WITH_NARROW = [*REFUSED_FIRST, ignored_auth]
"""The same request without a key is made after the one with the key that may do all."""
BATCH = "/v1/push/batch"
NARROW = ("pusher", "reader", "registrar", "admin")
"""The keys of one scope each."""


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


OF_CONNECTION = {"transfer-encoding", "upgrade", "connection", "proxy-connection", "sec-websocket-key1", "expect"}
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


def filter_query(_: schemathesis.HookContext, query: dict[str, Any] | None) -> bool:
    """A parameter without a name, or of nothing, is not sent, so that nobody could refuse it; an empty one is the same
    as none."""
    return "" not in (query or {}) and not any(map(is_nothing, (query or {}).values()))


def filter_headers(_: schemathesis.HookContext, headers: dict[str, Any] | None) -> bool:
    """A header of the connection, whose name may be drawn from the texts of the package, is refused before it is known
    which call it is."""
    return not any(name.lower() in OF_CONNECTION for name in headers or ())


def is_nothing(value: Any) -> bool:
    """Whether nothing of a parameter's value is sent: of a dictionary its keys are."""
    return value in (None, "") or (isinstance(value, list | dict) and all(map(is_nothing, value)))


def describing(*, listed: bool) -> schemathesis.schemas.BaseSchema:
    """The document that is tried, with the cases at its bounds, `listed`, or without."""
    schema = schemathesis.openapi.from_dict(tried())
    schema.config.phases.coverage.enabled = listed
    # A token that is too long for the request line is refused too, which the check does not know by itself.
    rejection = schema.config.checks.negative_data_rejection
    rejection.expected_statuses = [*rejection.expected_statuses, "431"]
    schema.hook(filter_query)
    schema.hook(filter_headers)
    return schema


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for all: a session of its own for each request would take most of the time."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


def test_the_document_that_is_served_is_the_one_that_is_tried(service: Service) -> None:
    assert requests.get(f"{service.url}/openapi.json", timeout=20).json() == DOCUMENT


@pytest.fixture
def turns() -> Iterator[str]:
    return itertools.cycle(NARROW)


@describing(listed=True).parametrize()
@hypothesis.settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_document_describes(
    service: Service, session: requests.Session, turns: Iterator[str], case: schemathesis.Case[Any]
) -> None:
    excluded = REFUSED_FIRST if case.operation.path == BATCH else EXCLUDED
    call(service, session, case, "full", excluded)
    assert case.meta is not None
    if case.meta.phase.name is TestPhase.COVERAGE:  # the keys of one scope take turns with these many
        call(service, session, case, next(turns), WITH_NARROW)


@describing(listed=False).parametrize()
@hypothesis.settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_to_a_key_of_one_scope_is_one_that_the_document_describes(
    service: Service, session: requests.Session, case: schemathesis.Case[Any]
) -> None:
    for key in NARROW:
        call(service, session, case, key, WITH_NARROW)


def call(
    service: Service, session: requests.Session, case: schemathesis.Case[Any], key: str, excluded: list[Any]
) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    case.call_and_validate(service.url, session, headers, excluded_checks=excluded, timeout=20)


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
    headers = {"Authorization": "Bearer full", "Content-Type": "application/json"}
    response = session.post(f"{service.url}/v1/push", data=body, headers=headers, timeout=20)
    added = len(service.store.pushes) - before
    assert (response.status_code, added) in {(202, 1), (400, 0), (413, 0), (422, 0)}
    answer: dict[str, Any] = response.json()
    assert (answer["id"] in service.store.pushes) if added else answer["status"] == response.status_code
