"""The console's page, files and sessions, without a browser: who gets in, from which page, and for how long."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from structlog.testing import capture_logs

from pushsvc.api import guide
from pushsvc.api.console import calls
from pushsvc.api.console.files import FOLDER, Folder
from pushsvc.api.console.session import ACT, COOKIE, LIFE, read, sign
from pushsvc.api.routes import CALLS
from pushsvc.model.access import ApiKey

from .test_intake_kit import ALERT, LOOP as LOOP, NOW, Answer, Service, api_key, call, raw, running

FROM_PAGE = {"Sec-Fetch-Site": "same-origin", ACT: "1"}


async def sign_in(service: Service, key: str = "full", **headers: str) -> str:
    """The cookie of a new session."""
    answer = await call(service, "POST", "/console/session", key=key, headers=headers)
    assert answer.status == 200, answer.body
    return answer.headers["set-cookie"].split(";")[0]


async def by_session(
    service: Service, cookie: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] = FROM_PAGE
) -> Answer:
    return await call(service, method, path, body, key=None, headers={"Cookie": cookie, **headers})


async def test_a_session_is_begun_with_a_key_and_opens_what_the_key_opens(service: Service) -> None:
    cookie = await sign_in(service)
    session = (await by_session(service, cookie, "GET", "/console/session")).json
    assert (session["app"], session["key"], session["live"]) == ("shop", "full", False)
    pushed = await by_session(service, cookie, "POST", "/v1/push", ALERT)
    assert pushed.status == 202
    assert (await by_session(service, cookie, "GET", f"/v1/push/{pushed.json['id']}")).status == 200

    # Scopes stay those of the key: one without `push` sends nothing by way of the console either.
    reader = await sign_in(service, "admin")
    refused = await by_session(service, reader, "POST", "/v1/push", ALERT)
    assert (refused.status, refused.json["title"]) == (403, "Not allowed")
    assert "`push`" in refused.json["detail"]
    for key in ("pusher", "reader", "newsie"):
        assert (await call(service, "POST", "/console/session", key=key)).status == 403
    assert (await call(service, "POST", "/console/session", key="unknown")).status == 401


async def test_the_cookie_is_for_this_site_alone_and_no_script_reads_it(service: Service) -> None:
    plain = await call(service, "POST", "/console/session", headers={"Origin": service.url})
    assert {part.strip() for part in plain.headers["set-cookie"].split(";")[1:]} == {
        "Path=/",
        f"Max-Age={LIFE}",
        "HttpOnly",
        "SameSite=Strict",
    }
    # The browser reports TLS, whatever the proxy before us speaks with us.
    tls = await call(service, "POST", "/console/session", headers={"Origin": "https://push.example.com"})
    assert tls.headers["set-cookie"].endswith("; Secure")
    ended = await by_session(service, await sign_in(service), "DELETE", "/console/session")
    assert (ended.status, ended.headers["set-cookie"].split(";")[:3]) == (
        204,
        [f"{COOKIE}=", " Path=/", " Max-Age=0"],
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (FROM_PAGE, 202),
        ({"Sec-Fetch-Site": "same-origin"}, 403),  # a form or an image sends no header of ours
        ({}, 403),
        ({"Sec-Fetch-Site": "cross-site", ACT: "1"}, 403),
        ({"Sec-Fetch-Site": "same-site", ACT: "1"}, 403),  # another port or a sibling of the domain
        ({"Origin": "{url}", ACT: "1"}, 202),  # plain HTTP: browsers name no site there
        ({"Origin": "http://evil.example", ACT: "1"}, 403),
        ({"Origin": "null", ACT: "1"}, 403),
    ],
)
async def test_no_page_of_others_acts_with_a_session(headers: dict[str, str], status: int, service: Service) -> None:
    cookie = await sign_in(service)
    sent = {name: value.format(url=service.url) for name, value in headers.items()}
    assert (await by_session(service, cookie, "POST", "/v1/push", ALERT, sent)).status == status
    assert len(service.store.pushes) == (status == 202)
    # Nor does it read.
    reading = 200 if sent.get("Sec-Fetch-Site", "same-origin") == "same-origin" else 403
    if sent.get("Origin", service.url) == service.url:
        assert (await by_session(service, cookie, "GET", "/console/session", headers=sent)).status == reading


async def test_no_bytes_in_the_headers_of_a_request_are_an_error_of_the_service(service: Service) -> None:
    session = (await sign_in(service)).encode()
    heads = [b"Cookie: " + COOKIE.encode() + b"=" + value for value in (b"1.a.\xff", b"1.\xff.a", b"x..\xc3\xa9")]
    for head in heads:
        assert (await raw(service, b"GET /v1/admin/stats HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % head)).status == 401
    headers = (b"Origin", b"Host", b"Authorization", b"Sec-Fetch-Site", b"X-Forwarded-Proto", b"Idempotency-Key")
    contents = (b"Content-Type", b"Content-Encoding", b"Prefer", b"Accept", b"Accept-Encoding", b"If-None-Match")
    for name in (*headers, *contents, ACT.encode(), b"X-Request-Id", b"Expect", b"Cookie"):
        for value in (b"\xff", b"http://[", b"Bearer \xff"):
            for line in (b"POST /v1/push", b"POST /console/session", b"GET /v1/admin/stats", b"GET /console"):
                rest = [b"X-Pushsvc-Act: 1", b"Content-Length: 2", b"Connection: close", name + b": " + value]
                sent = b"\r\n".join([line + b" HTTP/1.1", b"Host: x", b"Cookie: " + session, *rest, b"", b"{}"])
                answer = await raw(service, sent)
                assert answer.status < 500, (line, name, value)


async def test_no_origin_may_send_the_header_of_acts(service: Service) -> None:
    """A page of another origin needs the leave of a preflight for it, and none is given."""
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Headers": ACT}
    for row in CALLS:
        path = re.sub(r"\{\w+\}", "x", row.path)
        answer = await call(service, "OPTIONS", path, key=None, headers=asked)
        assert not [name for name in answer.headers if name.startswith("access-control")], row.name


async def test_a_session_ends_with_its_time_with_its_key_and_with_another_secret() -> None:
    secret, sha256 = b"s" * 16, "ab" * 32
    value = sign(secret, sha256, 1000)
    assert read(secret, value, 999.9) == sha256
    assert read(secret, value, 1000) is None
    assert read(b"t" * 16, value, 0) is None
    for broken in ("", ".", "..", value[:-1], value.replace("1000", "9000"), "x" + value, f"{value}é"):
        assert read(secret, broken, 0) is None
    async with running() as service:
        key: ApiKey = api_key("operator", "shop", "admin")
        await service.store.add(key)
        cookie = await sign_in(service, "operator")
        assert (await by_session(service, cookie, "GET", "/console/session")).status == 200
        del service.store.keys[key.sha256]
        service.now += 5.1  # for so long what a key may do is remembered
        ended = await by_session(service, cookie, "GET", "/console/session")
        assert ended.status == 401

        # A session makes no other session, so that none lasts longer than it was signed for.
        cookie = await sign_in(service)
        assert (await by_session(service, cookie, "POST", "/console/session")).status == 403
        stale = f"{COOKIE}={sign(b'x' * 16, sha256, NOW)}"
        gone = await by_session(service, stale, "GET", "/console/session")
        assert (gone.status, "sign in again" in gone.json["detail"]) == (401, True)


async def test_a_session_sees_its_own_app_alone(service: Service) -> None:
    theirs = (await call(service, "POST", "/v1/push", {**ALERT, "to": {"tokens": [FCM]}}, key="newsie")).json["id"]
    cookie = await sign_in(service)
    for method, path in (
        ("GET", f"/v1/push/{theirs}"),
        ("GET", f"/v1/push/{theirs}/deliveries"),
        ("DELETE", f"/v1/push/{theirs}"),
    ):
        assert (await by_session(service, cookie, method, path)).status == 404


FCM = {"platform": "fcm", "token": "dQw4w9WgXcQ:APA91b" + "x" * 122}


async def test_every_act_leaves_a_line_with_who_and_how_many_and_no_token(service: Service) -> None:
    cookie = await sign_in(service)
    with capture_logs() as logs:
        counted = {**FROM_PAGE, ACT: "41208"}
        answers = [
            await by_session(service, cookie, "POST", "/v1/push", ALERT, counted),
            await by_session(service, cookie, "POST", "/v1/push", {}, {**counted, "X-Request-Id": "mine"}),
            await by_session(service, cookie, "DELETE", f"/v1/push/{'0' * 8}-0000-7000-8000-{'0' * 12}"),
            await by_session(service, cookie, "DELETE", f"/v1/suppressions/apns/{'8f3c' * 16}"),
            await by_session(service, cookie, "POST", "/v1/admin/keys", {"name": "ci"}),
        ]
        reader = await sign_in(service, "admin")
        answers.append(await by_session(service, reader, "POST", "/v1/push", ALERT))
        await by_session(service, cookie, "GET", "/v1/topics")
        await call(service, "POST", "/v1/push", ALERT)  # not by the console
    acts = [line for line in logs if line["event"] == "console_act"]
    assert [(line["key"], line["act"], line["count"], line["status"]) for line in acts] == [
        ("full", "post_push", "41208", 202),
        ("full", "post_push", "41208", 422),
        ("full", "cancel_push", "1", 404),
        ("full", "delete_suppression", "1", 404),
        ("full", "post_admin_key", "1", 201),
        ("admin", "post_push", "1", 403),  # its key lacks the scope
    ]
    # Each answer names the lines of its request, and no other request has its id.
    for act, answer in zip(acts, answers, strict=True):
        own = [line["event"] for line in logs if line.get("request_id") == answer.headers["x-request-id"]]
        assert sorted({*own} - {"key_made"}) == ["console_act", "request"], (act, own)
        assert act["request_id"] == answer.headers["x-request-id"]
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    assert "key_made" in [line["event"] for line in logs if line.get("request_id") == acts[4]["request_id"]]
    assert "8f3c8f3c" not in repr(logs)


async def test_the_figures_come_as_a_stream_that_ends_with_the_server() -> None:
    async with aiohttp.ClientSession() as session:
        async with running() as service:
            cookie = await sign_in(service)
            assert (await call(service, "GET", "/console/stream", key="pusher")).status == 403
            answer = await session.get(f"{service.url}/console/stream", headers={"Cookie": cookie})
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
            assert answer.headers["Cache-Control"] == "no-store"
            text = b""
            while b"\n\n" not in text.partition(b"data: ")[2]:
                text += await answer.content.readany()
            assert text.startswith(b"retry: 300\n\nevent: stats\ndata: {")
            figures = msgspec.json.decode(text.partition(b"data: ")[2].partition(b"\n")[0])
            assert (figures["app"], figures["verdict"]["state"]) == ("shop", "ok")
        # The server has stopped, and did not wait for an answer without an end until it had to cut it.
        await answer.content.read()


async def test_the_page_is_framed_by_none_and_runs_nothing_but_its_files(service: Service) -> None:
    for path in ("/", "/console/"):
        root = await call(service, "GET", path, key=None)
        assert (root.status, root.headers["location"]) == (303, "/console")
    pages = [
        await call(service, "GET", path, key=None)
        for path in ("/console", "/console/pushes?state=sending", "/console/devices/a%2Fb", "/console/x/%7B%22")
    ]
    assert {page.body for page in pages} == {pages[0].body}
    for page in pages:
        policy = page.headers["content-security-policy"]
        assert page.status == 200
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert (page.headers["x-frame-options"], page.headers["cache-control"]) == ("DENY", "no-store")
    text = pages[0].body.decode()
    assert not re.search(r"<script(?! type=\"module\" src=)|\son\w+=|style=", text)
    for place in re.findall(r'(?:src|href)="(/console/static/[^"]+)"', text):
        file = await call(service, "GET", place, key=None, headers={"Accept-Encoding": "gzip"})
        assert (file.status, "immutable" in file.headers["cache-control"]) == (200, True), place


async def test_nothing_waits_while_the_files_and_the_guide_are_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[tuple[str, bool]] = []

    def watched(name: str, works: Callable[..., Any]) -> Callable[..., Any]:
        def work(*args: Any, **more: Any) -> Any:
            prepared.append((name, threading.current_thread() is threading.main_thread()))
            return works(*args, **more)

        return work

    monkeypatch.setattr(calls, "_FOLDER", Folder())
    monkeypatch.setattr(Path, "rglob", watched("found", Path.rglob))
    monkeypatch.setattr(Path, "read_bytes", watched("read", Path.read_bytes))
    monkeypatch.setattr(gzip, "compress", watched("packed", gzip.compress))
    monkeypatch.setattr(guide, "_page", watched("rendered", guide._page))
    guide.pages.cache_clear()
    async with running() as service:
        shell = (await call(service, "GET", "/console", key=None)).body.decode()
        (main_js,) = re.findall(r'src="(/console/static/[^"]+)"', shell)
        for _ in range(2):
            sent = {"Accept-Encoding": "gzip"}
            assert (await call(service, "GET", main_js, key=None, headers=sent)).status == 200
            assert (await call(service, "GET", "/docs/guide", key=None)).status == 200
    assert {name for name, _ in prepared} == {"found", "read", "packed", "rendered"}
    assert not [name for name, in_loop in prepared if in_loop]
    assert [name for name, _ in prepared].count("packed") == 1  # each file when it is asked for first


async def test_every_file_is_served_by_the_hash_of_all_and_says_what_it_is(service: Service) -> None:
    shell = (await call(service, "GET", "/console", key=None)).body.decode()
    base = re.search(r"/console/static/[0-9a-f]{16}", shell)
    assert base is not None
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
    for path in sorted(FOLDER.rglob("*")):
        if path.is_dir() or path.name == "index.html":
            continue
        for coding in ("gzip", "identity"):
            sent = {"Accept-Encoding": coding}
            file = await call(service, "GET", f"{base[0]}/{path.relative_to(FOLDER)}", key=None, headers=sent)
            assert file.headers.get("content-encoding", "identity") == coding
            assert file.body == path.read_bytes()  # the client inflates it
        assert file.headers["content-type"].startswith(kinds[path.suffix])
        assert file.headers["x-content-type-options"] == "nosniff"
    for wrong in ("/console/static/0/main.js", f"{base[0]}/index.html", f"{base[0]}/..%2Fsession.py"):
        assert (await call(service, "GET", wrong, key=None)).status == 404
    # What is kept beside what was taken from others.
    assert {path.stem for path in (FOLDER / "vendor").glob("*.txt")} == {
        "htm.LICENSE",
        "preact.LICENSE",
        "uplot.LICENSE",
    }
