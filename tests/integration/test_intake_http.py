"""The HTTP API on a real socket: what each call answers, what is refused, and that nothing refused is queued."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from pushsvc import telemetry
from pushsvc.api.config import ApiConfig
from pushsvc.api.openapi import EXAMPLES
from pushsvc.model.push import Message, Target
from pushsvc.model.status import DeliveryRow, FeedbackEvent

from ..pages import PAGES
from .test_intake_kit import ALERT, LOOP as LOOP, NOW, TOKEN, Answer, Service, api_key, call, running

pytestmark = pytest.mark.usefixtures("both_ways")

PROBLEM = "application/problem+json"


def check_problem(answer: Answer, status: int, kind: str) -> None:
    assert (answer.status, answer.headers["content-type"]) == (status, PROBLEM)
    problem = answer.json
    assert problem["status"] == status
    assert problem["type"] == f"/docs/guide/reference/errors.md#{kind}"
    assert problem["title"]
    assert problem["detail"]


# --- POST /v1/push ----------------------------------------------------------------------------------


async def test_an_accepted_push_is_in_the_store(service: Service) -> None:
    tokens = [
        {"platform": "fcm", "token": "dQw4"},
        {"platform": "apns", "token": TOKEN},
        {"platform": "fcm", "token": "dQw4"},
    ]
    body = {"to": {"tokens": tokens}, "notification": {"title": "x"}, "lane": "bulk", "ttl": 60, "dry_run": True}
    answer = await call(service, "POST", "/v1/push", body)
    assert answer.status == 202
    push_id = answer.json["id"]
    assert answer.json == {"id": push_id, "state": "sending", "deliveries": 2}
    assert answer.headers["location"] == f"/v1/push/{push_id}"
    assert answer.headers["content-type"] == "application/json"
    push = service.store.pushes[push_id]
    assert (push.app, push.lane, push.dry_run) == ("shop", "bulk", True)
    assert (push.created_at, push.expires_at) == (NOW, NOW + 60_000)
    assert push.targets == {"fcm": (Target(0, "dQw4"),), "apns": (Target(1, TOKEN),)}
    assert push.messages == {name: Message(name, b'[{"title":"x"},null,null]') for name in ("fcm", "apns")}


async def test_a_scheduled_push_is_reckoned_from_its_time(service: Service) -> None:
    body = {**ALERT, "ttl": 60, "send_at": "2026-12-01T10:30:00.5+01:00"}
    due = NOW + 30 * 60_000 + 500
    answer = await call(service, "POST", "/v1/push", body)
    push_id = answer.json["id"]
    assert (answer.status, answer.json) == (202, {"id": push_id, "state": "scheduled", "deliveries": 1})
    push = service.store.pushes[push_id]
    assert (push.created_at, push.send_at, push.expires_at) == (NOW, due, due + 60_000)
    status = (await call(service, "GET", f"/v1/push/{push_id}")).json
    assert (status["state"], status["created_at"], status["send_at"]) == (
        "scheduled",
        "2026-12-01T09:00:00.000Z",
        "2026-12-01T09:30:00.500Z",
    )
    assert status["counts"]["queued"] == 1


@pytest.mark.parametrize("send_at", ["2026-12-01T09:00:00Z", "2025-12-01T09:00:00Z", None])
async def test_a_time_that_has_passed_is_at_once(send_at: str | None, service: Service) -> None:
    answer = await call(service, "POST", "/v1/push", {**ALERT, "ttl": 60, "send_at": send_at})
    assert (answer.status, answer.json["state"]) == (202, "sending")
    push = service.store.pushes[answer.json["id"]]
    assert (push.send_at, push.expires_at) == (None, NOW + 60_000)
    assert "send_at" not in (await call(service, "GET", f"/v1/push/{push.id}")).json


async def test_a_wrong_time_is_named_among_the_other_faults(service: Service) -> None:
    answer = await call(service, "POST", "/v1/push", {**ALERT, "ttl": -1, "send_at": "2027-12-02T09:00:01Z"})
    assert answer.errors == [
        ("ttl", "expected a whole number of seconds from 0 to 2,419,200, found the number -1"),
        ("send_at", "must not be more than 366 days ahead"),
    ]


async def test_the_examples_of_the_document_are_accepted(service: Service) -> None:
    for example in EXAMPLES.values():
        assert (await call(service, "POST", "/v1/push", example["value"])).status == 202


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 202),
        ("application/json", 202),
        ("application/json; charset=utf-8", 202),
        ("APPLICATION/JSON;charset=UTF-8", 202),
        ("application/vnd.shop+json", 202),
        ("application/json; charset=utf-16", 415),
        ("application/x-www-form-urlencoded", 202),
        ("text/plain", 415),
        ("application/x-ndjson", 415),
        ("nonsense", 415),
    ],
)
async def test_content_types(content_type: str | None, status: int, service: Service) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    sent = await call(service, "POST", "/v1/push", msgspec.json.encode(ALERT), headers=headers)
    assert sent.status == status
    assert len(service.store.pushes) == (status == 202)


async def test_a_body_without_content_type_is_taken_as_json(service: Service) -> None:
    async with aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as session:
        data, headers = msgspec.json.encode(ALERT), {"Authorization": "Bearer pusher"}
        async with session.post(service.url + "/v1/push", data=data, headers=headers) as response:
            assert response.request_info.headers.get("Content-Type") is None
            assert response.status == 202


WRONG: list[tuple[Any, int, str]] = [
    (b"", 400, "malformed-body"),
    (b"hello", 400, "malformed-body"),
    (b"{", 400, "malformed-body"),
    (b'{"ttl": NaN}', 400, "malformed-body"),
    (b'{"to": "\xff"}', 400, "malformed-body"),
    (b"[" * 100_000, 400, "malformed-body"),
    (b"[" * 100_000 + b"]" * 100_000, 400, "malformed-body"),
    (b"null", 422, "invalid-request"),
    ([], 422, "invalid-request"),
    ({}, 422, "invalid-request"),
    ({**ALERT, "to": {"tokens": "x"}}, 422, "invalid-request"),
    ({**ALERT, "colapse": "x"}, 422, "invalid-request"),
    ({**ALERT, "send_at": "2026-12-01T09:00:00"}, 422, "invalid-request"),
    ({**ALERT, "send_at": "2027-12-02T09:00:01Z"}, 422, "invalid-request"),
    ({**ALERT, "data": dict.fromkeys(map(str, range(200)), 1)}, 422, "invalid-request"),
    *(
        ({**ALERT, "to": {"tokens": [{"platform": platform, "token": token}]}}, 422, "invalid-request")
        for platform in ("apns", "fcm")
        for token in ("8f 3c", " 8f3c", "8f3c\0", "\0", "8f3c\U0001f600", "", "8f3c\n", "x" * 10_000)
    ),
    (b" " * (5 * 1000 * 1000), 413, "content-too-large"),
    ({**ALERT, "notification": {"body": "x" * 5000}}, 413, "content-too-large"),
]


@pytest.mark.parametrize(("body", "status", "kind"), WRONG, ids=lambda value: None)
async def test_wrong_bodies_are_refused_and_nothing_is_queued(
    body: Any, status: int, kind: str, service: Service
) -> None:
    check_problem(await call(service, "POST", "/v1/push", body), status, kind)
    assert service.store.pushes == {}
    # The server is as well as before.
    assert (await call(service, "POST", "/v1/push", ALERT)).status == 202


async def test_200_faults_are_all_named(service: Service) -> None:
    answer = await call(service, "POST", "/v1/push", {**ALERT, "data": dict.fromkeys(map(str, range(200)), 1)})
    assert answer.json["detail"] == "200 faults were found."
    assert [path for path, _ in answer.errors] == [f'data["{number}"]' for number in range(200)]


async def test_a_payload_that_is_too_large_names_the_limit(service: Service) -> None:
    answer = await call(service, "POST", "/v1/push", {**ALERT, "notification": {"body": "x" * 5000}})
    assert "at most 4,096" in answer.json["detail"]
    assert answer.errors[0][0] == "notification"


async def test_a_platform_that_is_not_configured_is_refused_with_the_remedy(service: Service) -> None:
    answer = await call(service, "POST", "/v1/push", ALERT, key="newsie")
    check_problem(answer, 422, "invalid-request")
    assert answer.errors == [
        (
            "to.tokens[0].platform",
            "apns is not configured for the app news: add [apps.news.apns] to the configuration",
        )
    ]


async def test_a_query_on_a_push_is_refused(service: Service) -> None:
    check_problem(await call(service, "POST", "/v1/push?dry_run=true", ALERT), 422, "invalid-request")
    assert service.store.pushes == {}


async def test_compressed_bodies_are_taken_and_bounded() -> None:
    import gzip

    async with running() as service:
        headers = {"Content-Encoding": "gzip"}
        body = gzip.compress(msgspec.json.encode(ALERT))
        assert (await call(service, "POST", "/v1/push", body, headers=headers)).status == 202
        bomb = gzip.compress(b" " * 50_000_000)
        check_problem(await call(service, "POST", "/v1/push", bomb, headers=headers), 413, "content-too-large")
        check_problem(await call(service, "POST", "/v1/push", b"not gzip", headers=headers), 400, "malformed-body")
        assert len(service.store.pushes) == 1


# --- reading and cancelling -------------------------------------------------------------------------


async def accepted(service: Service, document: dict[str, Any] = ALERT) -> str:
    return str((await call(service, "POST", "/v1/push", document)).json["id"])


async def test_the_status_document(service: Service) -> None:
    push_id = await accepted(service)
    answer = await call(service, "GET", f"/v1/push/{push_id}")
    assert answer.status == 200
    assert answer.json == {
        "id": push_id,
        "app": "shop",
        "state": "sending",
        "created_at": "2026-12-01T09:00:00.000Z",
        "updated_at": "2026-12-01T09:00:00.000Z",
        "counts": {
            "total": 1,
            "queued": 1,
            "retrying": 0,
            "sent": 0,
            "failed": 0,
            "invalid": 0,
            "expired": 0,
            "suppressed": 0,
            "cancelled": 0,
        },
    }
    head = await call(service, "HEAD", f"/v1/push/{push_id}")
    assert (head.status, head.body) == (200, b"")


async def test_delivery_rows(service: Service) -> None:
    push_id = await accepted(service)
    row = DeliveryRow("apns", None, "ab12", "failed", "BadCollapseId", 400, 1, "p-1", NOW)
    service.store.rows = [row, replace(row, channel="apns"), replace(row, channel="live", outcome="sent")]
    answer = await call(service, "GET", f"/v1/push/{push_id}/deliveries?outcome=failed&cursor=7&limit=2")
    shown = {
        "platform": "apns",
        "device_id": None,
        "token_hash": "ab12",
        "outcome": "failed",
        "reason": "BadCollapseId",
        "status": 400,
        "attempts": 1,
        "provider_id": "p-1",
        "at": "2026-12-01T09:00:00.000Z",
        "channel": "provider",
    }
    live = {**shown, "outcome": "sent", "channel": "live"}
    assert answer.json == {"items": [shown, shown, live], "cursor": "12"}
    await call(service, "GET", f"/v1/push/{push_id}/deliveries")
    assert service.store.asked == [("failed", "7", 2), (None, "", 100)]
    # A large push has no rows of sent deliveries: a request for them must not answer that there are none.
    service.store.rows = []
    sent = await call(service, "GET", f"/v1/push/{push_id}/deliveries?outcome=sent")
    assert sent.json == {"items": [], "cursor": None}
    tokens = [{"platform": "fcm", "token": f"t{n}"} for n in range(1001)]
    large = await accepted(service, {**ALERT, "to": {"tokens": tokens}})
    sent = await call(service, "GET", f"/v1/push/{large}/deliveries?outcome=sent")
    check_problem(sent, 422, "invalid-request")
    assert sent.errors == [("outcome", "only pushes of up to 1,000 deliveries have rows of sent ones; see `counts`")]
    wrong = await call(service, "GET", f"/v1/push/{push_id}/deliveries?outcome=gone&limit=0&x=1")
    check_problem(wrong, 422, "invalid-request")
    assert [path for path, _ in wrong.errors] == ["outcome", "limit", "x"]


async def test_cancelling(service: Service) -> None:
    push_id = await accepted(service)
    answer = await call(service, "DELETE", f"/v1/push/{push_id}")
    assert (answer.status, answer.json["state"], answer.json["counts"]["cancelled"]) == (200, "cancelled", 1)
    service.store.done.add(push_id)
    check_problem(await call(service, "DELETE", f"/v1/push/{push_id}"), 409, "conflict")


async def test_feedback_is_resumable(service: Service) -> None:
    service.store.feedback = [
        (f"{number}-0", FeedbackEvent(NOW, "apns", TOKEN, "Unregistered", "suppressed")) for number in (1, 2, 3)
    ]
    page = (await call(service, "GET", "/v1/feedback?limit=2", key="reader")).json
    assert page["items"][0] == {
        "id": "1-0",
        "at": "2026-12-01T09:00:00.000Z",
        "device_id": None,
        "platform": "apns",
        "token": TOKEN,
        "reason": "Unregistered",
        "action": "suppressed",
    }
    assert (len(page["items"]), page["cursor"]) == (2, "2-0")
    page = (await call(service, "GET", "/v1/feedback?after=2-0", key="reader")).json
    assert ([item["id"] for item in page["items"]], page["cursor"]) == (["3-0"], "3-0")
    # Nothing new: the cursor stays where it was.
    assert (await call(service, "GET", "/v1/feedback?after=3-0")).json == {"items": [], "cursor": "3-0"}
    # Retention was quicker: the answer says so, and its cursor is behind what is missing.
    service.store.feedback, service.store.missing_to = service.store.feedback[2:], "2-5"
    page = (await call(service, "GET", "/v1/feedback?after=1-0")).json
    assert ([item["id"] for item in page["items"]], page["cursor"], page["missing_to"]) == (["3-0"], "3-0", "2-5")
    service.store.feedback = []
    page = (await call(service, "GET", "/v1/feedback?after=1-0")).json
    assert page == {"items": [], "cursor": "2-5", "missing_to": "2-5"}
    assert (await call(service, "GET", "/v1/feedback?after=2-5")).json == {"items": [], "cursor": "2-5"}
    assert (await call(service, "GET", "/v1/feedback")).json == {"items": [], "cursor": None}


@pytest.mark.parametrize("path", ["", "/deliveries"])
@pytest.mark.parametrize(
    "push_id", ["019ad8f0-0000-7000-8000-000000000000", "x", "..%2f..", "%00", "019AD8F0-0000-7000-8000-000000000000"]
)
async def test_an_unknown_push_is_404(push_id: str, path: str, service: Service) -> None:
    check_problem(await call(service, "GET", f"/v1/push/{push_id}{path}"), 404, "not-found")


async def test_a_push_of_another_app_is_404(service: Service) -> None:
    push_id = await accepted(service)
    for method, path in (("GET", ""), ("GET", "/deliveries"), ("DELETE", "")):
        answer = await call(service, method, f"/v1/push/{push_id}{path}", key="newsie")
        check_problem(answer, 404, "not-found")


# --- who may what -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Basic cHVzaGVyOg==", "pusher", "Bearer nobody", "Bearer \xff"]
)
async def test_without_a_known_key_401_says_how_to_come_in(authorization: str | None, service: Service) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in (("POST", "/v1/push"), ("GET", "/v1/push/x"), ("GET", "/v1/feedback")):
        answer = await call(service, method, path, ALERT if method == "POST" else None, key=None, headers=headers)
        check_problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith('Bearer realm="pushsvc"')
    assert service.store.pushes == {}


async def test_an_unknown_key_is_refused_with_where_keys_are(service: Service) -> None:
    answer = await call(service, "POST", "/v1/push", ALERT, key="nobody")
    assert answer.json["detail"].startswith("The API key is not known. `pushsvc keys list` ")


@pytest.mark.parametrize("authorization", ["bearer pusher", "BEARER  pusher "])
async def test_the_scheme_is_read_generously(authorization: str, service: Service) -> None:
    answer = await call(service, "POST", "/v1/push", ALERT, key=None, headers={"Authorization": authorization})
    assert answer.status == 202


@pytest.mark.parametrize(
    ("key", "method", "path", "status"),
    [
        ("pusher", "POST", "/v1/push", 202),
        ("admin", "POST", "/v1/push", 403),
        ("reader", "POST", "/v1/push", 403),
        ("admin", "GET", "/v1/push/{id}", 200),
        ("pusher", "GET", "/v1/push/{id}/deliveries", 200),
        ("reader", "GET", "/v1/push/{id}", 403),
        ("none", "DELETE", "/v1/push/{id}", 403),
        ("admin", "DELETE", "/v1/push/{id}", 200),
        ("pusher", "GET", "/v1/feedback", 403),
        ("reader", "GET", "/v1/feedback", 200),
        ("admin", "GET", "/v1/feedback", 200),
    ],
)
async def test_scopes(key: str, method: str, path: str, status: int, service: Service) -> None:
    push_id = await accepted(service)
    body = ALERT if method == "POST" else None
    answer = await call(service, method, path.format(id=push_id), body, key=key)
    assert answer.status == status
    if status == 403:
        check_problem(answer, 403, "forbidden")
        assert "needs the scope `" in answer.json["detail"]
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


async def test_keys_of_the_ring_are_cached_for_a_few_seconds(service: Service) -> None:
    await service.store.add(api_key("made", "shop", "push"))
    for _ in range(3):
        assert (await call(service, "POST", "/v1/push", ALERT, key="made")).status == 202
        assert (await call(service, "POST", "/v1/push", ALERT, key="unknown")).status == 401
    assert service.store.finds == 2
    service.store.keys.clear()
    await service.store.add(api_key("unknown", "shop", "push"))
    service.now = 5.1
    assert (await call(service, "POST", "/v1/push", ALERT, key="made")).status == 401
    assert (await call(service, "POST", "/v1/push", ALERT, key="unknown")).status == 202
    await service.store.add(api_key("orphan", "closed", "push"))
    orphan = await call(service, "POST", "/v1/push", ALERT, key="orphan")
    check_problem(orphan, 401, "unauthorized")
    assert "'closed'" in orphan.json["detail"]


async def test_the_cache_of_keys_is_bounded() -> None:
    async with running(ApiConfig(port=0, key_cache_size=2)) as service:
        for number in range(4):
            await call(service, "GET", "/v1/feedback", key=f"unknown {number}")
        await call(service, "GET", "/v1/feedback", key="unknown 3")
        assert service.store.finds == 4
        await call(service, "GET", "/v1/feedback", key="unknown 0")
        assert service.store.finds == 5


# --- trouble ----------------------------------------------------------------------------------------


async def test_redis_away_is_503_with_retry_after(service: Service) -> None:
    service.store.away = True
    for method, path in (
        ("POST", "/v1/push"),
        ("GET", "/v1/push/019ad8f0-0000-7000-8000-000000000000"),
        ("GET", "/v1/feedback"),
    ):
        answer = await call(service, method, path, ALERT if method == "POST" else None)
        check_problem(answer, 503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
    check_problem(await call(service, "GET", "/v1/feedback", key="of the ring"), 503, "unavailable")


async def test_a_fault_of_ours_is_500_with_an_id_and_no_word_of_the_body_in_the_log(service: Service) -> None:
    with capture_logs() as logs:
        answer = await call(service, "POST", "/v1/push", {**ALERT, "collapse": "break"})
    check_problem(answer, 500, "internal-error")
    failed = [entry for entry in logs if entry["event"] == "request_failed"]
    assert [entry["instance"] for entry in failed] == [answer.json["instance"]]
    assert (failed[0]["error"], failed[0]["log_level"]) == ("ZeroDivisionError", "error")
    assert "in _message" in failed[0]["where"]
    assert TOKEN not in repr(logs)
    assert TOKEN not in answer.body.decode()
    assert service.store.pushes == {}


async def test_each_request_is_logged_and_counted_without_its_secrets(service: Service) -> None:
    with capture_logs() as logs:
        push_id = await accepted(service)
        await call(service, "GET", f"/v1/push/{push_id}")
        await call(service, "GET", "/wp-login.php", key="secret-key")
        await call(service, "POST", "/v1/push", {**ALERT, "x": TOKEN}, key="pusher")
    said = [(e["method"], e["route"], e["status"], e["app"], e["log_level"]) for e in logs if e["event"] == "request"]
    assert said == [
        ("POST", "POST /v1/push", 202, "shop", "debug"),
        ("GET", "GET /v1/push/{id}", 200, "shop", "debug"),
        ("GET", "unmatched", 404, "", "info"),
        ("POST", "POST /v1/push", 422, "shop", "info"),
    ]
    assert all(entry["ms"] >= 0 for entry in logs)
    assert TOKEN not in repr(logs)
    assert "secret-key" not in repr(logs)
    exposition = telemetry.exposition().decode()
    assert 'pushsvc_http_requests_total{app="shop",code="422",method="POST",route="/v1/push"}' in exposition
    assert 'pushsvc_http_requests_total{app="",code="404",method="GET",route="unmatched"}' in exposition
    assert "wp-login" not in exposition


async def test_accepted_deliveries_are_counted() -> None:
    def count() -> float:
        telemetry.HTTP.flush()
        value = telemetry.ACCEPTED.labels("news")._value.get()
        return float(value)

    async with running() as service:
        before = count()
        tokens = [{"platform": "fcm", "token": f"t{number % 5}"} for number in range(10)]
        body = {"to": {"tokens": tokens}, "data": {"a": "b"}}
        assert (await call(service, "POST", "/v1/push", body, key="newsie")).status == 202
        assert count() - before == 5


# --- the service itself -----------------------------------------------------------------------------


async def test_health_and_readiness(service: Service) -> None:
    assert (await call(service, "GET", "/healthz", key=None)).json == {"status": "ok"}
    assert (await call(service, "GET", "/readyz", key=None)).json == {"status": "ready"}
    service.failing |= {"redis": "connection refused"}
    answer = await call(service, "GET", "/readyz", key=None)
    check_problem(answer, 503, "unavailable")
    assert answer.errors == [("redis", "connection refused")]
    assert "redis" in answer.json["detail"]
    assert (await call(service, "GET", "/healthz", key=None)).status == 200


async def test_metrics_the_document_and_its_page_need_no_key(service: Service) -> None:
    metrics = await call(service, "GET", "/metrics", key=None)
    assert (metrics.body, metrics.headers["content-type"]) == (b"# HELP x y\n", telemetry.CONTENT_TYPE)
    document = await call(service, "GET", "/openapi.json", key=None)
    assert document.json["openapi"] == "3.1.0"
    page = await call(service, "GET", "/docs", key=None)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert b"</html>" in page.body
    # What it needs is served here, and nothing that stands in the page itself is run.
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert not re.search(rb"<style|<script(?! type=\"module\" src=)| style=| on\w+=", page.body)
    needed = re.findall(r'(?:src|<link[^>]* href)="([^"]+)"', page.body.decode())
    assert sorted(needed) == ["/docs/page.css", "/docs/page.js"]
    for path, media in (("/docs/page.css", "text/css"), ("/docs/page.js", "text/javascript")):
        file = await call(service, "GET", path, key=None)
        assert file.headers["content-type"] == f"{media}; charset=utf-8"
        again = await call(service, "GET", path, key=None, headers={"If-None-Match": file.headers["etag"]})
        assert (file.status, again.status) == (200, 304)


STYLE = b'<link rel="stylesheet" href="/docs/page.css"'


async def test_the_type_of_a_problem_leads_to_its_explanation(service: Service) -> None:
    for path, key in (("/nowhere", None), ("/v1/push/x?y=1", None), ("/v1/topics", "pusher")):
        kind = (await call(service, "GET", path, key=key)).json["type"]
        place, _, anchor = kind.partition("#")
        page = await call(service, "GET", place, key=None)
        assert (page.status, f'<h3 id="{anchor}">' in page.body.decode()) == (200, True), kind


async def test_the_guide_is_served_page_by_page_and_its_links_lead_to_pages(service: Service) -> None:
    todo, seen = ["/docs/guide"], set[str]()
    while todo:
        path = todo.pop()
        seen.add(path)
        page = await call(service, "GET", path, key=None)
        assert page.status == 200, path
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert re.findall(rb"<(?:script|img|link|iframe)\b[^>]*|\]\(", page.body) == [STYLE], path
        links = {link.partition("#")[0] for link in re.findall(r'href="(/docs/guide[^"]*)"', page.body.decode())}
        todo += links - seen - {*todo}
    assert seen == {"/docs/guide", *(f"/docs/guide/{place}" for place in PAGES if place != "index.md")}
    assert (await call(service, "GET", "/docs/guide/reference/none.md", key=None)).status == 404
    for path, same in (("/docs/guide/", "/docs/guide"), ("/docs/guide/reference/errors", None)):
        page = await call(service, "GET", path, key=None)
        assert page.body == (await call(service, "GET", same or f"{path}.md", key=None)).body
        assert page.status == 200


async def test_the_module_for_apps_is_served_and_kept_by_browsers(service: Service) -> None:
    path = "/clients/pushsvc-live.js"
    module = await call(service, "GET", path, key=None)
    assert module.headers["content-type"] == "text/javascript; charset=utf-8"
    assert module.headers["access-control-allow-origin"] == "*"
    assert b"export class LiveClient" in module.body
    tag = module.headers["etag"]
    for sent, status in ((tag, 304), (f'W/{tag}, "x"', 304), ('"x"', 200)):
        again = await call(service, "GET", path, key=None, headers={"If-None-Match": sent})
        assert (again.status, again.headers["etag"]) == (status, tag)
        assert (again.body == b"") == (status == 304)


@pytest.mark.parametrize(
    "path",
    ["/x", "/v1", "/v1/push/", "/v2/push", "/v1/push/batch/x", "/v1/devices/d1", "/v1//push", "/healthz/"],
)
async def test_unknown_paths_are_404(path: str, service: Service) -> None:
    check_problem(await call(service, "GET", path), 404, "not-found")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "PROPFIND"])
async def test_other_methods_are_405_with_allow(method: str, service: Service) -> None:
    answer = await call(service, method, "/v1/push")
    check_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "OPTIONS, POST"


async def test_options_and_head(service: Service) -> None:
    answer = await call(service, "OPTIONS", "/v1/push/019ad8f0-0000-7000-8000-000000000000", key=None)
    assert (answer.status, answer.headers["allow"]) == (204, "DELETE, GET, HEAD, OPTIONS")
    head = await call(service, "HEAD", "/healthz", key=None)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "15")
    check_problem(await call(service, "OPTIONS", "/nowhere", key=None), 404, "not-found")


async def test_concurrent_pushes_each_get_their_own_answer(service: Service) -> None:
    answers = await asyncio.gather(*(call(service, "POST", "/v1/push", ALERT) for _ in range(50)))
    assert {answer.status for answer in answers} == {202}
    assert {answer.json["id"] for answer in answers} == service.store.pushes.keys()
    assert len(service.store.pushes) == 50
