"""`Idempotency-Key` and `POST /v1/push/batch` on a real socket, over a real store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from pushsvc.api.large import LARGE
from pushsvc.api.pushes import batch_calls
from pushsvc.api.pushes.document import read as read_push
from pushsvc.api.server import serve
from pushsvc.background import in_background
from pushsvc.errors import StoreError, StoreUnavailable
from pushsvc.model.push import Push, Route
from pushsvc.model.rates import Rate
from pushsvc.store import Store, StoreConfig, open_store

from .servers import running_server
from .test_intake_kit import ALERT, CONFIG, LOOP as LOOP, NOW, TOKEN, Answer, Service, call

KEY = {"Idempotency-Key": "order 7"}
OTHER = {**ALERT, "notification": {"title": "other"}}


def alert(number: int) -> dict[str, Any]:
    return {"to": {"tokens": [{"platform": "apns", "token": f"{number:064x}"}]}, "notification": {"title": "x"}}


@asynccontextmanager
async def over_valkey(*, limit: Rate | None = None) -> AsyncIterator[tuple[list[Service], Store]]:
    """Two intakes, each with a connection of its own to one Valkey."""
    config = StoreConfig(shards=4)
    with running_server() as server:
        async with open_store(server.url, config) as one, open_store(server.url, config) as two:
            first, second = (
                Service(store.pushes, ring=store.keys, limiter=store.limiter, limit=limit)  # type: ignore[arg-type]
                for store in (one, two)
            )
            async with (
                serve(first.app(CONFIG), CONFIG) as first.url,
                serve(second.app(CONFIG), CONFIG) as second.url,
            ):
                yield [first, second], one


async def queued(store: Store) -> int:
    return sum(store.pushes.pending for _ in [await store.gauges({"shop": ("apns",)})])


async def test_fifty_equal_posts_at_once_are_one_push_over_two_processes() -> None:
    async with over_valkey() as (services, store):
        posts = [call(services[number % 2], "POST", "/v1/push", ALERT, headers=KEY) for number in range(50)]
        answers = await asyncio.gather(*posts)
        assert {answer.status for answer in answers} == {202}
        assert len({answer.body for answer in answers}) == 1
        assert len({answer.headers["location"] for answer in answers}) == 1
        assert sum(answer.headers.get("idempotent-replay") == "true" for answer in answers) == 49
        assert await queued(store) == 1
        again = await call(services[1], "POST", "/v1/push", OTHER, headers=KEY)
        assert (again.status, again.json["type"]) == (409, "/docs/guide/reference/errors.md#conflict")
        assert await queued(store) == 1
        assert (await call(services[1], "POST", "/v1/push", OTHER, headers={"Idempotency-Key": "8"})).status == 202
        assert await queued(store) == 2


async def test_different_bodies_at_once_under_one_key_send_one_of_them() -> None:
    async with over_valkey() as (services, store):
        posts = [call(services[n % 2], "POST", "/v1/push", alert(n), headers=KEY) for n in range(20)]
        statuses = sorted(answer.status for answer in await asyncio.gather(*posts))
        assert statuses == [202] + [409] * 19
        assert await queued(store) == 1


async def test_a_crash_between_accept_and_answer_leaves_a_push_that_the_repeat_finds() -> None:
    async with over_valkey() as (services, store):
        accept_once = store.pushes.accept_once

        async def crash(*args: Any, **named: Any) -> bytes | None:
            await accept_once(*args, **named)
            raise ZeroDivisionError

        store.pushes.accept_once = crash  # type: ignore[method-assign]  # the process dies right after Redis has it
        assert (await call(services[0], "POST", "/v1/push", ALERT, headers=KEY)).status == 500
        again = await call(services[1], "POST", "/v1/push", ALERT, headers=KEY)
        assert (again.status, again.headers["idempotent-replay"]) == (202, "true")
        assert (await call(services[1], "GET", again.headers["location"])).json["counts"]["queued"] == 1
        assert await queued(store) == 1


async def test_a_batch_under_a_key_is_one_call() -> None:
    async with over_valkey() as (services, store):
        body = [alert(1), {"to": 7}, alert(2)]
        posts = [call(services[number % 2], "POST", "/v1/push/batch", body, headers=KEY) for number in range(10)]
        answers = await asyncio.gather(*posts)
        assert len({answer.body for answer in answers}) == 1
        assert [each["status"] for each in answers[0].json["results"]] == [202, 422, 202]
        assert sum(answer.headers.get("idempotent-replay") == "true" for answer in answers) == 9
        assert await queued(store) == 2
        assert (await call(services[0], "POST", "/v1/push/batch", body[:1], headers=KEY)).status == 409
        assert (await call(services[0], "POST", "/v1/push", ALERT, headers=KEY)).status == 409


async def test_a_repeat_counts_against_no_limit() -> None:
    """Of 50 pushes that the app may post, the first call of each key takes what was accepted of it."""
    async with over_valkey(limit=Rate(50, 3600)) as (services, _):
        batch = [alert(1), {"to": 7}, alert(2)]
        for path, body, laps in (("/v1/push/batch", batch, 10), ("/v1/push", ALERT, 20)):
            headers = {"Idempotency-Key": path}
            posts = [call(services[n % 2], "POST", path, body, headers=headers) for n in range(laps)]
            answers = await asyncio.gather(*posts)
            assert sum(answer.headers.get("idempotent-replay") == "true" for answer in answers) == laps - 1
        rest = [alert(number) for number in range(50 - 2 - 1)]
        assert (await call(services[0], "POST", "/v1/push/batch", [*rest, ALERT])).status == 429
        assert (await call(services[0], "POST", "/v1/push/batch", rest)).status == 200
        assert (await call(services[1], "POST", "/v1/push", ALERT)).status == 429


async def test_a_repeat_is_answered_also_where_the_limit_is_used_up() -> None:
    async with over_valkey(limit=Rate(3, 3600)) as (services, store):
        calls = [("/v1/push", ALERT, "single"), ("/v1/push/batch", [alert(1), alert(2)], "batch")]
        first = [
            await call(services[0], "POST", path, body, headers={"Idempotency-Key": key}) for path, body, key in calls
        ]
        assert [answer.status for answer in first] == [202, 200]
        for service in services:
            assert (await call(service, "POST", "/v1/push", ALERT)).status == 429
            for (path, body, key), before in zip(calls, first, strict=True):
                again = await call(service, "POST", path, body, headers={"Idempotency-Key": key})
                assert (again.status, again.body) == (before.status, before.body)
                assert again.headers["idempotent-replay"] == "true"
            # Neither another body nor a key that is new gets what was answered before, or past the limit.
            assert (await call(service, "POST", "/v1/push", OTHER, headers={"Idempotency-Key": "single"})).status == 409
            refused = await call(service, "POST", "/v1/push", ALERT, headers={"Idempotency-Key": "new"})
            assert (refused.status, "retry-after" in refused.headers) == (429, True)
        assert await queued(store) == 3


async def test_a_call_without_a_key_over_the_limit_costs_no_look_up() -> None:
    async with over_valkey(limit=Rate(1, 3600)) as (services, store):
        assert (await call(services[0], "POST", "/v1/push", ALERT)).status == 202
        assert (await call(services[0], "POST", "/v1/push", b"no JSON", headers=KEY)).status == 429
        store.pushes.recall = None  # type: ignore[assignment, method-assign]  # to call it would be a fault
        assert (await call(services[0], "POST", "/v1/push", b"no JSON")).status == 429


async def test_scheduled_pushes_under_a_key_are_scheduled_once() -> None:
    later = {**ALERT, "send_at": "2026-12-01T10:00:00Z"}
    due = NOW + 3_600_000
    async with over_valkey() as (services, store):
        posts = [call(services[number % 2], "POST", "/v1/push", later, headers=KEY) for number in range(20)]
        answers = await asyncio.gather(*posts)
        assert {(answer.status, answer.json["state"]) for answer in answers} == {(202, "scheduled")}
        assert len({answer.body for answer in answers}) == 1
        body = [{**alert(1), "send_at": "2026-12-01T10:00:00Z"}, {**ALERT, "send_at": "tomorrow"}, alert(2)]
        for headers in ({"Idempotency-Key": "batch"}, {"Idempotency-Key": "batch"}, {}):
            results = (await call(services[0], "POST", "/v1/push/batch", body, headers=headers)).json["results"]
            assert [each.get("state") for each in results] == ["scheduled", None, "sending"]
            assert [fault["path"] for fault in results[1]["error"]["errors"]] == ["send_at"]
        figures = (await store.gauges({"shop": ("apns",)})).apps["shop"]
        assert (figures.total_pending, figures.scheduled) == (2, 3)
        assert await store.queue.launch("shop", due - 1) == 0
        assert await store.queue.launch("shop", due) == 3
        assert await store.queue.launch("shop", due) == 0
        assert await queued(store) == 5


async def test_a_thousand_pushes_in_one_call_are_in_their_lane() -> None:
    async with over_valkey() as (services, store):
        answer = await call(services[0], "POST", "/v1/push/batch", [alert(number) for number in range(1000)])
        results = answer.json["results"]
        assert [each["status"] for each in results] == [202] * 1000
        assert len({each["id"] for each in results}) == 1000
        order = {}
        while taken := await store.queue.take(Route("shop", "apns"), "normal", targets=1000, wait_ms=0):
            order.update({each.chunk.push_id: each.chunk.targets[0].token for each in taken})
        assert [order[each["id"]] for each in results] == [f"{number:064x}" for number in range(1000)]


# --- without a server --------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9"])
async def test_a_key_that_is_none_is_refused(key: str, service: Service) -> None:
    answer = await call(service, "POST", "/v1/push", ALERT, headers={"Idempotency-Key": key})
    assert (answer.status, answer.errors[0][0]) == (422, "Idempotency-Key")
    assert service.store.pushes == {}


async def test_a_refused_call_keeps_no_record(service: Service) -> None:
    assert (await call(service, "POST", "/v1/push", {"to": {}}, headers=KEY)).status == 422
    corrected = await call(service, "POST", "/v1/push", ALERT, headers=KEY)
    assert (corrected.status, "idempotent-replay" in corrected.headers) == (202, False)


async def _lines(service: Service, body: bytes) -> Answer:
    return await call(service, "POST", "/v1/push/batch", body, headers={"Content-Type": "application/x-ndjson"})


async def test_lines_and_faults_stand_in_their_places(service: Service) -> None:
    good = msgspec.json.encode(ALERT)
    large = msgspec.json.encode({**ALERT, "data": {"x": "y" * 5000}})
    answer = await _lines(service, good + b"\r\n\n{nonsense\n" + large + b'\n{"to":{"tokens":[]}}\n' + good)
    assert answer.status == 200
    results = answer.json["results"]
    assert [each["status"] for each in results] == [202, 400, 413, 422, 202]
    assert [each["id"] for each in results if "id" in each] == list(service.store.pushes)
    assert {error["path"] for error in results[3]["error"]["errors"]} >= {"to.tokens"}
    assert results[0] == {"status": 202, "id": results[0]["id"], "state": "sending", "deliveries": 1}


@pytest.mark.parametrize(
    ("body", "status"), [(b"[", 400), (b"[]", 422), (b"{}", 422), (b"", 400), (b"[" + b"1," * 1000 + b"1]", 422)]
)
async def test_a_body_that_is_no_batch_is_refused_whole(body: bytes, status: int, service: Service) -> None:
    answer = await call(service, "POST", "/v1/push/batch", body)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/problem+json")
    assert service.store.pushes == {}


async def test_a_push_that_the_store_cannot_take_has_500_and_the_others_their_own_result(service: Service) -> None:
    accept = service.store.accept

    async def broken(push: Push) -> None:
        if push.total == 2:
            raise StoreError("WRONGTYPE Operation against a key holding the wrong kind of value")
        if push.total == 3:
            raise StoreUnavailable("connection refused")
        await accept(push)

    service.store.accept = broken  # type: ignore[method-assign]
    token = ALERT["to"]["tokens"][0]
    bodies = [
        {**ALERT, "to": {"tokens": [{**token, "token": f"{number:064x}"} for number in range(count)]}}
        for count in (1, 2, 3, 1)
    ]
    answer = await call(service, "POST", "/v1/push/batch", bodies)
    assert answer.status == 200
    results = answer.json["results"]
    assert [each["status"] for each in results] == [202, 500, 503, 202]
    assert [each["id"] for each in results if "id" in each] == list(service.store.pushes)
    assert results[1]["error"]["instance"].startswith("urn:uuid:")
    assert [each["error"].get("retry_after") for each in results[1:3]] == [None, 1]
    assert "WRONGTYPE" not in str(results)


async def test_a_large_push_of_a_batch_does_not_hold_up_other_requests(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is judged in a thread, as it is alone; of smaller ones no more follow each other than have its size."""
    main, turns = threading.get_ident(), 0
    judged: list[tuple[int, int, bool]] = []

    def read(body: bytes, *rest: Any) -> Any:
        judged.append((len(body), turns, threading.get_ident() == main))
        return read_push(body, *rest)

    monkeypatch.setattr(batch_calls, "read", read)

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def padded(size: int) -> bytes:
        return msgspec.json.encode(ALERT).ljust(size)

    documents = [padded(LARGE), *[padded(LARGE // 3)] * 9, *[padded(1)] * 90, padded(LARGE - 1), padded(LARGE - 1)]
    async with in_background(count_turns(), "turns"):
        answer = await _lines(service, b"\n".join(documents))
    assert {each["status"] for each in answer.json["results"]} == {202}
    assert [here for size, _, here in judged] == [size < LARGE for size, _, _ in judged]
    together: dict[int, list[int]] = {}
    for size, turn, _ in judged:
        together.setdefault(turn, []).append(size)
    assert max(map(sum, together.values())) <= LARGE
    assert 10 < max(map(len, together.values())) <= 25


async def test_without_redis_a_batch_is_refused_whole(service: Service) -> None:
    service.store.away = True
    answer = await call(service, "POST", "/v1/push/batch", [{**ALERT, "data": {"token": TOKEN}}])
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
