"""What stands in paths and headers of every call: names of any form, ids in any case, the request's own id."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from structlog.testing import capture_logs

from pushsvc.api.call import Call
from pushsvc.api.routes import CALLS

from .test_intake_kit import ALERT, LOOP as LOOP, Service, call, raw

NAMES = ["%7B3F2504E0-4F89-11D3-9A0C%7D", "%7B%7D", "a%7Bb", "caf%C3%A9", "100%25", "a+b", "~x(1)!$&'*,;=:@"]
NAMED = [each for each in CALLS if "{" in each.path]


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_that_can_be_given_can_be_used_on_every_path(name: str, service: Service) -> None:
    async def reach(method: str, path: str, body: object = None) -> int:
        return (await call(service, method, path, body, key="registrar")).status

    text = unquote(name)
    device = {"platform": "apns", "token": "8f3c" * 16, "user": text}
    assert await reach("PUT", f"/v1/devices/{name}", device) == 201
    assert await reach("PUT", f"/v1/topics/{name}/devices/{name}") == 204
    found = await call(service, "GET", f"/v1/devices/{name}", key="registrar")
    assert (found.json["id"], found.json["user"], found.json["topics"]) == (text, text, [text])
    assert (await call(service, "GET", f"/v1/topics/{name}", key="registrar")).json["devices"] == 1
    assert len((await call(service, "GET", f"/v1/users/{name}/devices", key="registrar")).json["items"]) == 1
    assert await reach("DELETE", f"/v1/topics/{name}/devices/{name}") == 204
    assert (await call(service, "DELETE", f"/v1/users/{name}", key="registrar")).json["erased"] == 1
    assert await reach("DELETE", f"/v1/devices/{name}") == 404


@pytest.mark.parametrize(
    "asked", [each for each in NAMED if each.keyed], ids=[each.name for each in NAMED if each.keyed]
)
async def test_every_path_with_a_name_takes_braces(asked: Call, service: Service) -> None:
    path = re.sub(r"\{\w+\}", "%7Bx%7D", asked.path)
    found = await call(service, asked.method, path, key=None)
    assert found.status == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/devices/caf%E9"),
        ("DELETE", "/v1/users/Jos%E9"),
        ("GET", "/v1/topics/%C3"),
        ("GET", "/v1/failed?reason=%ff"),
        ("GET", "/v1/failed?%ff=x"),
        ("GET", "/%ff"),
        ("GET", "/v1/devices/%ED%A0%80"),
    ],
)
async def test_percent_encoding_that_is_not_utf_8_is_400(method: str, path: str, service: Service) -> None:
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer registrar\r\n\r\n"
    found = await raw(service, head.encode())
    assert (found.status, found.json["type"]) == (400, "/docs/guide/reference/errors.md#malformed-request")
    assert "UTF-8" in found.json["detail"]


NOTHING = "There is nothing at"


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        (
            "POST",
            "/v1/v1/push",
            404,
            f"{NOTHING} /v1/v1/push; see /docs. Give the URL of the service without /v1: each call adds it.",
        ),
        ("POST", "/v1/push/", 404, f"{NOTHING} /v1/push/; see /docs. There is POST /v1/push."),
        ("GET", "/v1/pushes", 404, f"{NOTHING} /v1/pushes; see /docs."),
        ("GET", "/v1/4f1e8f3c", 404, f"{NOTHING} this path; see /docs."),
        ("POST", "/v1/push/7/cancel", 404, f"{NOTHING} this path; see /docs. There is DELETE, GET /v1/push/{{id}}."),
        (
            "POST",
            "/v1/devices",
            405,
            "Allowed here: GET, HEAD, OPTIONS. There is DELETE, GET, PUT /v1/devices/{device_id}.",
        ),
        ("PUT", "/v1/push", 405, "Allowed here: OPTIONS, POST. There is DELETE, GET /v1/push/{id}."),
        ("PUT", "/readyz", 405, "Allowed here: GET, HEAD, OPTIONS."),
    ],
)
async def test_an_unknown_path_is_refused_with_those_beside_it(
    method: str, path: str, status: int, detail: str, service: Service
) -> None:
    found = await call(service, method, path)
    assert (found.status, found.json["detail"]) == (status, detail)


async def test_push_ids_are_taken_in_any_case(service: Service) -> None:
    push_id = (await call(service, "POST", "/v1/push", ALERT)).json["id"]
    for path in (push_id.upper(), push_id.title()):
        assert (await call(service, "GET", f"/v1/push/{path}")).json["id"] == push_id
        assert (await call(service, "GET", f"/v1/push/{path}/deliveries")).status == 200
        assert (await call(service, "DELETE", f"/v1/push/{path}")).json["state"] == "cancelled"


async def test_every_answer_carries_the_callers_request_id_or_a_new_one(service: Service) -> None:
    with capture_logs() as logs:
        for path, key in (("/healthz", None), ("/v1/push", None), ("/v1/push/nope", "pusher"), ("/nowhere", None)):
            found = await call(service, "GET", path, key=key, headers={"X-Request-Id": "req_7"})
            assert found.headers["x-request-id"] == "req_7"
        ids = {(await call(service, "GET", "/healthz", key=None)).headers["x-request-id"] for _ in range(3)}
        for odd in ("", "a b", "x" * 129, "\xe9"):
            ids.add((await call(service, "GET", "/healthz", headers={"X-Request-Id": odd})).headers["x-request-id"])
    assert len(ids) == 7
    assert all(re.fullmatch("[0-9a-f]{24}", each) for each in ids)
    assert [entry["request_id"] for entry in logs if entry["event"] == "request"][:4] == ["req_7"] * 4
    assert "x-request-id" in (await raw(service, b"hello\r\n\r\n")).headers
    assert (await raw(service, b"POST /v1/push HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n")).headers["x-request-id"]


async def test_a_crash_names_the_request_in_the_log(service: Service) -> None:
    with capture_logs() as logs:
        found = await call(service, "POST", "/v1/push", {**ALERT, "collapse": "break"})
    assert found.status == 500
    (line,) = [entry for entry in logs if entry["event"] == "request_failed"]
    assert line["request_id"] == found.headers["x-request-id"]


@pytest.mark.parametrize("query", ["since=2026-11-28T00:00:00+01:00", "until=2026-11-28T00:00:00.5+01:00"])
async def test_a_bare_plus_in_an_instant_is_named(query: str, service: Service) -> None:
    head = f"GET /v1/failed?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer full\r\n\r\n"
    found = await raw(service, head.encode())
    assert (found.status, found.errors[0][1]) == (
        422,
        "has a space before its offset: in a URL the `+` is written `%2B`",
    )
    assert (await raw(service, head.replace("+", "%2B").encode())).status == 200
