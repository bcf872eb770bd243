"""`pushsvc jobs` as a real process: replays run, killed half-way, taken up again; jobs that nobody may run."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import rq
from hypothesis import given, strategies as st
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError, RedisError, TimeoutError as RedisTimeoutError
from rq.exceptions import StopRequested
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from structlog.testing import capture_logs

from pushsvc.errors import ConfigError, StoreUnavailable
from pushsvc.jobs import FUNCTIONS, QUEUE, Context, NotAllowed, make_job_class, make_worker
from pushsvc.jobs.enqueue import enqueue_replays
from pushsvc.jobs.functions import replay
from pushsvc.jobs.process import LAST, Stopping
from pushsvc.jobs.schedule import Periodic, act
from pushsvc.jobs.worker import make_queue
from pushsvc.model.delivery import Ended, TokenDead
from pushsvc.model.push import Route
from pushsvc.ports.letters import DeadFilter, ReplaySpec
from pushsvc.runtime.reload import Current
from pushsvc.settings.schema import Settings
from pushsvc.stages.replay import BEHIND, STEP, Pace, run
from pushsvc.store import Store, keys
from pushsvc.store.link.connect import open_sync_redis
from pushsvc.telemetry import REDIS

from .servers import KINDS, Server, running_server, suspend, wait_until
from .test_store_kit import all_of, make_push, moment, new_store, take_all
from .test_store_replay import fail_all

CONFIG = """
[metrics]
port = 0
[jobs]
takeover = 1.0
[redis]
url = "{url}"
[apps.shop.apns]
topic = "com.example.shop"
key_file = "{folder}/none.p8"
key_id = "ABC123DEFG"
team_id = "DEF123GHIJ"
"""


BACKENDS = KINDS


@contextmanager
def worker(
    server: Server, folder: Path, *options: str, program: Sequence[str] = ("-m", "pushsvc"), **environ: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`pushsvc jobs`, killed at the end if it has not ended before."""
    config = folder / "pushsvc.toml"
    config.write_text(CONFIG.format(url=server.url, folder=folder))
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *program, "jobs", *options, "--config", str(config)],
            env={**os.environ, **environ},
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def until(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.02)


async def moved(store: Store, job: str, least: int) -> bool:
    status = await store.dead.replay("shop", job)
    assert status is not None
    return status.moved >= least


async def is_done(store: Store, job: str) -> bool:
    status = await store.dead.replay("shop", job)
    assert status is not None
    return status.state == "done"


async def test_with_feedback_one_process_does_both_and_follows_the_configuration(
    server: Server, tmp_path: Path
) -> None:
    dead = TokenDead(status=410, reason="Unregistered", since=moment())
    async with new_store(server) as store:

        async def judged(app: str) -> bool:
            return bool((await store.receipts.events(app, after="", limit=10)).events)

        async def bury(app: str) -> None:
            await store.pushes.accept(make_push(app, app=app))
            for taken in await take_all(store, route=Route(app, "apns")):
                await store.queue.settle(app, *all_of(taken, Ended("invalid"), dead))

        with worker(server, tmp_path, "--feedback") as process:
            await bury("shop")
            await until(lambda: judged("shop"))
            parts = {each.part: each.consumer for each in await store.workers.living()}
            assert parts.keys() == {"jobs", "feedback"}
            assert len(set(parts.values())) == 1
            config = tmp_path / "pushsvc.toml"
            before, shop, own = config.read_text().partition("[apps.shop")
            config.write_text(f"{before}{shop}{own}[apps.news{own}")
            await bury("news")
            await until(lambda: judged("news"))
            await fail_all(store, make_push("p", 10))
            job = (await store.dead.request(ReplaySpec("shop"))).job
            await until(lambda: is_done(store, job))
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait) == 0
        assert await store.workers.known() == []


async def test_a_killed_replay_goes_on_and_moves_each_once(server: Server, tmp_path: Path, store: Store) -> None:
    await fail_all(store, make_push("p", 1000), make_push("q", 1200))
    job = (await store.dead.request(ReplaySpec("shop", rate=400.0))).job
    with worker(server, tmp_path) as first:
        await until(lambda: moved(store, job, 400))
        first.send_signal(signal.SIGKILL)
        await asyncio.to_thread(first.wait)
    status = await store.dead.replay("shop", job)
    assert status is not None
    assert status.moved + await store.dead.count("shop", DeadFilter()) == 2200
    assert status.moved < 2200
    with worker(server, tmp_path) as second:
        await until(lambda: is_done(store, job))
        second.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(second.wait) == 0
    assert await moved(store, job, 2200)
    assert await store.dead.count("shop", DeadFilter()) == 0
    taken = await take_all(store)
    places = [(each.chunk.push_id, target.index) for each in taken for target in each.chunk.targets]
    assert len(places) == len(set(places)) == 2200


@given(st.floats(0.01, 1000), st.lists(st.integers(0, 3000), min_size=1, max_size=50))
def test_a_replay_keeps_its_rate_however_late_each_step_is_taken(rate: float, late: list[int]) -> None:
    most, now, moved = max(1, min(STEP, int(rate))), moment(), 0
    due, too_late = 0, False
    for wait in late:
        too_late |= bool(due) and now - due > BEHIND
        assert moved <= rate * (now - moment() + BEHIND) / 1000 + most
        moved += most
        due = Pace(rate, due).after(most, now)  # each step by another process
        now = max(now, due) + wait
    if not too_late:
        assert moved >= rate * (due - moment()) / 1000 * 0.99 - 1


async def test_a_slow_replay_leaves_the_worker_to_others(server: Server, store: Store) -> None:
    await fail_all(store, make_push("p", 3))
    job = (await store.dead.request(ReplaySpec("shop", rate=0.1))).job
    context = Context(Current(Settings()), server.url)
    before = store.clock()
    assert await replay(context, "shop", job) == {"moved": 1, "skipped": 0}
    assert store.clock() - before < 5_000
    assert await store.dead.unfinished() == []
    assert await store.dead.unfinished(due=False) == [("shop", job)]
    due = await store.link.call("ZSCORE", keys.REPLAYS, f"shop {job}")
    assert float(due) - before > 8_000


async def test_a_replay_outlives_the_redis_of_rq(
    server: Server, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue of jobs may be in another Redis than the store, which does not answer while a replay runs."""
    monkeypatch.setattr("pushsvc.jobs.functions.BACKGROUND", 0.0)
    await fail_all(store, make_push("p", STEP + 1))
    job = (await store.dead.request(ReplaySpec("shop"))).job
    with Redis(unix_socket_path=str(tmp_path / "none")) as away:
        queue = make_queue(QUEUE, away, make_job_class({}, None))
        context = Context(Current(Settings()), server.url, waiting=queue.has_jobs)
        with capture_logs() as logs:
            assert await replay(context, "shop", job) == {"moved": STEP, "skipped": 0}
    assert [each["event"] for each in logs if each["log_level"] != "info"] == ["redis_away"]
    REDIS.end("jobs")
    assert await store.dead.unfinished() == [("shop", job)]
    context = Context(Current(Settings()), server.url)
    assert await replay(context, "shop", job) == {"moved": 1, "skipped": 0}
    assert await is_done(store, job)


async def test_only_an_error_of_a_step_ends_a_replay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **named: object) -> bool:
        raise ValueError("of the part that asks")

    async def state_after(job: str, over: Callable[[], bool]) -> str:
        with pytest.raises(ValueError, match="of the part"):
            await run(store.dead, "shop", job, lease=1.0, over=over, now=store.clock)
        status = await store.dead.replay("shop", job)
        assert status is not None
        return status.state

    await fail_all(store, make_push("p", STEP + 1))
    job = (await store.dead.request(ReplaySpec("shop"))).job
    assert await state_after(job, fails) == "running"
    monkeypatch.setattr(store.dead, "step", fails)
    assert await state_after(job, lambda: False) == "failed"


async def test_a_replay_that_runs_as_soon_as_it_is_enqueued_keeps_its_rate(
    server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_at_once(queue: Any, function: str, calls: dict[str, tuple[str, str]]) -> None:
        for call in calls.values():
            assert await replay(Context(Current(Settings()), server.url), *call) == {"moved": 1, "skipped": 0}

    monkeypatch.setattr("pushsvc.jobs.enqueue._enqueue_each", run_at_once)
    await fail_all(store, make_push("p", 3))
    job = (await store.dead.request(ReplaySpec("shop", rate=0.01))).job
    before = store.clock()
    assert await enqueue_replays(store, Mock(), Settings())
    assert await store.link.call("ZSCORE", keys.REPLAYS, f"shop {job}") - before > 80_000


async def test_a_worker_that_is_asked_to_stop_ends_between_two_steps(
    server: Server, tmp_path: Path, store: Store
) -> None:
    await fail_all(store, make_push("p", 1000))
    job = (await store.dead.request(ReplaySpec("shop", rate=10.0))).job
    with worker(server, tmp_path) as process:
        await until(lambda: moved(store, job, 10))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0
    assert await store.dead.unfinished(due=False) == [("shop", job)]
    status = await store.dead.replay("shop", job)
    assert status is not None
    assert (status.state, status.error) == ("running", "")


@pytest.mark.parametrize("silent", [False, True])
def test_jobs_end_when_they_are_asked_to_whatever_redis_does(tmp_path: Path, silent: bool) -> None:
    def says(text: str) -> bool:
        return text in (tmp_path / "log").read_text()

    with running_server("redis") as own, worker(own, tmp_path) as process:
        wait_until(lambda: says('"ready"'), 60)
        if silent:
            suspend(own.process.pid)
        else:
            own.kill()
        wait_until(lambda: says("redis_away"), 60)
        reported = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        own.process.send_signal(signal.SIGCONT)
        assert time.monotonic() - reported < LAST / 2
        assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("step", ["check_for_suspension", "run_maintenance_tasks", "dequeue_job_and_maintain_ttl"])
@pytest.mark.parametrize("error", [RedisConnectionError("refused"), RedisTimeoutError("slow")])
def test_a_redis_that_is_away_is_logged_as_a_state_wherever_rq_meets_it(
    connection: Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, step: str, error: RedisError
) -> None:
    job_class = make_job_class({}, Context(Current(Settings()), ""))
    worker = make_worker(make_queue(QUEUE, connection, job_class), name="away", maintenance=30)
    fail = Mock(side_effect=error)
    monkeypatch.setattr(worker, step, fail)
    worker.work(burst=True)
    fail.assert_called()
    assert [line for line in caplog.records if line.name.startswith("rq") and line.levelno >= logging.WARNING] == []


def test_a_redis_that_is_away_leaves_no_failed_job(connection: Redis) -> None:
    async def away(context: Context) -> None:
        raise StoreUnavailable("away")

    job_class = make_job_class({"away": away}, Context(Current(Settings()), ""))
    queue = make_queue(QUEUE, connection, job_class)
    job = queue.enqueue_call("away")
    make_worker(queue, name="test-away", maintenance=30).work(burst=True)
    assert job.get_status(refresh=True) == JobStatus.FINISHED
    assert queue.failed_job_registry.count == 0


@pytest.fixture
def connection(server: Server) -> Iterator[Redis]:
    server.flush()
    with Redis(unix_socket_path=str(server.folder / "socket")) as found:
        yield found


def run_all(connection: Redis, ran: list[tuple[str, ...]]) -> None:
    """A worker in burst mode over a table of one function."""

    async def note(context: Context, *words: str) -> None:
        ran.append(words)

    job_class = make_job_class({"note": note}, Context(Current(Settings()), ""))
    queue = make_queue(QUEUE, connection, job_class)
    make_worker(queue, name=f"test-{len(ran)}", maintenance=30).work(burst=True)


@pytest.mark.parametrize("name", ["os.system", "os.getcwd", "pushsvc.jobs.functions.replay", "", "note.__call__"])
def test_a_name_outside_the_table_is_refused_and_never_run(connection: Redis, tmp_path: Path, name: str) -> None:
    proof = tmp_path / "proof"
    queue = rq.Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    refused = queue.enqueue_call("os.system", args=(f"touch {proof}",))
    refused.func_name = name
    refused.save()
    good = queue.enqueue_call("note", args=("x",))
    ran: list[tuple[str, ...]] = []
    run_all(connection, ran)
    assert ran == [("x",)]
    assert not proof.exists()
    assert refused.get_status(refresh=True) == JobStatus.FAILED
    result = refused.latest_result()
    assert result is not None
    assert "NotAllowed" in str(result.exc_string)
    assert good.get_status(refresh=True) == JobStatus.FINISHED


def test_callbacks_of_a_job_are_not_run(connection: Redis, tmp_path: Path) -> None:
    queue = rq.Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    job = queue.enqueue_call("note", args=("x",))
    for when in ("success", "failure", "stopped"):
        connection.hset(job.key, f"{when}_callback_name", "os.abort")
    ran: list[tuple[str, ...]] = []
    run_all(connection, ran)
    assert (ran, job.get_status(refresh=True)) == ([("x",)], JobStatus.FINISHED)


def test_pickle_is_not_read(connection: Redis, tmp_path: Path) -> None:
    job = rq.Queue(QUEUE, connection=connection).enqueue_call("note", args=("x",))  # rq's default serializer
    ran: list[tuple[str, ...]] = []
    run_all(connection, ran)
    assert ran == []
    status = connection.hget(job.key, "status")
    assert status != b"finished"


def test_the_table_holds_what_it_says() -> None:
    assert set(FUNCTIONS) == {"replay", "expand", "cleanup", "erase"}
    job = make_job_class(FUNCTIONS, None).create("replay", connection=Redis(), serializer=JSONSerializer)
    with pytest.raises(NotAllowed, match="only enqueues"):
        job.perform()
    assert issubclass(type(job), Job)


def test_a_cluster_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"jobs\.url.*Cluster.*set it to"):
        open_sync_redis("redis+cluster://127.0.0.1:1", name="x")


def test_the_jobs_process_ends_when_its_store_never_comes(server: Server, tmp_path: Path) -> None:
    with worker(server, tmp_path, PUSHSVC__REDIS__URL="redis+cluster://127.0.0.1:1") as process:
        wait_until(lambda: process.poll() is not None, 60)
    assert process.returncode == 1
    assert "jobs.url" in (tmp_path / "log").read_text()


FAILS = """
import sys
import pushsvc.jobs.process
from pushsvc.cli import main

async def fail(*_):
    raise LookupError("broken")

pushsvc.jobs.process.keep_schedule = fail
sys.exit(main())
"""


def test_a_process_whose_companion_fails_ends_with_a_fault(server: Server, tmp_path: Path) -> None:
    with worker(server, tmp_path, program=("-c", FAILS)) as process:
        wait_until(lambda: process.poll() is not None, 60)
    assert process.returncode == 1
    log = (tmp_path / "log").read_text()
    assert "companion_ended" in log
    assert "LookupError: broken" in log


LAST_MOMENT = """
import os, signal, sys, threading
import pushsvc.jobs.process as process

process.LAST = 0.01
with process.Stopping(lambda: {failed}) as stopping:
    stopping.worker = type("AtWork", (), {{"stop": lambda self: None}})()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait()
"""


@pytest.mark.parametrize("failed", [False, True])
def test_a_job_that_does_not_return_hides_no_fault(failed: bool) -> None:
    program = [sys.executable, "-c", LAST_MOMENT.format(failed=failed)]
    assert subprocess.run(program, timeout=60, check=False).returncode == int(failed)


def test_a_signal_before_its_handlers_is_not_lost() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StopRequested), Stopping(lambda: False, lambda: True):
        pytest.fail("it works")
    assert signal.getsignal(signal.SIGTERM) is before


async def test_of_many_schedulers_one_has_the_turn(store: Store) -> None:
    owners = [await store.locks.hold("sweep", f"owner-{n}", lease=30.0) for n in range(20)]
    assert owners == [True] + [False] * 19
    assert await store.locks.hold("cleanup", "owner-1", lease=0.05)
    await until(lambda: store.locks.hold("cleanup", "owner-2", lease=30.0))
    await store.locks.release("cleanup", "owner-1")
    assert not await store.locks.hold("cleanup", "owner-1", lease=30.0)
    await store.locks.release("cleanup", "owner-2")
    assert await store.locks.hold("cleanup", "owner-1", lease=30.0)
    assert await store.locks.hold("cleanup", "owner-1", lease=30.0), "the answer to the first call may be lost"


async def test_what_could_not_be_done_is_not_put_off_for_its_period(store: Store) -> None:
    async def fails() -> bool:
        raise StoreUnavailable("away")

    daily = Periodic("daily", 86_400.0, fails)
    assert await store.locks.hold("daily", "me", lease=86_400.0)
    with pytest.raises(StoreUnavailable):
        await act(store, daily, "me")
    assert await store.locks.hold("daily", "another", lease=60.0)


async def test_a_replay_that_waits_in_the_queue_is_not_enqueued_again(server: Server, store: Store) -> None:
    await fail_all(store, make_push("p", 1))
    job = (await store.dead.request(ReplaySpec("shop"))).job
    with Redis(unix_socket_path=str(server.folder / "socket")) as connection:
        queue = make_queue(QUEUE, connection, make_job_class(FUNCTIONS, None))
        await enqueue_replays(store, queue, Settings())
        await store.dead.keep("shop", job, lease=0)
        await enqueue_replays(store, queue, Settings())
        assert queue.count == 1
        assert await store.dead.unfinished() == []
