"""No call is reached but by its row of the table: its scopes let in, its parameters and its body are judged first."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec
import pytest

from pushsvc.api.app import build_app
from pushsvc.api.call import Answer, Call, Document
from pushsvc.api.config import ApiApp
from pushsvc.api.http.exchange import Reply, Request
from pushsvc.api.large import LARGE
from pushsvc.api.ports import ApiPorts
from pushsvc.api.routes import CALLS
from pushsvc.api.server import serve
from pushsvc.errors import NotFound, StoreUnavailable
from pushsvc.model.access import SCOPES

from .test_intake_kit import CONFIG, LOOP as LOOP, TOKEN, Service, Store, answer, api_key, call

PLACES = {"id": "017f22e2-79b0-7cc3-98c4-dc0c0c07398f", "job": "1", "platform": "apns"}


def of_every_scope() -> Mapping[str, ApiApp]:
    keys = [api_key(scope, "shop", scope) for scope in SCOPES]
    return {"shop": ApiApp("shop", frozenset({"apns"}), (api_key("nothing", "shop"), *keys))}


def path_of(row: Call) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: PLACES.get(name[1], "x"), row.path)


async def test_the_scopes_of_the_table_are_those_that_let_in() -> None:
    service = Service(Store(), keyless="none")
    async with serve(build_app(service.ports(CONFIG), of_every_scope(), keyless="none"), CONFIG) as service.url:
        for row in CALLS:
            for key in (None, "unknown", "nothing", *SCOPES):
                answer = await call(service, row.method, path_of(row), key=key)
                refused = 401 if key in (None, "unknown") else 403 if key not in row.scopes else None
                expected = refused if row.scopes and row.others != "answered" else None
                assert (answer.status in (401, 403)) is (expected is not None), (row.name, key)
                assert expected in (None, answer.status), (row.name, key)


async def test_a_handler_that_is_added_is_behind_the_same_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row with a body: key, scope, parameters and body are judged before the handler is called at all. A large body
    is decoded beside the loop, which serves others meanwhile."""
    calls: list[Any] = []
    beside: list[bool] = []

    def read(body: bytes, request: Request) -> Any:
        beside.append(threading.current_thread() is not threading.main_thread())
        return msgspec.json.decode(body)

    async def handle(ports: ApiPorts, request: Request, document: Any) -> Reply:
        calls.append((request.app.name, document))
        return Reply(b"{}", 201)

    row = Call(
        "post_new",
        "POST",
        "/v1/new",
        Document(dict, read, handle),
        "New.",
        Answer(201, "Made."),
        scopes=("feedback",),
        in_document=False,
    )
    monkeypatch.setattr("pushsvc.api.app.CALLS", (*CALLS, row))

    service = Service(Store())
    async with serve(build_app(service.ports(CONFIG), of_every_scope()), CONFIG) as service.url:
        for path, key, headers, status in (
            ("/v1/new", None, {}, 401),
            ("/v1/new", "push", {}, 403),
            ("/v1/new?x=1", "feedback", {}, 422),
            ("/v1/new", "feedback", {"Content-Type": "text/plain"}, 415),
        ):
            assert (await call(service, "POST", path, {"a": 1}, key=key, headers=headers)).status == status
        assert calls == []
        answer = await call(service, "POST", "/v1/new", {"a": 1}, key="feedback")
        assert (answer.status, answer.headers["cache-control"], calls) == (201, "no-store", [("shop", {"a": 1})])
        large = await call(service, "POST", "/v1/new", {"a": "x" * LARGE}, key="feedback")
        assert (large.status, beside) == (201, [False, True])
        document = (await call(service, "GET", "/openapi.json", key=None)).json
        assert "/v1/new" not in document["paths"]


@pytest.mark.parametrize("error", [NotFound(), StoreUnavailable("away"), ZeroDivisionError()], ids=repr)
async def test_an_answer_that_has_begun_is_cut_and_no_other_follows(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        yield b"first"
        raise error

    async def get_pieces(_: ApiPorts, __: Request) -> Reply:
        return Reply(pieces=pieces())

    row = Call("get_new", "GET", "/new", get_pieces, "New.", Answer(200, "Pieces.", media="text/plain"))
    monkeypatch.setattr("pushsvc.api.app.CALLS", (*CALLS, row))

    service = Service(Store())
    async with serve(build_app(service.ports(CONFIG), of_every_scope()), CONFIG) as service.url:
        reader, writer = await asyncio.open_connection(*service.address)
        writer.write(b"GET /new HTTP/1.1\r\nHost: x\r\n\r\n")
        whole = await asyncio.wait_for(reader.read(), 20)
        writer.close()
    assert whole.startswith(b"HTTP/1.1 200 ")
    assert whole.count(b"HTTP/1.1") == 1
    assert whole.endswith(b"5\r\nfirst\r\n")  # without the last chunk: the client sees that it was cut


async def test_the_last_use_of_a_key_is_seen_whether_it_was_let_in_or_not() -> None:
    service = Service(Store())
    app = service.app(CONFIG)
    async with serve(app, CONFIG) as service.url:

        async def used() -> set[str]:
            listed = (await call(service, "GET", "/v1/admin/keys", key="admin")).json["keys"]
            return {key["name"] for key in listed if key["last_used_at"]}

        assert await used() == set()
        assert (await call(service, "GET", "/v1/feedback", key="pusher")).status == 403
        await call(service, "GET", "/v1/feedback", key="unknown")
        service.store.away = True
        await app.uses.note()  # without the store it is noted at the next time
        service.store.away = False
        await app.uses.note()
        assert await used() == {"admin", "pusher"}
        await call(service, "GET", "/v1/feedback", key="reader")
    # Those of the last minute are noted when the server stops.
    assert service.store.uses.keys() == {api_key(name, "shop").sha256 for name in ("admin", "pusher", "reader")}


async def test_a_head_that_was_read_before_decides_nothing_that_may_change_between_its_requests() -> None:
    """Requests on one connection whose heads are the same but for the length of the body."""
    service = Service(Store())
    key = api_key("full", "shop", "push", "admin")
    apps = {"shop": ApiApp("shop", frozenset({"apns"}), (key,))}
    app = build_app(service.ports(CONFIG), apps)
    document = msgspec.json.encode({"to": {"tokens": [{"platform": "apns", "token": TOKEN}]}, "data": {"a": "b"}})
    typed = "Content-Type: application/json\r\n"
    async with serve(app, CONFIG) as service.url:
        reader, writer = await asyncio.open_connection(*service.address)

        async def ask(path: str, body: bytes, more: str = typed) -> int:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer full\r\n{more}"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            return (await answer(reader)).status

        # The type of a body that may be left out counts where it is there.
        plain = "Content-Type: text/plain\r\n"
        cleanup = [await ask("/v1/admin/cleanup", body, plain) for body in (b"", b'{"dry_run":true}', b"")]
        assert cleanup == [202, 415, 202]
        # The key is there, is taken away, and comes again.
        assert [await ask("/v1/push", document) for _ in range(2)] == [202, 202]
        app.serve({}, keyless="all")
        assert [await ask("/v1/push", document) for _ in range(2)] == [401, 401]
        app.serve(apps, keyless="all")
        assert await ask("/v1/push", document) == 202
        for _ in range(2):
            assert await ask("/v1/push", document, f"{typed}Expect: 100-continue\r\n") == 100
            assert (await answer(reader)).status == 202
        writer.close()
