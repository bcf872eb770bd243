"""Living processes are known, and what none of them serves is said: on `/readyz`, by a metric, in the log."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, structs
from structlog.testing import capture_logs

from pushsvc.model.push import Route
from pushsvc.ports.provider import CREDENTIAL
from pushsvc.ports.queue import NOTE
from pushsvc.ports.work import RemovedRoute, Worker
from pushsvc.runtime.parts import run_parts
from pushsvc.runtime.reload import Current
from pushsvc.runtime.state import conditions
from pushsvc.runtime.state.conditions import watching
from pushsvc.runtime.state.workers import read_unserved, reporting, unserved
from pushsvc.settings.live import AppLive
from pushsvc.settings.schema import AppSettings, Settings
from pushsvc.store import Store, StoreConfig, open_store

from ..timers import EARLY
from .harness import running_service
from .servers import KINDS, Server
from .test_store_kit import make_push, moment

ALL = ("serve", "dispatch", "feedback", "jobs", "live")


BACKENDS = KINDS


class Section(Struct):
    """A provider's section, as far as anybody reads it here."""

    environment: str = "production"


def settings(*apps: str) -> Settings:
    return Settings(apps={name: AppSettings(name=name, providers={"apns": Section()}) for name in apps})


def workers(**parts: str) -> list[Worker]:
    return [Worker(part, "a", frozenset(serves.split())) for part, serves in parts.items()]


async def notes(store: Store) -> dict[str, str]:
    return {name.removeprefix(NOTE): each.why for name, each in (await store.reports()).items() if each.note}


def texts(*arguments: Any) -> dict[str, str]:
    return {each.what: each.text for each in unserved(*arguments)}


def test_any_worker_that_serves_it_is_enough() -> None:
    everything = workers(dispatch="shop/apns", feedback="shop", jobs="shop other")
    assert texts(settings("shop"), everything) == {}
    shared = [*workers(dispatch="shop/apns"), *workers(dispatch="news/apns", feedback="shop news", jobs="shop news")]
    assert texts(settings("shop", "news"), shared) == {}


def test_what_nobody_serves_has_its_reason() -> None:
    found = texts(settings("shop", "news"), workers(dispatch="shop/apns", jobs="news"))
    assert list(found) == ["news/apns", "feedback", "jobs shop"]
    assert "same configuration" in found["news/apns"]
    assert found["feedback"].startswith("no `pushsvc feedback` runs")
    assert list(texts(settings("shop"), [])) == ["shop/apns", "feedback", "jobs"]
    cut_off = workers(dispatch="shop/apns", feedback="shop", jobs="")
    assert texts(settings("shop"), cut_off)["jobs"].startswith("no `pushsvc jobs` reaches the Redis of its queue")
    assert texts(settings("shop"), [*cut_off, *workers(jobs="shop")]) == {}
    online = structs.replace(settings("shop", "news").apps["news"], live=AppLive(secret="s" * 40))
    both = structs.replace(settings("shop"), apps={**settings("shop").apps, "news": online})
    served = workers(dispatch="shop/apns news/apns news/live", feedback="shop news", jobs="shop news")
    assert list(texts(both, served)) == ["live"]
    assert list(texts(both, [*served, *workers(live="shop")])) == ["live news"]
    assert texts(both, [*served, *workers(live="news")]) == {}


def test_a_removed_route_has_its_remedy() -> None:
    removed = [RemovedRoute(Route("shop", "fcm"), 1), RemovedRoute(Route("old", "apns"), 0, 1200)]
    found = texts(settings("shop"), workers(feedback="shop", jobs="shop"), removed)
    assert found["shop/fcm"].startswith(
        "the app has no account `fcm` any more, 1 delivery waits: add [apps.shop.fcm] again, or cancel the pushes"
    )
    assert found["old/apns"].startswith(
        "the configuration has no app `old` any more, 0 deliveries wait, and of the app 1,200 pushes scheduled or "
        "for audiences: "
        "add [apps.old] and [apps.old.apns] again"
    )
    # A dispatcher that lives holds them, and says so itself.
    assert texts(settings("shop"), workers(dispatch="shop/apns", feedback="shop", jobs="shop"), removed) == {}


async def test_a_held_route_outlives_who_said_so_until_another_sees_it_work_or_it_is_old(server: Server) -> None:
    """A dispatcher that is killed, or stopped, leaves a route held that its heir has yet to meet."""
    now = moment()

    server.flush()
    refused, apple = "InvalidProviderToken: look", "THIRD_PARTY_AUTH_ERROR: look"
    trouble = {
        "shop/apns": refused,
        "shop/fcm/apple": apple,
        "shop/fcm": CREDENTIAL + "no file",
        f"{NOTE}a/apns": "n",
    }
    config = StoreConfig(alive_ttl=10.0)
    async with open_store(server.url, config, clock=lambda: now) as heir:
        async with open_store(server.url, config, clock=lambda: now) as stopped:
            await stopped.queue.beat(trouble)
            assert [await heir.held(), await notes(heir)] == [
                {name: trouble[name] for name in sorted(trouble) if not name.startswith(NOTE)},
                {"a/apns": "n"},
            ]
            now += 2_000
            # Others that work, or worked earlier, prove nothing against one that lives.
            await heir.queue.beat({}, {"shop/apns": 1.0})
            assert "shop/apns" in await heir.held()
        assert await notes(heir) == {}, "they go with who stops in order"
        now += 10_000
        await heir.queue.beat({}, {"shop/fcm": 1.0, "shop/apns": 13.0})
        assert await heir.held() == {"shop/apns": refused, "shop/fcm/apple": apple}, "it worked before, not since"
        await heir.queue.beat({}, {"shop/apns": 11.0})
        assert await heir.held() == {"shop/fcm/apple": apple}
        now += 28_000
        assert await heir.held() == {"shop/fcm/apple": apple}
        now += 1
        assert await heir.held() == {}
        await heir.queue.beat({})
        assert await heir.link.call("HLEN", "ps:held") == 0


async def test_one_of_two_that_hold_a_route_is_over_it_and_the_other_is_believed(server: Server) -> None:
    server.flush()
    async with open_store(server.url) as one, open_store(server.url) as two:
        await one.queue.beat({"shop/apns": "timeout: look"})
        await two.queue.beat({"shop/apns": "unreachable: look"})
        await two.queue.beat({}, {"shop/apns": 0.0})
        assert await one.held() == {"shop/apns": "timeout: look"}
        await one.queue.beat({})
        assert await one.held() == {}


async def test_a_process_is_believed_for_the_takeover_time(server: Server) -> None:
    config = StoreConfig(alive_ttl=0.2)
    server.flush()
    async with open_store(server.url, config) as one, open_store(server.url, config) as two:
        await one.workers.report("dispatch", ["shop/fcm", "shop/apns"])
        await two.workers.report("serve", ["shop"])
        assert {(each.part, each.serves) for each in await one.workers.living()} == {
            ("dispatch", frozenset({"shop/apns", "shop/fcm"})),
            ("serve", frozenset({"shop"})),
        }
        await two.workers.leave("serve")
        assert [each.part for each in await one.workers.living()] == ["dispatch"]
        async with asyncio.timeout(20):
            while await one.workers.living():
                await two.workers.report("serve", [])
                await two.workers.leave("serve")
                await asyncio.sleep(0.02)
            # It is forgotten in the end, also where nobody took it back.
            while await one.link.call("HLEN", "ps:workers"):
                await two.workers.report("serve", [])
                await two.workers.leave("serve")
                await asyncio.sleep(0.02)


async def test_a_removed_route_is_known_while_something_waits_and_nobody_serves_it(server: Server) -> None:
    server.flush()
    both = [Route("shop", "apns"), Route("shop", "fcm")]
    async with open_store(server.url, StoreConfig(shards=3)) as store, open_store(server.url) as elsewhere:
        await store.workers.report("serve", ["shop", "news"], [*both, Route("news", "apns"), Route("idle", "apns")])
        for number in range(8):
            await store.pushes.accept(make_push(f"p{number}", platforms=("fcm",)))
            await store.pushes.accept(make_push(f"s{number}", app="news", send_at=moment() + 3_600_000))
        shop, news = RemovedRoute(both[1], 8), RemovedRoute(Route("news", "apns"), 0, 8)
        assert await store.removed([]) == [news, shop]
        assert await store.removed(both) == [news]
        assert await store.removed([both[0], Route("news", "fcm")]) == [shop]
        assert await store.pushes.recount(["shop"]) in (8, 16)  # of others it learns in the first look
        assert await store.pushes.recount(["shop"]) == 16
        gauges = await store.gauges({"shop": ["apns"]})
        assert gauges.pending["normal"] == sum(each.scheduled for each in gauges.apps.values()) == 8
        assert set(gauges.apps) == {"shop", "news"}
        # One dispatcher still has it in its configuration: it is changing, or has another on purpose.
        await elsewhere.workers.report("dispatch", ["shop/fcm"])
        assert await store.removed([both[0]]) == [news]
        assert await store.removed([both[0]], anywhere=False) == [news, shop]
        await elsewhere.workers.leave("dispatch")
        assert await store.removed([both[0]]) == [news, shop]


async def test_what_nobody_serves_is_logged_once_and_its_end_too(server: Server) -> None:
    server.flush()
    current = Current(settings("shop"))
    async with open_store(server.url, StoreConfig(alive_ttl=0.3)) as store, AsyncExitStack() as stack:
        with capture_logs() as logs:

            async def until(event: str) -> None:
                async with asyncio.timeout(20):
                    while event not in [line["event"] for line in logs]:
                        await asyncio.sleep(0.01)

            for part in ("feedback", "jobs"):
                await stack.enter_async_context(reporting(store, current, part, lambda: ["shop"]))
            async with watching(store, current, start=0.0):
                await until("unserved")
                async with reporting(store, current, "dispatch", lambda: ["shop/apns"]):
                    await until("served_again")
    (line,) = [line for line in logs if line["event"] == "unserved"]
    assert line["log_level"] == "error"
    assert line["unserved"] == {"shop/apns": "no `pushsvc dispatch` runs, or it hangs: nothing is sent"}


async def test_parts_that_start_beside_it_are_no_fault_and_one_that_never_comes_is(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[list[str]] = []

    async def read(*given: Any) -> list[Any]:
        found = await read_unserved(*given)
        looks.append([each.what for each in found])
        return found

    monkeypatch.setattr(conditions, "read_unserved", read)

    conditions._LOGS["unserved"].reset()  # what another test in this process has left
    server.flush()
    current = Current(settings("shop"))
    async with open_store(server.url, StoreConfig(alive_ttl=0.3)) as store, asyncio.timeout(60):
        with capture_logs() as logs:

            def logged() -> bool:
                return "unserved" in [line["event"] for line in logs]

            async with watching(store, current, start=3600.0):
                while len(looks) < 4:
                    await asyncio.sleep(0.01)
            assert all("shop/apns" in look for look in looks)
            assert not logged()
            began = time.monotonic()
            async with watching(store, current, start=0.5):
                while not logged():
                    await asyncio.sleep(0.01)
            assert time.monotonic() - began >= 0.5 - EARLY


async def test_a_route_without_a_dispatcher_is_named_on_readyz(tmp_path: Path) -> None:
    async with running_service(tmp_path, dispatchers=0) as service:

        async def names(*routes: str) -> bool:
            async with service.session.get("/readyz") as answer:
                assert answer.status == 200
                found: dict[str, Any] = await answer.json()
            return [name for name in found.get("unserved", {}) if "/" in name] == list(routes)

        async def counts(part: str, living: str) -> bool:
            async with service.session.get("/metrics") as answer:
                return f'pushsvc_workers{{part="{part}"}} {living}' in (await answer.text()).splitlines()

        await service.until("nobody serves the routes", lambda: names("shop/apns", "shop/fcm"))
        stop = asyncio.Event()
        part = asyncio.create_task(run_parts(["dispatch"], service.settings, stop, listening=lambda _: None))
        await service.until("somebody serves them", names)
        await service.until("the metric says so", lambda: counts("dispatch", "1.0"))
        assert await counts("serve", "1.0")
        stop.set()
        await part
        assert await names("shop/apns", "shop/fcm")
        await service.until("the metric says so", lambda: counts("dispatch", "0.0"))
