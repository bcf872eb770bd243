"""`queue.max_pending` on real sockets, over real servers, in one process and in two."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from pushsvc.api.pushes.backlog import Backlog
from pushsvc.api.server import serve
from pushsvc.model.push import Route
from pushsvc.ports.pushes import REFUSED_FOR
from pushsvc.rules.bound import Bound
from pushsvc.runtime.state.conditions import _read_logged, read_conditions
from pushsvc.settings.schema import AppSettings, QueueSettings, Settings
from pushsvc.store import Store, StoreConfig, keys, open_store

from .harness import Service as WholeService, apns, running_service
from .servers import KINDS, Server
from .test_intake_kit import ALERT, CONFIG, LOOP as LOOP, Answer, Service, call
from .test_store_kit import all_of, moment

NEWS = {"to": {"tokens": [{"platform": "fcm", "token": "n1"}]}, "notification": {"title": "x"}}


BACKENDS = KINDS


Story = Callable[[list[Service], Store], Awaitable[None]]


@asynccontextmanager
async def intakes(server: Server, most: int, processes: int = 1) -> AsyncIterator[tuple[list[Service], Store]]:
    """So many intakes, each with a connection and a backlog of its own."""
    server.flush()
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        services = []
        for _ in range(processes):
            store = await stack.enter_async_context(open_store(server.url, StoreConfig(shards=4)))
            service = Service(store.pushes, ring=store.keys)  # type: ignore[arg-type]  # all that it asks
            service.backlog = Backlog(store.pushes, most, {"shop": most, "news": most}, monotonic=time.monotonic)
            await stack.enter_async_context(service.backlog.watching())
            service.url = await stack.enter_async_context(serve(service.app(CONFIG), CONFIG))
            services.append(service)
        yield services, store


async def post(service: Service, document: Any = ALERT, *, key: str = "full", **headers: str) -> Answer:
    path = "/v1/push/batch" if isinstance(document, list) else "/v1/push"
    return await call(service, "POST", path, document, key=key, headers=headers)


async def until_taken(service: Service, document: Any = ALERT, **headers: str) -> Answer:
    """The answer of a service whose queue has room, once it has noticed."""
    async with asyncio.timeout(20):
        while (answer := await post(service, document, **headers)).status == 429:
            await asyncio.sleep(0.02)
    return answer


async def waiting(store: Store) -> int:
    return sum((await store.gauges({"shop": ("apns",), "news": ("fcm",)})).pending.values())


async def send_all(store: Store) -> None:
    """What a dispatcher does."""
    while taken := await store.queue.take(Route("shop", "apns"), "normal", targets=1000, wait_ms=0):
        for each in taken:
            await store.queue.settle("shop", *all_of(each))


async def test_one_process_fills_the_queue_to_its_bound_and_not_beyond(server: Server) -> None:
    async with intakes(server, 25) as (services, store):
        (service,) = services
        answers = await asyncio.gather(*(post(service) for _ in range(60)))
        assert {answer.status for answer in answers} <= {202, 429}
        assert await waiting(store) == sum(answer.status == 202 for answer in answers) <= 25
        # What was refused early, while others were being written, fits now.
        while (answer := await post(service)).status == 202:
            pass
        assert await waiting(store) == 25
        assert (answer.status, answer.headers["retry-after"]) == (429, "5")
        assert answer.json["type"] == "/docs/guide/reference/errors.md#too-many-requests"
        assert (await post(service, {**ALERT, "to": 7})).status == 422
        await send_all(store)
        assert (await until_taken(service)).status == 202


async def test_several_processes_pass_it_by_no_more_than_they_write_at_once(server: Server) -> None:
    async with intakes(server, 100, processes=2) as (services, store):

        async def caller(service: Service) -> int:
            accepted = 0
            while (await post(service)).status == 202:
                accepted += 1
            return accepted

        callers = [caller(service) for service in services for _ in range(6)]
        assert sum(await asyncio.gather(*callers)) == await waiting(store)
        # They hear of one another with each write, or else within a second.
        assert 100 <= await waiting(store) <= 100 + 100

        async with asyncio.timeout(20):
            while not all(answer.status == 429 for answer in [await post(service) for service in services]):
                await asyncio.sleep(0.1)


async def test_it_counts_what_others_have_accepted_for_other_apps(server: Server) -> None:
    async with intakes(server, 10, processes=2) as (services, store):
        first, second = services
        for _ in range(10):
            assert (await post(first, NEWS, key="newsie")).status == 202
        async with asyncio.timeout(20):
            while (await post(second)).status == 202:
                await asyncio.sleep(0.1)
        assert await waiting(store) >= 10


async def test_of_a_batch_those_that_do_not_fit_have_429_in_their_place(server: Server) -> None:
    async with intakes(server, 7) as (services, store):
        (service,) = services
        tokens = [{"platform": "apns", "token": f"{number:064x}"} for number in range(4)]
        large = {"to": {"tokens": tokens}, "notification": {"title": "x"}}
        vast = {**large, "to": {"tokens": [*tokens, *({"platform": "fcm", "token": f"t{n}"} for n in range(4))]}}
        answer = await post(service, [ALERT, large, vast, {"to": 7}, large, ALERT, ALERT, ALERT])
        assert [each["status"] for each in answer.json["results"]] == [202, 202, 413, 422, 429, 202, 202, 429]
        assert "7" in str(answer.json["results"][2]["error"]["errors"])
        assert answer.json["results"][4]["error"]["type"] == "/docs/guide/reference/errors.md#too-many-requests"
        assert await waiting(store) == 7
        await send_all(store)

        # Under a key it is one call: refused as a whole, and good for another try.
        key = {"Idempotency-Key": "order 7"}
        assert (await until_taken(service, [large], **key)).status == 200
        again = await post(service, [large, {"to": 7}], **{"Idempotency-Key": "order 8"})
        assert (again.status, "retry-after" in again.headers) == (429, True)
        assert (await post(service, [large, large], **{"Idempotency-Key": "order 9"})).status == 413
        # A repeat sends nothing, so it is not refused.
        repeat = await post(service, [large], **key)
        assert (repeat.status, repeat.headers["idempotent-replay"]) == (200, "true")
        await send_all(store)
        again = await until_taken(service, [large, {"to": 7}], **{"Idempotency-Key": "order 8"})
        assert [each["status"] for each in again.json["results"]] == [202, 422]


async def test_a_push_that_was_refused_while_there_was_room_is_shown_by_every_process(server: Server) -> None:
    async with intakes(server, 10, processes=2) as (services, store):
        tokens = [{"platform": "apns", "token": f"{number:064x}"} for number in range(4)]
        large = {"to": {"tokens": tokens}, "notification": {"title": "x"}}
        assert [(await post(services[1], large)).status for _ in range(3)] == [202, 202, 429]

        async def shown() -> list[tuple[str, str, int | None]]:
            found = await read_conditions(settings, store)
            return [(each.what, each.cause, each.waiting) for each in found if each.kind == "full"]

        apps = {name: AppSettings(name=name) for name in ("shop", "news")}
        settings = Settings(apps=apps, queue=QueueSettings(max_pending=10, app_share=1.0))
        while not (found := await shown()):
            await asyncio.sleep(0.02)
        cause = "8 deliveries wait; the maximum is 10 (queue.max_pending), so a push of 4 was refused"
        assert found == [("queue", cause, 8)]
        assert [each.cause for each in await _read_logged(settings, store) if each.kind == "full"] == [cause]
        assert 0 < await store.link.call("PTTL", keys.FULL) <= REFUSED_FOR * 1000
        await send_all(store)
        assert await shown() == [("queue", cause, 0)], "it was refused lately"
        settings = structs.replace(settings, queue=QueueSettings(max_pending=12, app_share=1.0))
        assert await shown() == [], "the limit was raised"


async def test_what_was_refused_is_over_in_time(server: Server) -> None:
    server.flush()
    now = moment()
    async with open_store(server.url, clock=lambda: now) as store:
        await store.pushes.note_refused([Bound("", 8, 10, 1, refused=4)])
        now += int(REFUSED_FOR * 1000) - 1
        await store.pushes.note_refused([Bound("shop", 2, 3, refused=2)])
        assert await store.pushes.refused() == [Bound("", 8, 10, 1, refused=4), Bound("shop", 2, 3, refused=2)]
        now += 1
        assert await store.pushes.refused() == [Bound("shop", 2, 3, refused=2)]


async def test_the_bound_is_changed_under_a_running_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushsvc.runtime.state.conditions.GAUGES_EVERY", 0.0)

    async def act(service: WholeService) -> None:
        file = service.settings.file
        assert file is not None
        text = file.read_text()
        service.simulator.break_credentials("apns")
        document = {"to": {"tokens": apns("ok", 1)}, "notification": {"title": "x"}}

        async def reaches(count: int) -> bool:
            await service.post(document)
            async with service.session.get("/metrics") as answer:
                lines = (await answer.text()).splitlines()
            pending = [float(line.split()[-1]) for line in lines if line.startswith("pushsvc_queue_pending{")]
            return sum(pending) == count and (await service.post(document))[0] == 429

        await service.until("the queue is full", lambda: reaches(5))
        file.write_text(text.replace("max_pending = 5", "max_pending = 9"))
        await service.until("there is room for four more", lambda: reaches(9))
        service.simulator.restore_credentials("apns")
        await service.until("the queue takes more when it is emptied", lambda: is_taken(service, document))
        async with service.session.get("/metrics") as answer:
            assert 'pushsvc_pushes_refused_total{app="shop",limit="queue"}' in await answer.text()

    async def is_taken(service: WholeService, document: Any) -> bool:
        return (await service.post(document))[0] == 202

    async with running_service(tmp_path, extra="[queue]\nmax_pending = 5\n") as service:
        await act(service)


async def test_what_counts_against_the_limit_is_a_figure(tmp_path: Path) -> None:
    async with running_service(tmp_path, extra="[queue]\nmax_pending = 5\n") as service:
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        await service.push(apns("ok", 1, 2, 3), notification={"title": "x"}, send_at=later)
        service.simulator.break_credentials("apns")
        await service.push(apns("ok", 4), notification={"title": "x"})
        assert (await service.post({"to": {"tokens": apns("ok", 5, 6)}, "notification": {"title": "x"}}))[0] == 429

        async def shown() -> dict[str, float]:
            async with service.session.get("/metrics") as answer:
                lines = [line.rpartition(" ") for line in (await answer.text()).splitlines()]
            return {name: float(value) for name, _, value in lines if name.startswith("pushsvc_queue_")}

        figures = await shown()
        assert (figures["pushsvc_queue_counted"], figures["pushsvc_queue_limit"]) == (4, 5)
        assert sum(count for name, count in figures.items() if name.startswith("pushsvc_queue_pending{")) == 1
        async with service.session.get("/v1/admin/stats") as answer:
            queue = (await answer.json())["queue"]
        assert (queue["waiting"], queue["counted"], queue["limit"]) == (1, 4, 5)
        service.simulator.restore_credentials("apns")
