"""`Prefer: wait=N` on real sockets over real servers: who waits, for how long, and what that costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest

from pushsvc.api.pushes.waits import Waits
from pushsvc.api.server import serve
from pushsvc.model.push import Route
from pushsvc.model.status import PushStatus
from pushsvc.store import Store, StoreConfig, open_store

from ..timers import EARLY
from .harness import apns, fcm, running_service
from .servers import KINDS, Server, running_server
from .test_intake_kit import ALERT, CONFIG, LOOP as LOOP, Answer, Service, call, eventually
from .test_store_kit import all_of

PATIENT = {"Prefer": "wait=30"}


BACKENDS = KINDS


class Looking(Waits):
    """Counts the looks, and at how many pushes."""

    def __init__(self, store: Store, *, most: int) -> None:
        super().__init__(store.pushes, most=most)
        self.looks: list[int] = []
        statuses = store.pushes.statuses

        async def counted(pushes: Sequence[tuple[str, str]]) -> list[PushStatus | None]:
            self.looks.append(len(pushes))
            return await statuses(pushes)

        store.pushes.statuses = counted  # type: ignore[method-assign]  # to count what is asked

    @property
    def waiting(self) -> int:
        return len(self._waiting)


@asynccontextmanager
async def intake(server: Server, *, most: int = 1000) -> AsyncIterator[tuple[Service, Store, Looking]]:
    async with open_store(server.url, StoreConfig(shards=3)) as store:
        waits = Looking(store, most=most)
        service = Service(store.pushes, ring=store.keys, waits=waits)  # type: ignore[arg-type]  # all that it asks
        async with serve(service.app(CONFIG), CONFIG) as service.url:
            yield service, store, waits


@asynccontextmanager
async def opened(server: Server, *, most: int = 1000) -> AsyncIterator[tuple[Service, Store, Looking]]:
    server.flush()
    async with asyncio.timeout(60), intake(server, most=most) as parts:
        yield parts


async def post(service: Service, document: Any = ALERT, **headers: str) -> Answer:
    return await call(service, "POST", "/v1/push", document, headers=headers)


async def send_all(store: Store) -> int:
    """What a dispatcher does; how many pushes it has found."""
    sent = 0
    while taken := await store.queue.take(Route("shop", "apns"), "normal", targets=1000, wait_ms=0):
        for each in taken:
            await store.queue.settle("shop", *all_of(each))
        sent += len(taken)
    return sent


async def test_it_answers_the_status_when_all_has_ended(server: Server) -> None:
    async with opened(server) as (service, store, waits):
        waiting = asyncio.create_task(post(service, **PATIENT))
        await eventually(lambda: len(waits.looks) >= 2)
        assert not waiting.done()
        assert await send_all(store) == 1
        answer = await waiting
        assert answer.status == 200
        assert answer.headers["preference-applied"] == "wait=30"
        document = answer.json
        assert answer.headers["content-location"] == f"/v1/push/{document['id']}"
        assert "location" not in answer.headers
        assert (document["state"], document["counts"]["sent"]) == ("done", 1)
        assert (await call(service, "GET", answer.headers["content-location"])).body == answer.body
        assert waits.waiting == 0
        await eventually(lambda: waits._task is None)


@pytest.mark.parametrize(("wish", "applied"), [("wait=1", 1), ("wait=0", 0), ('respond-async, wait="1"; x=y', 1)])
async def test_it_answers_202_when_the_time_is_over(server: Server, wish: str, applied: int) -> None:
    async with opened(server) as (service, _, waits):
        started = time.monotonic()
        answer = await post(service, Prefer=wish)
        assert time.monotonic() - started >= applied - EARLY
        assert (answer.status, answer.headers["preference-applied"]) == (202, f"wait={applied}")
        assert answer.headers["location"] == f"/v1/push/{answer.json['id']}"
        assert answer.json["state"] == "sending"
        assert waits.waiting == 0


@pytest.mark.parametrize("wish", ["wait", "wait=x", "respond-async", "return=minimal", "wait=-1", ""])
async def test_what_it_does_not_understand_it_ignores(server: Server, wish: str) -> None:
    async with opened(server) as (service, _, waits):
        answer = await post(service, Prefer=wish)
        assert (answer.status, "preference-applied" in answer.headers) == (202, False)
        assert waits.looks == []


async def test_who_asks_for_more_than_is_given_learns_how_much(server: Server) -> None:
    async with opened(server) as (service, store, waits):
        waiting = asyncio.create_task(post(service, Prefer="wait=3600"))
        await eventually(lambda: waits.waiting == 1)
        await send_all(store)
        assert (await waiting).headers["preference-applied"] == "wait=30"


async def test_all_that_wait_share_the_looks(server: Server) -> None:
    async with opened(server) as (service, store, waits):
        started = time.monotonic()
        waiting = [asyncio.create_task(post(service, **PATIENT)) for _ in range(200)]
        await eventually(lambda: waits.waiting == 200)
        await asyncio.sleep(1.0)  # they wait
        ended = time.monotonic() - started
        assert len(waits.looks) <= ended / 0.05 + 1
        # Each is looked at less and less often: 5 or 6 times in its first second, and not 20.
        assert sum(waits.looks) <= 200 * (6 + 4 * ended)
        assert await send_all(store) == 200
        answers = await asyncio.gather(*waiting)
        assert {(answer.status, answer.json["state"]) for answer in answers} == {(200, "done")}
        assert len({answer.json["id"] for answer in answers}) == 200


async def test_who_finds_no_place_is_answered_at_once(server: Server) -> None:
    async with opened(server, most=2) as (service, store, waits):
        first = [asyncio.create_task(post(service, **PATIENT)) for _ in range(2)]
        await eventually(lambda: waits.full)
        answer = await post(service, **PATIENT)
        assert (answer.status, "preference-applied" in answer.headers) == (202, False)
        await send_all(store)
        assert {answer.status for answer in await asyncio.gather(*first)} == {200}
        assert not waits.full


async def test_a_client_that_hangs_up_gives_its_place_free_and_its_push_is_sent(server: Server) -> None:
    async with opened(server, most=1) as (service, store, waits):
        body = msgspec.json.encode(ALERT)
        head = (
            "POST /v1/push HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pusher\r\nPrefer: wait=30\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        for leave in ("close", "abort"):
            _, writer = await asyncio.open_connection(*service.address)
            writer.write(head.encode() + body)
            await eventually(lambda: waits.full)
            if leave == "abort":
                writer.transport.abort()
            else:
                writer.close()
            await eventually(lambda: not waits.full)
        assert await send_all(store) == 2


async def test_a_server_that_stops_lets_nobody_wait(server: Server) -> None:

    server.flush()

    async with asyncio.timeout(20):
        async with intake(server) as (service, _, waits):
            waiting = [asyncio.create_task(post(service, **PATIENT)) for _ in range(20)]
            await eventually(lambda: waits.waiting == 20)
        answers = await asyncio.gather(*waiting)
    assert {answer.status for answer in answers} == {202}
    assert waits.full
    assert waits._task is None


async def test_a_cancelled_push_has_ended(server: Server) -> None:
    async with opened(server) as (service, store, waits):
        accept = store.pushes.accept
        ids: list[str] = []

        async def noted(push: Any) -> None:
            await accept(push)
            ids.append(push.id)

        store.pushes.accept = noted  # type: ignore[method-assign]  # a waiting caller does not get the id before
        waiting = asyncio.create_task(post(service, **PATIENT))
        await eventually(lambda: waits.waiting == 1)
        assert (await call(service, "DELETE", f"/v1/push/{ids[0]}")).status == 200
        answer = await waiting
        assert (answer.status, answer.json["state"], answer.json["counts"]["cancelled"]) == (200, "cancelled", 1)


async def test_a_repeat_under_the_same_key_may_wait_too(server: Server) -> None:
    async with opened(server) as (service, store, waits):
        key = {"Idempotency-Key": "order 7"}
        waiting = [asyncio.create_task(post(service, **key, **PATIENT)) for _ in range(5)]
        await eventually(lambda: waits.waiting == 5)
        # The record has the 202, for callers that do not wait.
        plain = await post(service, **key)
        assert (plain.status, plain.headers["idempotent-replay"], plain.json["state"]) == (202, "true", "sending")
        assert await send_all(store) == 1
        answers = await asyncio.gather(*waiting)
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1
        assert sum(answer.headers.get("idempotent-replay") == "true" for answer in answers) == 4
        later = await post(service, **key, **PATIENT)
        assert (later.status, later.body, later.headers["idempotent-replay"]) == (200, answers[0].body, "true")
        assert later.headers["preference-applied"] == "wait=30"
        assert (await post(service, **key)).body == plain.body
        assert (await post(service, {**ALERT, "data": {"x": "y"}}, **key, **PATIENT)).status == 409


async def test_refusals_and_batches_do_not_wait(server: Server) -> None:
    async with opened(server) as (service, _, waits):
        assert (await post(service, {"to": 7}, **PATIENT)).status == 422
        answer = await call(service, "POST", "/v1/push/batch", [ALERT], headers=PATIENT)
        assert (answer.status, "preference-applied" in answer.headers) == (200, False)
        assert waits.looks == []


async def test_redis_may_go_and_come_back_meanwhile() -> None:
    with TemporaryDirectory(prefix="ps-") as name:
        folder = Path(name)
        options = ("--appendonly", "yes", "--appendfsync", "always")
        with running_server("valkey", folder=folder, options=options) as first:
            async with asyncio.timeout(60), intake(first) as (service, store, waits):
                waiting = [asyncio.create_task(post(service, Prefer=wish)) for wish in ("wait=30", "wait=1")]
                await eventually(lambda: waits.waiting == 2)
                first.kill()
                looks = len(waits.looks)
                assert (await waiting[1]).status == 202
                assert len(waits.looks) > looks
                with running_server("valkey", folder=folder, options=options):
                    assert await send_all(store) == 2
                    assert (await waiting[0]).status == 200


async def test_in_the_whole_service(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        document = {"to": {"tokens": apns("ok", 1) + fcm("UNREGISTERED", 2)}, "notification": {"title": "x"}}
        async with service.session.post("/v1/push", json=document, headers=PATIENT) as answer:
            assert answer.status == 200
            counts = (await answer.json())["counts"]
            assert (counts["total"], counts["sent"], counts["invalid"]) == (2, 1, 1)
