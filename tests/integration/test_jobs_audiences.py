"""`pushsvc jobs` as a real process, expanding audiences: killed again and again, alternating with other jobs."""

from __future__ import annotations

import asyncio
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis import Redis
from structlog.testing import capture_logs

from pushsvc.jobs import FUNCTIONS, QUEUE, Context, functions, make_job_class
from pushsvc.jobs.enqueue import enqueue_expansions, enqueue_lapsed, enqueue_replays
from pushsvc.jobs.functions import LONGEST, SLICE, Slice
from pushsvc.jobs.worker import make_queue
from pushsvc.model.codec import encode_audience
from pushsvc.model.devices import ByTopic, Device
from pushsvc.model.push import Push, Route
from pushsvc.ports.letters import ReplaySpec
from pushsvc.ports.work import RemovedRoute
from pushsvc.runtime.reload import Current
from pushsvc.runtime.state.conditions import read_conditions
from pushsvc.settings.schema import AppSettings, Settings
from pushsvc.stages.expand import fanout
from pushsvc.store import Store, keys, open_store

from .servers import KINDS, Server
from .test_jobs import until, worker
from .test_store_kit import make_push, moment, take_all
from .test_store_replay import fail_all

BACKENDS = KINDS

CROWD = 20_000


async def register(store: Store, count: int) -> None:
    devices = [
        Device(
            id=f"d{n}", platform="apns", token=f"t{n}", topics=("news",), registered_at=moment(), last_seen_at=moment()
        )
        for n in range(count)
    ]
    for start in range(0, count, 500):
        await store.registry.put_many("shop", devices[start : start + 500])


def to_topic(push_id: str) -> Push:
    return msgspec.structs.replace(make_push(push_id, 0), targets={}, audience=encode_audience(ByTopic("news")))


async def standing(store: Store, push_id: str) -> tuple[str, int]:
    status = await store.pushes.status("shop", push_id)
    assert status is not None
    return status.state, status.counts.total


async def has_more_than(store: Store, count: int) -> bool:
    return (await standing(store, "p"))[1] > count


async def is_sending(store: Store) -> bool:
    return (await standing(store, "p"))[0] == "sending"


async def test_an_expansion_killed_again_and_again_numbers_each_device_once(
    server: Server, tmp_path: Path, store: Store
) -> None:
    await register(store, CROWD)
    await store.pushes.accept(to_topic("p"))
    states = []
    for least in (0, CROWD // 2):
        with worker(server, tmp_path) as process:
            await until(partial(has_more_than, store, least))
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
        states.append((await standing(store, "p"))[0])
    assert states[0] == "expanding"
    with worker(server, tmp_path) as last:
        await until(partial(is_sending, store))
        last.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(last.wait) == 0
    targets = [target for each in await take_all(store) for target in each.chunk.targets]
    assert sorted(target.index for target in targets) == list(range(CROWD))
    assert {target.device_id for target in targets} == {f"d{n}" for n in range(CROWD)}
    assert await standing(store, "p") == ("sending", CROWD)


async def test_new_work_wakes_every_process_that_waits_for_it(server: Server, store: Store) -> None:
    async with open_store(server.url, store.config) as other:
        assert not await other.bell.wait(0.01)
        for ask in (
            lambda: store.pushes.accept(to_topic("p")),
            lambda: store.dead.request(ReplaySpec("shop")),
            store.cleanups.request,
        ):
            waiting = [asyncio.create_task(each.bell.wait(60.0)) for each in (store, other)]
            await ask()
            assert await asyncio.gather(*waiting) == [True, True]
            assert not await other.bell.wait(0.01)
        # A push without an audience is nothing for them.
        await store.pushes.accept(make_push("q", 1))
        assert not await other.bell.wait(0.01)
        # Another server became the primary, which has not received the last ring, and whose clock is behind.
        server.command("DEL", keys.BELL)
        server.command("XADD", keys.BELL, "1-1", "a", "b")
        assert await store.bell.wait(0.01)
        assert not await store.bell.wait(0.01)
        other.bell.ring()
        assert await store.bell.wait(60.0)
        assert not await store.bell.wait(0.01)
        assert await other.bell.wait(60.0)
        # The caller does not wait for the bell, which rings before the store is closed.
        stalled, call = asyncio.Event(), store.link.call

        async def slow(*command: Any, errors: bool = False) -> Any:
            if command[:2] == ("XADD", keys.BELL):
                await stalled.wait()
            return await call(*command, errors=errors)

        async with open_store(server.url, store.config) as third:
            third.link.call = slow  # type: ignore[method-assign]
            for push_id in ("r", "s"):
                await third.pushes.accept(to_topic(push_id))
            await third.dead.request(ReplaySpec("shop"))
            await third.cleanups.give_up()
            await third.cleanups.request()
            assert not await other.bell.wait(0.01)
            stalled.set()
        assert await other.bell.wait(0.01)


async def test_audiences_go_before_all_that_waits(server: Server, store: Store) -> None:
    await register(store, 2)
    await fail_all(store, make_push("r", 1))
    await store.dead.request(ReplaySpec("shop"))
    for push_id in ("p", "q"):
        await store.pushes.accept(to_topic(push_id))
    settings = Settings(apps={"shop": AppSettings(name="shop")})
    with Redis(unix_socket_path=str(server.folder / "socket")) as connection:
        queue = make_queue(QUEUE, connection, make_job_class(FUNCTIONS, None))
        await enqueue_replays(store, queue, settings)
        await enqueue_expansions(store, queue, settings)
        await enqueue_expansions(store, queue, settings)
        assert [job.func_name for job in queue.jobs] == ["expand", "replay"]
        for each in await store.expansions.due(["shop"]):
            await store.pushes.cancel("shop", each.push_id)
        queue.delete()
        await enqueue_expansions(store, queue, settings)
        assert queue.count == 0


def settings_of(*apps: str) -> Settings:
    return Settings(apps={name: AppSettings(name=name) for name in apps})


async def test_one_that_cannot_be_read_or_fails_stops_no_other(
    server: Server, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    await register(store, 2)
    for push_id in ("newer", "broken", "good"):
        await store.pushes.accept(to_topic(push_id))
    await store.link.call("HSET", keys.expansion("shop", 0, "newer"), "push", b"\x02 of a later version")
    expand = fanout.expand

    async def failing(app: str, push_id: str, **rest: Any) -> fanout.Run:
        if push_id == "broken":
            raise RuntimeError("a fault of ours")
        return await expand(app, push_id, **rest)

    monkeypatch.setattr(fanout, "expand", failing)
    with capture_logs() as logs:
        assert await functions.expand(Context(Current(settings_of("shop")), server.url)) == {"made": 2}
    assert [line["event"] for line in logs if line["log_level"] == "error"] == [
        "expansion_failed",
        "expansion_quarantined",
    ]
    assert await standing(store, "good") == ("sending", 2)
    assert await standing(store, "newer") == ("done", 0)
    assert await standing(store, "broken") == ("expanding", 0)
    assert await store.expansions.due(["shop"]) == []  # until its pause is over
    assert await store.link.call("ZCARD", keys.expansions("shop", 0, "normal")) == 1
    assert await store.link.call("XLEN", keys.quarantine("shop", 0)) == 1
    # Not sending is never silent: both are conditions of the service, with their remedies.
    found = {each.kind: each for each in await read_conditions(settings_of("shop"), store)}
    assert {"audience", "quarantine"} <= found.keys()
    audience, aside = found["audience"], found["quarantine"]
    assert (audience.what, audience.severity, audience.reason) == ("shop", "critical", "RuntimeError")
    assert "push broken" in audience.cause
    assert "expansion_failed" in audience.remedy
    assert audience.since is not None
    assert (aside.what, aside.severity) == ("shop", "warning")
    assert "1 record" in aside.cause
    monkeypatch.setattr(fanout, "expand", expand)
    await store.link.call("ZADD", keys.expansions("shop", 0, "normal"), "XX", 0, "broken")
    await store.link.call("DEL", keys.quarantine("shop", 0))
    assert await functions.expand(Context(Current(settings_of("shop")), server.url)) == {"made": 2}
    over = {each.kind for each in await read_conditions(settings_of("shop"), store)}
    assert not over & {"audience", "quarantine"}


async def test_a_full_queue_holds_up_no_urgent_audience(server: Server, store: Store) -> None:
    await register(store, 2)
    settings = settings_of("shop")
    settings = msgspec.structs.replace(settings, queue=msgspec.structs.replace(settings.queue, max_pending=20))
    await store.pushes.accept(make_push("full", 20))
    for lane in ("bulk", "normal", "urgent"):
        await store.pushes.accept(msgspec.structs.replace(to_topic(lane), lane=lane))
    assert await functions.expand(Context(Current(settings), server.url)) == {"made": 2}
    assert await standing(store, "urgent") == ("sending", 2)
    assert await standing(store, "normal") == await standing(store, "bulk") == ("expanding", 0)
    assert "full" in {each.kind for each in await read_conditions(settings, store)}


async def test_what_expired_while_it_waited_is_said_and_ends_as_expired(server: Server, store: Store) -> None:
    await register(store, 2)
    late = msgspec.structs.replace(to_topic("p"), created_at=1_000, expires_at=2_000)
    await store.pushes.accept(late)
    with capture_logs() as logs:
        assert await functions.expand(Context(Current(settings_of("shop")), server.url)) == {"made": 2}
    assert "audience_expired" in [line["event"] for line in logs]
    assert await standing(store, "p") == ("sending", 2)
    # A dispatcher ends as expired what it takes too late.
    assert [(len(taken.chunk.targets), taken.chunk.expires_at) for taken in await take_all(store)] == [(2, 2_000)]


async def test_audiences_of_a_removed_app_wait_and_end_when_their_time_is_over(server: Server, store: Store) -> None:
    await register(store, 2)
    await store.workers.report("serve", [], [Route("shop", "apns")])
    lasting = [
        msgspec.structs.replace(to_topic(f"lasting-{number}"), expires_at=9_000_000_000_000) for number in range(5)
    ]
    for each in lasting:
        await store.pushes.accept(each)
    await store.pushes.accept(msgspec.structs.replace(to_topic("late"), created_at=2_000, expires_at=3_000))
    others = settings_of("news")
    assert await store.removed([]) == [RemovedRoute(Route("shop", "apns"), 0, 6)]
    with Redis(unix_socket_path=str(server.folder / "socket")) as connection:
        queue = make_queue(QUEUE, connection, make_job_class(FUNCTIONS, None))
        await enqueue_lapsed(store, queue, others)
        assert [job.func_name for job in queue.jobs] == ["expand"]
    assert await functions.expand(Context(Current(others), server.url)) == {"made": 2}
    assert await standing(store, "late") == ("sending", 2)
    assert [each.chunk.push_id for each in await take_all(store)] == ["late"]
    assert await functions.expand(Context(Current(others), server.url)) == {"made": 0}
    # The app is back.
    assert await functions.expand(Context(Current(settings_of("shop")), server.url)) == {"made": 10}


def slice_of(began: float, *, stopping: bool = False, waiting: bool = False) -> Slice:
    found = Slice(Context(Current(Settings()), "", stopping=lambda: stopping, waiting=lambda: waiting))
    found._began = time.monotonic() - began  # as if it had begun so long ago
    return found


def test_a_slice_is_over_when_others_wait_or_it_is_long() -> None:
    assert not slice_of(0, waiting=True).over
    assert slice_of(SLICE, waiting=True).over
    assert not slice_of(SLICE).over
    assert slice_of(LONGEST).over
    assert slice_of(0, stopping=True).over
